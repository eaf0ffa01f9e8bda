"""Sampling steps that leave noise in the image are refused where a recipe is read, or before anything is sampled."""

from pathlib import Path
from typing import Any

import pytest
from command_helpers import restore_small, save_picture, train
from trainer_helpers import fill, recipe_data, write_recipe

DETAIL = "steps.restore.injectors.detail"


def checked(tmp_path: Path, params: dict[str, Any]) -> tuple[int, str]:
    """The check of a training recipe whose evaluator samples by `params`."""
    held_out = {"mode": "imagefolder", "paths": str(fill(tmp_path / "im")), "target_size": 32, "rgb_n1_to_1": True}
    evaluator = {
        "type": "restoration",
        "for": "generator",
        "dataset": {**held_out, "fixed_corruptions": ["jpeg", "gaussian_blur"]},
        "diffusion_params": params,
    }
    changes = {"eval": {"evaluators": {"seen": evaluator}}, "train": {"val_freq": 1}}
    data = recipe_data(tmp_path / "im", changes)
    return train("-opt", str(write_recipe(tmp_path / "r.yml", data)), "--check")


@pytest.mark.parametrize(
    ("spacing", "expected"),
    [
        ("leading2", "lies past most of the noise that sampling starts from"),
        ("ddim1", "use trailing1"),
        (9999, "asks for 9999 steps"),
        ("karras90", "falls on"),
    ],
)
def test_the_steps_of_an_evaluator_are_checked_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spacing: Any, expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, said = checked(tmp_path, {"respaced_timestep_spacing": spacing})
    assert code == 2
    assert "eval.evaluators.seen.diffusion_params.respaced_timestep_spacing" in said
    assert expected in said


def test_steps_that_begin_at_noise_or_around_the_image_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for spacing in (1, "trailing2", "karras3"):
        code, said = checked(tmp_path, {"respaced_timestep_spacing": spacing, "temperature": 0.3})
        assert code == 0, said


@pytest.mark.parametrize("spacing", ["leading1", "leading2", "ddim1"])
def test_a_restoration_with_such_steps_ends_in_one_line(here: Path, spacing: str) -> None:
    code, said = restore_small(f"{DETAIL}.respaced_timestep_spacing={spacing}")
    assert code == 2
    assert f"respaced_timestep_spacing: is {spacing}: the first step, timestep" in said
    assert not (here / "results/restored/test").exists()


def test_the_dial_makes_other_images_of_the_same_recipe(here: Path) -> None:
    save_picture("small/ok.png", 16, 24)
    images = []
    for number, temperature in enumerate((0.0, 0.3, 1.0)):
        chosen = ["respaced_timestep_spacing=karras3", "sampler=ddim", f"temperature={temperature}", "canvas=disk"]
        code, said = restore_small(f"path.results=r{number}", *(f"{DETAIL}.{option}" for option in chosen))
        assert code == 0, said
        images.append(next((here / f"r{number}").rglob("ok.png")).read_bytes())
    assert len(set(images)) == 3
    code, said = restore_small(
        "path.results=r0", f"{DETAIL}.respaced_timestep_spacing=karras3", f"{DETAIL}.temperature=0.3"
    )
    assert code == 0, said  # another temperature is another result: it is made anew
    assert next((here / "r0").rglob("ok.png")).read_bytes() != images[0]
