from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from trainer_helpers import DIFFUSION, NETWORK, merged

from codes.config.options import validate_nested
from codes.graph.graph import StepContext
from codes.graph.injectors.gaussian_diffusion import GaussianDiffusionInjector, GaussianDiffusionOptions
from codes.graph.injectors.gaussian_diffusion_inference import (
    GaussianDiffusionInferenceInjector,
    GaussianDiffusionInferenceOptions,
)
from codes.models.diffusion.networks.unet import UNetModel
from codes.utils.rng import torch_globals_at

CPU = torch.device("cpu")
BATCH, HEIGHT, WIDTH = 4, 24, 32


def network(**changes: Any) -> UNetModel:
    args = {**NETWORK, **changes}
    tuples = {key: tuple(value) if isinstance(value, list) else value for key, value in args.items()}
    with torch_globals_at("cpu", 3, "network"):
        return UNetModel(UNetModel.Options.model_validate(tuples))


def injector(**changes: Any) -> GaussianDiffusionInjector:
    data = merged(DIFFUSION, changes)
    return GaussianDiffusionInjector(validate_nested(GaussianDiffusionOptions, data))


def context(net: torch.nn.Module, positions: range = range(BATCH), **changes: Any) -> StepContext:
    return StepContext({"generator": net}, CPU, 5, positions, torch.enable_grad, **changes)  # type: ignore[dict-item]


