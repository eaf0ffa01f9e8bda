"""sRGB's curve between what files store and light (IEC 61966-2-1)."""

from typing import TypeVar

import numpy as np
import numpy.typing as npt

Values = TypeVar("Values", npt.NDArray[np.float32], npt.NDArray[np.float64])


def linear_of(stored: Values) -> Values:
    """Light in [0, 1] of stored values; both of the same dtype and shape. Negative values stay on the straight part."""
    curved = ((np.maximum(stored, 0.0) + 0.055) / 1.055) ** 2.4
    return np.where(stored <= 0.04045, stored / 12.92, curved).astype(stored.dtype)


def srgb_of(light: Values) -> Values:
    """The inverse of `linear_of`."""
    curved = 1.055 * np.maximum(light, 0.0) ** (1 / 2.4) - 0.055
    return np.where(light <= 0.0031308, 12.92 * light, curved).astype(light.dtype)
