"""From an image to its low-resolution, corrupted version: which corruptions, how strong, in what order."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ...images.files import resample, resize_area
from .all import CORRUPTIONS, Corruption, CorruptionSettings, Stage
from .options import CorruptionOptions

# The generator of a purpose. Each corruption gets its own, so that the order changes no draw.
Generators = Callable[[str], np.random.Generator]


@dataclass(frozen=True)
class Use:
    """One corruption of one image: how strong, and the purpose that its draws are derived from."""

    corruption: Corruption
    strength: float
    purpose: str


class CorruptionPipeline:
    """The corruptions of a dataset. Raises ConfigError for unknown names.

    Nothing is drawn but from the generators given: an image depends on (image, entropy, generators) alone.
    """

    def __init__(self, options: CorruptionOptions) -> None:
        settings = CorruptionSettings(options.corruption_blur_scale, options.corruption_jpeg_subsampling)
        self.options = options
        self.fixed = [CORRUPTIONS.get(name)(settings) for name in options.fixed_corruptions]
        self.random = [CORRUPTIONS.get(name)(settings) for name in options.random_corruptions]
        self._resize = CORRUPTIONS.get("resize")(settings)

    def strengths(self, rng: np.random.Generator) -> np.ndarray:
        """float32 (K,): a drawn strength for each fixed corruption, in listed order; its own where it has only one, and
        0 where `clean_probability` leaves it out."""
        drawn = draw_strengths(len(self.fixed), rng, self.options.cosine_bias)
        own = [corruption.fixed_strength for corruption in self.fixed]
        strengths = np.array([d if o is None else o for d, o in zip(drawn, own, strict=True)], np.float32)
        chance = self.options.clean_probability
        return np.where(rng.random(len(strengths)) < chance, np.float32(0), strengths) if chance else strengths

    def low_res(self, hq: np.ndarray, scale: int, entropy: np.ndarray, generator: Generators) -> np.ndarray:
        """float32 (H / scale, W / scale, 3) from hq, float32 (H, W, 3) in [0, 1], with the fixed corruptions at the
        strengths `entropy` (K,), in listed order."""
        uses, at_full_size = self.plan(entropy, generator)
        height, width = (side // scale for side in hq.shape[:2])
        image = _applied(hq, uses[:at_full_size], generator)
        return _applied(self._downsampled(image, height, width, generator), uses[at_full_size:], generator)

    def plan(self, entropy: np.ndarray, generator: Generators) -> tuple[list[Use], int]:
        """What is applied, in order, and how many of it before the downsampling."""
        first = self._one_pass(entropy, generator, "")
        chance = self.options.second_order_probability
        uses = first
        if chance and generator("second order").random() < chance:
            strength = float(draw_strengths(1, generator("second order resize"), self.options.cosine_bias)[0])
            again = self._one_pass(entropy, generator, "again ")
            uses = [*first, Use(self._resize, strength, "resize between"), *again]
        if not self.options.corrupt_before_downsize:
            return uses, 0
        if self.options.corruption_order == "listed":
            return uses, len(uses)
        return uses, sum(use.corruption.stage < Stage.RESIZE for use in first)

    def _one_pass(self, entropy: np.ndarray, generator: Generators, prefix: str) -> list[Use]:
        strengths = entropy.tolist()
        fixed = [
            Use(corruption, strength, f"{prefix}corrupt {index}")
            for index, (corruption, strength) in enumerate(zip(self.fixed, strengths, strict=True))
            if strength > 0 or not self.options.clean_probability
        ]
        uses = [*self._picked(generator, prefix), *fixed]
        if self.options.corruption_order == "physical":
            uses.sort(key=lambda use: use.corruption.stage)
        return uses

    def _picked(self, generator: Generators, prefix: str) -> list[Use]:
        """The random corruptions of one pass."""
        chances, count = self.options.random_probabilities, self.options.num_corrupts_per_image
        if not chances and not count:
            return []
        rng = generator(f"{prefix}random")
        if chances:
            numbers = np.flatnonzero(rng.random(len(chances)) < np.array(chances))
        else:
            numbers = rng.integers(0, len(self.random), count)
        strengths = draw_strengths(len(numbers), rng, self.options.cosine_bias).tolist()
        return [
            Use(self.random[int(number)], strength, f"{prefix}random {index}")
            for index, (number, strength) in enumerate(zip(numbers, strengths, strict=True))
        ]

    def _downsampled(self, image: np.ndarray, height: int, width: int, generator: Generators) -> np.ndarray:
        kernels = self.options.downsample_kernels
        kernel = kernels[0] if len(kernels) == 1 else kernels[int(generator("kernel").integers(len(kernels)))]
        if kernel == "area" or image.shape[:2] == (height, width):
            return resize_area(image, height, width)
        return resample(image, height, width, kernel)


def draw_strengths(count: int, rng: np.random.Generator, cosine_bias: bool) -> np.ndarray:
    """float32 (count,) in [0, 1]: 1 - cos(u * pi / 2), which favours clean images, or u itself; u uniform."""
    uniform = rng.random(count)
    return (1.0 - np.cos(uniform * (math.pi / 2)) if cosine_bias else uniform).astype(np.float32)


def _applied(image: np.ndarray, uses: Sequence[Use], generator: Generators) -> np.ndarray:
    for use in uses:
        image = use.corruption(image, use.strength, generator(use.purpose))
    return image
