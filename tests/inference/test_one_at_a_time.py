"""A second run on the folder of a live one is refused before it touches anything, whatever kind of run it is."""

import hashlib
import json
from pathlib import Path

import pytest
import yaml
from command_helpers import TRAINING, command, restore_small, save_picture, train

from codes import evaluate
from codes.runtime.run_lock import RunLock
from codes.scripts import sweep


def content(folder):
    """Every file below a folder with what is in it, the lock included."""
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def refused(folder, call):
    """What `call` says while another run holds the folder; nothing in it may change."""
    with RunLock(Path(folder)):
        before, siblings = content(folder), sorted(Path(folder).parent.iterdir())
        code, said = call()
        assert code == 2, said
        assert f"{folder} is in use by another run: process " in said
        assert "Traceback" not in said
        assert content(folder) == before
        assert sorted(Path(folder).parent.iterdir()) == siblings
    return said


@pytest.mark.parametrize("options", [(), ("--auto_resume",)])
@pytest.mark.usefixtures("here")
def test_a_second_training_of_a_name(options):
    Path("recipe.yml").write_text(TRAINING)
    save_picture("photos/a.png", 40, 56)
    refused("experiments/tiny", lambda: train("-opt", "recipe.yml", *options, "--set", "train.niter=3"))
    assert train("-opt", "recipe.yml", *options, "--set", "train.niter=3")[0] == 0
    assert not (Path("experiments/tiny") / ".run.lock").exists()


@pytest.mark.usefixtures("here")
def test_a_check_of_a_training_that_runs_is_allowed():
    Path("recipe.yml").write_text(TRAINING)
    save_picture("photos/a.png", 40, 56)
    with RunLock(Path("experiments/tiny")):
        assert train("-opt", "recipe.yml", "--check")[0] == 0


@pytest.mark.usefixtures("here")
def test_a_second_restoration_into_a_folder():
    assert restore_small()[0] == 0
    save_picture("small/more.png", 16, 24)
    refused("results/restored", restore_small)
    link = Path("elsewhere")
    link.symlink_to("results/restored")
    with RunLock(Path("results/restored")):  # by whichever name the folder is reached
        assert restore_small("path.results=elsewhere")[0] == 2
    with RunLock(Path("results/restored")):
        assert restore_small(options=("--dry_run",))[0] == 0
    assert restore_small()[0] == 0
    assert json.loads(Path("results/restored/metrics.json").read_text())["images"]


@pytest.mark.usefixtures("here")
def test_a_second_sweep_into_a_folder():
    arguments = ("-opt", "infer.yml", "--image", "small/ok.png", "--axis", "seed", "1,2", "--output", "out")
    refused("out", lambda: command(sweep.main, *arguments))


@pytest.mark.usefixtures("here")
def test_a_second_evaluation_into_a_folder():
    data = yaml.safe_load(Path("infer.yml").read_text())
    held_out = {"mode": "imagefolder", "paths": "small", "rgb_n1_to_1": True, "scale": 2}
    held_out |= {"fixed_corruptions": ["jpeg", "gaussian_blur"], "fixed_parameters": {"corruption_entropy": [0.2, 0.5]}}
    evaluators = {"e": {"type": "restoration", "for": "generator", "dataset": held_out}}
    kept = {key: data[key] for key in ("scale", "device", "seed", "path")}
    recipe = {"name": "measured", **kept, "eval": {"evaluators": evaluators}}
    Path("evaluate.yml").write_text(yaml.safe_dump(recipe))
    refused("results/measured", lambda: command(evaluate.main, "-opt", "evaluate.yml"))
    assert command(evaluate.main, "-opt", "evaluate.yml")[0] == 0
