"""Where numbers go, and that a full disk or a service that fails costs them and not the run."""

import json
import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from trainer_helpers import fill, make_trainer, merged, read, recipe_data, write_recipe

from codes.train import main
from codes.trainer.logs import writers
from codes.trainer.logs.run_log import RunLog
from codes.trainer.logs.writers import JsonLines, TensorBoard, WriterGuard
from codes.utils.errors import ConfigError

NO_ROOM = OSError(28, "No space left on device")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the log is told of writers."""
    lines: list[str] = []
    for level in ("warning", "info"):
        monkeypatch.setattr(writers.logger, level, lambda text, *values: lines.append(text % values))
    return lines


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_guard_warns_once_and_says_when_it_works_again(told: list[str]) -> None:
    guard = WriterGuard("the picture")

    def fails() -> None:
        raise NO_ROOM

    assert [guard.attempt(work) for work in (fails, fails, list, list, fails)] == [False, False, True, True, False]
    assert [line.split(" (")[0] for line in told] == [
        "the picture cannot be written", "the picture is written again", "the picture cannot be written",
    ]  # fmt: skip
    assert "No space left on device" in told[0]
    with pytest.raises(ValueError):
        guard.attempt(lambda: int("x"))


def test_lines_without_room_wait_and_none_is_cut(tmp_path: Path, told: list[str]) -> None:
    file, full = tmp_path / "log.jsonl", Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    log = JsonLines(file, 0)
    log.scalars(1, {"a": 1.0})
    log.file = full
    log.scalars(2, {"a": float("nan")})
    log.scalars(3, {"a": 3.0})
    assert [row["iteration"] for row in rows(file)] == [1]
    log.file = file
    log.scalars(4, {"a": 4.0})
    assert [(row["iteration"], row["a"]) for row in rows(file)] == [(1, 1.0), (2, None), (3, 3.0), (4, 4.0)]
    assert len(told) == 2


def test_half_a_line_is_taken_back(tmp_path: Path, small_file: Any, told: list[str]) -> None:
    log = JsonLines(tmp_path / "log.jsonl", 0)
    log.scalars(1, {"a": 1.0})
    size = log.file.stat().st_size
    small_file(size + 20)
    log.scalars(2, {"a": 2.0})
    assert log.file.stat().st_size == size
    small_file(None)
    log.close()
    assert [row["iteration"] for row in rows(log.file)] == [1, 2]
    assert len(told) == 2


@pytest.fixture
def small_file() -> Any:
    """Limits the size of any file that this process writes."""
    import resource
    import signal

    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (before[0] if size is None else size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def scalars(folder: Path, tag: str) -> list[int]:
    return [event.step for event in EventAccumulator(str(folder)).Reload().Scalars(tag)]


def test_tensorboard_goes_on_when_there_is_room_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: list[str]
) -> None:
    board = TensorBoard(tmp_path, 0, "name: tiny")
    board.scalars(1, {"a": 1.0})
    free = shutil.disk_usage
    monkeypatch.setattr(writers.shutil, "disk_usage", lambda path: free(path)._replace(free=100))
    board.scalars(2, {"a": 2.0})
    board.picture(2, "p", np.zeros((4, 6, 3), np.uint8))
    monkeypatch.setattr(writers.shutil, "disk_usage", free)
    board.scalars(3, {"a": 3.0})
    board.close()
    assert scalars(tmp_path, "a") == [1, 3]
    assert len(told) == 2


def test_a_tensorboard_writer_that_failed_is_replaced(tmp_path: Path, told: list[str]) -> None:
    board = TensorBoard(tmp_path, 0, "name: tiny")
    assert board._writer is not None
    worker = board._writer.file_writer.event_writer._async_writer._worker  # as when its thread found the disk full
    worker.exception = NO_ROOM
    board.scalars(1, {"a": 1.0})
    board.scalars(2, {"a": 2.0})
    board.close()
    assert 2 in scalars(tmp_path, "a")
    assert [line.split(" (")[0] for line in told] == [
        f"{tmp_path} cannot be written", f"{tmp_path} is written again",
    ]  # fmt: skip


def test_a_distribution_becomes_a_histogram_over_its_places(tmp_path: Path) -> None:
    log = RunLog(tmp_path, 0, 9, 1, 4, [TensorBoard(tmp_path, 0, "name: tiny")])
    log.distribution(5, "timesteps", torch.arange(1000.0) / 499_500)
    log.close()
    (event,) = EventAccumulator(str(tmp_path)).Reload().Histograms("timesteps")
    assert event.step == 5
    assert sum(event.histogram_value.bucket) == pytest.approx(1.0)
    assert event.histogram_value.bucket[-1] > 20 * event.histogram_value.bucket[0]


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    logger = {"print_freq": 1, "visuals": ["hq"], "visual_debug_rate": 1}
    changes = {"logger": logger, "use_tb_logger": True}
    return write_recipe(tmp_path / "recipe.yml", recipe_data(fill(tmp_path / "im"), changes))


def test_a_run_survives_a_disk_without_room_for_its_logs(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, told: list[str]
) -> None:
    trainer = make_trainer(recipe)
    append, iterate = JsonLines._append, trainer._iterate

    def no_room(*_: Any, **__: Any) -> None:
        raise NO_ROOM

    def watched(batch: Any) -> Any:
        result = iterate(batch)
        full = trainer.iteration < 3
        monkeypatch.setattr(JsonLines, "_append", no_room if full else append)
        monkeypatch.setattr(TensorBoard, "_open", no_room if full else opened)
        monkeypatch.setattr("codes.trainer.logs.run_log.write_image", no_room if full else lambda *_: None)
        return result

    opened = TensorBoard._open
    trainer._iterate = watched  # type: ignore[method-assign]
    trainer.run()
    assert [row["iteration"] for row in rows(Path("experiments/tiny/log.jsonl"))] == [1, 2, 3]
    assert sum("cannot be written" in line for line in told) == 3
    assert sum("is written again" in line for line in told) == 3


class FakeRun:
    """Stands for a run of wandb in offline mode."""

    def __init__(self, asked: dict[str, Any]) -> None:
        self.asked = asked
        self.id = asked["id"] or "abc123"
        self.logged: list[tuple[int, dict[str, Any]]] = []
        self.finished = False

    def log(self, numbers: dict[str, Any], step: int) -> None:
        if step == 2:
            raise ConnectionError("gone")
        self.logged.append((step, numbers))

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> list[FakeRun]:
    runs: list[FakeRun] = []
    fake: Any = ModuleType("wandb")
    fake.init = lambda **asked: runs.append(FakeRun(asked)) or runs[-1]  # type: ignore[func-returns-value]
    fake.Image = lambda array: SimpleNamespace(shape=array.shape)
    fake.Histogram = lambda np_histogram: np_histogram
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return runs


def test_wandb_is_told_by_option_and_continues_on_a_resume(recipe: Path, wandb: list[FakeRun]) -> None:
    make_trainer(recipe, "wandb=true", "logger.wandb_project=mine").run()
    make_trainer(recipe, "wandb=true", "train.niter=4", auto_resume=True).run()
    first, second = wandb
    assert (first.asked["project"], first.asked["name"], first.asked["id"]) == ("mine", "tiny", None)
    assert first.asked["config"]["networks"]["generator"]["which_model_G"] == "unet_diffusion"
    assert second.asked["id"] == "abc123"
    assert second.asked["resume"] == "allow"
    assert [step for step, numbers in first.logged if "loss/total" in numbers] == [1, 3]  # 2 failed, and cost nothing
    assert any(numbers["hq"].shape[2] == 3 for _, numbers in first.logged if "hq" in numbers)
    assert first.finished
    assert second.finished


def test_wandb_that_is_not_installed_is_an_error_at_the_start(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert main(["-opt", str(recipe), "--set", "wandb=true"]) == 2
    assert "wandb: true needs the package wandb; `pip install wandb`" in capsys.readouterr().err
    assert not Path("experiments").exists()


def test_wandb_that_cannot_start_says_how_to_go_on(recipe: Path, wandb: list[FakeRun]) -> None:
    def refuse(**_: Any) -> None:
        raise RuntimeError("not logged in\nmore")

    sys.modules["wandb"].init = refuse  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"wandb: cannot start \(not logged in\).*WANDB_MODE=offline"):
        make_trainer(recipe, "wandb=true").run()
    assert wandb == []


def test_losses_by_quartile_are_means_of_their_samples(recipe: Path) -> None:
    changes = {"logger": {"print_freq": 3, "visuals": []}}
    write_recipe(recipe, merged(recipe_data(recipe.parent / "im"), changes))
    trainer = make_trainer(recipe)
    injector = trainer.parts.steps[0].graph.injectors["diffusion"]
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    counted = injector._count_by_time
    injector._count_by_time = lambda t, main: (seen.append((t, main)), counted(t, main))[1]
    trainer.run()
    t, main_term = (torch.cat(values) for values in zip(*seen, strict=True))
    assert t.shape == (12,)
    (row,) = rows(Path("experiments/tiny/log.jsonl"))
    for number in range(4):
        inside = main_term[(t >= 25 * number) & (t < 25 * (number + 1))]
        expected = pytest.approx(float(inside.mean()), rel=1e-5) if len(inside) else None
        assert row.get(f"loss_by_t/mse_q{number}") == expected
    assert read(recipe)[0].train is not None
