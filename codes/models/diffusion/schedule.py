"""Noise schedules: betas, the tables that follow from them, and respacing.

B batch, T timesteps of the schedule in use. Symbols as in Ho et al. 2020: alpha = 1 - beta and abar (`alphas_cumprod`)
is the cumulative product of alpha. Tables are float64: in float32 a product over 4000 steps is wrong by 1e-3 at t = 0.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .respacing import Karras, Respacing, karras_count, kept_timesteps

Array = npt.NDArray[np.float64]
FIRST_BETA = 0.0001  # of linear schedules at 1000 steps


class DeviceTable:
    """One number per timestep, kept in float64 on the host and copied once to each device that asks."""

    def __init__(self, values: npt.NDArray[np.float64] | npt.NDArray[np.int64]) -> None:
        self.values = values
        self._copies: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def on(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        """The whole table (T,) on `device`; cast on the host, since some devices have no float64."""
        key = (device, dtype)
        if key not in self._copies:
            self._copies[key] = torch.from_numpy(self.values.copy()).to(dtype).to(device)
        return self._copies[key]

    def gather(self, t: Tensor, like: Tensor) -> Tensor:
        """Values at t (B,), shaped (B, 1, ...) to broadcast over `like`; float32, or float64 where `like` is."""
        dtype = torch.promote_types(like.dtype, torch.float32)
        return self.on(like.device, dtype)[t.to(like.device)].reshape(-1, *[1] * (like.ndim - 1))


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """An immutable discrete noise schedule.

    betas: float64 (T,) in (0, 1]. timesteps: int64 (T,), the index of each step on the original schedule, which is what
    a network is told. original_num_timesteps: the length of that schedule.
    Raises ValueError for betas that are no schedule.
    """

    betas: Array
    timesteps: npt.NDArray[np.int64]
    original_num_timesteps: int
    _device_tables: dict[str, DeviceTable] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        betas = np.array(self.betas, dtype=np.float64)
        if betas.ndim != 1 or betas.size == 0:
            raise ValueError(f"betas must be one non-empty row of numbers, got an array of shape {betas.shape}")
        if not bool(np.all((betas > 0) & (betas <= 1))):
            raise ValueError(f"betas must lie in (0, 1], got {betas.min():g}..{betas.max():g}; use smaller betas")
        betas.flags.writeable = False
        object.__setattr__(self, "betas", betas)

    @classmethod
    def from_betas(cls, betas: Sequence[float] | Array) -> "NoiseSchedule":
        """A schedule of explicit betas (T,) in (0, 1]."""
        values = np.asarray(betas, dtype=np.float64)
        return cls(values, np.arange(values.size, dtype=np.int64), values.size)

    @classmethod
    def named(cls, name: str, num_timesteps: int) -> "NoiseSchedule":
        """A schedule by name: 'linear', 'linearX' or 'cosine'.

        linear runs from 0.0001 to 0.02 (Ho et al. 2020), linearX to X; cosine is Nichol & Dhariwal 2021, eq. 17.
        Linear betas scale with 1000 / num_timesteps, so that the noise at the end does not depend on the step count.
        Raises ValueError for an unknown name, for an X below 0.0001, and for so few steps that a beta leaves (0, 1].
        """
        if num_timesteps < 1:
            raise ValueError(f"num_diffusion_timesteps must be at least 1, got {num_timesteps}")
        if name == "cosine":
            return cls.from_betas(_cosine_betas(num_timesteps))
        linear = re.fullmatch(r"linear(\d*\.?\d+)?", name)
        if linear is None:
            raise ValueError(
                f"unknown beta schedule {name!r}; known are linear, linearX (such as linear0.025) and cosine"
            )
        return cls.from_betas(_linear_betas(name, float(linear[1] or 0.02), num_timesteps))

    def respaced(self, spec: Respacing, stop_at_snr: float | None = None) -> "NoiseSchedule":
        """The schedule that visits only the steps `spec` keeps (`kept_timesteps`, `Karras`), each with the same abar.

        stop_at_snr: `spec` is spread over the steps of at most this SNR alone. A sampler's last step then comes before
        the finest detail is drawn, and returns the mean of what that detail could be.
        Raises ValueError when the counts do not fit, or no step has so low an SNR.
        """
        first = 0 if stop_at_snr is None else int(np.count_nonzero(self.snr > stop_at_snr))
        if first == self.num_timesteps:
            raise ValueError(
                f"stop_at_snr {stop_at_snr:g} leaves no step: the lowest SNR is {self.snr[-1]:.3g}; raise it"
            )
        count = karras_count(spec)
        karras = spec if isinstance(spec, Karras) else Karras(count) if count else None
        steps = karras.kept(self.sigma[first:]) if karras else kept_timesteps(spec, self.num_timesteps - first)
        kept = [first + step for step in steps]
        abar = self.alphas_cumprod[kept]
        betas = 1.0 - abar / np.append(1.0, abar[:-1])
        return NoiseSchedule(betas, self.timesteps[kept], self.original_num_timesteps)

    @property
    def num_timesteps(self) -> int:
        """T, the number of steps of this schedule."""
        return len(self.betas)

    def gather(self, table: str, t: Tensor, like: Tensor) -> Tensor:
        """Values of the table attribute named `table` at t (B,), as (B, 1, 1, 1) for a 4-D `like`, on its device.

        float32, or float64 where `like` is float64. The table is copied to a device once, not per call.
        """
        return self._device_table(table).gather(t, like)

    def original_timesteps(self, t: Tensor) -> Tensor:
        """t (B,) on this schedule -> int64 (B,) on the original one, as a network receives it."""
        return self._device_table("timesteps").on(t.device, torch.int64)[t]

    def _device_table(self, name: str) -> DeviceTable:
        if name not in self._device_tables:
            self._device_tables[name] = DeviceTable(getattr(self, name))
        return self._device_tables[name]

    @cached_property
    def alphas_cumprod(self) -> Array:
        return np.cumprod(1.0 - self.betas, dtype=np.float64)

    @cached_property
    def alphas_cumprod_prev(self) -> Array:
        return np.append(1.0, self.alphas_cumprod[:-1])

    @cached_property
    def sqrt_alphas_cumprod(self) -> Array:
        return np.sqrt(self.alphas_cumprod)

    @cached_property
    def sqrt_one_minus_alphas_cumprod(self) -> Array:
        return np.sqrt(1.0 - self.alphas_cumprod)

    @cached_property
    def snr(self) -> Array:
        """Signal-to-noise ratio abar / (1 - abar)."""
        return self.alphas_cumprod / (1.0 - self.alphas_cumprod)

    @cached_property
    def log_snr(self) -> Array:
        with np.errstate(divide="ignore"):  # the last step may be pure noise: -inf
            return np.log(self.snr)

    @cached_property
    def sigma(self) -> Array:
        """Noise-to-signal ratio sqrt((1 - abar) / abar), the sigma of EDM; it rises with t, to inf without signal."""
        with np.errstate(divide="ignore"):
            return np.sqrt((1.0 - self.alphas_cumprod) / self.alphas_cumprod)

    @cached_property
    def posterior_variance(self) -> Array:
        """Variance of q(x_{t-1} | x_t, x_start), Ho et al. 2020, eq. 7. Zero at t = 0."""
        return self.betas * (1.0 - self.alphas_cumprod_prev) / (1.0 - self.alphas_cumprod)

    @cached_property
    def posterior_log_variance_clipped(self) -> Array:
        """Its logarithm; t = 0, where it is -inf, borrows the value of t = 1."""
        return np.log(np.append(self._first_variance, self.posterior_variance[1:]))

    @cached_property
    def log_betas(self) -> Array:
        return np.log(self.betas)

    @cached_property
    def fixed_large_log_variance(self) -> Array:
        """log beta, except that t = 0 keeps the posterior's value, which gives better likelihoods (Ho et al. 2020)."""
        return np.log(np.append(self._first_variance, self.betas[1:]))

    @property
    def _first_variance(self) -> float:
        # A schedule of one step has no t = 1 to borrow from; beta is the only positive variance it knows.
        return float(self.posterior_variance[1] if self.num_timesteps > 1 else self.betas[0])

    @cached_property
    def posterior_mean_coef1(self) -> Array:
        """Weight of x_start in the mean of q(x_{t-1} | x_t, x_start), Ho et al. 2020, eq. 7."""
        return self.betas * np.sqrt(self.alphas_cumprod_prev) / (1.0 - self.alphas_cumprod)

    @cached_property
    def posterior_mean_coef2(self) -> Array:
        """Weight of x_t in the same mean."""
        return (1.0 - self.alphas_cumprod_prev) * np.sqrt(1.0 - self.betas) / (1.0 - self.alphas_cumprod)


