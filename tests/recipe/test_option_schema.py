"""The schema for editors and the page of options: never stale, and true of every recipe that is shipped."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from codes.config.yaml_source import load_source
from codes.recipe.schema import json_schema, markdown
from codes.scripts import option_schema as script

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted([*ROOT.glob("recipes/**/*.yml"), *ROOT.glob("options/**/*.yml")])


@cache
def validator() -> Any:
    schema = json.loads(json_schema())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def problems(data: Any) -> list[str]:
    errors = [*validator().iter_errors(json.loads(json.dumps(data)))]
    # A section that may also be ~ is an `anyOf`, whose own message says nothing.
    return [error.message for one in errors for error in (one.context or [one])]


@pytest.mark.parametrize(("file", "flags"), [("options/schema.json", ""), ("docs/options.md", " --markdown")])
def test_what_lies_in_the_tree_is_not_stale(file: str, flags: str) -> None:
    # In a process of its own: other tests register parts of their own, as plugins would.
    command = f"codes/scripts/option_schema.py{flags}"
    answer = subprocess.run([sys.executable, *command.split()], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (ROOT / file).read_text(encoding="utf-8") == answer.stdout, f"run: python {command} > {file}"


def test_the_script_writes_both(capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main([]) == 0
    assert capsys.readouterr().out == json_schema()
    assert script.main(["--markdown"]) == 0
    assert capsys.readouterr().out == markdown()


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_every_recipe_names_the_schema_and_follows_it(file: Path) -> None:
    reference = os.path.relpath(ROOT / "options" / "schema.json", file.parent)
    first = file.read_text(encoding="utf-8").splitlines()[0]
    assert first == f"# yaml-language-server: $schema={reference}"
    assert problems(load_source(str(file), []).data) == []


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"nmae": "x"}, "'nmae'"),
        ({"train": {"niter": 0}}, "less than the minimum"),
        ({"precision": "fp8"}, "is not one of"),
        ({"datasets": {"train": {"mode": "imagefolder", "tiel": "random"}}}, "'tiel'"),
        ({"datasets": {"train": {"mode": "imagefolders"}}}, "is not one of"),
        ({"networks": {"g": {"which_model_G": "unet_diffusion", "args": {"patchsize": 4}}}}, "'patchsize'"),
        ({"networks": {"g": {"which_model": "unet_diffusion", "args": {"patchsize": 4}}}}, "'patchsize'"),
        ({"steps": {"s": {"injectors": {"d": {"type": "gaussian_diffusion", "inn": "hq"}}}}}, "'inn'"),
        ({"path": {"pretrain_model_generator": 3}}, "is not of type"),
    ],
)
def test_mistakes_are_marked(data: dict[str, Any], message: str) -> None:
    assert any(message in problem for problem in problems(data)), problems(data)


def test_either_name_of_a_key_is_known() -> None:
    node = {"type": "gaussian_diffusion_inference", "use_ema_model": True}
    assert problems({"steps": {"s": {"injectors": {"d": node}}}}) == []
    assert problems({"steps": {"s": {"injectors": {"d": {**node, "use_ema_modle": True}}}}}) != []


def test_the_page_knows_every_registered_name_and_nested_section() -> None:
    text = markdown()
    for word in ("`imagefolder`", "`unet_diffusion`", "`gaussian_diffusion`", "`direct`", "`restoration`"):
        assert f"### {word}" in text
    for section in ("## `train`", "## `logger`", "## `steps.<name>`", "## `steps.<name>.optimizer_params`"):
        assert section in text
    assert "| `use_ema` (also `use_ema_model`) |" in text
