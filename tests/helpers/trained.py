"""A tiny trained network for the tests of the command that restores, trained once."""

import logging
import os
import shutil
from pathlib import Path

import pytest
from command_helpers import RESTORING, TRAINING, save_picture, train


@pytest.fixture(scope="session")
def experiment(tmp_path_factory):
    """A folder with a tiny network, trained for two iterations."""
    folder = tmp_path_factory.mktemp("trained")
    save_picture(folder / "photos" / "a.png", 40, 56)
    before, root = Path.cwd(), logging.getLogger("tessera")
    log = [*root.handlers], root.level, root.propagate  # made before any test's own look at the log
    os.chdir(folder)
    try:
        Path("recipe.yml").write_text(TRAINING)
        code, said = train("-opt", "recipe.yml", "--set", "logger.save_checkpoint_freq=1")
        assert code == 0, said
    finally:
        os.chdir(before)
        root.handlers[:], root.propagate = log[0], log[2]
        root.setLevel(log[1])
    return folder / "experiments" / "tiny"


@pytest.fixture
def here(tmp_path, monkeypatch, experiment):
    """A working directory with the recipe, an image in small/ and the trained experiment."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(experiment, "experiments/tiny")
    Path("infer.yml").write_text(RESTORING)
    save_picture("small/ok.png", 16, 24)
    return tmp_path
