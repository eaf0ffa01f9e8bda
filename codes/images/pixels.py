"""Samples of image files as numbers: integers to float32 in [0, 1] and back."""

import numpy as np


def to_float(samples: np.ndarray) -> np.ndarray:
    """uint8 or uint16 samples to float32 in [0, 1], same shape."""
    return samples.astype(np.float32) * np.float32(1.0 / np.iinfo(samples.dtype).max)


def quantise(values: np.ndarray, bit_depth: int = 8) -> np.ndarray:
    """float in [0, 1] to uint8 or uint16, rounded; clipped first, so nothing wraps around. NaN becomes 0."""
    dtype, top = (np.uint16, 65535) if bit_depth == 16 else (np.uint8, 255)
    # fmax and fmin pass over NaN, unlike clip.
    return np.rint(np.fmin(np.fmax(values, 0.0), 1.0) * np.float32(top)).astype(dtype)
