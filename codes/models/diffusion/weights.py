"""Weights of the training error |x_start - predicted x_start|^2 as tables over a schedule."""

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np

from .schedule import Array, NoiseSchedule

WeightSchedule = Literal["uniform", "sqrt_snr", "snr", "snr+1", "truncated_snr", "p2", "min_snr", "clamped_snr"]

_PLAIN: dict[str, Callable[[Array], Array]] = {
    "uniform": np.ones_like,
    "sqrt_snr": np.sqrt,
    "snr": np.copy,
    "snr+1": lambda snr: snr + 1.0,
    "truncated_snr": lambda snr: np.maximum(snr, 1.0),  # Salimans & Ho 2022, section 4
    "p2": lambda snr: snr / np.sqrt(snr + 1.0),  # SNR * sqrt(1 - abar), the p2 of PatchDiffusion
}


def loss_weights(
    name: WeightSchedule, schedule: NoiseSchedule, weight_clamp: tuple[float, float], min_snr_gamma: float
) -> Array:
    """Weight of the x_start-space squared error at every timestep, float64 (T,).

    min_snr is min(SNR, gamma) (Hang et al. 2023, Min-SNR-gamma). On the error of a network that predicts eps this is
    min(SNR, gamma) / SNR and on that of v min(SNR, gamma) / (SNR + 1), the paper's conversions, because
    |eps error|^2 = SNR |x_start error|^2 and |v error|^2 = (SNR + 1) |x_start error|^2.
    clamped_snr is SNR clamped to weight_clamp. Raises ValueError for an unknown name or impossible bounds.
    """
    if name == "min_snr":
        if min_snr_gamma <= 0:
            raise ValueError(f"min_snr_gamma must be positive, got {min_snr_gamma}")
        return np.minimum(schedule.snr, min_snr_gamma)
    if name == "clamped_snr":
        low, high = weight_clamp
        if not 0 <= low <= high or high == 0:
            raise ValueError(f"weight_clamp must be two numbers with 0 <= low <= high and high > 0, got {weight_clamp}")
        return np.clip(schedule.snr, low, high)
    if name not in _PLAIN:
        raise ValueError(f"unknown weight_schedule {name!r}; known are {', '.join(get_args(WeightSchedule))}")
    return _PLAIN[name](schedule.snr)
