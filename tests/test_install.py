"""What `pip install .` gives: commands, a package of its own name, its data files, a library that restores."""

import ast
import importlib
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from codes.config import paths

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
DATA = ("recipes", "options")  # beside codes/, and in the package
COMMANDS = {
    "train.py": "tessera-train",
    "test.py": "tessera-test",
    "evaluate.py": "tessera-evaluate",
    "app.py": "tessera-app",
}
RESTORE = """
import sys
import numpy as np, torch
import tessera
from tessera import Restorer
from tessera.models.diffusion.checkpoints.metadata import build
from tessera.models.diffusion.process_options import BetaScheduleOptions, ProcessOptions
assert tessera.__file__.startswith(sys.prefix), tessera.__file__
assert 'codes' not in sys.modules
network = build("unet_diffusion", {
    "image_size": 32, "out_channels": 6, "patch_size": 4, "num_corruptions": 1, "model_channels": 16,
    "channel_mult": [1, 2], "num_res_blocks": 1, "attention_resolutions": [], "num_heads": 2,
})
process = ProcessOptions(beta_schedule=BetaScheduleOptions(num_diffusion_timesteps=100))
restorer = Restorer(network, process, scale=2, corruptions=["jpeg"], device="cpu")
print(tessera.__version__, restorer(np.zeros((9, 11, 3), np.uint8), {"jpeg": 0.2}, steps=2).shape)
"""


def test_every_program_is_a_command_and_every_command_a_main():
    scripts = PROJECT["project"]["scripts"]
    assert set(scripts) == {command for file, command in COMMANDS.items() if (ROOT / "codes" / file).exists()}
    for target in scripts.values():
        module, _, function = target.partition(":")
        main = getattr(importlib.import_module(module.replace("tessera", "codes", 1)), function)
        with pytest.raises(SystemExit) as stopped:
            main(["--help"])
        assert stopped.value.code == 0


@pytest.mark.parametrize("file", ["evaluate.py", "scripts/make_shapes.py"])
def test_a_file_started_by_its_path_is_a_module_of_the_package(file, tmp_path):
    """From any folder, even one that has packages of the same names."""
    (tmp_path / "codes").mkdir()
    (tmp_path / "codes" / "__init__.py").write_text("raise ImportError('the wrong one')")
    code, said = run(sys.executable, str(ROOT / "codes" / file), "--help", folder=tmp_path)
    assert code == 0, said
    assert f"usage: {Path(file).name}" in said
    code, said = run(sys.executable, str(ROOT / "codes" / file), "--nothing", folder=tmp_path)
    assert code == 2
    assert "Traceback" not in said


def test_only_one_file_moves_the_search_path():
    """Every program finds its neighbours by `as_module`."""
    programs = [*(ROOT / "codes").glob("*.py"), *(ROOT / "codes" / "scripts").glob("*.py")]
    started = [file for file in programs if "run_as_module(__file__)" in file.read_text(encoding="utf-8")]
    mains = [file for file in programs if 'if __name__ == "__main__"' in file.read_text(encoding="utf-8")]
    assert started == mains
    assert len(mains) >= 11
    touching = [file.name for file in (ROOT / "codes").rglob("*.py") if "sys.path" in file.read_text(encoding="utf-8")]
    assert touching == ["as_module.py"]


def test_every_file_of_the_package_is_shipped():
    setuptools = PROJECT["tool"]["setuptools"]
    shipped = set()
    for package, patterns in setuptools["package-data"].items():
        folder = ROOT.joinpath(*package.replace("tessera", "codes", 1).split("."))
        shipped |= {file for pattern in patterns for file in folder.glob(pattern)}
    there = {file for file in (ROOT / "codes").rglob("*") if file.is_file() and file.suffix not in (".py", ".pyc")}
    assert there <= shipped
    assert ROOT / "codes" / "py.typed" in shipped


