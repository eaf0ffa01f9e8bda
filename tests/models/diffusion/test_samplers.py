"""Samplers: golden loops, exact solutions on a Gaussian, orders of convergence, resuming."""

import itertools
import math
from collections.abc import Mapping

import pytest
import torch
from diffusion_helpers import SHAPE, ExactGaussian, linear_process, load_golden, normal, parameterized
from reference_sampling import Step, steps_of
from torch import Tensor

from codes.models.diffusion.denoiser import NetworkDenoiser
from codes.models.diffusion.prediction import Prediction
from codes.models.diffusion.process import GaussianDiffusion
from codes.models.diffusion.samplers import SAMPLERS, Ancestral, Ddim, DpmSolverPP, Sampler
from codes.models.diffusion.schedule import NoiseSchedule

ALL: dict[str, Sampler] = {**{name: SAMPLERS.get(name)() for name in SAMPLERS.names()}, "ddim_eta1": Ddim(eta=1.0)}
SPACINGS = ["20", "ddim20", "leading20", "linspace20", "trailing20", "5,15"]


def no_noise(_: int) -> Tensor:
    raise AssertionError("a deterministic step asked for noise")


def last(steps: object) -> Step:
    return list(steps)[-1]  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize("name", ["sample_ancestral20.safetensors", "sample_ddim20_eta0.safetensors"])
def test_sampling_matches_golden(name: str) -> None:
    config, golden = load_golden(name)
    schedule = NoiseSchedule.named(config["schedule"], config["num_timesteps"]).respaced(config["respacing"])
    process = GaussianDiffusion(schedule, parameterized(config["model_mean_type"]), config["model_var_type"])

    def network(x: Tensor, timesteps: Tensor) -> Tensor:
        scale = 0.5 + timesteps.float() / config["num_timesteps"]
        return torch.einsum("oc,bchw->bohw", golden["in/mix"], torch.tanh(x)) * scale.reshape(-1, 1, 1, 1)

    denoiser = NetworkDenoiser(network, process, config["clip_denoised"], low_res_upsampling="bilinear")
    noise = golden["in/step_noise"]
    step = last(steps_of(ALL[config["sampler"]], denoiser, process, golden["in/x_T"], {}, lambda i: noise[i]))
    torch.testing.assert_close(step.x_t, golden["out/sample"], rtol=1e-4, atol=1e-5)


def distance(sampler: Sampler, process: GaussianDiffusion, deviation: float) -> float:
    """Largest distance of the result from where the exact ODE solution leads.

    The last step returns the mean of x_start rather than a draw: the noise that is left at t = 0 never returns.
    """
    exact = ExactGaussian(process.schedule, deviation=deviation)
    z = torch.linspace(-2, 2, math.prod(SHAPE), dtype=torch.float64).reshape(SHAPE)
    x_T = exact.state(z, process.schedule.alphas_cumprod[-1])
    step = last(steps_of(sampler, exact, process, x_T, {}, no_noise))
    answer = exact(exact.state(z, process.schedule.alphas_cumprod[0]), torch.tensor([0, 0]), {}).x_start
    return (step.x_t - answer).abs().max().item()


@pytest.mark.parametrize("spacing", [*SPACINGS, "8", "leading8", "trailing8", "trailing4"])
@pytest.mark.parametrize("deviation", [0.1, 0.5])
def test_ode_samplers_approach_the_exact_gaussian_solution(spacing: str, deviation: float) -> None:
    process = linear_process(1000, spacing)
    first, second = distance(Ddim(), process, deviation), distance(DpmSolverPP(), process, deviation)
    assert second <= first < 0.36
    if deviation == 0.5 and process.num_timesteps >= 8:
        assert second < 0.51 * first


@pytest.mark.parametrize(
    ("name", "spacing"), [*itertools.product(["ancestral"], [*SPACINGS, "trailing8"]), ("ddim_eta1", "trailing250")]
)
def test_stochastic_samplers_draw_from_the_gaussian(name: str, spacing: str) -> None:
    # With the exact variance of a step, ancestral sampling follows the law of x_t at any spacing. DDIM's variance is
    # the posterior's, which is exact only for many steps.
    process = linear_process(1000, spacing)
    exact = ExactGaussian(process.schedule)
    shape = (2, 3, 64, 48)
    x_T = exact.state(normal(0, shape), process.schedule.alphas_cumprod[-1])
    state = list(steps_of(ALL[name], exact, process, x_T, {}, lambda i: normal(1 + i, shape)))[-2].x_t
    abar = process.schedule.alphas_cumprod[0]
    assert state.mean().item() == pytest.approx(0.3 * abar**0.5, abs=0.02)
    deviation = (abar * exact.deviation**2 + 1 - abar) ** 0.5
    assert state.std().item() == pytest.approx(deviation, rel=0.02 if name == "ancestral" else 0.05)


