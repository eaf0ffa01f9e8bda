"""What is kept: every N-th checkpoint for ever, the best by a number, and the folder that says what ran."""

import errno
import io
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from trainer_helpers import different, everything, fill, make_trainer, merged, read, recipe_data, write_recipe

from codes.evaluation.evaluators.base import Evaluation
from codes.models.diffusion.checkpoints.files import disk_errors
from codes.recipe.networks import find_weights
from codes.runtime.experiment import Experiment
from codes.train import main
from codes.trainer.logs import writers
from codes.trainer.saving.best import Best
from codes.trainer.saving.resuming import resume
from codes.trainer.trainer import Trainer
from codes.utils.errors import ConfigError

EXPERIMENT = Experiment(Path("experiments/tiny"))


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_recipe(tmp_path / "recipe.yml", recipe_data(fill(tmp_path / "im")))


def test_keep_every_keeps_its_multiples_beside_the_newest(recipe: Path) -> None:
    kept = ("logger.save_checkpoint_freq=1", "logger.keep_last=2", "logger.keep_every=3")
    make_trainer(recipe, "train.niter=8", *kept).run()
    assert [iteration for iteration, _ in EXPERIMENT.states()] == [8, 7, 6, 3]
    assert {path.name.split("_")[0] for path in (EXPERIMENT.root / "models").iterdir()} == {"3", "6", "7", "8"}
    make_trainer(recipe, "train.niter=11", *kept, auto_resume=True).run()
    assert [iteration for iteration, _ in EXPERIMENT.states()] == [11, 10, 9, 6, 3]


def test_keep_every_must_meet_a_save(recipe: Path) -> None:
    with pytest.raises(ConfigError, match=r"keep_every: must be a multiple of save_checkpoint_freq \(4\).*found 6"):
        read(recipe, "logger.save_checkpoint_freq=4", "logger.keep_every=6")


class Scripted:
    """An evaluator that says what a test wants to hear."""

    def __init__(self, values: Mapping[int, float], trainer: Trainer) -> None:
        self.values = values
        self.trainer = trainer

    def evaluate(self, context: Any) -> Evaluation:  # noqa: ARG002
        return Evaluation({"psnr": self.values[self.trainer.iteration], "other": 1.0})


KEEP = {"evaluator": "held_out", "metric": "psnr", "mode": "max"}


@pytest.fixture
def evaluated(recipe: Path) -> Path:
    dataset = {"mode": "imagefolder", "paths": str(recipe.parent / "im"), "rgb_n1_to_1": True}
    dataset |= {"fixed_corruptions": ["jpeg", "gaussian_blur"], "fixed_parameters": {"corruption_entropy": [0.2, 0.5]}}
    evaluator = {"type": "restoration", "for": "generator", "dataset": dataset, "max_images": 1}
    changes = {
        "train": {"val_freq": 1, "niter": 4},
        "logger": {"keep_best": KEEP, "save_checkpoint_freq": 2, "keep_last": 1},
        "eval": {"evaluators": {"held_out": evaluator}},
    }
    return write_recipe(recipe, merged(recipe_data(recipe.parent / "im"), changes))


def run(recipe: Path, values: Mapping[int, float], *overrides: str, auto_resume: bool = False) -> Trainer:
    trainer = make_trainer(recipe, *overrides, auto_resume=auto_resume)
    trainer.evaluators = {"held_out": Scripted(values, trainer)}  # type: ignore[dict-item]
    trainer.run()
    return trainer


def record() -> dict[str, Any]:
    return json.loads((EXPERIMENT.best / "best.json").read_text())


