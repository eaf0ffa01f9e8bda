import math

import pytest
import torch
from torch import nn
from trainer_helpers import fill, make_trainer, recipe_data, write_recipe

from codes.graph.optimizer_options import OptimizerParams
from codes.recipe.train_options import TrainOptions
from codes.trainer.optim import Ema, build_optimizer, decay_groups, learning_rate


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.norm = nn.GroupNorm(2, 4)
        self.batch = nn.BatchNorm2d(4)
        self.layer = nn.LayerNorm((4, 5))
        self.label = nn.Embedding(3, 4)
        self.linear = nn.Linear(4, 2)
        self.scale = nn.Parameter(torch.ones(4))
        self.frozen = nn.Parameter(torch.ones(3, 3), requires_grad=False)


def test_no_weight_decay_on_biases_norms_and_embeddings() -> None:
    network = Mixed()
    decayed, plain = decay_groups(network, 0.1)
    assert decayed["weight_decay"] == 0.1
    assert plain["weight_decay"] == 0.0
    assert {id(p) for p in decayed["params"]} == {id(network.conv.weight), id(network.linear.weight)}
    everything = {id(p) for p in network.parameters() if p.requires_grad}
    assert {id(p) for group in (decayed, plain) for p in group["params"]} == everything
    assert sum(len(group["params"]) for group in (decayed, plain)) == len(everything)


def test_weight_decay_moves_only_what_it_should() -> None:
    network = Mixed()
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    params = OptimizerParams(lr=0.5, weight_decay=0.1, beta1=0.8, beta2=0.9)
    optimizer = build_optimizer([network], "adamw", params, shard=False)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    moved = {name for name, value in network.named_parameters() if not torch.equal(value, before[name])}
    assert moved == {"conv.weight", "linear.weight"}
    torch.testing.assert_close(network.conv.weight.detach(), before["conv.weight"] * (1 - 0.5 * 0.1))
    assert optimizer.defaults["betas"] == (0.8, 0.9)


def test_warm_up_rises_linearly_to_the_base_rate() -> None:
    train = TrainOptions(niter=100, warmup_iter=4)
    assert [learning_rate(2.0, iteration, train) for iteration in range(1, 7)] == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]


def test_multistep_multiplies_after_each_step() -> None:
    train = TrainOptions(niter=100, gen_lr_steps=(3, 5), lr_gamma=0.1)
    rates = [learning_rate(1.0, iteration, train) for iteration in (1, 3, 4, 5, 6, 100)]
    assert rates == pytest.approx([1.0, 1.0, 0.1, 0.1, 0.01, 0.01])


def test_cosine_starts_at_the_base_rate_and_ends_at_zero() -> None:
    train = TrainOptions(niter=110, warmup_iter=10, default_lr_scheme="CosineAnnealingLR")
    assert learning_rate(3.0, 10, train) == pytest.approx(3.0)
    assert learning_rate(3.0, 60, train) == pytest.approx(1.5)
    assert learning_rate(3.0, 35, train) == pytest.approx(3.0 * 0.5 * (1 + math.cos(math.pi / 4)))
    assert learning_rate(3.0, 110, train) == pytest.approx(0.0)
    assert learning_rate(3.0, 5, train) == pytest.approx(1.5)


def test_cosine_survives_a_warm_up_as_long_as_the_run() -> None:
    train = TrainOptions(niter=10, warmup_iter=10, default_lr_scheme="CosineAnnealingLR")
    assert all(0 < learning_rate(1.0, iteration, train) <= 1.0 for iteration in range(1, 11))


def test_ema_follows_its_formula_and_copies_buffers() -> None:
    network = nn.BatchNorm1d(3)
    average = Ema(network, 0.75, warmup=False)
    assert not average.network.training
    assert not any(parameter.requires_grad for parameter in average.network.parameters())
    with torch.no_grad():
        network.weight.fill_(5.0)
        network.running_mean.fill_(2.0)
        network.num_batches_tracked.fill_(9)
    average.update(network, 1)
    torch.testing.assert_close(average.network.weight, torch.full((3,), 0.75 * 1.0 + 0.25 * 5.0))
    average.update(network, 2)
    torch.testing.assert_close(average.network.weight, torch.full((3,), 0.75 * 2.0 + 0.25 * 5.0))
    assert average.network.running_mean.tolist() == [2.0, 2.0, 2.0]
    assert int(average.network.num_batches_tracked) == 9
    assert network.weight.tolist() == [5.0, 5.0, 5.0]


