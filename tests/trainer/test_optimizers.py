"""The optimisers of torch by name: which there are, what they take, and that they resume exactly."""

import copy
import inspect
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from trainer_helpers import fill, make_trainer, merged, read, recipe_data, write_recipe

from codes.graph.optimizer_options import OPTIMIZERS, OptimizerParams, options_taken
from codes.recipe.train_options import TrainOptions
from codes.trainer.optim import build_optimizer, learning_rate
from codes.trainer.saving.resuming import _load_optimizer
from codes.utils.errors import ConfigError

SPECIAL: dict[str, dict[str, Any]] = {
    "adamw": {"beta1": 0.8, "beta2": 0.95, "eps": 1e-6, "amsgrad": True},
    "sgd": {"momentum": 0.9, "nesterov": True},
    "rmsprop": {"alpha": 0.9, "momentum": 0.5, "centered": True},
    "nadam": {"momentum_decay": 0.01, "decoupled_weight_decay": True},
    "adadelta": {"rho": 0.8},
    "adagrad": {"lr_decay": 0.01, "initial_accumulator_value": 0.1},
    "adafactor": {"beta2_decay": -0.7, "d": 2.0},
    "asgd": {"lambd": 1e-3, "t0": 2.0},
}


def test_every_optimiser_of_torch_that_fits_is_there() -> None:
    classes = {name: member for name, member in vars(torch.optim).items() if isinstance(member, type)}
    fitting = {
        name.lower()
        for name, member in classes.items()
        if issubclass(member, torch.optim.Optimizer)
        and {"lr", "weight_decay"} <= inspect.signature(member).parameters.keys()
    }
    assert set(OPTIMIZERS) == fitting - {"muon"}  # which takes matrices alone


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(4 * 3 * 2, 3))


def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for number in steps:
        x = torch.randn(5, 2, 5, 4, generator=torch.Generator().manual_seed(number))
        optimizer.zero_grad()
        net(x).square().mean().backward()
        for group in optimizer.param_groups:
            group["lr"] = 0.01 / (1 + number)
        optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimiser_learns_and_resumes_bit_for_bit(name: str) -> None:
    params = OptimizerParams(lr=0.01, weight_decay=0.1, **SPECIAL.get(name, {}))
    whole, net = network(), network()
    before = [value.detach().clone() for value in net.parameters()]
    full = build_optimizer([whole], name, params, shard=False)
    assert type(full) is OPTIMIZERS[name]
    train(whole, full, range(6))
    first = build_optimizer([net], name, params, shard=False)
    train(net, first, range(3))
    kept = io.BytesIO()
    torch.save({"state": first.state_dict(), "net": net.state_dict()}, kept)
    kept.seek(0)
    saved = torch.load(kept, weights_only=True)
    resumed = copy.deepcopy(net)
    resumed.load_state_dict(saved["net"])
    second = build_optimizer([resumed], name, params, shard=False)
    _load_optimizer(second, saved["state"])
    train(resumed, second, range(3, 6))
    for value, expected, start in zip(resumed.parameters(), whole.parameters(), before, strict=True):
        assert torch.equal(value, expected)
        assert not torch.equal(value, start)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_options_reach_the_optimiser_and_decay_spares_biases_and_norms(name: str) -> None:
    special = SPECIAL.get(name, {})
    assert set(special) <= set(options_taken(name))
    made = build_optimizer([network()], name, OptimizerParams(lr=0.3, weight_decay=0.1, **special), shard=False)
    decayed, plain = made.param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    assert [value.ndim for value in decayed["params"]] == [4, 2]
    settings = dict(made.defaults)
    settings["beta1"], settings["beta2"] = settings.get("betas", (None, None))
    assert {key: settings[key] for key in ("lr", *special)} == {"lr": 0.3, **special}


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_recipe(tmp_path / "recipe.yml", recipe_data(fill(tmp_path / "im")))


@pytest.mark.parametrize(
    ("name", "params", "path", "message"),
    [
        ("sgd", {"beta1": 0.9}, "optimizer_params.beta1", "sgd takes no beta1 (it takes: lr, weight_decay, momentum"),
        (
            "adamw",
            {"momentum": 0.9},
            "optimizer_params.momentum",
            "adamw takes no momentum (it takes: lr, weight_decay",
        ),
        ("adafactor", {"eps": 1e-8}, "optimizer_params.eps", "adafactor takes no eps"),
        ("sgd", {"nesterov": True}, "optimizer_params", "Nesterov momentum requires a momentum"),
        ("adamww", {}, "optimizer", "did you mean adamw"),
        ("lamb", {}, "optimizer", "expected 'adamw', 'adam'"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    recipe: Path, name: str, params: dict[str, Any], path: str, message: str
) -> None:
    step = {"optimizer": name, "optimizer_params": {"lr": 1e-3, "weight_decay": 0.0, **params}}
    write_recipe(recipe, merged(recipe_data(recipe.parent / "im"), {"steps": {"generator": step}}))
    with pytest.raises(ConfigError) as caught:
        read(recipe)
    assert f"steps.generator.{path}: " in str(caught.value)
    assert message.lower().replace("'", "") in str(caught.value).lower().replace("'", "")


def test_a_run_trains_with_another_optimiser(recipe: Path) -> None:
    overrides = ("steps.generator.optimizer=sgd", "steps.generator.optimizer_params={lr: 0.05, momentum: 0.9}")
    trainer = make_trainer(recipe, *overrides)
    before = {name: value.clone() for name, value in trainer.parts.networks["generator"].state_dict().items()}
    trainer.run()
    assert isinstance(trainer.parts.steps[0].optimizer, torch.optim.SGD)
    after = trainer.parts.networks["generator"].state_dict()
    assert any(not torch.equal(value, before[name]) for name, value in after.items())


def test_a_constant_rate_keeps_its_warm_up() -> None:
    train = TrainOptions(niter=100, warmup_iter=4, default_lr_scheme="constant")
    assert [learning_rate(2.0, iteration, train) for iteration in (1, 2, 4, 5, 100)] == [0.5, 1.0, 2.0, 2.0, 2.0]


def test_a_cosine_ends_at_its_share() -> None:
    train = TrainOptions(niter=100, default_lr_scheme="CosineAnnealingLR", lr_min_ratio=0.1)
    assert learning_rate(2.0, 100, train) == pytest.approx(0.2)
    assert learning_rate(2.0, 50, train) == pytest.approx(2.0 * 0.55)
    assert learning_rate(2.0, 500, train) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("scheme", "override", "message"),
    [
        ("constant", "train.gen_lr_steps=[5]", "belongs to MultiStepLR, but default_lr_scheme is constant"),
        ("MultiStepLR", "train.lr_min_ratio=0.5", "belongs to CosineAnnealingLR, but default_lr_scheme is MultiStepLR"),
    ],
)
def test_a_schedule_refuses_what_it_would_ignore(recipe: Path, scheme: str, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(recipe, f"train.default_lr_scheme={scheme}", override)