def test_the_best_is_kept_whatever_is_pruned(evaluated: Path) -> None:
    run(evaluated, {1: 20.0, 2: 30.0, 3: 25.0, 4: float("nan")})
    assert record()["iteration"] == 2
    assert record()["value"] == 30.0
    assert {path.name for path in EXPERIMENT.best.iterdir()} == {
        "best.json", "2_generator.safetensors", "2_generator_ema.safetensors",
    }  # fmt: skip
    assert [iteration for iteration, _ in EXPERIMENT.states()] == [4]
    at_two = make_trainer(evaluated, "name=two", "train.niter=2", "logger.keep_best=~")
    at_two.run()
    expected = load_file(Experiment.named("two").weights("generator", 2, True))
    weights = load_file(EXPERIMENT.best / "2_generator_ema.safetensors")
    assert all(torch.equal(value, weights[name]) for name, value in expected.items())


def test_the_best_is_written_where_no_checkpoint_is_and_less_may_be_better(evaluated: Path) -> None:
    run(evaluated, {1: 4.0, 2: 3.0, 3: 2.0, 4: 3.0}, "logger.keep_best.mode=min")
    assert record()["iteration"] == 3
    assert (EXPERIMENT.best / "3_generator_ema.safetensors").is_file()
    assert EXPERIMENT.states()[0][0] == 4


def test_the_best_survives_a_resume_unless_it_was_chosen_by_something_else(evaluated: Path) -> None:
    run(evaluated, {1: 20.0, 2: 30.0, 3: 25.0, 4: 26.0})
    run(evaluated, {5: 29.0, 6: 28.0}, "train.niter=6", auto_resume=True)
    assert record()["iteration"] == 2
    run(evaluated, {7: 31.0}, "train.niter=7", auto_resume=True)
    assert record()["iteration"] == 7
    assert not (EXPERIMENT.best / "2_generator.safetensors").exists()
    run(evaluated, {8: 40.0}, "train.niter=8", "logger.keep_best.mode=min", auto_resume=True)
    assert (record()["iteration"], record()["mode"]) == (8, "min")


def test_the_best_is_a_link_where_the_checkpoint_is_there(evaluated: Path) -> None:
    run(evaluated, {1: 1.0, 2: 2.0, 3: 1.0, 4: 5.0})
    assert EXPERIMENT.weights("generator", 4, True).samefile(EXPERIMENT.best / "4_generator_ema.safetensors")
    shutil.rmtree(EXPERIMENT.root / "models")
    assert load_file(EXPERIMENT.best / "4_generator_ema.safetensors")


def test_the_best_is_a_start_for_others(evaluated: Path) -> None:
    run(evaluated, {1: 1.0, 2: 2.0, 3: 1.0, 4: 1.0})
    file = find_weights("generator", read(evaluated, "path.pretrain_model_generator=best")[0])
    assert file == EXPERIMENT.best / "2_generator_ema.safetensors"
    shutil.rmtree(EXPERIMENT.best)
    with pytest.raises(ConfigError, match=r"best holds no weights of 'generator'; train with logger\.keep_best"):
        find_weights("generator", read(evaluated, "path.pretrain_model_generator=best")[0])


