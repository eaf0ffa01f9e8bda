"""One trained generator for all tests of generation."""

import os
from pathlib import Path

import pytest
from generation_helpers import prepare, train_tiny


@pytest.fixture(scope="session")
def tiny_generator(tmp_path_factory):
    """The experiment folder of a trained generator; tests copy it and leave it as it is."""
    folder = tmp_path_factory.mktemp("trained")
    before = Path.cwd()
    os.chdir(folder)
    try:
        train_tiny()
    finally:
        os.chdir(before)
    return folder / "experiments" / "tiny"


@pytest.fixture
def generating(tmp_path, monkeypatch, tiny_generator):
    """A working directory that holds the trained generator and a recipe that samples from it."""
    monkeypatch.chdir(tmp_path)
    prepare(tmp_path, tiny_generator)
    return tmp_path
