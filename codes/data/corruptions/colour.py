"""Changes of colour and tone."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...images.luma import luma_of
from .base import CORRUPTIONS, Corruption

JITTER = 0.5  # length of color_jitter's vector at strength 1


@CORRUPTIONS.register("color_quantization")
@dataclass(frozen=True)
class ColorQuantization(Corruption):
    """Fewer levels a channel: 256 at strength 0 (8 bits), 8 at strength 1, geometrically between; rounded, so the mean
    brightness stays."""

    explains: ClassVar[Mapping[str, float]] = {"levels": 256 / 8, "palette": math.inf}

    def __call__(self, image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:  # noqa: ARG002
        steps = np.float32(round(256.0 * (8.0 / 256.0) ** strength) - 1)
        return np.rint(np.clip(image, 0.0, 1.0) * steps) / steps


@CORRUPTIONS.register("color_jitter")
@dataclass(frozen=True)
class ColorJitter(Corruption):
    """A wrong white balance, exposure, contrast and saturation, all in one.

    The logarithms of the three channels' gains, of the contrast (around the mean) and of the saturation are a vector
    of length 0.5 * strength in a drawn direction: whatever is drawn, the strength says how far the colours are off.
    """

    def __call__(self, image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
        direction = rng.standard_normal(5)
        factors = np.exp(JITTER * strength * direction / np.linalg.norm(direction)).astype(np.float32)
        balanced = image * factors[:3]
        mean = balanced.mean(dtype=np.float64).astype(np.float32)
        contrasted = balanced + (balanced - mean) * (factors[3] - np.float32(1.0))
        return np.clip(_saturated(contrasted, factors[4]), 0.0, 1.0)


@CORRUPTIONS.register("saturation")
@dataclass(frozen=True)
class Saturation(Corruption):
    """Colours too pale (down to gray) or too strong (up to twice as far from gray), which of the two is drawn."""

    def __call__(self, image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
        sign = 1.0 if rng.random() < 0.5 else -1.0
        return np.clip(_saturated(image, np.float32(1.0 + sign * strength)), 0.0, 1.0)


@CORRUPTIONS.register("greyscale")
@dataclass(frozen=True)
class Greyscale(Corruption):
    """Black and white (BT.601 luma on all channels) at every strength; the network is told 1."""

    fixed_strength: ClassVar[float | None] = 1.0

    def __call__(self, image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:  # noqa: ARG002
        return np.clip(np.repeat(luma_of(image), 3, axis=2), 0.0, 1.0)


def _saturated(image: np.ndarray, factor: np.float32) -> np.ndarray:
    """Each pixel moved away from (factor above 1) or towards (below 1) the gray of its own luma."""
    luma = luma_of(image)
    return image + (image - luma) * (factor - np.float32(1.0))
