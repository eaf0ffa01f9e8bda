"""The Gaussian process: golden parity, every parameterization and variance, the training terms and the bound."""

import itertools
import math
from collections.abc import Mapping
from typing import Any, get_args

import numpy as np
import pytest
import torch
from diffusion_helpers import GOLDEN, SHAPE, ExactGaussian, linear_process, load_golden, normal, parameterized
from reference_sampling import steps_of
from torch import Tensor

from codes.models.diffusion.bound import variational_bound
from codes.models.diffusion.denoiser import NetworkDenoiser
from codes.models.diffusion.likelihood import discretized_gaussian_log_likelihood, normal_kl
from codes.models.diffusion.parameterizations import PARAMETERIZATIONS, Noised, Velocity
from codes.models.diffusion.prediction import Prediction
from codes.models.diffusion.process import (
    GaussianDiffusion,
    LossType,
    VarianceType,
    check_image_range,
    perturbed_noise,
)
from codes.models.diffusion.samplers import Ancestral, Ddim
from codes.models.diffusion.schedule import NoiseSchedule
from codes.models.diffusion.weights import WeightSchedule, loss_weights

PROCESS_FILES = sorted(path.name for path in GOLDEN.glob("process_*.safetensors"))
MEAN_TYPES = PARAMETERIZATIONS.names()
PAIRS = list(itertools.product(MEAN_TYPES, get_args(VarianceType)))


def golden_process(config: dict[str, Any]) -> GaussianDiffusion:
    schedule = NoiseSchedule.named(config["schedule"], config["num_timesteps"])
    return GaussianDiffusion(
        schedule.respaced(config["respacing"]) if config["respacing"] else schedule,
        parameterized(config["model_mean_type"]),
        config["model_var_type"],
        config["loss_type"],
        variance_convention="adm" if config["family"] == "adm" else "patch",
        **config["extra"],
    )


def close(ours: Tensor, golden: Tensor) -> None:
    torch.testing.assert_close(ours.expand_as(golden), golden, rtol=1e-4, atol=1e-5)


def images(seed: int) -> Tensor:
    return normal(seed).clamp(-1, 1)


def channels(process: GaussianDiffusion) -> tuple[int, ...]:
    return (SHAPE[0], SHAPE[1] * (2 if process.learns_variance else 1), *SHAPE[2:])


@pytest.mark.parametrize("name", PROCESS_FILES)
def test_forward_process_matches_golden(name: str) -> None:
    config, golden = load_golden(name)
    process = golden_process(config)
    x_start, t = golden["in/x_start"], golden["in/t"]
    x_t = process.q_sample(x_start, t, golden["in/noise"])
    mean, log_variance = process.q_posterior(x_start, x_t, t)
    close(x_t, golden["out/x_t"])
    close(mean, golden["out/posterior_mean"])
    close(log_variance, golden["out/posterior_log_variance"])
    close(process.schedule.gather("posterior_variance", t, x_t), golden["out/posterior_variance"])


@pytest.mark.parametrize("name", PROCESS_FILES)
def test_prediction_matches_golden(name: str) -> None:
    config, golden = load_golden(name)
    process = golden_process(config)
    x_t, t = golden["out/x_t"], golden["in/t"]
    prediction = process.predict(golden["in/model_output"], x_t, t, clip=True)
    close(prediction.x_start, golden["out/pred_xstart"])
    close(prediction.log_variance, golden["out/p_log_variance"])
    # The reference clips x_start but not the mean of a network that predicts the mean itself.
    unclipped = config["model_mean_type"] == "previous_x"
    if unclipped:
        prediction = process.predict(golden["in/model_output"], x_t, t, clip=False)
    close(process.posterior_mean(prediction, x_t, t), golden["out/p_mean"])


