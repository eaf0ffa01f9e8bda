"""Which timesteps a training batch visits.

A sampler is a pure function of uniform numbers, so that the caller decides where they come from: u (B,) in [0, 1) ->
t int64 (B,) and weights float32 (B,) of the losses, on u's device. They are importance weights, which keep the expected
loss what uniform t gives, but for those samplers that mean to emphasise some timesteps.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from ...config.registry import Registry
from .schedule import Array, DeviceTable, NoiseSchedule, expert_index


class TimestepSampler(Protocol):
    """u (B,) uniform in [0, 1) -> (t int64 (B,), weights float32 (B,))."""

    def sample(self, u: Tensor) -> tuple[Tensor, Tensor]: ...


class Categorical:
    """Timesteps with the probabilities p (T,), by inverse cumulative probability; weights 1 / (T p(t)).

    Raises ValueError for probabilities that are negative or sum to nothing.
    """

    def __init__(self, probabilities: Array) -> None:
        p = np.asarray(probabilities, dtype=np.float64)
        if p.ndim != 1 or not np.all(p >= 0) or not 0 < p.sum() < np.inf:
            raise ValueError("timestep probabilities must be one row of non-negative numbers with a positive sum")
        self.probabilities: Array = p / p.sum()
        cumulative = np.cumsum(self.probabilities)
        self._last = int(np.flatnonzero(p)[-1])
        self._cumulative = DeviceTable(cumulative / cumulative[-1])
        self._weights = DeviceTable(np.divide(1.0, p.size * self.probabilities, out=np.zeros_like(p), where=p > 0))

    def sample(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """See TimestepSampler."""
        cumulative = self._cumulative.on(u.device, u.dtype)
        # Where float32 rounds the sums up to 1 there is nothing to the right of u.
        t = torch.searchsorted(cumulative, u.contiguous(), right=True).clamp(max=self._last)
        return t, self._weights.on(u.device, torch.float32)[t]


class Uniform:
    """Every timestep in 0..T-1 alike, or only those of `allowed` (ascending); weights 1.

    With `allowed` the loss is the mean over those timesteps alone, which is what an expert trains on.
    Raises ValueError when no timestep is allowed.
    """

    def __init__(self, num_timesteps: int, allowed: Sequence[int] | None = None) -> None:
        values = np.arange(num_timesteps) if allowed is None else np.asarray(allowed, dtype=np.int64)
        if values.size == 0:
            raise ValueError("this expert has no timesteps: no step of the schedule has an SNR in its range")
        self._allowed = DeviceTable(values)

    def sample(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """See TimestepSampler."""
        allowed = self._allowed.on(u.device, torch.int64)
        position = (u * len(allowed)).long().clamp(max=len(allowed) - 1)
        return allowed[position], torch.ones_like(u, dtype=torch.float32)


class Emphasis:
    """Timesteps with the probabilities of a Categorical, and weights 1: what is visited more often also counts more."""

    def __init__(self, distribution: Categorical) -> None:
        self.distribution = distribution

    def sample(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """See TimestepSampler."""
        return self.distribution.sample(u)[0], torch.ones_like(u, dtype=torch.float32)


class LossSecondMoment:
    """p(t) proportional to the root mean square of the last losses seen at t (Nichol & Dhariwal 2021, section 3.3).

    Uniform until every timestep has `history` losses; then a share `uniform_prob` stays uniform.
    """

    def __init__(self, num_timesteps: int, history: int = 10, uniform_prob: float = 0.001) -> None:
        self.history = history
        self.uniform_prob = uniform_prob
        self._losses = torch.zeros(num_timesteps, history, dtype=torch.float64)
        self._counts = torch.zeros(num_timesteps, dtype=torch.int64)
        self._distribution: Categorical | None = None

    @property
    def warmed_up(self) -> bool:
        """Whether every timestep has its full history."""
        return bool((self._counts >= self.history).all())

    @property
    def probabilities(self) -> Tensor:
        """How likely each timestep is now, float64 (T,)."""
        return torch.from_numpy(self._probabilities())

    def sample(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """See TimestepSampler."""
        if self._distribution is None:
            self._distribution = Categorical(self._probabilities())
        return self._distribution.sample(u)

    def update(self, t: Tensor, losses: Tensor) -> None:
        """Record per-sample losses (N,) at t (N,), gathered from all ranks in rank order, so that ranks stay equal.

        Losses that are not finite are skipped: one of them would draw all timesteps to its own for ever.
        """
        for step, loss in zip(t.tolist(), losses.detach().cpu().double().tolist(), strict=True):  # MPS has no float64
            if not np.isfinite(loss):
                continue
            self._losses[step] = self._losses[step].roll(-1)
            self._losses[step, -1] = loss
            self._counts[step] = min(int(self._counts[step]) + 1, self.history)
        self._distribution = None

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of the recorded losses (T, history) and their counts (T,)."""
        return {"losses": self._losses.clone(), "counts": self._counts.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from `state_dict()`. Raises ValueError when it is of another schedule or history."""
        if state["losses"].shape != self._losses.shape:
            raise ValueError(
                f"the saved loss history has shape {tuple(state['losses'].shape)}, this run needs "
                f"{tuple(self._losses.shape)} (timesteps, history); keep the number of diffusion timesteps of the run"
            )
        self._losses = state["losses"].to("cpu", torch.float64, copy=True)
        self._counts = state["counts"].to("cpu", torch.int64, copy=True)
        self._distribution = None

    def _probabilities(self) -> Array:
        num_timesteps = len(self._counts)
        rms = self._losses.square().mean(1).sqrt().numpy()
        if not self.warmed_up or rms.sum() == 0:
            return np.full(num_timesteps, 1.0 / num_timesteps)
        mixed: Array = (1.0 - self.uniform_prob) * rms / rms.sum() + self.uniform_prob / num_timesteps
        return mixed


def log_snr_sampler(
    schedule: NoiseSchedule,
    distribution: Literal["logistic", "normal"],
    mean: float,
    scale: float,
    uniform_prob: float = 0.001,
) -> Categorical:
    """Timesteps whose log-SNR is logistic or normal with this mean and scale, cut to the schedule's range.

    A timestep's probability is the mass between the midpoints to its neighbours in log-SNR. In EDM's terms (Karras et
    al. 2022, table 1) log-SNR = -2 ln sigma, so its ln sigma ~ N(-1.2, 1.2^2) is mean 2.4, scale 2.4. A share
    `uniform_prob` stays uniform and bounds the weights. Raises ValueError for an unknown distribution, a scale that is
    not positive, or a schedule with fewer than two steps or a step without signal.
    """
    if distribution not in ("logistic", "normal"):
        raise ValueError(f"unknown log-SNR distribution {distribution!r}; known are logistic and normal")
    if scale <= 0:
        raise ValueError(f"the scale of the log-SNR distribution must be positive, got {scale}")
    if schedule.num_timesteps < 2 or not np.isfinite(schedule.log_snr).all():
        raise ValueError("a log-SNR timestep sampler needs two or more timesteps, all with some signal (beta < 1)")
    middles = (schedule.log_snr[1:] + schedule.log_snr[:-1]) / 2
    edges = np.concatenate([schedule.log_snr[:1], middles, schedule.log_snr[-1:]])
    z = torch.from_numpy((edges - mean) / scale)
    cumulative = (torch.special.ndtr(z) if distribution == "normal" else torch.sigmoid(z)).numpy()
    mass = cumulative[:-1] - cumulative[1:]
    if mass.sum() <= 0:
        raise ValueError(
            f"no log-SNR of the schedule ({edges[-1]:.3g}..{edges[0]:.3g}) is near {mean:g} at scale {scale:g}"
        )
    return Categorical((1.0 - uniform_prob) * mass / mass.sum() + uniform_prob / schedule.num_timesteps)


def restoration_sampler(schedule: NoiseSchedule) -> Emphasis:
    """The noise levels that a restorer works at, and a share of (almost) pure noise.

    With sigma = sqrt((1 - abar) / abar), ln sigma is normal around that of the distance to be restored: mean ln 0.12,
    deviation 1.6 (in log-SNR: mean 4.24, deviation 3.2). TOP_SHARE of the draws are even over the timesteps with an SNR
    below 1, where the answer is the mean: the one that a single step gives. Raises ValueError as log_snr_sampler.
    """
    normal = log_snr_sampler(schedule, "normal", mean=-2 * math.log(0.12), scale=3.2).probabilities
    top = (schedule.log_snr < 0).astype(np.float64)
    if top.sum() == 0:
        top[-1] = 1.0
    return Emphasis(Categorical((1.0 - TOP_SHARE) * normal + TOP_SHARE * top / top.sum()))


class SamplerFactory(Protocol):
    """(schedule, snr_splits) -> TimestepSampler; snr_splits are those between the experts, none by default."""

    def __call__(self, schedule: NoiseSchedule, snr_splits: Sequence[float] = ()) -> TimestepSampler: ...


TIMESTEP_SAMPLERS: Registry[SamplerFactory] = Registry("sampler_type")
"""What the option sampler_type may name."""

MOST_EXPERTS = 8
TOP_SHARE = 0.12  # of the draws of `restoration`, at pure noise


@TIMESTEP_SAMPLERS.register("uniform")
def _uniform(schedule: NoiseSchedule, snr_splits: Sequence[float] = ()) -> TimestepSampler:  # noqa: ARG001
    return Uniform(schedule.num_timesteps)


@TIMESTEP_SAMPLERS.register("loss-second-moment")
def _loss_second_moment(schedule: NoiseSchedule, snr_splits: Sequence[float] = ()) -> TimestepSampler:  # noqa: ARG001
    return LossSecondMoment(schedule.num_timesteps)


@TIMESTEP_SAMPLERS.register("log_normal")
def _log_normal(schedule: NoiseSchedule, snr_splits: Sequence[float] = ()) -> TimestepSampler:  # noqa: ARG001
    return log_snr_sampler(schedule, "normal", mean=2.4, scale=2.4)


@TIMESTEP_SAMPLERS.register("logistic")
def _logistic(schedule: NoiseSchedule, snr_splits: Sequence[float] = ()) -> TimestepSampler:  # noqa: ARG001
    return log_snr_sampler(schedule, "logistic", mean=0.0, scale=2.0)


@TIMESTEP_SAMPLERS.register("restoration")
def _restoration(schedule: NoiseSchedule, snr_splits: Sequence[float] = ()) -> TimestepSampler:  # noqa: ARG001
    return restoration_sampler(schedule)


def _uniform_split(schedule: NoiseSchedule, snr_splits: Sequence[float] = (), *, expert: int) -> TimestepSampler:
    """The timesteps of one expert alone. Raises ValueError for an expert that the splits do not make."""
    if expert > len(snr_splits) or not snr_splits:
        raise ValueError(
            f"sampler_type uniform_split_{expert} needs at least {max(expert, 1)} snr_splits, got {list(snr_splits)}"
        )
    return Uniform(schedule.num_timesteps, np.flatnonzero(expert_index(schedule, snr_splits) == expert).tolist())


for _expert in range(MOST_EXPERTS):
    TIMESTEP_SAMPLERS.register(f"uniform_split_{_expert}")(partial(_uniform_split, expert=_expert))
