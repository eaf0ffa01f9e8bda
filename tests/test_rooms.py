"""The order of the rooms: who may import whom, and what no file may do."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "codes").rglob("*.py"))
ROOMS = {
    "utils": 0, "config": 1, "images": 2, "data": 3, "models": 3, "runtime": 3, "graph": 4, "evaluation": 5,
    "recipe": 6, "trainer": 7, "viewer": 7, "inference": 8,
}  # fmt: skip
PICTURED = [
    "scripts", "inference", "viewer", "trainer", "recipe", "evaluation", "graph", "models", "data", "runtime", "images",
    "config", "utils",
]  # fmt: skip
COMMANDS = 9  # train.py, test.py, evaluate.py and the scripts
LARGEST_SHARE = 0.20  # of the lines of codes/, that one room may hold
EVERYWHERE = "version"


def parsed(file):
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def room_of(module):
    """codes.data.tiles -> data; codes.train -> train; codes -> the empty name."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def module_of(file):
    return ".".join(file.relative_to(ROOT).with_suffix("").parts)


def imports(module, tree):
    """Every module of the project that a file imports, by its absolute name, and every foreign one."""
    package = module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield name.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            head = ".".join([*base, *(node.module.split(".") if node.module else [])])
            yield head, node.lineno
            for name in node.names:
                yield f"{head}.{name.name}", node.lineno


def test_the_rooms_are_the_known_ones():
    assert len(FILES) > 50
    rooms = {file.relative_to(ROOT / "codes").parts[0] for file in FILES}
    folders = {name for name in rooms if not name.endswith(".py")}
    assert folders == {*ROOMS, "scripts"}


def test_the_tests_lie_where_the_code_lies():
    aside = {"fixtures", "golden", "helpers", "simulated", "integrations"}
    folders = {file.relative_to(ROOT / "tests").parts[0] for file in (ROOT / "tests").glob("*/**/*.py")}
    assert folders - aside <= {*ROOMS, "scripts"}