@pytest.mark.parametrize("name", PROCESS_FILES)
def test_training_terms_match_golden(name: str) -> None:
    config, golden = load_golden(name)
    process = golden_process(config)
    x_start, t, noise = golden["in/x_start"], golden["in/t"], golden["in/noise"]
    x_t = process.q_sample(x_start, t, noise)
    terms = process.training_terms(golden["in/model_output"], x_start, x_t, t, noise)
    close(terms.loss, golden["out/loss/loss"])
    if "out/loss/mse" in golden:
        close(terms.mse, golden["out/loss/mse"])
    assert (terms.vb is None) == ("out/loss/vb" not in golden)
    if terms.vb is not None:
        close(terms.vb, golden["out/loss/vb"])


@pytest.mark.parametrize(("mean_type", "var_type"), PAIRS)
def test_every_pair_trains_one_loss_per_sample(mean_type: str, var_type: VarianceType) -> None:
    for loss_type in get_args(LossType):
        process = GaussianDiffusion(NoiseSchedule.named("cosine", 50), parameterized(mean_type), var_type, loss_type)
        x_start, noise, t, prior = images(0), normal(1), torch.tensor([0, 37]), images(3)
        x_t = process.q_sample(x_start, t, noise)
        output = (0.1 * normal(2, channels(process))).requires_grad_()
        together = process.training_terms(output, x_start, x_t, t, noise, prior)
        assert together.loss.shape == together.mse.shape == (2,)
        together.loss.sum().backward()
        gradient = output.grad
        assert gradient is not None
        assert gradient.isfinite().all()
        # The mean always trains; the variance does wherever it is learned.
        trained = gradient.flatten(2).abs().amax(2) > 0
        assert trained.all()
        for b in range(2):
            row = slice(b, b + 1)
            alone = process.training_terms(output[row], x_start[row], x_t[row], t[row], noise[row], prior[row])
            torch.testing.assert_close(alone.loss, together.loss[row])
            if alone.vb is not None and together.vb is not None:
                torch.testing.assert_close(alone.vb, together.vb[row])


@pytest.mark.parametrize(("mean_type", "var_type"), PAIRS)
def test_every_pair_samples(mean_type: str, var_type: VarianceType) -> None:
    process = GaussianDiffusion(NoiseSchedule.named("cosine", 100), parameterized(mean_type), var_type).respaced(
        "trailing5"
    )
    seen: list[list[int]] = []

    def network(x: Tensor, timesteps: Tensor, low_res: Tensor) -> Tensor:  # noqa: ARG001 - the process uses it
        seen.append(timesteps.tolist())
        return torch.tanh(torch.cat([x, 0.1 * x], dim=1) if process.learns_variance else x)

    cond = {"low_res": images(9)[..., ::2, ::2]}
    steps = list(
        steps_of(
            Ancestral(),
            NetworkDenoiser(network, process, low_res_upsampling="bilinear"),
            process,
            normal(0),
            cond,
            lambda i: normal(1 + i),
        )
    )
    assert seen == [[t, t] for t in (99, 79, 59, 39, 19)]
    assert steps[-1].x_t.shape == SHAPE
    assert steps[-1].x_t.isfinite().all()
    assert steps[-1].x_t.abs().max() <= 1


@pytest.mark.parametrize("mean_type", MEAN_TYPES)
def test_the_true_target_recovers_x_start_and_eps(mean_type: str) -> None:
    process = GaussianDiffusion(NoiseSchedule.named("linear", 4000), parameterized(mean_type))
    x_start, noise, prior = images(0).double(), normal(1).double(), images(2).double()
    for times in ([0, 1], [500, 1700]):
        t = torch.tensor(times)
        x_t = process.q_sample(x_start, t, noise)
        targets = {
            "epsilon": noise,
            "start_x": x_start,
            "v": Velocity().target(Noised(process.schedule, x_t, t), x_start, noise),
            "previous_x": process.q_posterior(x_start, x_t, t)[0],
            "residual": residual_target(process, x_start, x_t, t, prior),
        }
        prediction = process.predict(targets[mean_type], x_t, t, clip=False, prior=prior)
        torch.testing.assert_close(prediction.x_start, x_start)
        torch.testing.assert_close(prediction.eps, noise)
        terms = process.training_terms(targets[mean_type], x_start, x_t, t, noise, prior)
        torch.testing.assert_close(terms.loss, torch.zeros(2, dtype=torch.float64))