def test_the_public_names_are_the_lazy_ones():
    tree = ast.parse((ROOT / "codes" / "__init__.py").read_text(encoding="utf-8"))
    names = next(node.value for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == "__all__")
    package = importlib.import_module("codes")
    for name in ast.literal_eval(names):
        assert getattr(package, name) is not None


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder of the commands of an environment into which a clean copy was installed, and a folder to work in.

    The environment borrows the libraries of this one, so that nothing is downloaded.
    """
    pytest.importorskip("setuptools", minversion="68")
    folder = tmp_path_factory.mktemp("installed")
    ignored = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info", "experiments", "results")
    shutil.copytree(ROOT, folder / "copy", ignore=ignored)
    venv.create(folder / "venv", with_pip=False)
    place = {"base": str(folder / "venv"), "platbase": str(folder / "venv")}
    libraries = Path(sysconfig.get_path("purelib", vars=place))
    (libraries / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    commands = Path(sysconfig.get_path("scripts", vars=place))
    pip = [sys.executable, "-m", "pip", "--python", str(commands / "python"), "install", "--no-deps", "--no-index"]
    code, said = run(*pip, "--no-build-isolation", str(folder / "copy"), folder=folder)
    assert code == 0, said
    shutil.rmtree(folder / "copy")
    return commands, folder


def run(command, *arguments, folder):
    done = subprocess.run(
        [str(command), *arguments], cwd=folder, capture_output=True, text=True, timeout=600, check=False
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_the_commands_run(installed):
    commands, folder = installed
    for name in PROJECT["project"]["scripts"]:
        code, said = run(commands / name, "--help", folder=folder)
        assert code == 0
        assert f"usage: {name}" in said
    code, said = run(commands / "tessera-test", "-opt", "none.yml", folder=folder)
    assert code == 2
    assert "none.yml" in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_the_library_restores(installed):
    commands, folder = installed
    code, said = run(commands / "python", "-c", RESTORE, folder=folder)
    assert code == 0, said
    assert "(18, 22, 3)" in said


@pytest.mark.slow
def test_weights_and_recipes_are_installed(installed):
    """From a folder that holds nothing of the checkout."""
    commands, folder = installed
    code, said = run(commands / "tessera-test", "-opt", "recipes/diffusion/infer.yml", "--dry_run", folder=folder)
    assert code == 0, said
    assert "tessera-photo-2x" in said or "sample" in said
    load = "from tessera import Restorer; print(Restorer.from_pretrained('tessera-photo-2x-fast', 'cpu').corruptions)"
    code, said = run(commands / "python", "-c", load, folder=folder)
    assert (code, said.strip()) == (0, "('jpeg', 'gaussian_blur')")


@pytest.mark.slow
def test_sdist_and_wheel_are_built_and_hold_what_they_should(tmp_path):
    for package in ("build", "twine", "setuptools"):
        pytest.importorskip(package, reason=f"{package} is not installed (requirements-release.txt)")
    ignored = shutil.ignore_patterns(
        ".*", "__pycache__", "build", "dist", "site", "*.egg-info", "experiments", "results"
    )
    shutil.copytree(ROOT, tmp_path / "copy", ignore=ignored)
    code, said = run(
        sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path / "dist"), folder=tmp_path / "copy"
    )
    assert code == 0, said
    files = sorted((tmp_path / "dist").iterdir())
    assert [file.name.partition("-")[0] for file in files] == ["tessera_restoration"] * 2
    code, said = run(sys.executable, "-m", "twine", "check", "--strict", *map(str, files), folder=tmp_path)
    assert code == 0, said
    with zipfile.ZipFile(files[0]) as wheel:
        held = set(wheel.namelist())
        about = wheel.read(next(name for name in held if name.endswith("/METADATA"))).decode()
    there = {f"tessera/{file.relative_to(ROOT / 'codes')}" for file in (ROOT / "codes").rglob("*") if file.is_file()}
    there |= {
        f"tessera/{file.relative_to(ROOT)}" for folder in DATA for file in (ROOT / folder).rglob("*") if file.is_file()
    }
    there = {name for name in there if "__pycache__" not in name}
    assert there <= held
    assert {name for name in held if name.startswith("tessera/")} == there
    assert "torchvision" not in about


@pytest.mark.slow
def test_the_site_of_the_documentation_has_no_broken_link(tmp_path):
    pytest.importorskip("mkdocs", reason="mkdocs is not installed (requirements-release.txt)")
    pytest.importorskip("mkdocstrings", reason="mkdocstrings is not installed (requirements-release.txt)")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    code, said = run(*build, folder=ROOT)
    assert code == 0, said
    api = (tmp_path / "site" / "api.html").read_text(encoding="utf-8")
    assert "from_pretrained" in api
    assert "Load a .safetensors checkpoint" in api
    assert {file.stem for file in (ROOT / "docs").glob("*.md")} <= {
        file.stem for file in (tmp_path / "site").glob("*.html")
    }


def test_a_recipe_is_found_here_and_then_in_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    installed = tmp_path / "package" / "config" / "paths.py"
    recipe = tmp_path / "package" / "recipes" / "diffusion" / "infer.yml"
    recipe.parent.mkdir(parents=True)
    recipe.write_text("name: installed")
    monkeypatch.setattr(paths, "__file__", str(installed))
    named = Path("recipes/diffusion/infer.yml")
    assert paths.recipe_file(named) == recipe
    assert paths.recipe_file(Path("recipes/mine.yml")) == Path("recipes/mine.yml")
    assert paths.recipe_file(Path("/recipes/diffusion/infer.yml")) == Path("/recipes/diffusion/infer.yml")
    named.parent.mkdir(parents=True)
    named.write_text("name: here")
    assert paths.recipe_file(named) == named


@pytest.mark.slow
def test_train_then_restore_by_command(installed):
    commands, folder = installed
    options = ["--set", "train.niter=1", "logger.save_checkpoint_freq=1", "name=tiny", "use_tb_logger=false"]
    small = ["datasets.train.batch_size=2", "datasets.train.n_workers=0", "networks.generator.args.model_channels=32"]
    recipe = str(ROOT / "options" / "train_sr_128.yml")
    code, said = run(commands / "tessera-train", "-opt", recipe, *options, *small, folder=folder)
    assert code == 0, said
    restore = ["--set", "path.experiment=tiny", "steps.restore.injectors.detail.respaced_timestep_spacing=1"]
    recipe = str(ROOT / "recipes" / "diffusion" / "infer.yml")
    code, said = run(commands / "tessera-test", "-opt", recipe, *restore, folder=folder)
    assert code == 0, said
    assert list((folder / "results" / "infer").rglob("*.png"))