def test_a_disk_without_room_for_the_best_does_not_end_the_run(
    evaluated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    for level in ("warning", "info"):
        monkeypatch.setattr(writers.logger, level, lambda text, *values: told.append(text % values))
    consider = Best.consider

    def full(self: Best, parts: Any, iteration: int, *rest: Any) -> None:
        if iteration < 4:
            raise OSError(28, "No space left on device")
        consider(self, parts, iteration, *rest)

    monkeypatch.setattr(Best, "consider", full)
    run(evaluated, dict.fromkeys(range(1, 5), 3.0))
    assert record()["iteration"] == 4
    assert [line.split(" (")[0] for line in told] == [
        "the best checkpoint cannot be written", "the best checkpoint is written again",
    ]  # fmt: skip


def test_an_evaluator_or_a_number_that_is_not_there(evaluated: Path) -> None:
    with pytest.raises(ConfigError, match=r"keep_best\.evaluator: no evaluator 'held_ou' .*did you mean held_out"):
        make_trainer(evaluated, "logger.keep_best.evaluator=held_ou")
    run(evaluated, dict.fromkeys(range(1, 5), 3.0), "logger.keep_best.metric=lpips")
    assert not (EXPERIMENT.best / "best.json").exists()


def test_the_folder_says_what_ran(recipe: Path) -> None:
    child = recipe.with_name("child.yml")
    child.write_text("base: recipe.yml\ntrain: {niter: 2}\n", encoding="utf-8")
    make_trainer(child, "train.manual_seed=11", "logger.save_checkpoint_freq=1").run()
    ran, _ = read(EXPERIMENT.root / "recipe.yml")
    assert (ran.train.niter, ran.train.manual_seed) == (2, 11)
    assert ran.networks == read(recipe)[0].networks
    environment = json.loads((EXPERIMENT.root / "environment.json").read_text())
    assert {"torch", "numpy", "safetensors"} <= environment["packages"].keys()
    assert environment["git"] is None or len(environment["git"].split("-")[0]) >= 7
    make_trainer(child, "train.niter=3", auto_resume=True).run()
    assert read(EXPERIMENT.root / "recipe.yml")[0].train.niter == 3
    (earlier,) = EXPERIMENT.root.glob("recipe_from_*.yml")
    assert read(earlier)[0].train.manual_seed == 11
    assert len(list(EXPERIMENT.root.glob("environment_from_*.json"))) == 1


def test_the_scale_of_half_precision_gradients_survives_a_resume(recipe: Path) -> None:
    def scaled() -> torch.amp.GradScaler:
        return torch.amp.GradScaler("cpu", init_scale=2.0**12, growth_interval=2)

    first = make_trainer(recipe)
    first.parts.steps[0].scaler = scaled()
    first.run()
    saved = first.parts.steps[0].scaler.state_dict()
    assert saved["scale"] == 2.0**13  # grew once in three iterations, and the second time is half done
    assert saved["_growth_tracker"] == 1
    again = make_trainer(recipe, auto_resume=True)
    again.parts.steps[0].scaler = scaled()
    resume(EXPERIMENT.state(3), again.parts, again.recipe, again.source)
    assert again.parts.steps[0].scaler.state_dict() == saved


def test_a_run_ends_at_its_last_iteration_and_not_after(recipe: Path) -> None:
    trainer = make_trainer(recipe, "train.niter=3", "train.mega_batch_factor=2")
    trainer.run()
    assert (trainer.iteration, trainer.samples) == (3, 12)
    steps = [state["step"] for state in trainer.parts.steps[0].optimizer.state.values()]
    assert {int(step) for step in steps} == {3}


def test_check_counts_what_is_kept(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = ["train.niter=100", "logger.save_checkpoint_freq=10", "logger.keep_last=2", "logger.keep_every=50"]
    assert main(["-opt", str(recipe), "--check", "--set", *kept]) == 0
    assert "disk: 5 checkpoints of " in capsys.readouterr().err
    assert main(["-opt", str(recipe), "--check", "--set", *kept, "train.post_hoc_ema={every: 10}"]) == 0
    assert " GB and the snapshots need " in capsys.readouterr().err


def test_a_full_disk_is_named_though_torch_speaks_of_positions() -> None:
    class Full(io.RawIOBase):
        def write(self, _: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        def writable(self) -> bool:
            return True

    with pytest.raises(OSError, match="No space left on device") as caught, disk_errors():
        torch.save({"weights": torch.zeros(10_000)}, Full())
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(OSError, match="another reason"), disk_errors():
        raise RuntimeError("another reason")


def test_a_checkpoint_that_is_cut_off_gives_way_to_the_one_before(
    recipe: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_trainer(recipe, "logger.save_checkpoint_freq=1")
    trainer.run()
    EXPERIMENT.state(3).write_bytes(EXPERIMENT.state(3).read_bytes()[:5000])
    again = make_trainer(recipe, auto_resume=True)
    assert again.iteration == 2
    assert "3.state is cut off or lacks its weights" in caplog.text
    EXPERIMENT.weights("generator", 2, ema=True).unlink()
    assert make_trainer(recipe, auto_resume=True).iteration == 1
    again.run()
    assert not different(everything(again), everything(trainer))