@pytest.mark.parametrize("mean_type", MEAN_TYPES)
@pytest.mark.parametrize("clip", [False, True])
def test_both_fields_of_a_prediction_describe_the_same_point(mean_type: str, clip: bool) -> None:
    process = GaussianDiffusion(NoiseSchedule.named("linear", 1000), parameterized(mean_type))
    x_t, t = normal(0).double(), torch.tensor([0, 600])
    prediction = process.predict(2 * normal(1).double(), x_t, t, clip, prior=images(2).double())
    torch.testing.assert_close(process.q_sample(prediction.x_start, t, prediction.eps), x_t)
    if clip:
        assert prediction.x_start.abs().max() <= 1


def residual_target(process: GaussianDiffusion, x_start: Tensor, x_t: Tensor, t: Tensor, prior: Tensor) -> Tensor:
    """(x_start - mean) / deviation of the Gaussian posterior, written with precisions where the code has variances."""
    std = getattr(process.parameterization, "residual_std", 0.12)
    abar = torch.tensor(process.schedule.alphas_cumprod[t])[:, None, None, None]
    precision = 1 / std**2 + abar / (1 - abar)
    mean = (prior / std**2 + abar.sqrt() / (1 - abar) * x_t) / precision
    return (x_start - mean) * precision.sqrt()


def test_the_residual_network_sees_and_answers_in_unit_variance() -> None:
    process = GaussianDiffusion(NoiseSchedule.named("linear", 1000), parameterized("residual", residual_std=0.3))
    prior = normal(2, (4, 3, 96, 80)).double()
    x_start = prior + 0.3 * normal(3, (4, 3, 96, 80)).double()
    noise, t = normal(1, (4, 3, 96, 80)).double(), torch.tensor([0, 200, 600, 999])
    x_t = process.q_sample(x_start, t, noise)
    for shown in (process.network_input(x_t, t, prior), residual_target(process, x_start, x_t, t, prior)):
        torch.testing.assert_close(shown.std((1, 2, 3)), torch.ones(4).double(), rtol=0.02, atol=0)


def test_a_silent_residual_network_samples_the_gaussian_around_its_prior() -> None:
    # With output 0 the denoiser is exact for x_start ~ N(prior, residual_std^2), so DDIM must transport x_T onto it.
    schedule = NoiseSchedule.named("linear", 1000)
    process = GaussianDiffusion(schedule, parameterized("residual", residual_std=0.1))
    cond, x_T = {"low_res": 0.5 * images(2)}, normal(0)
    denoiser = NetworkDenoiser(
        lambda x, timesteps, low_res: torch.zeros_like(x),  # noqa: ARG005
        process,
        clip_denoised=False,
        low_res_upsampling="bilinear",
    )
    *_, last = steps_of(Ddim(), denoiser, process, x_T, cond, normal)
    torch.testing.assert_close(last.x_t, cond["low_res"] + 0.1 * x_T, rtol=0, atol=1e-2)


def test_residual_without_low_res_says_what_is_missing() -> None:
    process = GaussianDiffusion(NoiseSchedule.named("linear", 50), parameterized("residual"))
    with pytest.raises(ValueError, match="condition the network on low_res"):
        NetworkDenoiser(lambda x, _: x, process, low_res_upsampling="bilinear")(normal(0), torch.tensor([3, 4]), {})


