"""Samplers: generators over a denoiser that yield every step, and the rules they apply.

A rule computes the state after a step, pixel by pixel: from the state before it, what the denoiser predicted there and
the step's noise. So it works on a band of rows as well as on the whole, which is how canvases larger than memory are
sampled (`canvas_sampling.py`).

All samplers take (denoiser, process, x_T, cond, noise): x_T (B, C, H, W) from `process.prior_sample`, and noise, which
gives the standard normal field of a sampling step, shaped like x_T, by the step's index 0..S-1 and is called only where
noise is needed. S is the length of the process's schedule; step i works at t = S-1-i. Samplers draw nothing themselves,
so the same fields give the same images.

The last step (t = 0) of every sampler lands on the predicted x_start and adds no noise: abar before t = 0 is 1.

`start` resumes at that step; x_T is then the state before it, which is the x_t yielded by step start-1.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .denoiser import Denoiser
from .process import GaussianDiffusion, Prediction
from .schedule import NoiseSchedule

NoiseFn = Callable[[int], Tensor]


class Step(NamedTuple):
    """One finished step: its index, the t it worked at, the state x_t after it and the x_start predicted in it."""

    index: int  # type: ignore[assignment] # hides tuple.index, which nobody asks of a step
    t: int
    x_t: Tensor
    x_start: Tensor


class Sampler(Protocol):
    """What every entry of SAMPLERS can be called with."""

    def __call__(
        self,
        denoiser: Denoiser,
        process: GaussianDiffusion,
        x_T: Tensor,
        cond: Mapping[str, Tensor],
        noise: NoiseFn,
        *,
        start: int = 0,
    ) -> Iterator[Step]: ...


class Moment(NamedTuple):
    """What a rule is given: some rows of a state or all of it, everything (B, C, h, w) and of the same pixels.

    `x` is the state at `t` and `prediction` what the denoiser says of it; `noise` draws the step's field for them.
    `previous_x_start` is the x_start of the step before, for rules that remember it, None in the first step.
    """

    process: GaussianDiffusion
    t: int
    x: Tensor
    prediction: Prediction
    noise: Callable[[], Tensor]
    previous_x_start: Tensor | None = None


class Rule(Protocol):
    """The state after a step."""

    @property
    def remembers_x_start(self) -> bool:
        """Whether `previous_x_start` is used."""
        ...

    def __call__(self, at: Moment) -> Tensor: ...


@dataclass(frozen=True)
class Ancestral:
    """Sampling from p(x_{t-1} | x_t) (Ho et al. 2020, algorithm 2). At t = 0 the mean, which is x_start."""

    remembers_x_start = False

    def __call__(self, at: Moment) -> Tensor:
        mean = at.process.posterior_mean(at.prediction, at.x, _batch(at.t, at.x))
        return mean + torch.exp(0.5 * at.prediction.log_variance) * at.noise() if at.t > 0 else mean


@dataclass(frozen=True)
class Ddim:
    """DDIM (Song et al. 2021, eq. 12): deterministic for eta = 0, as noisy as the posterior for eta = 1.

    Raises ValueError for an eta outside [0, 1].
    """

    eta: float = 0.0
    remembers_x_start = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.eta <= 1.0:
            raise ValueError(f"eta must lie in [0, 1], got {self.eta}")

    def __call__(self, at: Moment) -> Tensor:
        before = float(at.process.schedule.alphas_cumprod_prev[at.t])
        sigma = self.eta * math.sqrt(at.process.schedule.posterior_variance[at.t])
        direction = math.sqrt(max(1.0 - before - sigma**2, 0.0)) * at.prediction.eps
        after = math.sqrt(before) * at.prediction.x_start + direction
        return after + sigma * at.noise() if sigma > 0.0 else after


@dataclass(frozen=True)
class DpmSolverPP:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): second order in log-SNR time, one network call a step.

    The first step is of first order, and so is the last, which goes to log-SNR = infinity, where the second order's
    extrapolation diverges: it returns x_start. Where a step is longer in log-SNR than the one before it (near t = 0 of
    most spacings), it extrapolates only as far as the previous step has shown.
    """

    remembers_x_start = True

    def __call__(self, at: Moment) -> Tensor:
        x_start = at.prediction.x_start
        sigma_ratio, decay, extrapolation = _dpm_coefficients(at.process.schedule, at.t)
        direction = x_start
        if at.previous_x_start is not None:
            direction = x_start + extrapolation * (x_start - at.previous_x_start)
        signal = math.sqrt(at.process.schedule.alphas_cumprod_prev[at.t])
        return sigma_ratio * at.x + signal * (1.0 - decay) * direction


