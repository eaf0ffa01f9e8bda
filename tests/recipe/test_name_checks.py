"""Nothing that a recipe names is written outside of the run's folder, and no two names share a file."""

import pytest
import yaml
from command_helpers import RESTORING, TRAINING
from trainer_helpers import merged

from codes.config.yaml_source import load_source
from codes.recipe.recipe import read_recipe
from codes.utils.errors import ConfigError

OUTSIDE = ["../../x", "a/b", "..", "/tmp/x", "a\\b", "a\nb", "nul", "x."]
DATA = {"mode": "imagefolder", "paths": "photos", "fixed_corruptions": ["jpeg", "gaussian_blur"]}
NETWORK = yaml.safe_load(TRAINING)["networks"]["generator"]
EVALUATOR = {"type": "restoration", "for": "generator", "dataset": DATA}


def refused(tmp_path, text, changes):
    recipe = tmp_path / "recipe.yml"
    recipe.write_text(yaml.safe_dump(merged(yaml.safe_load(text), changes), sort_keys=False))
    with pytest.raises(ConfigError) as error:
        read_recipe(load_source(recipe))
    assert all(line.startswith(f"{recipe}:") for line in str(error.value).splitlines())
    return str(error.value)


PLACES = {
    "name": lambda name: {"name": name},
    "datasets": lambda name: {"datasets": {name: {**DATA, "name": "fine"}}},
    "datasets.train.name": lambda name: {"datasets": {"train": {"name": name}}},
    "networks": lambda name: {"networks": {name: {"which_model_G": "unet_diffusion"}}},
    "steps": lambda name: {"steps": {name: {}}},
    "eval.evaluators": lambda name: {"eval": {"evaluators": {name: EVALUATOR}}},
    "logger.visuals": lambda name: {"logger": {"visuals": [name]}},
}


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("place", PLACES)
def test_training_writes_into_its_folder_alone(tmp_path, place, name):
    said = refused(tmp_path, TRAINING, PLACES[place](name))
    assert place in said
    assert "part of a file's name" in said or "device on Windows" in said or "ends with a dot" in said


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize(
    "changes",
    [
        lambda name: {"output": {"suffix": f"_{name}"}},
        lambda name: {"steps": {"restore": {"injectors": {"detail": {"out": name}}}}},
        lambda name: {"datasets": {"test": {"name": name}}},
    ],
    ids=["suffix", "out", "dataset"],
)
def test_restoring_too(tmp_path, changes, name):
    if "suffix" in changes(name).get("output", {}) and name in ("..", "nul", "x."):
        return  # between a name and its ending these are harmless
    assert "name" in refused(tmp_path, RESTORING, changes(name))


def test_a_name_that_leaves_no_room_for_what_is_added_is_told_in_bytes(tmp_path):
    assert "at most 150 bytes is expected, found 160" in refused(tmp_path, TRAINING, {"name": "é" * 80})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"datasets": {"Train": DATA}},
            "datasets.Train: 'Train' and 'train' (datasets.train) are one name on some disks",
        ),
        ({"datasets": {"other": {**DATA, "name": "train"}}}, "the results of both would lie in one folder"),
        ({"datasets": {"train": {"name": "Metrics.json"}}}, "is a file of the results themselves"),
        ({"networks": {"generator_ema": NETWORK}}, "averaged weights of generator; rename"),
        ({"networks": {"Generator": NETWORK}}, "their checkpoints would be one file"),
        ({"logger": {"visuals": ["hq", "HQ"]}}, "their grids would lie in one folder"),
        ({"eval": {"evaluators": {"a": EVALUATOR, "A": EVALUATOR}}}, "their pictures would be one file"),
    ],
)
def test_names_that_would_share_a_file_are_refused(tmp_path, changes, message):
    assert message in refused(tmp_path, TRAINING, changes)