def expert_index(schedule: NoiseSchedule, splits: Sequence[float]) -> npt.NDArray[np.int64]:
    """Which expert serves each step, int64 (T,): expert k takes splits[k-1] >= SNR > splits[k], 0 the cleanest.

    Raises ValueError unless splits are positive and strictly descending.
    """
    descending = all(above > below for above, below in pairwise(splits))
    if not splits or not descending or splits[-1] <= 0:
        raise ValueError(f"snr_splits must be positive and strictly descending, got {list(splits)}")
    return (schedule.snr[:, None] <= np.asarray(splits)[None, :]).sum(1).astype(np.int64)


def _linear_betas(name: str, last: float, num_timesteps: int) -> Array:
    scale = 1000.0 / num_timesteps
    if last <= 0 or scale * last > 1:
        fewest = math.ceil(1000 * last)
        advice = (
            f"give num_diffusion_timesteps at least {fewest} and respace, or use cosine" if last > 0 else "use X > 0"
        )
        raise ValueError(
            f"schedule {name!r} with {num_timesteps} steps ends in beta {scale * last:g}, not in (0, 1]; {advice}"
        )
    if last < FIRST_BETA:
        raise ValueError(
            f"schedule {name!r} would fall: its betas begin with {FIRST_BETA:g}; give X of at least that (0.02, say)"
        )
    betas: Array = np.linspace(scale * FIRST_BETA, scale * last, num_timesteps, dtype=np.float64)
    return betas


def _cosine_betas(num_timesteps: int) -> Array:
    def abar(u: float) -> float:
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    # 0.999 keeps the last step from being singular (Nichol & Dhariwal 2021, section 3.2).
    steps = range(num_timesteps)
    return np.array([min(1 - abar((i + 1) / num_timesteps) / abar(i / num_timesteps), 0.999) for i in steps])