@pytest.mark.parametrize(("convention", "lower_value", "upper_value"), [("adm", -1.0, 1.0), ("patch", 1.0, 0.0)])
def test_learned_range_conventions(convention: Any, lower_value: float, upper_value: float) -> None:
    process = linear_process()
    process = GaussianDiffusion(
        process.schedule, parameterized("epsilon"), "learned_range", variance_convention=convention
    )
    t, x_t = torch.tensor([3, 700]), normal(0)
    for value, table in ((lower_value, "posterior_log_variance_clipped"), (upper_value, "log_betas")):
        output = torch.cat([x_t, torch.full_like(x_t, value)], dim=1)
        expected = process.schedule.gather(table, t, x_t).expand_as(x_t)
        torch.testing.assert_close(process.predict(output, x_t, t, clip=True).log_variance, expected)


def test_the_hybrid_loss_trains_the_variance_only_through_vb_and_the_mean_never() -> None:
    process = GaussianDiffusion(NoiseSchedule.named("linear", 1000), parameterized("epsilon"), "learned_range")
    x_start, noise, t = images(0), normal(1), torch.tensor([0, 500])
    output = (0.1 * normal(2, (2, 6, 6, 10))).requires_grad_()
    terms = process.training_terms(output, x_start, process.q_sample(x_start, t, noise), t, noise)
    assert terms.vb is not None
    (from_vb,) = torch.autograd.grad(terms.vb.sum(), output, retain_graph=True)
    (from_mse,) = torch.autograd.grad(terms.mse.sum(), output)
    assert not from_vb[:, :3].any()
    assert from_vb[:, 3:].any()
    assert from_mse[:, :3].any()
    assert not from_mse[:, 3:].any()


def test_rescaled_losses_scale_the_bound_only() -> None:
    x_start, noise, t = images(0), normal(1), torch.tensor([0, 30])
    output = 0.1 * normal(2, (2, 6, 6, 10))
    terms = {}
    for loss_type in get_args(LossType):
        process = GaussianDiffusion(
            NoiseSchedule.named("linear", 50), parameterized("epsilon"), "learned_range", loss_type
        )
        terms[loss_type] = process.training_terms(output, x_start, process.q_sample(x_start, t, noise), t, noise)
    torch.testing.assert_close(terms["rescaled_kl"].loss, 50 * terms["kl"].loss)
    torch.testing.assert_close(terms["rescaled_mse"].loss, terms["mse"].mse + 0.05 * terms["mse"].vb)
    torch.testing.assert_close(terms["rescaled_mse"].vb, 0.05 * terms["mse"].vb)
    torch.testing.assert_close(terms["kl"].loss, terms["mse"].vb)


SNR_WEIGHTS = {
    "uniform": lambda _: 1.0,
    "sqrt_snr": math.sqrt,
    "snr": lambda snr: snr,
    "snr+1": lambda snr: snr + 1,
    "truncated_snr": lambda snr: max(snr, 1.0),
    "p2": lambda snr: snr * math.sqrt(1 - snr / (1 + snr)),
    "min_snr": lambda snr: min(snr, 5.0),
    "clamped_snr": lambda snr: min(max(snr, 0.2), 5.0),
}


@pytest.mark.parametrize("name", get_args(WeightSchedule))
def test_weights_are_functions_of_snr(name: WeightSchedule) -> None:
    schedule = NoiseSchedule.named("cosine", 100)
    expected = [SNR_WEIGHTS[name](snr) for snr in schedule.snr]
    np.testing.assert_allclose(loss_weights(name, schedule, (0.2, 5.0), 5.0), expected, rtol=1e-9)


@pytest.mark.parametrize("mean_type", MEAN_TYPES)
def test_weights_act_on_the_x_start_error_whatever_is_predicted(mean_type: str) -> None:
    process = GaussianDiffusion(
        NoiseSchedule.named("linear", 1000), parameterized(mean_type), weight_schedule="clamped_snr"
    )
    x_start, noise, t = images(0).double(), normal(1).double(), torch.tensor([5, 600])
    x_t = process.q_sample(x_start, t, noise)
    terms = process.training_terms(noise, x_start, x_t, t, noise, prior=images(2).double())
    weight = torch.tensor(np.clip(process.schedule.snr[[5, 600]], 0.2, 5.0))
    torch.testing.assert_close(terms.mse, weight * (terms.x_start - x_start).square().mean((1, 2, 3)))


