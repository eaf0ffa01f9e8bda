"""Training by command: broken photographs, full disks, names that exist already, and --check."""

import errno
import os
from pathlib import Path

import pytest
from command_helpers import TRAINING, save_picture, train, truncated_jpeg

from codes.trainer.saving import checkpoint_saver


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("recipe.yml").write_text(TRAINING)
    save_picture("photos/a.png", 40, 56)
    save_picture("photos/b.jpg", 64, 48)
    return tmp_path


def run(*overrides, options=()):
    code, said = train("-opt", "recipe.yml", *options, *(["--set", *overrides] if overrides else []))
    assert "Traceback" not in said
    return code, said


@pytest.mark.usefixtures("here")
def test_broken_photographs_are_named_and_training_goes_on():
    truncated_jpeg("photos/cut.jpg", 64, 64)
    save_picture("photos/little.png", 31, 64)
    Path("photos/zero.jpg").touch()
    Path("photos/notes.txt").write_text("x")
    code, said = run("train.niter=4")
    assert code == 0, said
    assert "photos/little.png: 64x31 pixels, at least 32x32 are needed" in said
    assert "photos/zero.jpg: the file is empty" in said
    assert "photos/notes.txt: not an image by its extension" in said
    assert said.count("photos/cut.jpg: ") == 1
    assert "photos/cut.jpg: damaged" in said
    assert Path("experiments/tiny/models/4_generator_ema.safetensors").is_file()


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("kind", ["empty", "text", "missing", "too small", "only broken"])
def test_a_place_without_photographs_is_refused(kind):
    place = Path("place")
    if kind != "missing":
        place.mkdir()
    if kind == "text":
        (place / "a.txt").write_text("x")
    if kind == "too small":
        save_picture("place/a.png", 31, 64)
    if kind == "only broken":
        (place / "a.png").touch()
    for options in ((), ("--check",)):
        code, said = run("datasets.train.paths=place", options=options)
        assert code == 2
        assert "place" in said
    assert not Path("experiments").exists()


@pytest.mark.usefixtures("here")
def test_photographs_that_all_turn_out_broken_stop_the_run():
    truncated_jpeg("bad/c.jpg", 64, 64)
    truncated_jpeg("bad/d.jpg", 64, 64)
    code, said = run("datasets.train.paths=bad")
    assert code == 2
    assert "none of the 2 files can be used" in said


@pytest.mark.usefixtures("here")
def test_check_tells_everything_and_writes_nothing():
    code, said = run(options=("--check",))
    assert code == 0
    for part in ("network generator: 0.2 M parameters", "2 of 2 files usable", "hq (3, 32, 32)", "lq (3, 16, 16)",
                 "2 iterations of 2 images", "disk: 1 checkpoints"):  # fmt: skip
        assert part in said
    assert not Path("experiments").exists()


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("path.pretrain_model_generator=gone.pth", "path.pretrain_model_generator: no such file gone.pth"),
        ("path.resume_state=gone.state", "path.resume_state: no such file gone.state"),
        ("path.pretrain_model_generator=auto", "no trained experiment 'tiny'"),
    ],
)
def test_check_finds_what_the_run_would_miss(override, message):
    code, said = run(override, options=("--check",))
    assert code == 2
    assert message in said


@pytest.mark.usefixtures("here")
def test_check_reads_what_evaluators_will_read():
    evaluator = "{type: restoration, for: generator, dataset: {mode: imagefolder, rgb_n1_to_1: true, paths: gone}}"
    code, said = run(f"eval.evaluators.e={evaluator}", "train.val_freq=1", options=("--check",))
    assert code == 2
    assert "gone: no such file or folder" in said


@pytest.mark.usefixtures("here")
def test_an_experiment_of_the_same_name_is_put_aside_even_in_the_same_second():
    for _ in range(3):
        assert run("train.niter=1")[0] == 0
    folders = sorted(path.name for path in Path("experiments").iterdir())
    assert len(folders) == 3
    assert "tiny" in folders
    assert all(Path("experiments", name, "models/1_generator.safetensors").is_file() for name in folders)


@pytest.mark.usefixtures("here")
def test_a_full_disk_at_the_last_checkpoint_fails_and_at_an_earlier_one_does_not(monkeypatch):
    saves = []
    whole = checkpoint_saver.save

    def full_once(experiment, recipe, parts, iteration, samples):
        saves.append(iteration)
        if iteration in broken:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        whole(experiment, recipe, parts, iteration, samples)

    monkeypatch.setattr(checkpoint_saver, "save", full_once)
    broken = {1}
    code, said = run("train.niter=2", "logger.save_checkpoint_freq=1")
    assert code == 0
    assert saves == [1, 2]
    assert "could not save iteration 1" in said
    assert "No space left on device" in said
    broken = {2}
    code, said = run("train.niter=2", "logger.save_checkpoint_freq=1")
    assert code == 1
    assert "the last good checkpoint is that of iteration 1" in said


@pytest.mark.usefixtures("here")
def test_a_folder_that_cannot_be_made_is_one_line():
    Path("experiments").write_text("a file in the place of the folder")
    code, said = run()
    assert code == 1
    assert "experiments" in said


@pytest.mark.usefixtures("here")
def test_weights_to_start_from_that_do_not_fit():
    assert run("name=other", "networks.generator.args.model_channels=32")[0] == 0
    code, said = run("path.pretrain_model_generator=experiments/other/models/2_generator.safetensors")
    assert code == 2
    assert "does not fit the network: " in said
    assert "of another shape (" in said


@pytest.mark.usefixtures("here")
def test_resuming_after_the_last_iteration_has_nothing_to_do():
    assert run()[0] == 0
    code, said = run(options=("--auto_resume",))
    assert code == 0
    assert "nothing left to do" in said
    code, said = run("train.niter=3", options=("--auto_resume",))
    assert code == 0
    assert "iterations 3 to 3" in said


@pytest.mark.usefixtures("here")
def test_debug_shows_the_traceback():
    assert "Traceback" in train("-opt", "recipe.yml", "--debug", "--set", "datasets.train.paths=gone")[1]
