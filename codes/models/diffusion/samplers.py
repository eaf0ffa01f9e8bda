"""Samplers: the rules that take a state one step nearer to an image. One registered class each.

A rule computes the state after a step, pixel by pixel: from the state before it, what the denoiser predicted there and
the step's noise. So it works on a band of rows as well as on the whole, which is how canvases larger than memory are
sampled (`tiling/canvas_sampling.py`).

S is the length of the process's schedule; step i works at t = S-1-i. The last step (t = 0) of every sampler lands on
the predicted x_start and adds no noise: abar before t = 0 is 1. Samplers draw nothing themselves, so the same fields
of noise give the same images.
"""

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from ...config.options import Options
from ...config.registry import Registry
from .prediction import Prediction
from .process import GaussianDiffusion
from .schedule import NoiseSchedule


class Moment(NamedTuple):
    """What a rule is given: some rows of a state or all of it, everything (B, C, h, w) and of the same pixels.

    `x` is the state at `t` and `prediction` what the denoiser says of it; `noise` draws the step's standard normal
    field for them. `previous_x_start` is the x_start of the step before, for rules that remember it, None in the first.
    """

    process: GaussianDiffusion
    t: int
    x: Tensor
    prediction: Prediction
    noise: Callable[[], Tensor]
    previous_x_start: Tensor | None = None


class Sampler(Options):
    """Base of all samplers. The fields of a subclass are its options, written beside `sampler:` in a recipe.

    A rule may read `prediction.eps` and call `noise` or not; what costs memory or time before the rule is applied is
    declared: needs_log_variance, whether it reads `prediction.log_variance`, and remembers_x_start, whether it reads
    `previous_x_start`.
    """

    needs_log_variance: ClassVar[bool] = False
    remembers_x_start: ClassVar[bool] = False

    @property
    def draws(self) -> bool:
        """Whether its steps add noise."""
        return False

    @abstractmethod
    def __call__(self, at: Moment) -> Tensor:
        """The state after the step."""


SAMPLERS: Registry[type[Sampler]] = Registry("sampler")


@SAMPLERS.register("ancestral")
class Ancestral(Sampler):
    """Sampling from p(x_{t-1} | x_t) (Ho et al. 2020, algorithm 2). At t = 0 the mean, which is x_start."""

    needs_log_variance: ClassVar[bool] = True

    @property
    def draws(self) -> bool:
        return True

    def __call__(self, at: Moment) -> Tensor:
        mean = at.process.posterior_mean(at.prediction, at.x, _batch(at.t, at.x))
        return mean + torch.exp(0.5 * at.prediction.log_variance) * at.noise() if at.t > 0 else mean


@SAMPLERS.register("ddim")
class Ddim(Sampler):
    """DDIM (Song et al. 2021, eq. 12): deterministic for eta = 0, as noisy as the posterior for eta = 1."""

    eta: float = Field(0.0, ge=0, le=1, description="Noise of a step: 0 is deterministic, 1 as noisy as ancestral.")

    @property
    def draws(self) -> bool:
        return self.eta > 0

    def __call__(self, at: Moment) -> Tensor:
        before = float(at.process.schedule.alphas_cumprod_prev[at.t])
        sigma = self.eta * math.sqrt(at.process.schedule.posterior_variance[at.t])
        after = math.sqrt(before) * at.prediction.x_start
        direction = math.sqrt(max(1.0 - before - sigma**2, 0.0))
        if direction > 0.0:
            after = after + direction * at.prediction.eps
        return after + sigma * at.noise() if sigma > 0.0 else after


@SAMPLERS.register("dpm_solver_pp")
class DpmSolverPP(Sampler):
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): second order in log-SNR time, one network call a step.

    The first step is of first order, and so is the last, which goes to log-SNR = infinity, where the second order's
    extrapolation diverges: it returns x_start. Where a step is longer in log-SNR than the one before it (near t = 0 of
    most spacings), it extrapolates only as far as the previous step has shown.
    """

    remembers_x_start: ClassVar[bool] = True

    def __call__(self, at: Moment) -> Tensor:
        x_start = at.prediction.x_start
        sigma_ratio, decay, extrapolation = _dpm_coefficients(at.process.schedule, at.t)
        direction = x_start
        if at.previous_x_start is not None:
            direction = x_start + extrapolation * (x_start - at.previous_x_start)
        signal = math.sqrt(at.process.schedule.alphas_cumprod_prev[at.t])
        return sigma_ratio * at.x + signal * (1.0 - decay) * direction


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


def _batch(t: int, x: Tensor) -> Tensor:
    return torch.full((x.shape[0],), t, dtype=torch.int64, device=x.device)