def test_min_snr_is_the_papers_weight_of_each_parameterization() -> None:
    x_start, noise, t = images(0).double(), normal(1).double(), torch.tensor([5, 600])
    output = normal(2).double()
    schedule = NoiseSchedule.named("linear", 1000)
    snr = torch.tensor(schedule.snr[[5, 600]])
    clamped = snr.clamp(max=5.0)
    for mean_type, weight in {"start_x": clamped, "epsilon": clamped / snr, "v": clamped / (snr + 1)}.items():
        own_space = GaussianDiffusion(schedule, parameterized(mean_type))
        weighted = GaussianDiffusion(schedule, parameterized(mean_type), weight_schedule="min_snr")
        x_t = own_space.q_sample(x_start, t, noise)
        expected = weight * own_space.training_terms(output, x_start, x_t, t, noise).mse
        torch.testing.assert_close(weighted.training_terms(output, x_start, x_t, t, noise).mse, expected)


def test_l1_is_the_absolute_error() -> None:
    process = GaussianDiffusion(NoiseSchedule.named("linear", 1000), parameterized("start_x"), loss_type="l1")
    x_start, noise, t = images(0), normal(1), torch.tensor([5, 600])
    terms = process.training_terms(noise, x_start, process.q_sample(x_start, t, noise), t, noise)
    torch.testing.assert_close(terms.loss, (noise - x_start).abs().mean((1, 2, 3)))


def test_half_precision_output_is_computed_in_float32() -> None:
    process = linear_process()
    x_start, noise, t = images(0), normal(1), torch.tensor([0, 999])
    x_t = process.q_sample(x_start, t, noise)
    terms = process.training_terms(noise.bfloat16(), x_start, x_t, t, noise)
    assert terms.loss.dtype == terms.x_start.dtype == torch.float32


@pytest.mark.parametrize(("var_type", "given", "needed"), [("learned_range", 3, 6), ("fixed_small", 6, 3)])
def test_channels_that_do_not_fit_the_variance_are_named(var_type: VarianceType, given: int, needed: int) -> None:
    process = GaussianDiffusion(NoiseSchedule.named("linear", 1000), model_var_type=var_type)
    with pytest.raises(ValueError, match=f"returned {given} channels.*needs {needed}"):
        process.predict(normal(0, (2, given, 6, 10)), normal(1), torch.tensor([0, 1]), clip=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_var_type": "fixed"}, "unknown model_var_type"),
        ({"loss_type": "l2"}, "unknown loss_type"),
        ({"variance_convention": "ddpm"}, "unknown variance_convention"),
        ({"weight_schedule": "snr2"}, "unknown weight_schedule"),
        ({"weight_schedule": "min_snr", "min_snr_gamma": 0.0}, "min_snr_gamma must be positive"),
        ({"weight_schedule": "clamped_snr", "weight_clamp": (5.0, 0.2)}, "weight_clamp"),
        ({"weight_schedule": "snr", "loss_type": "kl"}, "no meaning for loss_type kl"),
    ],
)
def test_options_that_make_no_process_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GaussianDiffusion(NoiseSchedule.named("linear", 1000), **options)


def test_epsilon_needs_signal_and_the_others_do_not() -> None:
    schedule = NoiseSchedule.named("linear", 20)  # the last beta is 1: pure noise
    with pytest.raises(ValueError, match="use v or start_x"):
        GaussianDiffusion(schedule, parameterized("epsilon"))
    for mean_type in ("v", "start_x", "previous_x"):
        process = GaussianDiffusion(schedule, parameterized(mean_type))
        prediction = process.predict(normal(0), normal(1), torch.tensor([19, 19]), clip=False)
        assert all(field.isfinite().all() for field in prediction)


