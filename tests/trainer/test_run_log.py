import json
import math
import re
import time
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from trainer_helpers import fill, recipe_data, write_recipe

from codes.train import main
from codes.trainer.logs.run_log import RunLog
from codes.trainer.logs.writers import JsonLines, TensorBoard
from codes.trainer.training_step import StepResult


def lines(root: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / "log.jsonl").read_text().splitlines()]


def log_to(root: Path, start: int = 0, niter: int = 9, print_freq: int = 1, tensorboard: bool = False) -> RunLog:
    writers = [JsonLines(root / "log.jsonl", start)]
    more = [TensorBoard(root / "tb_logger", start, "name: tiny")] if tensorboard else []
    return RunLog(root, start, niter, print_freq, batch_size=4, writers=[*writers, *more])


def result(loss: float, skipped: bool = False) -> StepResult:
    return StepResult({"mse": loss, "total": 2 * loss}, gradient_norm=loss / 2, learning_rate=0.5, skipped=skipped)


def test_means_go_to_the_log_every_print_freq_and_at_the_end(tmp_path: Path) -> None:
    log = log_to(tmp_path, niter=5, print_freq=2)
    for iteration in range(1, 6):
        log.record(iteration, result(float(iteration)), seconds=0.5, waited=0.1)
    log.close()
    rows = lines(tmp_path)
    assert [row["iteration"] for row in rows] == [2, 4, 5]
    assert [row["loss/mse"] for row in rows] == [1.5, 3.5, 5.0]
    assert [row["gradient_norm"] for row in rows] == [0.75, 1.75, 2.5]
    assert rows[0]["learning_rate"] == 0.5
    assert rows[0]["iterations_per_second"] == pytest.approx(2.0)
    assert rows[0]["images_per_second"] == pytest.approx(8.0)
    assert rows[0]["data_wait_share"] == pytest.approx(0.2)


def test_skipped_iterations_are_counted_and_stay_out_of_the_means(tmp_path: Path) -> None:
    log = log_to(tmp_path, niter=4, print_freq=2)
    for iteration, row in enumerate(
        [result(3.0), result(math.nan, True), result(math.inf, True), result(math.nan, True)]
    ):
        log.record(iteration + 1, row, seconds=0.5, waited=0.1)
    first, second = lines(tmp_path)
    assert first["skipped"] == 1
    assert first["loss/mse"] == 3.0
    assert second["skipped"] == 2
    assert second["gradient_norm"] is None


def test_a_resumed_log_forgets_the_iterations_that_are_done_again(tmp_path: Path) -> None:
    first = log_to(tmp_path, tensorboard=True)
    for iteration in range(1, 5):
        first.record(iteration, result(1.0), 0.5, 0.1)
    first.close()
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"iteration": 5, "loss')  # cut by a crash
    time.sleep(1.1)  # TensorBoard orders its files by the second in their names
    second = log_to(tmp_path, 2, tensorboard=True)
    second.record(3, result(7.0), 0.5, 0.1)
    second.close()
    assert [(row["iteration"], row["loss/mse"]) for row in lines(tmp_path)] == [(1, 1.0), (2, 1.0), (3, 7.0)]
    events = EventAccumulator(str(tmp_path / "tb_logger")).Reload().Scalars("loss/mse")
    assert [(event.step, event.value) for event in events] == [(1, 1.0), (2, 1.0), (3, 7.0)]


def test_ranks_other_than_the_first_write_nothing(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "gone", 0, niter=1, print_freq=1, batch_size=4)
    log.record(1, result(1.0), 0.5, 0.1)
    log.close()
    assert not (tmp_path / "gone").exists()


def test_a_loss_that_is_not_there_at_every_iteration_is_averaged_over_those_where_it_is(tmp_path: Path) -> None:
    log = log_to(tmp_path, niter=3, print_freq=3)
    for iteration, losses in enumerate(({"a": 1.0}, {"a": 2.0, "b": 8.0}, {"a": 3.0}), 1):
        log.record(iteration, StepResult(losses), 0.5, 0.1, {"loss_by_t/mse_q0": 4.0} if iteration == 3 else {})
    (row,) = lines(tmp_path)
    assert (row["loss/a"], row["loss/b"], row["loss_by_t/mse_q0"]) == (2.0, 8.0, 4.0)
    assert 0.01 < row["peak_memory_gib"] < 1000  # of this process


