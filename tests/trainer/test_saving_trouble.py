"""Disks that come and go, checkpoints that are damaged, what kills leave: nothing is lost, and what is told is true."""

import errno
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from trainer_helpers import different, everything, fill, make_trainer, recipe_data, write_recipe

from codes.models.diffusion.checkpoints.files import disk_errors, read_weights
from codes.runtime.experiment import Experiment
from codes.train import main
from codes.trainer.logs.writers import TensorBoard
from codes.trainer.saving import saving as saving_module
from codes.trainer.trainer import Trainer
from codes.utils.errors import ConfigError, DamagedError, TesseraError

EXPERIMENT = Experiment(Path("experiments/tiny"))
EVERY = ("logger.save_checkpoint_freq=1",)


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_recipe(tmp_path / "recipe.yml", recipe_data(fill(tmp_path / "im")))


@pytest.mark.parametrize(("mask", "rights"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
@pytest.mark.parametrize("form", ["safetensors", "pth"])
def test_files_have_the_rights_that_new_files_have(recipe: Path, mask: int, rights: int, form: str) -> None:
    before = os.umask(mask)
    try:
        make_trainer(recipe, f"logger.checkpoint_format={form}", "logger.visuals=[hq]").run()
    finally:
        os.umask(before)
    files = [
        path for path in EXPERIMENT.root.rglob("*") if path.is_file() and path.suffix in (f".{form}", ".state", ".png")
    ]
    assert len(files) == 4
    assert {path.stat().st_mode & 0o777 for path in files} == {rights}


def test_a_file_that_may_not_be_read_is_not_called_damaged(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_trainer(recipe).run()
    plain = Path.open

    def refusing(self: Path, *arguments: Any, **named: Any) -> Any:
        if self.suffix in (".safetensors", ".state"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
        return plain(self, *arguments, **named)

    monkeypatch.setattr(Path, "open", refusing)
    with pytest.raises(ConfigError, match=r"cannot be read \(Permission denied\)") as error:
        read_weights(EXPERIMENT.weights("generator", 3, ema=True))
    assert "damaged" not in str(error.value)
    with pytest.raises(ConfigError, match=r"3\.state: cannot be read as a training state \(Permission denied\)"):
        make_trainer(recipe, "path.resume_state=experiments/tiny/training_state/3.state")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def poison(path: Path) -> None:
    """NaN in one weight."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    weights = load_file(path)
    name = next(iter(weights))
    save_file({**weights, name: torch.full_like(weights[name], float("nan"))}, path, metadata)


def changed_state(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        state = torch.load(path, weights_only=True)
        change(state)
        torch.save(state, path)

    return write


def poison_moments(state: dict[str, Any]) -> None:
    moments = state["optimizers"]["generator"]["state"][0]
    moments["exp_avg"] = moments["exp_avg"] * float("nan")


def weights(ema: bool) -> Path:
    return EXPERIMENT.weights("generator", 3, ema)


DAMAGES: dict[str, tuple[Callable[[], Path], Callable[[Path], None]]] = {
    "weights cut": (lambda: weights(False), cut),
    "averages cut": (lambda: weights(True), cut),
    "averages empty": (lambda: weights(True), lambda path: path.write_bytes(b"")),
    "averages gone": (lambda: weights(True), Path.unlink),
    "weights not finite": (lambda: weights(False), poison),
    "averages not finite": (lambda: weights(True), poison),
    "state cut": (lambda: EXPERIMENT.state(3), cut),
    "moments not finite": (lambda: EXPERIMENT.state(3), changed_state(poison_moments)),
    "iteration a text": (lambda: EXPERIMENT.state(3), changed_state(lambda s: s.update(iteration="3"))),
    "samples below 0": (lambda: EXPERIMENT.state(3), changed_state(lambda s: s.update(samples=-1))),
    "optimisers a list": (lambda: EXPERIMENT.state(3), changed_state(lambda s: s.update(optimizers=[1]))),
    "an optimiser without groups": (
        lambda: EXPERIMENT.state(3), changed_state(lambda s: s["optimizers"].update(generator={"state": {}})),
    ),
    "injectors of another type": (
        lambda: EXPERIMENT.state(3), changed_state(lambda s: s.update(injectors={"generator": 7})),
    ),
    "scalers gone": (lambda: EXPERIMENT.state(3), changed_state(lambda s: s.update(scalers=None))),
    "recipe no text": (lambda: EXPERIMENT.state(3), changed_state(lambda s: s.update(recipe="{"))),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    recipe: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    whole = make_trainer(recipe, *EVERY)
    whole.run()
    place, harm = DAMAGES[damage]
    harm(place())
    again = make_trainer(recipe, *EVERY, auto_resume=True)
    assert again.iteration == 2
    assert "3.state" in caplog.text
    again.run()
    assert not different(everything(again), everything(whole))


def test_a_state_that_holds_itself_is_read_to_an_end(recipe: Path) -> None:
    make_trainer(recipe).run()
    changed_state(lambda state: state["optimizers"].update(own=state))(EXPERIMENT.state(3))
    assert make_trainer(recipe, auto_resume=True).iteration == 3


def test_where_all_are_damaged_nothing_begins_anew(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_trainer(recipe).run()
    poison(weights(True))
    before = sorted(EXPERIMENT.root.rglob("*"))
    assert main(["-opt", str(recipe), "--auto_resume", "--set", "train.niter=5"]) == 2
    said = capsys.readouterr().err
    assert "3_generator_ema.safetensors: the weights" in said
    assert "are not finite" in said
    assert "Traceback" not in said
    assert sorted(EXPERIMENT.root.rglob("*")) == before


def test_a_mapping_that_holds_itself_is_refused(tmp_path: Path) -> None:
    for depth in range(3):
        content: dict[str, Any] = {}
        content["state_dict"] = content
        for _ in range(depth):
            content = {"model": content}
        torch.save(content, tmp_path / "loop.pth")
        with pytest.raises(ConfigError, match="holds no weights"):
            read_weights(tmp_path / "loop.pth")


def at(trainer: Trainer, deeds: dict[int, Callable[[], Any]]) -> None:
    """Do something before an iteration."""
    iterate = trainer._iterate

    def watched(batch: Any) -> Any:
        deeds.get(trainer.iteration + 1, lambda: None)()
        return iterate(batch)

    trainer._iterate = watched  # type: ignore[method-assign]


def test_a_folder_that_is_out_of_reach_for_a_while_costs_only_what_was_to_be_saved_then(
    recipe: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_trainer(recipe, *EVERY, "train.niter=6", "logger.visuals=[hq]", "logger.visual_debug_rate=1")
    away = Path("experiments").rename
    at(trainer, {3: lambda: away("gone"), 5: lambda: Path("gone").rename("experiments")})
    caplog.set_level("INFO", "tessera")
    trainer.run()
    assert [iteration for iteration, _ in EXPERIMENT.states()] == [6, 5, 2, 1]
    assert not Path("gone").exists()
    assert "the next save tries again. The last good checkpoint is that of iteration 2" in caplog.text
    assert "is written again" in caplog.text
    log = (EXPERIMENT.root / "log.jsonl").read_text()
    assert not [line for line in log.splitlines() if "null" in line and "loss" in line]


def test_what_is_said_of_earlier_checkpoints_is_true(recipe: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = make_trainer(recipe, *EVERY)
    at(trainer, {1: lambda: Path("experiments").rename("away")})
    with pytest.raises(TesseraError, match=r"\(the folder is not there any more\); there is no checkpoint yet"):
        trainer.run()
    assert "the next save tries again. There is no checkpoint yet" in caplog.text
    assert not Path("experiments").exists()  # nothing is written beneath the place of a drive that is gone


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ENOTCONN, errno.ESTALE, errno.ENOSPC])
def test_whatever_the_disk_says_the_run_goes_on_and_the_last_save_is_tried_again(
    recipe: Path, number: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_trainer(recipe, *EVERY)
    write, calls = saving_module._write, []

    def failing(*arguments: Any) -> None:
        calls.append(1)
        if len(calls) in (1, 3):  # of iteration 1, and the first try of the last one
            raise OSError(number, os.strerror(number))
        write(*arguments)

    monkeypatch.setattr(saving_module, "_write", failing)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: (_ for _ in ()).throw(OSError("out of reach")))
    trainer.run()
    assert [iteration for iteration, _ in EXPERIMENT.states()] == [3, 2]
    assert f"could not save iteration 1 to experiments/tiny ({os.strerror(number)})" in caplog.text
    assert "trying again in 0 s" in caplog.text


def test_safetensors_own_errors_keep_their_number() -> None:
    from safetensors import SafetensorError

    with pytest.raises(OSError) as caught, disk_errors():
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert caught.value.errno == errno.ENOSPC


LEFT = (
    *("models/.tmpAb3dE9", "models/.3_generator.1a2b3c4d.tmp.safetensors", "training_state/.3.00ff00ff.tmp.state"),
    *("visual_dbg/hq/.100.deadbeef.tmp.png", "best/.1a2b3c4d.tmp.safetensors", "samples/.tmpZZZZZZ"),
    ".log.01234567.tmp.jsonl",
)
OWN = ("models/.hidden", "models/notes.tmp.txt", ".keep.tmp", "models/.a.tmp.safetensors")


@pytest.mark.parametrize("auto_resume", [True, False])
def test_what_kills_left_is_removed_at_the_next_start_and_nothing_else(recipe: Path, auto_resume: bool) -> None:
    make_trainer(recipe).run()
    for name in (*LEFT, *OWN):
        path = EXPERIMENT.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    make_trainer(recipe, "train.niter=4", auto_resume=auto_resume).run()
    there = {path.name for path in Path("experiments").rglob("*") if path.is_file()}
    assert not {Path(name).name for name in LEFT} & there
    assert {Path(name).name for name in OWN} <= there


def test_threads_of_tensorboard_tell_nothing_but_others_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", told.append)
    board = TensorBoard(tmp_path / "tb", 0, "name: tiny")
    (tmp_path / "tb").rename(tmp_path / "away")  # at once: its threads may be writing
    (tmp_path / "tb").write_text("in its place")
    for iteration in range(30):
        board.scalars(iteration, {"loss": 1.0})
    assert not told
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
    assert len(told) == 1
    board.close()
    assert threading.excepthook == told.append


def test_damage_is_a_kind_of_configuration_error() -> None:
    assert DamagedError("x").exit_code == 2
