"""Resolution lost: shrunk and enlarged back to the same size, so that no other corruption has to know of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np

from ...images.files import KERNELS, resample
from .base import CORRUPTIONS, Corruption, Stage

# OpenCV's kernels take the nearest 1 to 64 pixels whatever the factor, so a shrunk image is aliased.
ALIASING_KERNELS = (cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4)


@CORRUPTIONS.register("resize")
@dataclass(frozen=True)
class Resize(Corruption):
    """Shrunk by 1 + 3 * strength and enlarged back, as good software does it (antialiased). Each way with a drawn
    kernel: area, bilinear, bicubic or lanczos. Sides are rounded, at least 1 pixel."""

    stage: ClassVar[Stage] = Stage.RESIZE
    explains: ClassVar[Mapping[str, float]] = {"enlarged": 4.0}

    def __call__(self, image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
        down, up = (KERNELS[int(number)] for number in rng.integers(0, len(KERNELS), 2))
        height, width = image.shape[:2]
        small = _smaller(height, width, 1.0 + 3.0 * strength)
        if small == (height, width):
            return image.copy()
        return resample(resample(image, *small, down), height, width, up)


@CORRUPTIONS.register("lq_resampling")
@dataclass(frozen=True)
class LqResampling(Corruption):
    """Shrunk by up to 2 (1 + strength) without antialiasing and enlarged back, both with one drawn kernel: nearest,
    bilinear, bicubic or lanczos. Sides are rounded, at least 1 pixel."""

    stage: ClassVar[Stage] = Stage.RESIZE
    factor: ClassVar[float] = 2.0
    explains: ClassVar[Mapping[str, float]] = {"enlarged": factor}

    def __call__(self, image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
        kernel = ALIASING_KERNELS[int(rng.integers(len(ALIASING_KERNELS)))]
        height, width = image.shape[:2]
        small = _smaller(height, width, 1.0 + (self.factor - 1.0) * strength)
        if small == (height, width):
            return image.copy()
        # OpenCV wants the width first.
        shrunk = cv2.resize(image, small[::-1], interpolation=kernel)
        return np.clip(cv2.resize(shrunk, (width, height), interpolation=kernel), 0.0, 1.0)


@CORRUPTIONS.register("lq_resampling4x")
@dataclass(frozen=True)
class LqResampling4x(LqResampling):
    """As lq_resampling, shrunk by up to 4 (1 + 3 * strength)."""

    factor: ClassVar[float] = 4.0
    explains: ClassVar[Mapping[str, float]] = {"enlarged": factor}


def _smaller(height: int, width: int, factor: float) -> tuple[int, int]:
    return max(1, round(height / factor)), max(1, round(width / factor))
