"""What every finding is: a function of pieces of an image that says what it saw, or None."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ...config.registry import Registry
from ...images.luma import luma_of

MAD = 0.6745  # of a Gaussian's deviation is its median absolute deviation
WHITE = 255.0  # values of pixels are counted in steps of 8 bits


@dataclass(frozen=True)
class Found:
    """`amount` is in the finding's own unit, in which `Corruption.explains` says how much a corruption makes of it."""

    amount: float
    words: str


Finding = Callable[[Sequence[np.ndarray]], Found | None]
"""Takes pieces of one image, float32 RGB (h, w, 3) in [0, 1], each without gaps, of equal or different sizes."""

FINDINGS: Registry[Finding] = Registry("finding")


def gray(piece: np.ndarray) -> np.ndarray:
    """float32 (h, w) luma in [0, 255]."""
    return np.ascontiguousarray(luma_of(piece)[..., 0] * np.float32(WHITE))
