"""Fidelity of a restored image: scikit-image's PSNR and SSIM on RGB in [0, 1]."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

Image = npt.NDArray[Any]
SSIM_WINDOW = 11  # pixels: the Gaussian window of Wang et al. 2004 (sigma 1.5, cut at 3.5 sigma)


def psnr(truth: Image, image: Image) -> float:
    """Peak signal-to-noise ratio in dB of (H, W, 3) float images in [0, 1]; inf for identical ones."""
    if np.array_equal(truth, image):
        return math.inf
    return float(peak_signal_noise_ratio(truth, image, data_range=1.0))


def ssim(truth: Image, image: Image) -> float | None:
    """Structural similarity (Wang et al. 2004: Gaussian window, sigma 1.5); None below 11 pixels a side."""
    if min(truth.shape[:2]) < SSIM_WINDOW:
        return None
    value = structural_similarity(
        truth, image, data_range=1.0, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    return float(value)


def fidelity(truth: Image, image: Image) -> dict[str, float]:
    """Both, for (H, W, 3) images in [0, 1]; raises ValueError for unequal sizes."""
    if truth.shape != image.shape:
        raise ValueError(f"cannot compare an image of {image.shape} with a ground truth of {truth.shape}")
    similarity = ssim(truth, image)
    return {"psnr": psnr(truth, image), **({} if similarity is None else {"ssim": similarity})}
