"""Lossy files: JPEG, JPEG twice, WebP. The image is clipped and quantised to 8 bits before it is encoded."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...images.codecs import SUBSAMPLINGS, jpeg_round_trip, webp_round_trip
from .base import CORRUPTIONS, Corruption, CorruptionSettings, Stage

BLOCK = 8  # pixels; a JPEG's transform works on squares of this side


@CORRUPTIONS.register("jpeg")
@dataclass(frozen=True)
class Jpeg(Corruption):
    """JPEG at quality int((1 - strength) * quality_range) + quality_lowest: strength 0 is not the identity."""

    stage: ClassVar[Stage] = Stage.COMPRESSION
    quality_lowest: ClassVar[int] = 10
    quality_range: ClassVar[int] = 20

    def __call__(self, image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
        return jpeg_round_trip(image, self.quality(strength), _subsampling(self.settings, rng))

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


@CORRUPTIONS.register("jpeg_twice")
@dataclass(frozen=True)
class JpegTwice(Corruption):
    """Saved as a JPEG, moved against the block grid (a crop, a screenshot), saved again.

    Both at quality int((1 - strength) * 80) + 15. The shift of 0 to 7 pixels each way, never none, is drawn; the
    outermost pixels are repeated for it and cut off afterwards, so the picture stays where it was.
    """

    stage: ClassVar[Stage] = Stage.COMPRESSION

    def __call__(self, image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
        quality = int((1.0 - strength) * 80) + 15
        down, right = divmod(int(rng.integers(1, BLOCK * BLOCK)), BLOCK)
        once = jpeg_round_trip(image, quality, _subsampling(self.settings, rng))
        shifted = np.pad(once, ((down, 0), (right, 0), (0, 0)), mode="edge")
        twice = jpeg_round_trip(shifted, quality, _subsampling(self.settings, rng))
        return np.ascontiguousarray(twice[down:, right:])


@CORRUPTIONS.register("webp")
@dataclass(frozen=True)
class Webp(Corruption):
    """Lossy WebP (always 4:2:0) at quality int((1 - strength) * 95) + 5."""

    stage: ClassVar[Stage] = Stage.COMPRESSION

    def __call__(self, image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:  # noqa: ARG002
        return webp_round_trip(image, int((1.0 - strength) * 95) + 5)


def _subsampling(settings: CorruptionSettings, rng: np.random.Generator) -> str:
    if settings.jpeg_subsampling != "random":
        return settings.jpeg_subsampling
    return list(SUBSAMPLINGS)[int(rng.integers(len(SUBSAMPLINGS)))]
