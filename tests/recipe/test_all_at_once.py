"""What does not parse and what contradicts itself, reported together, without mistakes that only follow from others."""

from pathlib import Path

import pytest
from trainer_helpers import fill, recipe_data, write_recipe

from codes import train


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    monkeypatch.chdir(tmp_path)
    recipe = write_recipe(tmp_path / "recipe.yml", recipe_data(fill(tmp_path / "photos")))

    def run(*overrides: str) -> list[str]:
        assert train.main(["-opt", str(recipe), "--set", *overrides]) == 2
        return [line.split(" E ", 1)[1] for line in capfd.readouterr().err.splitlines()]

    return run


def places(lines: list[str]) -> set[str]:
    """The key path of every line."""
    return {line.split(": ")[1] for line in lines}


def test_a_typo_a_wrong_type_and_contradictions_of_other_sections(said) -> None:
    lines = said(
        "train.mega_batch_facter=2",
        "train.niter=many",
        "logger.print_freqq=3",
        "datasets.train.target_size=36",
        "networks.generator.args.num_corruptions=3",
        "steps.generator.losses.mse.key=mze",
    )
    assert places(lines) == {
        "train.mega_batch_facter",
        "train.niter",
        "logger.print_freqq",
        "datasets.train.target_size",
        "networks.generator.args.num_corruptions",
        "steps.generator.losses.mse.key",
    }


def test_a_misspelt_key_is_taken_as_meant_so_nothing_seems_to_be_missing(said) -> None:
    lines = said("datasets.train.targt_size=32", "datasets.train.target_size=~", "train.mega_batch_factor=9")
    assert "datasets.train.targt_size" in places(lines)
    assert "train.mega_batch_factor" in places(lines)
    lines = said("networks.generator.args.num_corruptionz=3")
    assert places(lines) == {"networks.generator.args.num_corruptionz"}


def test_a_wrong_type_brings_no_complaints_about_its_absence(said) -> None:
    assert places(said("datasets.train.target_size=big")) == {"datasets.train.target_size"}
    assert places(said("datasets.train.target_size=33")) == {"datasets.train.target_size"}


def test_a_mistake_at_the_root_hides_nothing(said) -> None:
    assert places(said("device=gpu", "train.nitre=4")) == {"device", "train.nitre"}