def test_ema_warm_up_starts_short_and_ends_at_its_rate() -> None:
    average = Ema(nn.Linear(2, 2), 0.9, warmup=True)
    assert average.rate_at(1) == pytest.approx(2 / 11)
    assert average.rate_at(20) == pytest.approx(21 / 30)
    assert average.rate_at(10_000) == 0.9
    assert Ema(nn.Linear(2, 2), 0.9, warmup=False).rate_at(1) == 0.9


@pytest.fixture
def two_networks(tmp_path, monkeypatch):
    """A run with one network that is trained and one that is frozen, and an evaluation of the first."""
    monkeypatch.chdir(tmp_path)
    network = recipe_data(fill(tmp_path / "im"))["networks"]["generator"]
    frozen = {**network, "trainable": False}
    dataset = {"mode": "imagefolder", "paths": str(tmp_path / "im"), "rgb_n1_to_1": True}
    dataset |= {"fixed_corruptions": ["jpeg", "gaussian_blur"], "fixed_parameters": {"corruption_entropy": [0.2, 0.5]}}
    evaluator = {"type": "restoration", "for": "generator", "dataset": dataset, "max_images": 1}
    evaluator["diffusion_params"] = {"respaced_timestep_spacing": "trailing2"}
    changes = {
        "networks": {"teacher": frozen},
        "train": {"val_freq": 1, "niter": 2},
        "eval": {"evaluators": {"held_out": evaluator}},
    }
    return make_trainer(write_recipe(tmp_path / "r.yml", recipe_data(tmp_path / "im", changes)))


def test_a_frozen_network_stays_frozen_and_modes_survive_an_evaluation(two_networks, monkeypatch) -> None:
    networks = two_networks.parts.networks
    before = {name: value.clone() for name, value in networks["teacher"].state_dict().items()}
    updates: list[int] = []
    update = Ema.update
    monkeypatch.setattr(
        Ema, "update", lambda self, network, n, changed: (updates.append(n), update(self, network, n, changed))[0]
    )
    two_networks.run()
    assert updates == [1, 2]  # once per iteration
    assert set(two_networks.parts.averages) == {"generator"}
    assert all(torch.equal(value, before[name]) for name, value in networks["teacher"].state_dict().items())
    assert not any(parameter.requires_grad for parameter in networks["teacher"].parameters())
    assert not any(module.training for module in networks["teacher"].modules())
    assert all(module.training for module in networks["generator"].modules())
    assert not any(module.training for module in two_networks.parts.averages["generator"].network.modules())
    assert (two_networks.experiment.root / "samples/2_held_out_bicubic_restored_truth.png").is_file()


def test_evaluation_uses_the_averaged_weights_and_puts_the_mode_back(two_networks) -> None:
    evaluator, context = two_networks.evaluators["held_out"], two_networks.context()
    first = evaluator.evaluate(context)
    assert {"psnr", "ssim", "bicubic_psnr", "bicubic_ssim"} <= set(first.metrics)
    with torch.no_grad():
        for parameter in two_networks.parts.networks["generator"].parameters():
            parameter.fill_(torch.nan)
    assert evaluator.evaluate(context).metrics == first.metrics
    with torch.no_grad():
        for parameter in two_networks.parts.averages["generator"].network.parameters():
            parameter.add_(0.05)
    assert evaluator.evaluate(context).metrics["psnr"] != first.metrics["psnr"]


@pytest.mark.parametrize("scheme", ["MultiStepLR", "CosineAnnealingLR"])
def test_a_warm_up_of_minus_one_is_none(scheme: str) -> None:
    without, off = (
        TrainOptions.model_validate({"niter": 10, "warmup_iter": value, "default_lr_scheme": scheme})
        for value in (0, -1)
    )
    assert [learning_rate(1.0, step, off) for step in range(1, 11)] == [
        learning_rate(1.0, step, without) for step in range(1, 11)
    ]
