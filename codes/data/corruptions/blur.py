"""Blurs. Every width is in pixels of the image that is corrupted and is multiplied by `corruption_blur_scale`; the
outermost pixel is repeated beyond the border (mirroring fails on images that are smaller than the kernel)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np

from .base import CORRUPTIONS, Corruption, Stage

BORDER = cv2.BORDER_REPLICATE
MOTION_SAMPLES = 8  # points a pixel along the path of a motion blur
PIXEL_SAMPLES = 4  # points a pixel, each way, of a kernel's profile


@CORRUPTIONS.register("gaussian_blur")
@dataclass(frozen=True)
class GaussianBlur(Corruption):
    """Gaussian blur with sigma = 1.5 * strength * blur_scale pixels; strength 0 is the exact identity."""

    stage: ClassVar[Stage] = Stage.OPTICS

    def __call__(self, image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:  # noqa: ARG002
        sigma = 1.5 * strength * self.settings.blur_scale
        if sigma == 0:
            return image.copy()
        return np.clip(cv2.GaussianBlur(image, (0, 0), sigmaX=sigma, sigmaY=sigma, borderType=BORDER), 0.0, 1.0)


@CORRUPTIONS.register("motion_blur")
@dataclass(frozen=True)
class MotionBlur(Corruption):
    """The mean along a straight path of 10 * strength * blur_scale pixels at a drawn angle; 0 is the exact identity."""

    stage: ClassVar[Stage] = Stage.OPTICS

    def __call__(self, image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
        angle = rng.uniform(0.0, math.pi)
        length = 10.0 * strength * self.settings.blur_scale
        return image.copy() if length == 0 else _filtered(image, motion_kernel(length, angle))


@CORRUPTIONS.register("anisotropic_blur")
@dataclass(frozen=True)
class AnisotropicBlur(Corruption):
    """Gaussian blur, wider in one direction: sigma 2.5 * strength * blur_scale pixels along a drawn angle, and a drawn
    0.2 to 0.8 of that across it; 0 is the exact identity."""

    stage: ClassVar[Stage] = Stage.OPTICS

    def __call__(self, image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
        angle, ratio = rng.uniform(0.0, math.pi), rng.uniform(0.2, 0.8)
        sigma = 2.5 * strength * self.settings.blur_scale
        return image.copy() if sigma == 0 else _filtered(image, elliptic_kernel(sigma, sigma * ratio, angle, 1.0))


@CORRUPTIONS.register("generalised_blur")
@dataclass(frozen=True)
class GeneralisedBlur(Corruption):
    """Blur with a generalised Gaussian exp(-(q^beta) / 2), q the squared distance: from pointed with a wide skirt
    (beta 0.5) over Gaussian (1) to the flat disk of a lens out of focus (4); log(beta) is drawn uniformly.

    The kernel's standard deviation is 2 * strength * blur_scale pixels for every beta; 0 is the exact identity.
    Liu et al., "Estimating generalized Gaussian blur kernels for out-of-focus image deblurring" (2020).
    """

    stage: ClassVar[Stage] = Stage.OPTICS

    def __call__(self, image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
        beta = math.exp(rng.uniform(math.log(0.5), math.log(4.0)))
        sigma = 2.0 * strength * self.settings.blur_scale
        return image.copy() if sigma == 0 else _filtered(image, elliptic_kernel(sigma, sigma, 0.0, beta))


@CORRUPTIONS.register("sinc")
@dataclass(frozen=True)
class Sinc(Corruption):
    """Ringing at edges, as from sharpening and from sharp resizing: an ideal low-pass, cut off after 10 pixels, in rows
    and columns. The cutoff falls from Nyquist (strength 0, the exact identity) to a third of it.

    Real-ESRGAN (Wang et al. 2021, section 3.4) uses the round form; the separable one is exact at Nyquist and is what
    resizing by rows and columns makes.
    """

    # Ringing comes from how a picture is resized and sharpened, so that is its place in the physical order.
    stage: ClassVar[Stage] = Stage.RESIZE
    reach: ClassVar[int] = 10

    def __call__(self, image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:  # noqa: ARG002
        if strength == 0:
            return image.copy()
        cutoff = 1.0 - strength * (2.0 / 3.0)
        taps = np.sinc(cutoff * np.arange(-self.reach, self.reach + 1))
        taps = (taps / taps.sum()).astype(np.float32)
        return np.clip(cv2.sepFilter2D(image, -1, taps, taps, borderType=BORDER), 0.0, 1.0)


def motion_kernel(length: float, angle: float) -> np.ndarray:
    """float32 (K, K), K odd, sum 1: points along a path of `length` pixels at `angle` (radians from the x axis), each
    spread over the four pixels around it, so the kernel grows smoothly with the length."""
    reach = math.ceil(length / 2) + 1
    count = max(2, math.ceil(length * MOTION_SAMPLES))
    along = np.linspace(-0.5, 0.5, count) * length
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
    rows, columns = reach + along * math.sin(angle), reach + along * math.cos(angle)
    top, left = np.floor(rows).astype(int), np.floor(columns).astype(int)
    for i in (0, 1):
        for j in (0, 1):
            weight = (1 - np.abs(rows - top - i)) * (1 - np.abs(columns - left - j))
            np.add.at(kernel, (top + i, left + j), weight)
    return (kernel / kernel.sum()).astype(np.float32)


def elliptic_kernel(sigma_along: float, sigma_across: float, angle: float, beta: float) -> np.ndarray:
    """float32 (K, K), K odd, sum 1: exp(-(q^beta) / 2) with q the squared distance in units of the widths, which are
    scaled so that the standard deviation along each axis is the sigma (pixels) for every `beta`.

    From E[q] = 2^(1 / beta) * Gamma(2 / beta) / Gamma(1 / beta) in two dimensions, which is 2 for the Gaussian.
    """
    mean_square = 2.0 ** (1.0 / beta) * math.gamma(2.0 / beta) / math.gamma(1.0 / beta)
    scale = math.sqrt(2.0 / mean_square)
    reach = max(1, math.ceil(4.0 * max(sigma_along, sigma_across)))
    # Averaged over each pixel's area: sampled at its middle alone, a narrow kernel would be the identity.
    side = (2 * reach + 1) * PIXEL_SAMPLES
    axis = (np.arange(side) + 0.5) / PIXEL_SAMPLES - reach - 0.5
    x, y = axis[None, :], axis[:, None]
    along = (x * math.cos(angle) + y * math.sin(angle)) / (sigma_along * scale)
    across = (y * math.cos(angle) - x * math.sin(angle)) / (sigma_across * scale)
    fine = np.exp(-0.5 * (along**2 + across**2) ** beta)
    kernel = fine.reshape(2 * reach + 1, PIXEL_SAMPLES, 2 * reach + 1, PIXEL_SAMPLES).sum(axis=(1, 3))
    return (kernel / kernel.sum()).astype(np.float32)


def _filtered(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    return np.clip(cv2.filter2D(image, -1, kernel, borderType=BORDER), 0.0, 1.0)
