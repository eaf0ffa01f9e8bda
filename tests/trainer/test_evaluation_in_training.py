"""Evaluators inside a training run: they change nothing of it, and what they lack is said before it starts."""

from pathlib import Path
from typing import Any

import pytest
import torch
from evaluator_helpers import ForFeatures, scripted
from trainer_helpers import everything, fill, make_trainer, recipe_data, write_recipe

from codes import train
from codes.evaluation.evaluators.base import Evaluation
from codes.images.files import read_image
from codes.trainer.trainer import Trainer
from codes.utils.errors import ConfigError, DataError, TesseraError

COND = {"low_res": "lq", "corruption_factor": "corruption_entropy"}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / "photos")
    return tmp_path


def recipe(here: Path, evaluators: dict[str, Any], name: str) -> Path:
    network = {"networks": {"generator": {"args": {"dropout": 0.3}}}}
    changes = {**network, "name": name, "train": {"niter": 3, "val_freq": 1}, "eval": {"evaluators": evaluators}}
    return write_recipe(here / f"{name}.yml", recipe_data(here / "photos", changes))


def evaluators(here: Path, feature_network: str) -> dict[str, Any]:
    dataset = {
        "mode": "imagefolder",
        "paths": str(here / "photos"),
        "rgb_n1_to_1": True,
        "scale": 2,
        "target_size": 32,
        "tile": "center",
        "fixed_corruptions": ["jpeg", "gaussian_blur"],
        "fixed_parameters": {"corruption_entropy": [0.2, 0.5]},
    }
    steps = {"respaced_timestep_spacing": 2}
    inference = {"generator": "generator", "output_scale_factor": 2, "model_input_keys": COND, "out": "gen", **steps}
    base = {"for": "generator", "dataset": dataset, "max_images": 3}
    distance = {**base, "feature_network": feature_network}
    return {
        "fidelity": {"type": "restoration", **base, "diffusion_params": steps},
        "distribution": {"type": "fid", "metrics": ["fid", "kid"], **distance, "diffusion_params": steps},
        "dlas": {"type": "sr_diffusion_fid", "batch_size": 2, **distance, "diffusion_params": inference},
    }


def test_a_run_that_is_evaluated_learns_what_one_without_evaluation_learns(
    here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network = str(scripted(here / "features.pt", ForFeatures()))
    watched = make_trainer(recipe(here, evaluators(here, network), "watched"))
    alone = make_trainer(recipe(here, {}, "alone"))
    modes = [module.training for module in watched.parts.networks["generator"].modules()]
    with caplog.at_level("INFO"):
        watched.run()
    alone.run()
    first, second = everything(watched), everything(alone)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert [module.training for module in watched.parts.networks["generator"].modules()] == modes
    for line in ("fidelity at 3: psnr", "distribution at 3: fid", "dlas at 3: fid"):
        assert f"evaluation {line}" in caplog.text
    assert caplog.text.count("averaged weights (EMA)") == 9
    picture = read_image(here / "experiments/watched/samples/3_fidelity_bicubic_restored_truth.png").rgb
    assert picture.shape == (3 * 36 + 4, 3 * 36 + 4, 3)


@pytest.mark.parametrize("options", [(), ("--check",)])
def test_a_feature_network_that_is_missing_stops_the_run_before_it_starts(
    here: Path, options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    file = recipe(here, evaluators(here, str(here / "gone.pt")), "stopped")
    assert train.main(["-opt", str(file), *options]) == 2
    said = capsys.readouterr().err
    for name in ("distribution", "dlas"):
        assert f"eval.evaluators.{name}.feature_network: no such file" in said
    assert not Path("experiments").exists()


class Failing:
    """An evaluator that fails at some iterations."""

    def __init__(self, trainer: Trainer, *iterations: int) -> None:
        self.trainer = trainer
        self.iterations = iterations

    def evaluate(self, context: Any) -> Evaluation:  # noqa: ARG002
        if self.trainer.iteration in self.iterations:
            raise DataError("held_out: no such folder")
        return Evaluation({"psnr": 20.0 + self.trainer.iteration})


def test_an_evaluation_that_fails_later_on_does_not_end_the_run(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = make_trainer(recipe(here, evaluators(here, str(scripted(here / "f.pt", ForFeatures()))), "later"))
    trainer.evaluators = {"one": Failing(trainer, 2), "two": Failing(trainer)}
    with caplog.at_level("INFO"):
        trainer.run()
    assert "evaluation one at 2 failed (held_out: no such folder); training goes on" in caplog.text
    assert "evaluation two at 2: psnr 22" in caplog.text
    assert "evaluation one at 3: psnr 23" in caplog.text


def test_an_evaluation_that_never_worked_ends_the_run_with_everything_saved(here: Path) -> None:
    trainer = make_trainer(recipe(here, evaluators(here, str(scripted(here / "f.pt", ForFeatures()))), "never"))
    trainer.evaluators = {"one": Failing(trainer, 1, 2, 3)}
    with pytest.raises(TesseraError, match="no such folder") as caught:
        trainer.run()
    assert caught.value.exit_code == 1
    assert trainer.experiment.state(1).exists()


def test_held_out_data_with_strengths_in_another_order_are_refused(here: Path) -> None:
    given = evaluators(here, str(scripted(here / "features.pt", ForFeatures())))
    given["fidelity"]["dataset"] = {**given["fidelity"]["dataset"], "fixed_corruptions": ["gaussian_blur", "jpeg"]}
    with pytest.raises(ConfigError, match=r"fidelity\.dataset\.fixed_corruptions: are \[gaussian_blur, jpeg\]"):
        make_trainer(recipe(here, given, "swapped"))
