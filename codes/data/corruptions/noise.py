"""Noise, always with mean zero before the clip to [0, 1]."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...images.luma import luma_of
from .base import CORRUPTIONS, Corruption, Stage

GAUSSIAN_SIGMA = 30.0 / 255.0  # at strength 1, the most that Real-ESRGAN (Wang et al. 2021) draws
# Photons at which white is called noiseless: far below the step of 16 bits, and far from the sampler's limit of 9e18.
MOST_PHOTONS = 1e12
EXPLAINS = {"noise": 255 * GAUSSIAN_SIGMA}
# ITU-R BT.601.


@CORRUPTIONS.register("noise")
@dataclass(frozen=True)
class Noise(Corruption):
    """Uniform noise of amplitude 6 * strength / 255, independent per pixel and channel."""

    stage: ClassVar[Stage] = Stage.SENSOR
    explains: ClassVar[Mapping[str, float]] = {"noise": 6 / math.sqrt(3)}

    def __call__(self, image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
        return _add_uniform_noise(image, 6.0 * strength / 255.0, rng)


@CORRUPTIONS.register("noise-5")
@dataclass(frozen=True)
class Noise5(Corruption):
    """Uniform noise of amplitude 5/255 at every strength; the network is told 1."""

    stage: ClassVar[Stage] = Stage.SENSOR
    explains: ClassVar[Mapping[str, float]] = {"noise": 5 / math.sqrt(3)}
    fixed_strength: ClassVar[float | None] = 1.0

    def __call__(self, image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:  # noqa: ARG002
        return _add_uniform_noise(image, 5.0 / 255.0, rng)


@CORRUPTIONS.register("gaussian_noise")
@dataclass(frozen=True)
class GaussianNoise(Corruption):
    """Gaussian noise of standard deviation 30 * strength / 255, independent per pixel and channel."""

    stage: ClassVar[Stage] = Stage.SENSOR
    explains: ClassVar[Mapping[str, float]] = EXPLAINS
    channels: ClassVar[int] = 3

    def __call__(self, image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
        noise = rng.standard_normal((*image.shape[:2], self.channels), np.float32)
        return np.clip(image + noise * np.float32(GAUSSIAN_SIGMA * strength), 0.0, 1.0)


@CORRUPTIONS.register("gaussian_noise_gray")
@dataclass(frozen=True)
class GaussianNoiseGray(GaussianNoise):
    """Gaussian noise of standard deviation 30 * strength / 255, the same on all three channels of a pixel."""

    channels: ClassVar[int] = 1


@CORRUPTIONS.register("poisson_noise")
@dataclass(frozen=True)
class PoissonNoise(Corruption):
    """Photon noise, stronger in bright parts: standard deviation sqrt(value) * 30 * strength / 255, so white counts
    (255 / (30 * strength))^2 photons. Independent per pixel and channel."""

    stage: ClassVar[Stage] = Stage.SENSOR
    explains: ClassVar[Mapping[str, float]] = EXPLAINS

    def __call__(self, image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
        return np.clip(_counted(image, strength, rng), 0.0, 1.0)


@CORRUPTIONS.register("poisson_noise_gray")
@dataclass(frozen=True)
class PoissonNoiseGray(Corruption):
    """As poisson_noise, but the noise of a pixel's luma is added to all three of its channels."""

    stage: ClassVar[Stage] = Stage.SENSOR
    explains: ClassVar[Mapping[str, float]] = EXPLAINS

    def __call__(self, image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
        luma = luma_of(image)
        return np.clip(image + (_counted(luma, strength, rng) - luma), 0.0, 1.0)


def _counted(values: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Photon counts of values in [0, 1], in units of white's."""
    deviation = GAUSSIAN_SIGMA * strength
    if deviation**2 * MOST_PHOTONS < 1:
        return values.copy()
    photons = deviation**-2
    # Rounding may leave a luma a little outside.
    return (rng.poisson(np.clip(values, 0.0, 1.0) * photons) / photons).astype(np.float32)


def _add_uniform_noise(image: np.ndarray, amplitude: float, rng: np.random.Generator) -> np.ndarray:
    noise = (rng.random(image.shape, np.float32) * 2.0 - 1.0) * np.float32(amplitude)
    return np.clip(image + noise, 0.0, 1.0)
