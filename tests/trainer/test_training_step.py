import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from trainer_helpers import fill, make_trainer, recipe_data, write_recipe

from codes.runtime.devices import Ranks, any_over_ranks, gather_over_ranks, sum_over_ranks
from codes.trainer.trainer import Trainer
from codes.trainer.training_step import StepResult, run_iteration
from codes.utils.errors import TesseraError

ALONE = Ranks()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return fill(tmp_path / "im")


def trainer_of(folder: Path, changes: dict[str, Any] | None = None) -> Trainer:
    return make_trainer(write_recipe(folder.parent / "recipe.yml", recipe_data(folder, changes)))


def waken(trainer: Trainer) -> None:
    """Move the zero-initialised layers, so that gradients reach every parameter."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for network in trainer.parts.networks.values():
            for parameter in network.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


def gradients(trainer: Trainer, parts: int, ranks: Ranks = ALONE) -> tuple[dict[str, torch.Tensor], StepResult]:
    """The gradient that one iteration of so many parts would apply, and what the iteration reports."""
    by_name: dict[str, torch.Tensor] = {}
    step, network = trainer.parts.steps[0], trainer.parts.networks["generator"]
    step.optimizer.step = lambda: by_name.update(
        {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    )
    batch = next(trainer._batches())
    return by_name, run_iteration(trainer.parts.steps, batch, trainer.context(), 1, parts, ranks).read()


@pytest.mark.parametrize("parts", [2, 3, 4])
def test_accumulated_gradient_equals_that_of_the_full_batch(folder: Path, parts: int) -> None:
    changes = {"datasets": {"train": {"batch_size": 5}}}
    trainers = [trainer_of(folder, changes) for _ in range(2)]
    for trainer in trainers:
        waken(trainer)
    whole, result = gradients(trainers[0], 1)
    split, split_result = gradients(trainers[1], parts)
    assert whole.keys() == split.keys()
    assert whole.keys() == dict(trainers[0].parts.networks["generator"].named_parameters()).keys()
    assert all(float(value.abs().max()) > 0 for value in whole.values())
    for name, value in whole.items():
        torch.testing.assert_close(split[name], value, rtol=1e-4, atol=1e-6 * float(value.abs().max()) + 1e-8)
    assert split_result.losses == pytest.approx(result.losses, rel=1e-5)
    assert split_result.gradient_norm == pytest.approx(result.gradient_norm, rel=1e-5)
    assert set(result.losses) == {"mse", "vb", "total"}
    assert result.losses["total"] == pytest.approx(result.losses["mse"] + 0.5 * result.losses["vb"])


def test_the_shares_of_two_ranks_add_up_to_the_gradient_of_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codes.trainer.training_step.sum_over_ranks", lambda values, ranks: None)  # noqa: ARG005
    monkeypatch.setattr("codes.trainer.buckets.GradientBuckets.begin", lambda self, ranks: None)  # noqa: ARG005
    monkeypatch.setattr("codes.trainer.training_step.gather_over_ranks", lambda value, ranks: value)  # noqa: ARG005
    shares: list[dict[str, torch.Tensor]] = []
    losses: list[dict[str, float]] = []
    for ranks in (Ranks(), Ranks(0, 2), Ranks(1, 2)):
        trainer = trainer_of(folder)
        waken(trainer)
        trainer.ranks = ranks
        share, result = gradients(trainer, 1, ranks)
        shares.append(share)
        losses.append(result.losses)
    whole, first, second = shares
    for name, value in whole.items():
        both = first[name] + second[name]
        torch.testing.assert_close(both, value, rtol=1e-4, atol=1e-6 * float(value.abs().max()) + 1e-8)
    for name, value in losses[0].items():
        assert losses[1][name] + losses[2][name] == pytest.approx(value, rel=1e-5)


def test_gradient_is_clipped_and_the_norm_before_it_reported(folder: Path) -> None:
    limit = 1e-3
    free, clipped = trainer_of(folder), trainer_of(folder, {"steps": {"generator": {"clip_grad_eps": limit}}})
    for trainer in (free, clipped):
        waken(trainer)
    before, result = gradients(free, 1)
    after, clipped_result = gradients(clipped, 1)
    norm = torch.stack([value.norm() for value in before.values()]).norm()
    assert result.gradient_norm == pytest.approx(float(norm), rel=1e-5)
    assert clipped_result.gradient_norm == pytest.approx(result.gradient_norm, rel=1e-6)
    assert float(torch.stack([value.norm() for value in after.values()]).norm()) == pytest.approx(limit, rel=1e-3)


def poison(trainer: Trainer, iterations: set[int]) -> None:
    """Make one element of one gradient not a number in the given iterations."""
    parameter = next(trainer.parts.networks["generator"].parameters())

    def hook(gradient: torch.Tensor) -> torch.Tensor:
        if trainer.iteration + 1 not in iterations:
            return gradient
        spoilt = gradient.clone()
        spoilt.view(-1)[0] = torch.nan
        return spoilt

    parameter.register_hook(hook)


def test_a_gradient_that_is_not_finite_skips_the_update(folder: Path) -> None:
    trainer = trainer_of(folder)
    poison(trainer, {2})
    batches = trainer._batches()
    trainer._iterate(next(batches))
    network, average = trainer.parts.networks["generator"], trainer.parts.averages["generator"].network
    before = [value.clone() for value in (*network.state_dict().values(), *average.state_dict().values())]
    moments = [state["step"].clone() for state in trainer.parts.steps[0].optimizer.state.values()]
    result = trainer._iterate(next(batches)).read()
    assert result.skipped
    after = [*network.state_dict().values(), *average.state_dict().values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert [state["step"] for state in trainer.parts.steps[0].optimizer.state.values()] == moments
    assert (trainer.iteration, trainer.samples) == (2, 8)
    assert not trainer._iterate(next(batches)).read().skipped
    assert all(bool(torch.isfinite(value).all()) for value in network.parameters())


def test_a_skipped_update_is_told_with_the_files_of_its_batch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warnings: list[str] = []
    monkeypatch.setattr("codes.trainer.results.logger.warning", lambda text, *values: warnings.append(text % values))
    monkeypatch.setattr("codes.trainer.results.MOST_NAMES", 1)
    trainer = trainer_of(folder)
    poison(trainer, {2})
    trainer.run()
    assert len(warnings) == 1
    assert "iteration 2" in warnings[0]
    assert re.search(rf"\(batch: {folder}/img\d.png and \d more\)", warnings[0])
    rows = [json.loads(line) for line in (trainer.experiment.root / "log.jsonl").read_text().splitlines()]
    (told,) = [row for row in rows if "skipped_files" in row]
    assert told["iteration"] == 2
    assert {Path(name).parent for name in told["skipped_files"]} == {folder}
    assert [row["skipped"] for row in rows if "skipped" in row] == [1.0]


def test_a_run_that_is_never_finite_stops_with_everything_saved(folder: Path) -> None:
    trainer = trainer_of(folder, {"train": {"niter": 50, "max_skipped_in_a_row": 3}})
    poison(trainer, set(range(50)))
    with pytest.raises(TesseraError, match="3 updates in a row were not finite; everything is saved"):
        trainer.run()
    assert trainer.experiment.state(3).is_file()


def two_steps(*runs: str) -> dict[str, Any]:
    """A second network with a step of its own, whose injectors run the networks of these names."""
    base = recipe_data(Path())
    step = base["steps"]["generator"]
    keys = {"out": "mse", "out_key_vb_loss": "vb", "out_key_x_start": "x_start"}
    injectors, losses = {}, {}
    for number, network in enumerate(runs, 2):
        named = {option: f"{key}{number}" for option, key in keys.items()}
        injectors[network] = {**step["injectors"]["diffusion"], **named, "generator": network}
        for loss in ("mse", "vb"):
            losses[loss if number == 2 else f"{loss}{number}"] = {"type": "direct", "key": f"{loss}{number}"}
    second = {**step, "training": "second", "injectors": injectors, "losses": losses}
    return {"networks": {"second": base["networks"]["generator"]}, "steps": {"second": second}}


def test_several_steps_train_their_own_networks(folder: Path) -> None:
    trainer = trainer_of(folder, two_steps("second"))
    before = {
        name: {key: value.clone() for key, value in network.state_dict().items()}
        for name, network in trainer.parts.networks.items()
    }
    result = trainer._iterate(next(trainer._batches())).read()
    kinds = ("mse", "vb", "total")
    assert set(result.losses) == {f"{step}/{kind}" for step in ("generator", "second") for kind in kinds}
    assert {"x_start", "x_start2"} <= set(result.state)
    for name, network in trainer.parts.networks.items():
        assert any(not torch.equal(value, before[name][key]) for key, value in network.state_dict().items())
    alone = trainer_of(folder)
    alone._iterate(next(alone._batches()))
    for key, value in alone.parts.networks["generator"].state_dict().items():
        assert torch.equal(value, trainer.parts.networks["generator"].state_dict()[key])


def test_a_later_step_leaves_no_gradient_behind_in_a_network_that_it_only_uses(folder: Path) -> None:
    both, alone = trainer_of(folder, two_steps("second", "generator")), trainer_of(folder)
    for trainer in (both, alone):
        batches = trainer._batches()
        for _ in range(2):
            trainer._iterate(next(batches))
    for key, value in alone.parts.networks["generator"].state_dict().items():
        assert torch.equal(value, both.parts.networks["generator"].state_dict()[key])


def test_training_touches_no_global_generator(folder: Path) -> None:
    changes = {"networks": {"generator": {"args": {"dropout": 0.3}}}, "datasets": {"train": {"n_workers": 1}}}
    before = torch.get_rng_state()
    trainer = trainer_of(folder, changes)
    trainer.run()
    assert torch.equal(torch.get_rng_state(), before)


def test_dropout_follows_from_the_seed(folder: Path) -> None:
    changes = {"networks": {"generator": {"args": {"dropout": 0.3}}}}
    finals = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        trainer = trainer_of(folder, changes)
        trainer.run()
        finals.append(torch.cat([value.flatten() for value in trainer.parts.networks["generator"].parameters()]))
    assert torch.equal(*finals)
    plain = trainer_of(folder)
    plain.run()
    without = torch.cat([value.flatten() for value in plain.parts.networks["generator"].parameters()])
    assert not torch.equal(finals[0], without)


def test_a_single_process_exchanges_nothing() -> None:
    value = torch.arange(3.0)
    sum_over_ranks([value], Ranks())
    assert value.tolist() == [0.0, 1.0, 2.0]
    assert gather_over_ranks(value, Ranks()) is value
    assert any_over_ranks(True, torch.device("cpu"), Ranks())
    assert not any_over_ranks(False, torch.device("cpu"), Ranks())