def test_visuals_are_grids_in_the_range_that_is_named(tmp_path: Path) -> None:
    log = log_to(tmp_path)
    state = {"hq": torch.full((3, 3, 8, 12), -1.0), "mse": torch.ones(3)}
    state["hq"][1] = 1.0
    log.visuals(7, state, ("hq", "mse"), n1_to_1=True)
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("*.png")] == [Path("visual_dbg/hq/7.png")]
    image = cv2.imread(str(tmp_path / "visual_dbg/hq/7.png"))
    assert image.shape == (2 * 12 + 4, 2 * 16 + 4, 3)  # two rows and columns, 4 pixels between
    assert image[8, 8].tolist() == [0, 0, 0]
    assert image[8, 24].tolist() == [255, 255, 255]


def test_a_run_writes_its_log_its_visuals_and_its_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    logger = {"print_freq": 2, "visuals": ["hq", "lq", "x_start"], "visual_debug_rate": 2}
    changes = {"use_tb_logger": True, "logger": logger, "train": {"mega_batch_factor": 2, "niter": 4}}
    path = write_recipe(tmp_path / "r.yml", recipe_data(fill(tmp_path / "im"), changes))
    assert main(["-opt", str(path)]) == 0
    root = Path("experiments/tiny")
    assert [row["iteration"] for row in lines(root)] == [2, 4]
    assert all(0 < row["loss/total"] < 10 for row in lines(root))
    shown = {str(path.relative_to(root / "visual_dbg")) for path in root.glob("visual_dbg/*/*.png")}
    assert shown == {f"{key}/{at}.png" for key in ("hq", "lq", "x_start") for at in (2, 4)}
    events = EventAccumulator(str(root / "tb_logger")).Reload()
    assert [event.step for event in events.Scalars("loss/mse")] == [2, 4]
    assert set(events.Tags()["images"]) == {"hq", "lq", "x_start"}
    assert b"unet_diffusion" in events.Tensors("recipe/text_summary")[0].tensor_proto.string_val[0]
    assert all(set(row) >= {f"loss_by_t/mse_q{number}" for number in range(4)} for row in lines(root))
    assert {"train.log", "recipe.yml", "environment.json"} <= {path.name for path in root.iterdir()}
    told = (root / "train.log").read_text()
    assert re.search(r" 2/4  mse .* lr 0.001  .* it/s  .* images/s  data wait \d+ %  .* GiB  0:\d\d left", told)
    assert "\r" not in capsys.readouterr().err  # no bar where there is no terminal


def test_the_bar_shows_a_loss_with_several_steps_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = log_to(tmp_path, print_freq=5)
    shown: list[float] = []
    monkeypatch.setattr(log.bar, "advance", lambda _iteration, loss: shown.append(loss))
    log.record(1, StepResult({"a/mse": 1.0, "a/total": 2.0, "b/total": 3.0}), 0.5, 0.1)
    assert shown == [5.0]


def test_every_step_shows_the_rate_of_its_last_update(tmp_path: Path) -> None:
    log = log_to(tmp_path, niter=3, print_freq=3)
    both = {"a": 0.5, "b": 0.25}
    log.record(1, StepResult({"total": 1.0}, learning_rate=0.25, learning_rates=both), 0.5, 0.1)
    log.record(2, StepResult({"total": 1.0}, learning_rate=0.0, learning_rates={"a": 0.0}), 0.5, 0.1)
    log.record(3, StepResult(), 0.5, 0.1)  # no step ran
    (row,) = lines(tmp_path)
    assert (row["learning_rate"], row["learning_rate/a"], row["learning_rate/b"]) == (0.0, 0.0, 0.25)


def test_waiting_for_data_is_told_once_with_what_to_do_and_not_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(
        "codes.trainer.logs.run_log.logger.warning", lambda text, *values: warnings.append(text % values)
    )
    log = RunLog(tmp_path, 0, 9, 2, batch_size=4, remedy="raise n_workers")
    for iteration, waited in enumerate([0.9, 0.9, 0.05, 0.1, 0.4, 0.2, 0.9, 0.9], start=1):
        log.record(iteration, result(1.0), seconds=1.0, waited=waited)
        assert len(warnings) == (1 if iteration >= 6 else 0)
    assert warnings == ["training waits for data 30 % of the time; raise n_workers"]
