"""A student that a recipe names is checked by what its checkpoint records, with file and line."""

from pathlib import Path

import pytest
from command_helpers import save_picture

from codes import test as test_command

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """The recipe that comes with the project, of the student and one picture; it is written with changes."""
    text = (ROOT / "recipes" / "diffusion" / "infer.yml").read_text()
    monkeypatch.chdir(tmp_path)
    save_picture("photo.png", 12, 16)
    replaced = {
        "paths: ~ ": "paths: photo.png ",
        "pretrain_model_generator: tessera-photo-2x": "*: tessera-photo-2x-fast",
    }

    def write(**changes):
        mine = text
        for old, new in {**replaced, **changes}.items():
            assert old in mine, old
            mine = mine.replace(old, new.replace("*", old.partition(":")[0]))
        Path("mine.yml").write_text(mine)
        return mine.splitlines()

    return write


def test_a_blend_is_refused_where_it_is_written(recipe, capsys):
    lines = recipe(**{"blend: 0.0": "blend: 0.5"})
    assert test_command.main(["-opt", "mine.yml", "--dry_run"]) == 2
    place = next(
        number for number, line in enumerate(lines, 1) if "blend: 0.5" in line and "#" not in line.split("blend")[0]
    )
    assert (
        f"mine.yml:{place}: steps.restore.injectors.detail.blend: is 0.5, but a network that was"
        in capsys.readouterr().err
    )


def test_the_steps_of_a_student_are_its_own_whatever_is_written(recipe, capsys):
    recipe(**{"respaced_timestep_spacing: karras8": "respaced_timestep_spacing: karras99"})
    assert test_command.main(["-opt", "mine.yml", "--dry_run"]) == 0, capsys.readouterr().err


def test_steps_that_a_recorded_process_does_not_have_are_refused_where_they_are_written(recipe, capsys):
    teacher = {"pretrain_model_generator: tessera-photo-2x": "*: tessera-photo-2x"}
    lines = recipe(**teacher, **{"respaced_timestep_spacing: karras8": "respaced_timestep_spacing: trailing5000"})
    assert test_command.main(["-opt", "mine.yml", "--dry_run"]) == 2
    place = next(number for number, line in enumerate(lines, 1) if "trailing5000" in line)
    assert f"mine.yml:{place}: steps.restore.injectors.detail.respaced_timestep_spacing: " in capsys.readouterr().err