@pytest.mark.parametrize("text", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_the_picture_of_the_rooms_has_their_order(text):
    pictured = re.findall(r"^    codes/(\w+)/\S* +\w", (ROOT / text).read_text(encoding="utf-8"), re.MULTILINE)
    assert pictured == PICTURED
    levels = [ROOMS[room] for room in pictured[1:]]
    assert levels == sorted(levels, reverse=True)


def test_every_path_in_text_exists():
    """Paths of the project's own files, in documentation, recipes, code and comments."""
    path = re.compile(
        r"(?<![\w/.-])((?:codes|docs|tests|recipes|options|benchmarks|integrations|notebooks)/[\w/.-]*\w\.(?:py|md|yml|json|png))\b"
    )
    the_users = {"recipes/mine.yml", "options/mine.yml"}
    folders = ("codes", "docs", "tests", "recipes", "options", "benchmarks", "integrations", "notebooks")
    files = [file for name in folders for file in (ROOT / name).rglob("*") if file.suffix in (".md", ".py", ".yml")]
    files += ROOT.glob("*.md")
    stale = [
        f"{file.relative_to(ROOT)}: {name}"
        for file in files
        for name in path.findall(file.read_text(encoding="utf-8"))
        if name not in the_users and not (ROOT / name).exists()
    ]
    assert len(files) > 100
    assert stale == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_go_down_only(file):
    module = module_of(file)
    here = room_of(module)
    level = ROOMS.get(here, COMMANDS)
    for name, line in imports(module, parsed(file)):
        if name.split(".")[0] != "codes" or room_of(name) in ("", here, EVERYWHERE):
            continue
        there = ROOMS.get(room_of(name), COMMANDS)
        where = f"{file.relative_to(ROOT)}:{line}: imports {name}"
        assert there < level or (there == level == COMMANDS), f"{where}, which is not below"


def test_the_guard_sees_an_import_upwards():
    tree = ast.parse("from ....trainer.trainer import Trainer\nfrom .... import data\nimport codes.train")
    imported = {name for name, _ in imports("codes.models.diffusion.networks.unet", tree)}
    assert {"codes.trainer.trainer", "codes.data", "codes.train"} <= imported


def modules_read_by(module, tree, known):
    """The modules of the project that a file imports anywhere, for types alone included, but not its own package."""
    read = set()
    for name, _ in imports(module, tree):
        read |= {name} if name in known else set()
    return read - {module}


def circle_in(read):
    """A circle of names that lead to each other, as a list; empty where there is none."""
    finished, way = set(), []

    def visit(name):
        if name in way:
            return way[way.index(name) :]
        if name in finished:
            return []
        way.append(name)
        circle_here = next((circle for other in sorted(read.get(name, ())) if (circle := visit(other))), [])
        way.pop()
        finished.add(name)
        return circle_here

    return next((circle for name in sorted(read) if (circle := visit(name))), [])


def test_no_two_files_import_each_other_not_even_for_types():
    known = {module_of(file) for file in FILES if file.name != "__init__.py"}
    read = {module_of(file): modules_read_by(module_of(file), parsed(file), known) for file in FILES}
    assert sum(map(len, read.values())) > 500
    assert circle_in(read) == []


def test_the_guard_sees_a_circle_of_types():
    typed = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .tiles import Tile"
    read = modules_read_by("codes.data.loader", ast.parse(typed), {"codes.data.loader", "codes.data.tiles"})
    assert read == {"codes.data.tiles"}
    assert circle_in({"loader": read, "codes.data.tiles": {"plan"}, "plan": {"loader"}}) == [
        "codes.data.tiles", "plan", "loader",
    ]  # fmt: skip
    assert circle_in({"loader": read, "codes.data.tiles": {"plan"}}) == []


def test_no_room_outgrows_the_others():
    lines = {}
    for file in FILES:
        room = file.relative_to(ROOT / "codes").parts[0]
        lines[room] = lines.get(room, 0) + len(file.read_text(encoding="utf-8").splitlines())
    whole = sum(lines.values())
    assert {room: count for room, count in lines.items() if count > LARGEST_SHARE * whole} == {}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_what_no_file_may_do(file):
    tree = parsed(file)
    # Dropout knows no generator but the global one; inside fork_rng it is afterwards as it was before.
    forks = [n for n in ast.walk(tree) if isinstance(n, ast.With) and "fork_rng" in ast.unparse(n.items[0])]
    put_back = {inner for fork in forks for inner in ast.walk(fork)}
    forbidden = {"torchvision", "diffusers"}
    for name, line in imports(module_of(file), tree):
        assert name.split(".")[0] not in forbidden, f"line {line}: imports {name}"
    for node in ast.walk(tree):
        line = f"line {getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            assert node.args.kwarg is None, f"{line}: takes **{node.args.kwarg.arg}"
            defaults = [*node.args.defaults, *node.args.kw_defaults]
            mutable = [d for d in defaults if isinstance(d, ast.List | ast.Dict | ast.Set)]
            assert not mutable, f"{line}: a mutable default"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{line}: bare except"
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called != "print", f"{line}: print"
            if called == "torch.load":
                safe = [k for k in node.keywords if k.arg == "weights_only" and ast.unparse(k.value) == "True"]
                assert safe, f"{line}: torch.load without weights_only=True"
            seeds = called in ("torch.manual_seed", "np.random.seed", "random.seed")
            assert not seeds or node in put_back, f"{line}: a global generator"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_files_and_functions_stay_short(file):
    text = file.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 50, f"{node.name}: {node.end_lineno - node.lineno + 1} lines"


def test_every_package_is_installed():
    """pip installs what pyproject.toml lists; a folder that is missing there fails only on the user's machine."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    listed = set(project["tool"]["setuptools"]["packages"])
    there = {".".join(init.relative_to(ROOT).parent.parts).replace("codes", "tessera", 1) for init in
             (ROOT / "codes").rglob("__init__.py")}  # fmt: skip
    assert listed == there | {"tessera.recipes", "tessera.options"}  # data of other folders