def error_at(original_t: int, sampler: Sampler, count: int) -> float:
    """Largest distance from the exact ODE solution at a timestep that all grids of 4001 steps share."""
    process = linear_process(4001, f"linspace{count}")
    exact = ExactGaussian(process.schedule)
    z = normal(0, dtype=torch.float64)
    x_T = exact.state(z, process.schedule.alphas_cumprod[-1])
    at = process.schedule.timesteps.tolist().index(original_t)
    step = next(step for step in steps_of(sampler, exact, process, x_T, {}, no_noise) if step.t == at + 1)
    return (step.x_t - exact.state(z, process.schedule.alphas_cumprod[at])).abs().max().item()


@pytest.mark.parametrize(("sampler", "order"), [(Ddim(), 1), (DpmSolverPP(), 2)])
@pytest.mark.parametrize("original_t", [400, 2000])
def test_order_of_convergence(sampler: Sampler, order: int, original_t: int) -> None:
    errors = [error_at(original_t, sampler, count) for count in (101, 201, 401)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.2)
    assert math.log2(errors[1] / errors[2]) == pytest.approx(order, abs=0.2)


def test_ddim_with_eta_1_is_ancestral_with_the_posterior_variance() -> None:
    process = linear_process(1000, "trailing10")
    network = NetworkDenoiser(lambda x, _: torch.tanh(x), process, low_res_upsampling="bilinear")
    a = last(steps_of(Ancestral(), network, process, normal(0), {}, lambda i: normal(1 + i)))
    b = last(steps_of(Ddim(eta=1.0), network, process, normal(0), {}, lambda i: normal(1 + i)))
    torch.testing.assert_close(a.x_t, b.x_t, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("spec", ["trailing1", "1"])
def test_one_step_returns_x_start(name: str, spec: str) -> None:
    process = linear_process(4000, spec)
    exact = ExactGaussian(process.schedule)
    steps = list(steps_of(ALL[name], exact, process, normal(0), {}, no_noise))
    assert len(steps) == 1
    torch.testing.assert_close(steps[0].x_t, exact(normal(0), torch.tensor([0, 0]), {}).x_start)


@pytest.mark.parametrize("name", ALL)
def test_last_step_lands_on_x_start_without_noise(name: str) -> None:
    process = linear_process(1000, "trailing6")
    asked: list[int] = []

    def noise(index: int) -> Tensor:
        asked.append(index)
        return normal(index)

    steps = list(steps_of(ALL[name], ExactGaussian(process.schedule), process, normal(9), {}, noise))
    assert [(step.index, step.t) for step in steps] == [(i, 5 - i) for i in range(6)]
    assert asked == ([0, 1, 2, 3, 4] if name in ("ancestral", "ddim_eta1") else [])
    torch.testing.assert_close(steps[-1].x_t, steps[-1].x_start)


@pytest.mark.parametrize("name", ALL)
def test_resuming_continues_exactly(name: str) -> None:
    process = linear_process(1000, "trailing8")
    exact = ExactGaussian(process.schedule)

    def noise(index: int) -> Tensor:
        return normal(1 + index)

    whole = list(steps_of(ALL[name], exact, process, normal(0), {}, noise))
    before = whole[2].x_start if ALL[name].remembers_x_start else None
    rest = list(steps_of(ALL[name], exact, process, whole[2].x_t, {}, noise, 3, before))
    assert [step.index for step in rest] == [3, 4, 5, 6, 7]
    for ours, theirs in zip(rest, whole[3:], strict=True):
        torch.testing.assert_close(ours.x_t, theirs.x_t, rtol=0, atol=0)


def test_multistep_resumed_without_history_restarts_at_first_order() -> None:
    process = linear_process(1000, "trailing8")
    exact = ExactGaussian(process.schedule)
    state = normal(0)
    restarted = next(steps_of(DpmSolverPP(), exact, process, state, {}, no_noise, start=3))
    first_order = next(steps_of(Ddim(), exact, process, state, {}, no_noise, start=3))
    torch.testing.assert_close(restarted.x_t, first_order.x_t)


@pytest.mark.parametrize("name", ALL)
def test_batched_non_square_samples_do_not_depend_on_each_other(name: str) -> None:
    process = linear_process(1000, "trailing4")
    network = NetworkDenoiser(
        lambda x, t: torch.tanh(x) * (t / 1000).reshape(-1, 1, 1, 1), process, low_res_upsampling="bilinear"
    )
    together = last(steps_of(ALL[name], network, process, normal(0), {}, lambda i: normal(1 + i))).x_t
    assert together.shape == SHAPE
    for b in range(2):
        row = slice(b, b + 1)
        alone = last(
            steps_of(ALL[name], network, process, normal(0)[row], {}, lambda i, row=row: normal(1 + i)[row])
        ).x_t
        torch.testing.assert_close(alone, together[row], rtol=0, atol=0)


@pytest.mark.parametrize("width", [2, 3, 5])
def test_batched_ddim_does_not_need_a_width_equal_to_the_batch(width: int) -> None:
    process = linear_process(1000, "trailing3")
    shape = (3, 3, 4, width)
    step = last(
        steps_of(
            Ddim(eta=0.5), ExactGaussian(process.schedule), process, normal(0, shape), {}, lambda i: normal(i, shape)
        )
    )
    assert step.x_t.shape == shape


@pytest.mark.parametrize("name", ALL)
def test_samplers_are_lazy_leave_their_input_alone_and_record_no_graph(name: str) -> None:
    process = linear_process(1000, "trailing4")
    weight = torch.ones((), requires_grad=True)
    calls: list[int] = []

    def denoiser(x_t: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Prediction:
        calls.append(int(t[0]))
        return process.predict(weight * x_t + cond["low_res"], x_t, t, clip=True)

    x_T, cond = normal(0), {"low_res": normal(7)}
    steps = steps_of(ALL[name], denoiser, process, x_T, cond, lambda i: normal(1 + i))
    assert calls == []
    first = next(steps)
    assert calls == [3]
    assert not first.x_t.requires_grad
    list(steps)
    torch.testing.assert_close(x_T, normal(0), rtol=0, atol=0)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("name", ["ddim", "dpm_solver_pp"])
def test_deterministic_samplers_drop_the_variance_and_tell_the_network_its_own_time(name: str) -> None:
    process = GaussianDiffusion(NoiseSchedule.named("linear", 4000), parameterized("v"), "learned_range").respaced(
        "trailing4"
    )
    seen: list[int] = []

    def network(x: Tensor, timesteps: Tensor, variance: Tensor) -> Tensor:
        seen.append(int(timesteps[0]))
        return torch.cat([torch.tanh(x), variance], dim=1)

    results = []
    for variance in (normal(3), torch.zeros(SHAPE)):
        steps = steps_of(
            ALL[name],
            NetworkDenoiser(network, process, low_res_upsampling="bilinear"),
            process,
            normal(0),
            {"variance": variance},
            no_noise,
        )
        results.append(last(steps).x_t)
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)
    assert seen == [3999, 2999, 1999, 999] * 2


@pytest.mark.parametrize("name", ALL)
def test_pure_noise_at_the_first_step_is_finite(name: str) -> None:
    process = GaussianDiffusion(NoiseSchedule.named("linear", 20), parameterized("v"))  # the last beta is 1
    network = NetworkDenoiser(lambda x, _: torch.tanh(x), process, low_res_upsampling="bilinear")
    assert all(step.x_t.isfinite().all() for step in steps_of(ALL[name], network, process, normal(0), {}, normal))


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="less than or equal to 1"):
        Ddim(eta=1.5)
    with pytest.raises(ValueError, match="eta"):
        Ancestral(eta=0.5)  # type: ignore[call-arg]


READS = {"ancestral": {"x_start", "log_variance"}, "ddim": {"x_start", "eps"}, "dpm_solver_pp": {"x_start"}}


@pytest.mark.parametrize("name", READS)
def test_a_sampler_has_nothing_computed_that_its_rule_does_not_read(name: str) -> None:
    process = GaussianDiffusion(NoiseSchedule.named("linear", 100), parameterized("v"), "learned_range").respaced(
        "trailing3"
    )
    asked: list[str] = []

    def denoiser(x_t: Tensor, t: Tensor, _: Mapping[str, Tensor]) -> Prediction:
        whole = process.predict(torch.cat([torch.tanh(x_t), x_t], dim=1), x_t, t, clip=True)

        def noted(field: str) -> Tensor:
            asked.append(field)
            value: Tensor = getattr(whole, field)
            return value

        return Prediction(whole.x_start, lambda: noted("eps"), lambda: noted("log_variance"))

    list(steps_of(ALL[name], denoiser, process, normal(0), {}, normal))
    assert set(asked) | {"x_start"} == READS[name]
    assert asked == [*asked[:1]] * (0 if name == "dpm_solver_pp" else 2)  # not in the last step
    assert ALL[name].needs_log_variance == ("log_variance" in READS[name])
