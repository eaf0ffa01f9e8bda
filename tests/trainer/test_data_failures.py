"""Whatever happens to the data, what is trained so far is saved."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from trainer_helpers import fill, make_trainer, recipe_data, write_recipe

from codes.runtime.experiment import Experiment
from codes.runtime.interrupt import StopRequest
from codes.trainer.trainer import Trainer
from codes.utils.errors import Interrupted, TesseraError

EXPERIMENT = Experiment(Path("experiments/tiny"))


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_recipe(tmp_path / "recipe.yml", recipe_data(fill(tmp_path / "im"), {"train": {"niter": 9}}))


def misbehaving(recipe: Path, deed: Callable[[], Any], *overrides: str) -> Trainer:
    """A trainer whose data does something else from the third batch on."""
    trainer = make_trainer(recipe, *overrides)
    item = trainer.dataset.item

    def other(position: int) -> Any:
        return deed() if position >= 8 else item(position)

    trainer.dataset.item = other
    return trainer


def fail() -> None:
    raise ValueError("a plugin's own")


@pytest.mark.parametrize(
    ("deed", "error", "workers"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), TesseraError, 1),
        (lambda: time.sleep(60), TesseraError, 1),
        (lambda: time.sleep(60), TesseraError, 0),
        (fail, ValueError, 1),
        (fail, ValueError, 0),
    ],
    ids=["killed", "stuck worker", "stuck", "failing worker", "failing"],
)
def test_what_is_trained_is_saved(recipe: Path, deed: Callable[[], Any], error: type[Exception], workers: int) -> None:
    settings = (f"datasets.train.n_workers={workers}", "datasets.train.loader_timeout=1")
    trainer = misbehaving(recipe, deed, *settings)
    with pytest.raises(error) as caught:
        trainer.run()
    assert getattr(caught.value, "exit_code", 1) == 1
    ((iteration, _),) = EXPERIMENT.states()
    assert iteration == trainer.iteration
    assert iteration in (1, 2)  # a worker that is killed takes along what it had not yet handed over
    again = make_trainer(recipe, auto_resume=True)
    assert (again.iteration, again.samples) == (iteration, 4 * iteration)


def test_the_last_whole_iteration_is_saved_when_one_fails(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = make_trainer(recipe, "train.niter=3")
    whole.run()
    weights = load_file(EXPERIMENT.weights("generator", 3, True, ".safetensors"))
    trainer = make_trainer(recipe)
    injector = type(trainer.parts.steps[0].graph.injectors["diffusion"])
    inject: Callable[..., Any] = injector.__call__

    def failing(*arguments: Any) -> Any:
        if trainer.iteration == 3:
            raise KeyError("a plugin's own mistake")
        return inject(*arguments)

    monkeypatch.setattr(injector, "__call__", failing)
    with pytest.raises(KeyError, match="own mistake"):
        trainer.run()
    assert [iteration for iteration, _ in EXPERIMENT.states()] == [3]
    saved = load_file(EXPERIMENT.weights("generator", 3, True, ".safetensors"))
    assert all(torch.equal(saved[name], value) for name, value in weights.items())


def test_what_is_half_done_is_not_saved(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_trainer(recipe, "logger.save_checkpoint_freq=2")
    injector = trainer.parts.steps[0].graph.injectors["diffusion"]

    def failing(_: Any) -> None:
        if trainer.iteration == 3:
            raise RuntimeError("out of memory")

    monkeypatch.setattr(injector, "end_iteration", failing)
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer.run()
    assert [iteration for iteration, _ in EXPERIMENT.states()] == [2]
    assert "iteration 4 failed after some of its steps were applied" in caplog.text
    assert "the last good checkpoint is that of iteration 2" in caplog.text


@pytest.mark.parametrize(("workers", "number"), [(0, signal.SIGTERM), (1, signal.SIGTERM), (1, signal.SIGHUP)])
def test_a_signal_is_heard_while_no_batch_comes(recipe: Path, workers: int, number: signal.Signals) -> None:
    trainer = misbehaving(recipe, lambda: time.sleep(60), f"datasets.train.n_workers={workers}")

    def stop() -> None:
        while trainer.iteration < 2:
            time.sleep(0.05)
        time.sleep(0.3)
        os.kill(os.getpid(), number)

    threading.Thread(target=stop, daemon=True).start()
    start = time.monotonic()
    with pytest.raises(Interrupted, match="stopped at iteration 2 of 9; saved"):
        trainer.run()
    assert time.monotonic() - start < 20
    assert [iteration for iteration, _ in EXPERIMENT.states()] == [2]


def test_a_closing_terminal_is_not_heard_where_nohup_ignores_it() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.05)
            assert not stop.requested
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.05)
            assert stop.requested
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
