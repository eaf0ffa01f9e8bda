"""What every corruption is: an object that maps (image, strength, rng) to a corrupted image of the same shape."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import ClassVar, Literal

import numpy as np

from ...config.registry import Registry

Subsampling = Literal["4:2:0", "4:2:2", "4:4:4", "random"]


class Stage(IntEnum):
    """Where a corruption happens between the scene and the file; `corruption_order: physical` sorts by it."""

    OPTICS = 0
    SENSOR = 1
    PROCESSING = 2
    RESIZE = 3
    COMPRESSION = 4


@dataclass(frozen=True)
class CorruptionSettings:
    """What a dataset's options say to all of its corruptions.

    `blur_scale` multiplies the widths (pixels) of all blurs. `jpeg_subsampling`: how a JPEG keeps colour; "random"
    draws one of the three for every image.
    """

    blur_scale: float = 1.0
    jpeg_subsampling: Subsampling = "4:2:0"


@dataclass(frozen=True)
class Corruption:
    """Base of all corruptions: float32 RGB (H, W, 3) in [0, 1] in and out, any aspect ratio, the argument unchanged.

    `stage`: its place in the physical order. `fixed_strength`: the strength that is told to the network where the
    effect does not depend on the one given; None where it does. `explains`: finding of data/findings -> the most that
    this corruption makes of it, in the finding's unit.
    """

    settings: CorruptionSettings = CorruptionSettings()
    stage: ClassVar[Stage] = Stage.PROCESSING
    fixed_strength: ClassVar[float | None] = None
    explains: ClassVar[Mapping[str, float]] = MappingProxyType({})

    def __call__(self, image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
        """A new image. `strength` in [0, 1], 1 the strongest. What is drawn from `rng` (an angle, a kernel, noise)
        must not depend on `strength`, so that one generator at two strengths gives the same damage, more or less of it.
        """
        raise NotImplementedError


CORRUPTIONS: Registry[type[Corruption]] = Registry("corruption")


@CORRUPTIONS.register("none")
@dataclass(frozen=True)
class NoCorruption(Corruption):
    """The image as it is; a choice for `random_corruptions`."""

    fixed_strength: ClassVar[float | None] = 0.0

    def __call__(self, image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:  # noqa: ARG002
        return image.copy()