def batch(scale: float = 1.0) -> dict[str, Any]:
    """Smooth images in [-1, 1] that reach both ends, at twice the size of their low resolution."""
    generator = torch.Generator().manual_seed(1)
    low_res = torch.rand(BATCH, 3, HEIGHT // 2, WIDTH // 2, generator=generator) * 2 - 1
    hq = torch.nn.functional.interpolate(low_res, scale_factor=2, mode="bilinear")
    return {"hq": hq / hq.abs().max() * scale, "lq": low_res, "corruption_entropy": torch.rand(BATCH, 2)}


class Weighted:
    """A timestep sampler with weights of its own."""

    def __init__(self, weights: Tensor) -> None:
        self.weights = weights

    def sample(self, u: Tensor) -> tuple[Tensor, Tensor]:
        return (u * 100).long(), self.weights[: len(u)]


def test_importance_weights_multiply_every_term_of_the_loss() -> None:
    net, weights = network(), torch.tensor([1.0, 2.0, 0.0, 0.5])
    plain, weighted = injector(), injector()
    plain.timesteps, weighted.timesteps = Weighted(torch.ones(BATCH)), Weighted(weights)
    before, after = plain(batch(), context(net)), weighted(batch(), context(net))
    for key in ("mse", "vb"):
        assert before[key].shape == (BATCH,)
        torch.testing.assert_close(after[key], before[key] * weights)
    assert torch.equal(before["x_start"], after["x_start"])


def test_x_start_is_written_detached_and_the_losses_are_not() -> None:
    written = injector()(batch(), context(network()))
    assert set(written) == {"mse", "vb", "x_start"}
    assert not written["x_start"].requires_grad
    assert written["x_start"].shape == (BATCH, 3, HEIGHT, WIDTH)
    assert written["mse"].requires_grad
    assert written["vb"].requires_grad


def test_vb_reaches_the_variance_alone() -> None:
    net = network()
    outputs: list[Tensor] = []
    net.register_forward_hook(lambda _module, _inputs, output: (output.retain_grad(), outputs.append(output))[0])
    injector()(batch(), context(net))["vb"].sum().backward()
    mean, variance = outputs[0].grad.chunk(2, dim=1)
    assert not mean.any()
    assert variance.any()


def test_without_a_learned_variance_there_is_no_vb() -> None:
    fixed = {"diffusion_args": {"model_var_type": "fixed_small"}, "out_key_vb_loss": None, "out_key_x_start": None}
    written = injector(**fixed)(batch(), context(network(out_channels=3)))
    assert set(written) == {"mse"}


def problems(net: UNetModel, **changes: Any) -> str:
    options = validate_nested(GaussianDiffusionOptions, merged(DIFFUSION, changes))
    return "\n".join(
        f"{'.'.join(map(str, issue.path))}: {issue.message}" for issue in options.problems({"generator": net})
    )


def test_a_variance_that_nothing_trains_and_a_vb_that_nothing_gives_are_refused() -> None:
    assert problems(network()) == ""
    assert "out_key_vb_loss: learned_range needs this key" in problems(network(), out_key_vb_loss=None)
    fixed = {"model_var_type": "fixed_small"}
    assert "fixed_small has no variational term" in problems(network(out_channels=3), diffusion_args=fixed)
    assert "rescaled_kl has no variational term" in problems(network(), diffusion_args={"loss_type": "rescaled_kl"})
    assert problems(network(), diffusion_args={"loss_type": "kl"}, out_key_vb_loss=None) == ""
    assert "with out_channels 3, found 6" in problems(network(), diffusion_args=fixed, out_key_vb_loss=None)


def test_a_process_or_a_sampler_that_cannot_be_built_is_a_problem_of_its_option() -> None:
    short = {"schedule_name": "linear", "num_diffusion_timesteps": 20}
    assert "diffusion_args: model_mean_type epsilon cannot recover" in problems(network(), beta_schedule=short)
    assert "sampler_type: sampler_type uniform_split_1 needs" in problems(network(), sampler_type="uniform_split_1")
    assert "sampler_type: unknown" in problems(network(), sampler_type="unifrom")
    assert "no network 'generatr'" in problems(network(), generator="generatr")


@pytest.mark.parametrize("scale", [255.0, 2.0, float("nan")])
def test_images_out_of_range_are_refused(scale: float) -> None:
    with pytest.raises(ValueError, match=r"must lie in \[-1, 1\].*rgb_n1_to_1"):
        injector()(batch(scale), context(network()))


def test_a_sample_does_not_depend_on_the_rest_of_its_batch() -> None:
    net, state = network().eval(), batch()
    whole = injector()(state, context(net))
    for start, stop in ((0, 1), (1, 4)):
        part = injector()({key: value[start:stop] for key, value in state.items()}, context(net, range(start, stop)))
        for key in ("mse", "vb", "x_start"):
            torch.testing.assert_close(part[key], whole[key][start:stop], rtol=1e-4, atol=1e-5)


TYPES = ("epsilon", "start_x", "v", "residual")


@pytest.mark.parametrize("mean_type", TYPES)
@pytest.mark.parametrize("learned", [True, False])
def test_every_parameterization_learns_one_fixed_batch(mean_type: str, learned: bool) -> None:
    net, state = network(out_channels=6 if learned else 3), batch()
    args = {"model_mean_type": mean_type, "model_var_type": "learned_range" if learned else "fixed_small"}
    subject = injector(diffusion_args=args, out_key_vb_loss="vb" if learned else None)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        written = subject(state, context(net))
        loss = written["mse"].mean() + (written["vb"].mean() if learned else 0.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]


def test_loss_second_moment_learns_only_between_iterations() -> None:
    subject, net, state = injector(sampler_type="loss-second-moment"), network(), batch()
    first = subject.state_dict()["counts"]
    subject(state, context(net))
    subject(state, context(net, range(BATCH, 2 * BATCH)))
    assert torch.equal(subject.state_dict()["counts"], first)
    gathered: list[int] = []

    def gather(value: Tensor) -> Tensor:
        gathered.append(len(value))
        return value

    subject.end_iteration(gather)
    assert gathered == [2 * BATCH]  # timesteps and losses in one exchange
    assert int(subject.state_dict()["counts"].sum()) == 2 * BATCH
    subject.end_iteration(gather)
    assert int(subject.state_dict()["counts"].sum()) == 2 * BATCH


def test_uniform_sampling_keeps_no_state() -> None:
    subject = injector()
    subject(batch(), context(network()))
    subject.end_iteration(lambda value: value)
    assert subject.state_dict() == {}
    subject.load_state_dict({})


def inference(**changes: Any) -> GaussianDiffusionInferenceInjector:
    data: Mapping[str, Any] = {
        "type": "gaussian_diffusion_inference",
        "generator": "generator",
        "output_scale_factor": 2,
        "respaced_timestep_spacing": "trailing2",
        "beta_schedule": DIFFUSION["beta_schedule"],
        "diffusion_args": DIFFUSION["diffusion_args"],
        "model_input_keys": {"low_res": "lq", "corruption_factor": "corruption_entropy"},
        "out": "restored",
    }
    return GaussianDiffusionInferenceInjector(validate_nested(GaussianDiffusionInferenceOptions, {**data, **changes}))


def test_inference_writes_an_image_of_the_scaled_size_and_tells_of_its_steps() -> None:
    steps: list[tuple[str, int, int]] = []
    told: Callable[[str, int, int], None] = lambda out, done, total: steps.append((out, done, total))  # noqa: E731
    state = batch()
    written = inference(output_batch_size=2)(state, context(network().eval(), on_step=told))
    assert set(written) == {"restored"}
    assert written["restored"].shape == (2, 3, HEIGHT, WIDTH)
    assert float(written["restored"].abs().max()) <= 1.0
    assert steps == [("restored", 2, 4), ("restored", 4, 4)]  # two images of one tile, two steps


def test_undo_n1_to_1_gives_the_same_image_in_unit_range() -> None:
    net, state = network().eval(), batch()
    plain, undone = inference(), inference(undo_n1_to_1=True)
    raw, unit = plain(state, context(net))["restored"], undone(state, context(net))["restored"]
    torch.testing.assert_close(unit, (raw + 1) / 2)
    torch.testing.assert_close(plain.options.to_unit_range(raw), undone.options.to_unit_range(unit))


def test_averaged_weights_are_used_unless_the_option_says_otherwise() -> None:
    net, average, state = network().eval(), network().eval(), batch()
    with torch.no_grad():
        for parameter in average.parameters():
            parameter.add_(0.05)
    both = context(net, ema_networks={"generator": average})
    alone, averaged = context(net), context(average)
    assert torch.equal(inference()(state, both)["restored"], inference()(state, averaged)["restored"])
    assert torch.equal(inference(use_ema=False)(state, both)["restored"], inference()(state, alone)["restored"])
    assert not torch.equal(inference()(state, averaged)["restored"], inference()(state, alone)["restored"])


class Always:
    """A timestep sampler that knows one t."""

    def __init__(self, t: int) -> None:
        self.t = t

    def sample(self, u: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full_like(u, self.t).long(), torch.ones_like(u)


class Gain(torch.nn.Module):
    """A network of one number: a * x."""

    low_res_upsampling = "bicubic"

    def __init__(self) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, timesteps: Tensor, low_res: Tensor) -> Tensor:  # noqa: ARG002
        return self.gain * x


def optimal_gain(mean_type: str, signal: float, deviation: float, gamma: float, residual_std: float) -> float:
    """Least squares of the target at x_t on what is seen, for x_start ~ N(0, deviation^2) and a prior of 0."""
    sigma2 = 1 - signal**2
    sigma, power = sigma2**0.5, deviation**2
    seen = signal**2 * power + sigma2 * (1 + gamma**2)
    spread = signal**2 * residual_std**2 + sigma2
    residual = signal * power - residual_std**2 * signal / spread * (signal**2 * power + sigma2)
    covariance = {
        "epsilon": sigma,
        "start_x": signal * power,
        "v": signal * sigma * (1 - power),
        "residual": residual * spread / (residual_std * sigma),
    }
    return covariance[mean_type] / seen


@pytest.mark.parametrize("weights", [None, "min_snr", "clamped_snr", "p2"])
@pytest.mark.parametrize("mean_type", TYPES)
def test_input_perturbation_is_learned_against_under_every_weight_schedule(mean_type: str, weights: str) -> None:
    generator, gamma, t = torch.Generator().manual_seed(2), 0.8, 30
    state = {
        "hq": (0.2 * torch.randn(64, 3, HEIGHT, WIDTH, generator=generator)).clamp(-1, 1),
        "lq": torch.zeros(64, 3, HEIGHT // 2, WIDTH // 2),
    }
    args = {"model_mean_type": mean_type, "model_var_type": "fixed_small", "weight_schedule": weights}
    subject = GaussianDiffusionInjector(
        validate_nested(
            GaussianDiffusionOptions,
            {
                **DIFFUSION,
                "diffusion_args": args,
                "out_key_vb_loss": None,
                "out_key_x_start": None,
                "input_perturbation": gamma,
                "model_input_keys": {"low_res": "lq"},
            },
        )
    )
    subject.timesteps = Always(t)
    slopes = []
    for gain in (0.0, 1.0):
        net = Gain()
        net.gain.data.fill_(gain)
        subject(state, context(net, range(64)))["mse"].mean().backward()
        assert net.gain.grad is not None
        slopes.append(float(net.gain.grad))
    signal = subject.process.schedule.alphas_cumprod[t] ** 0.5
    expected = optimal_gain(mean_type, signal, 0.2, gamma, 0.12)
    assert slopes[0] / (slopes[0] - slopes[1]) == pytest.approx(expected, rel=0.03)


def test_rescaled_mse_trains_the_variance_with_the_factor_of_its_formula() -> None:
    schedule = {"num_diffusion_timesteps": 4000}

    def terms(loss_type: str) -> GaussianDiffusionInjector:
        return injector(beta_schedule=schedule, diffusion_args={"loss_type": loss_type})

    net, state, rescaled, plain = network(), batch(), terms("rescaled_mse"), terms("mse")
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    for _ in range(3):
        written = rescaled(state, context(net))
        optimizer.zero_grad()
        (written["mse"] + written["vb"]).mean().backward()
        optimizer.step()
    weights = list(net.parameters())
    ours, theirs = rescaled(state, context(net)), plain(state, context(net))
    gradients = torch.autograd.grad((ours["mse"] + ours["vb"]).mean(), weights)
    expected = torch.autograd.grad((theirs["mse"] + 4.0 * theirs["vb"]).mean(), weights)
    assert sum(float(gradient.abs().sum()) for gradient in expected) > 0
    for one, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)
