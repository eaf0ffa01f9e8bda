"""Strengths in the graph: the injector that reads them from images, and the loss that teaches it."""

import math

import pytest
import torch

from codes.graph.graph import StepContext
from codes.graph.injectors.strength_estimator import StrengthEstimatorInjector, StrengthEstimatorInjectorOptions
from codes.graph.losses.strength import StrengthLoss, StrengthLossOptions
from codes.models.diffusion.networks.strength_estimator import StrengthEstimator, StrengthEstimatorOptions
from codes.models.diffusion.networks.unet import UNetModel, UNetOptions
from codes.utils.errors import ConfigError

BATCH, CORRUPTIONS = 4, 2


def estimator() -> StrengthEstimator:
    return StrengthEstimator(StrengthEstimatorOptions(num_corruptions=CORRUPTIONS, model_channels=8))


def context(network: StrengthEstimator) -> StepContext:
    return StepContext({"strengths": network}, torch.device("cpu"), 0, range(BATCH), torch.enable_grad)


def state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    drawn = torch.rand(BATCH, CORRUPTIONS, generator=generator)
    return {"lq": torch.rand(BATCH, 3, 40, 56, generator=generator) * 2 - 1, "corruption_entropy": drawn}


def test_the_loss_is_the_log_likelihood_of_a_normal_distribution() -> None:
    generator = torch.Generator().manual_seed(2)
    mean, spread, target = torch.rand(3, BATCH, CORRUPTIONS, generator=generator, dtype=torch.float64) + 0.1
    given = {"estimated_entropy": mean, "estimated_spread": spread, "corruption_entropy": target}
    losses = StrengthLoss(StrengthLossOptions(type="strength"))(given, context(estimator()))
    expected = -torch.distributions.Normal(mean, spread).log_prob(target).mean(1)
    torch.testing.assert_close(losses.double(), expected, rtol=1e-5, atol=1e-6)


def test_the_loss_is_least_where_the_spread_is_the_error() -> None:
    error, spreads = 0.2, torch.linspace(0.05, 0.8, 301)
    given = {
        "estimated_entropy": torch.full((301, 1), 0.5),
        "estimated_spread": spreads[:, None],
        "corruption_entropy": torch.full((301, 1), 0.5 + error),
    }
    losses = StrengthLoss(StrengthLossOptions(type="strength"))(given, context(estimator()))
    assert float(spreads[losses.argmin()]) == pytest.approx(error, abs=0.005)
    assert float(losses.min()) == pytest.approx(0.5 + math.log(error) + 0.5 * math.log(2 * math.pi), abs=1e-3)


def test_strengths_that_are_not_alike_are_refused() -> None:
    given = {
        "estimated_entropy": torch.rand(BATCH, 2), "estimated_spread": torch.rand(BATCH, 2),
        "corruption_entropy": torch.rand(BATCH, 3),
    }  # fmt: skip
    with pytest.raises(ConfigError, match="one number for each corruption"):
        StrengthLoss(StrengthLossOptions(type="strength"))(given, context(estimator()))


def test_the_injector_writes_what_the_network_says_and_learns_what_is_usual_in_training_alone() -> None:
    options = StrengthEstimatorInjectorOptions.model_validate(
        {"type": "strength_estimator", "generator": "strengths", "out_map": "places"}
    )
    injector, network = StrengthEstimatorInjector(options), estimator().eval()
    before = network.feature_mean.clone()
    written = injector(state(), context(network))
    expected = network.estimate(state()["lq"])
    assert written["places"].shape == (BATCH, CORRUPTIONS, 5, 7)
    torch.testing.assert_close(written["estimated_entropy"], expected.mean)
    torch.testing.assert_close(written["estimated_spread"], expected.spread)
    assert torch.equal(network.feature_mean, before)
    injector(state(), context(network.train()))
    assert not torch.equal(network.feature_mean, before)


def test_a_network_that_estimates_nothing_is_refused() -> None:
    options = StrengthEstimatorInjectorOptions(type="strength_estimator", generator="strengths")
    assert "no network" in options.problems({})[0].message
    args = {"image_size": 32, "model_channels": 32, "out_channels": 3, "num_res_blocks": 1,
            "attention_resolutions": ()}  # fmt: skip
    other = UNetModel(UNetOptions.model_validate(args))
    assert "estimates no strengths" in options.problems({"strengths": other})[0].message