@pytest.mark.parametrize("bad", [255.0, -1.5, float("nan")])
def test_images_outside_the_range_do_not_train(bad: float) -> None:
    batch = images(0)
    check_image_range(batch)
    batch[1, 2, 3, 4] = bad
    with pytest.raises(ValueError, match=r"must lie in \[-1, 1\].*rgb_n1_to_1"):
        check_image_range(batch)


def test_input_perturbation_widens_the_noise_and_is_off_at_0() -> None:
    noise, extra = normal(0), normal(1)
    torch.testing.assert_close(perturbed_noise(noise, extra, 0.1), noise + 0.1 * extra)
    assert perturbed_noise(noise, extra, 0.0) is noise


def test_respaced_process_keeps_its_options() -> None:
    process = GaussianDiffusion(
        NoiseSchedule.named("linear", 1000), parameterized("v"), "learned", "l1", "p2", (0.1, 9.0), 3.0, "patch"
    )
    short = process.respaced("trailing7")
    assert short.num_timesteps == 7
    assert (short.parameterization, short.model_var_type, short.loss_type) == (Velocity(), "learned", "l1")
    assert (short.weight_schedule, short.variance_convention) == ("p2", "patch")


def test_pixel_probabilities_sum_to_one() -> None:
    values = torch.linspace(-1, 1, 256, dtype=torch.float64)
    for mean, log_scale in ((0.1, -3.0), (-0.98, -1.0), (1.0, 0.5)):
        log_p = discretized_gaussian_log_likelihood(values, torch.tensor(mean), torch.tensor(log_scale))
        assert log_p.exp().sum().item() == pytest.approx(1.0, abs=1e-6)


def test_normal_kl_agrees_with_torch() -> None:
    p = torch.distributions.Normal(normal(0), (0.5 * normal(1)).exp())
    q = torch.distributions.Normal(normal(2), (0.5 * normal(3)).exp())
    expected = torch.distributions.kl_divergence(p, q)
    torch.testing.assert_close(normal_kl(p.mean, normal(1), q.mean, normal(3)), expected, rtol=1e-5, atol=1e-5)


def test_bound_of_a_denoiser_that_knows_the_image_is_prior_and_last_step() -> None:
    process = linear_process(1000, "20")
    x_start = images(0)
    calls: list[int] = []

    def oracle(x_t: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Prediction:
        calls.append(int(t[0]))
        prediction = process.predict(process.eps_from_x_start(x_t, t, x_start), x_t, t, clip=False)
        return prediction.at(cond["answer"], prediction.eps)

    bound = variational_bound(oracle, process, x_start, {"answer": x_start}, lambda i: normal(9 + i))
    assert calls == list(range(19, -1, -1))
    assert bound.terms.shape == (2, 20)
    assert bound.terms[:, 1:].abs().max() < 1e-6
    abar = process.schedule.alphas_cumprod[-1]
    kl = 0.5 * (abar * x_start.square() - abar - math.log1p(-abar)).mean((1, 2, 3)) / math.log(2)
    torch.testing.assert_close(bound.prior, kl, rtol=1e-3, atol=1e-7)
    torch.testing.assert_close(bound.total, bound.prior + bound.terms[:, 0])


def test_bound_approaches_the_entropy_of_a_known_gaussian() -> None:
    process = linear_process(1000, "100")
    deviation = 0.25
    x_start = (0.1 + deviation * normal(0, (2, 3, 16, 12))).clamp(-1, 1)
    exact = ExactGaussian(process.schedule, mean=0.1, deviation=deviation)
    bound = variational_bound(exact, process, x_start, {}, lambda i: normal(5 + i, (2, 3, 16, 12)))
    entropy = math.log2(deviation * math.sqrt(2 * math.pi * math.e) * 255 / 2)
    assert bound.total.mean().item() == pytest.approx(entropy, abs=0.15)
