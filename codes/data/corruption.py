"""Corruptions with a known strength: name -> class whose objects map (image, strength, rng) to a corrupted image.

An image is float32 RGB (H, W, 3) in [0, 1]; a strength is in [0, 1], 1 the strongest. The argument is never changed.
To add one: a frozen dataclass below `Corruption`, decorated with `@CORRUPTIONS.register("its-name")`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np

from ..utils.images import jpeg_round_trip
from ..utils.registry import Registry


@dataclass(frozen=True)
class CorruptionSettings:
    """What a dataset's options say to all of its corruptions. `blur_scale` multiplies the blur's sigma."""

    blur_scale: float = 1.0


@dataclass(frozen=True)
class Corruption:
    """Base of all corruptions. `uses_strength`: False where every strength has the same effect."""

    settings: CorruptionSettings = CorruptionSettings()
    uses_strength: ClassVar[bool] = True

    def __call__(self, image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
        """A new image of the same shape, in [0, 1]."""
        raise NotImplementedError


CORRUPTIONS: Registry[type[Corruption]] = Registry("corruption")


@CORRUPTIONS.register("none")
@dataclass(frozen=True)
class NoCorruption(Corruption):
    """The image as it is; a choice for `random_corruptions`."""

    uses_strength: ClassVar[bool] = False

    def __call__(self, image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:  # noqa: ARG002
        return image.copy()


@CORRUPTIONS.register("jpeg")
@dataclass(frozen=True)
class Jpeg(Corruption):
    """JPEG, 4:2:0, at quality int((1 - strength) * quality_range) + quality_lowest: strength 0 is not the identity."""

    quality_lowest: ClassVar[int] = 10
    quality_range: ClassVar[int] = 20

    def __call__(self, image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:  # noqa: ARG002
        return jpeg_round_trip(image, self.quality(strength))

    @classmethod
    def quality(cls, strength: float) -> int:
        """JPEG quality, 1..100, of a strength."""
        return int((1.0 - strength) * cls.quality_range) + cls.quality_lowest


@CORRUPTIONS.register("jpeg-low")
@dataclass(frozen=True)
class JpegLow(Jpeg):
    """JPEG at quality 15 to 25."""

    quality_lowest: ClassVar[int] = 15
    quality_range: ClassVar[int] = 10


@CORRUPTIONS.register("jpeg-medium")
@dataclass(frozen=True)
class JpegMedium(Jpeg):
    """JPEG at quality 23 to 48."""

    quality_lowest: ClassVar[int] = 23
    quality_range: ClassVar[int] = 25


@CORRUPTIONS.register("jpeg-broad")
@dataclass(frozen=True)
class JpegBroad(Jpeg):
    """JPEG at quality 15 to 75."""

    quality_lowest: ClassVar[int] = 15
    quality_range: ClassVar[int] = 60


@CORRUPTIONS.register("jpeg-normal")
@dataclass(frozen=True)
class JpegNormal(Jpeg):
    """JPEG at quality 47 to 82."""

    quality_lowest: ClassVar[int] = 47
    quality_range: ClassVar[int] = 35


@CORRUPTIONS.register("gaussian_blur")
@dataclass(frozen=True)
class GaussianBlur(Corruption):
    """Gaussian blur with sigma = 1.5 * strength * blur_scale pixels; strength 0 is the exact identity."""

    def __call__(self, image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:  # noqa: ARG002
        sigma = 1.5 * strength * self.settings.blur_scale
        if sigma == 0:
            return image.copy()
        # The outermost pixel is repeated: mirroring fails on images that are smaller than the kernel.
        blurred = cv2.GaussianBlur(image, (0, 0), sigmaX=sigma, sigmaY=sigma, borderType=cv2.BORDER_REPLICATE)
        return np.clip(blurred, 0.0, 1.0)


@CORRUPTIONS.register("noise")
@dataclass(frozen=True)
class Noise(Corruption):
    """Zero-mean uniform noise of amplitude 6 * strength / 255, independent per pixel and channel."""

    def __call__(self, image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
        return _add_uniform_noise(image, 6.0 * strength / 255.0, rng)


@CORRUPTIONS.register("noise-5")
@dataclass(frozen=True)
class Noise5(Corruption):
    """Zero-mean uniform noise of amplitude 5/255 at every strength."""

    uses_strength: ClassVar[bool] = False

    def __call__(self, image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:  # noqa: ARG002
        return _add_uniform_noise(image, 5.0 / 255.0, rng)


def _add_uniform_noise(image: np.ndarray, amplitude: float, rng: np.random.Generator) -> np.ndarray:
    noise = (rng.random(image.shape, np.float32) * 2.0 - 1.0) * np.float32(amplitude)
    return np.clip(image + noise, 0.0, 1.0)


def draw_strengths(count: int, rng: np.random.Generator, cosine_bias: bool) -> np.ndarray:
    """float32 (count,) in [0, 1]: 1 - cos(u * pi / 2), which favours clean images, or u itself; u uniform."""
    uniform = rng.random(count)
    return (1.0 - np.cos(uniform * (math.pi / 2)) if cosine_bias else uniform).astype(np.float32)


def apply_corruptions(
    image: np.ndarray, corruptions: Sequence[Corruption], strengths: Sequence[float], rng: np.random.Generator
) -> np.ndarray:
    """Apply each corruption at its strength, in the order given, to a float32 RGB (H, W, 3) image in [0, 1]."""
    for corruption, strength in zip(corruptions, strengths, strict=True):
        image = corruption(image, float(strength), rng)
    return image