def ancestral(
    denoiser: Denoiser,
    process: GaussianDiffusion,
    x_T: Tensor,
    cond: Mapping[str, Tensor],
    noise: NoiseFn,
    *,
    start: int = 0,
) -> Iterator[Step]:
    """The steps of `Ancestral`. Raises ValueError for a start outside 0..S."""
    return _sample(Ancestral(), denoiser, process, x_T, cond, noise, start)


def ddim(
    denoiser: Denoiser,
    process: GaussianDiffusion,
    x_T: Tensor,
    cond: Mapping[str, Tensor],
    noise: NoiseFn,
    *,
    eta: float = 0.0,
    start: int = 0,
) -> Iterator[Step]:
    """The steps of `Ddim`. Raises ValueError for an eta outside [0, 1] or a start outside 0..S."""
    return _sample(Ddim(eta), denoiser, process, x_T, cond, noise, start)


def dpm_solver_pp(
    denoiser: Denoiser,
    process: GaussianDiffusion,
    x_T: Tensor,
    cond: Mapping[str, Tensor],
    noise: NoiseFn,
    *,
    start: int = 0,
    previous_x_start: Tensor | None = None,
) -> Iterator[Step]:
    """The steps of `DpmSolverPP`. Resumed with previous_x_start (the x_start of step start-1) it continues exactly,
    without it the first step is again of first order. Raises ValueError for a start outside 0..S.
    """
    return _sample(DpmSolverPP(), denoiser, process, x_T, cond, noise, start, previous_x_start)


SAMPLERS: dict[str, Sampler] = {"ancestral": ancestral, "ddim": ddim, "dpm_solver_pp": dpm_solver_pp}


def rule_named(name: str, eta: float) -> Rule:
    """The rule of a sampler of SAMPLERS; `eta` is that of ddim."""
    rules: dict[str, Rule] = {"ancestral": Ancestral(), "ddim": Ddim(eta), "dpm_solver_pp": DpmSolverPP()}
    return rules[name]


@torch.no_grad()
def _sample(
    rule: Rule,
    denoiser: Denoiser,
    process: GaussianDiffusion,
    x_T: Tensor,
    cond: Mapping[str, Tensor],
    noise: NoiseFn,
    start: int,
    previous_x_start: Tensor | None = None,
) -> Iterator[Step]:
    x, previous = x_T, previous_x_start
    for index, t in _steps(process, start):
        prediction = denoiser(x, _batch(t, x), cond)
        x = rule(Moment(process, t, x, prediction, partial(noise, index), previous))
        previous = prediction.x_start if rule.remembers_x_start else None
        yield Step(index, t, x, prediction.x_start)


def _dpm_coefficients(schedule: NoiseSchedule, t: int) -> tuple[float, float, float]:
    """sigma_{t-1} / sigma_t, exp(-h) and min(1, h / h_before) / 2, h being the step in half log-SNR (lambda).

    The bound on h / h_before is not in the paper. It changes a local step by O(h^3), so the order stays 2, but 8 or 20
    evenly spaced steps that visit t = 0 would otherwise be worse than DDIM.
    """
    abar, before = float(schedule.alphas_cumprod[t]), float(schedule.alphas_cumprod_prev[t])
    sigma_ratio = math.sqrt((1.0 - before) / (1.0 - abar))
    decay = sigma_ratio * math.sqrt(abar / before)
    if t == 0 or t + 1 == schedule.num_timesteps:
        return sigma_ratio, decay, 0.0
    h = schedule.log_snr[t - 1] - schedule.log_snr[t]
    h_before = schedule.log_snr[t] - schedule.log_snr[t + 1]
    return sigma_ratio, decay, 0.5 * min(1.0, float(h / h_before))


def _steps(process: GaussianDiffusion, start: int) -> Iterator[tuple[int, int]]:
    count = process.num_timesteps
    if not 0 <= start <= count:
        raise ValueError(f"start must be a step in 0..{count}, got {start}")
    for index in range(start, count):
        yield index, count - 1 - index


def _batch(t: int, x: Tensor) -> Tensor:
    return torch.full((x.shape[0],), t, dtype=torch.int64, device=x.device)
