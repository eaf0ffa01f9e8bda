"""Numbers of a restored image beside its truth: PSNR and SSIM equal to scikit-image's, texture; in little memory.

Images are (H, W, 3), RGB: float in [0, 1], or uint8 or uint16 samples. Everything is computed by bands of rows, because
scikit-image's SSIM takes about 200 bytes a pixel.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from skimage.metrics import structural_similarity

from ..images.luma import luma_of
from .texture import texture

Image = npt.NDArray[Any]
SSIM_WINDOW = 11  # pixels: the Gaussian window of Wang et al. 2004 (sigma 1.5, cut at 3.5 sigma)
BAND_PIXELS = 2**20
LEAST_ROWS = 32  # of a band, so that the margins of a very wide image do not outweigh it
# BT.601 in studio range, as MATLAB's rgb2ycbcr: Y = 16..235 of 255 for R, G, B in [0, 1].
LUMA_RANGE = 219 / 255
LUMA_OFFSET = 16 / 255


def studio_luma(rgb: Image) -> Image:
    """(H, W, 1) of (H, W, 3) float in [0, 1]: BT.601 luma in [16/255, 235/255], not rounded, of the input's dtype."""
    return luma_of(rgb) * rgb.dtype.type(LUMA_RANGE) + rgb.dtype.type(LUMA_OFFSET)


def psnr(truth: Image, image: Image, *, crop_border: int = 0, on_luma: bool = False) -> float:
    """Peak signal-to-noise ratio in dB for the peak 1 (255 in 8 bits); inf for identical images.

    `crop_border` pixels are left out on every side; `on_luma` compares the luma alone. Raises ValueError for sizes that
    differ or for a border that leaves nothing.
    """
    truth, image = _cropped(truth, image, crop_border)
    total, count = 0.0, 0
    for y0, y1 in _bands(*truth.shape[:2]):
        difference = _planes(truth[y0:y1], on_luma).astype(np.float64) - _planes(image[y0:y1], on_luma)
        total += float(np.square(difference).sum())
        count += difference.size
    return -10 * math.log10(total / count) if total else math.inf


def ssim(truth: Image, image: Image, *, crop_border: int = 0, on_luma: bool = False) -> float | None:
    """Structural similarity (Wang et al. 2004: Gaussian window, sigma 1.5), the mean over the channels.

    None where the image, without `crop_border` pixels on every side, has less than 11 pixels a side. As scikit-image
    does, the mean leaves out the 5 pixels along the border, whose windows reach over it. Raises as `psnr` does.
    """
    truth, image = _cropped(truth, image, crop_border)
    height, width = truth.shape[:2]
    if min(height, width) < SSIM_WINDOW:
        return None
    margin = SSIM_WINDOW // 2
    total = 0.0
    for y0, y1 in _bands(height - 2 * margin, width):
        rows = slice(y0, y1 + 2 * margin)
        value = structural_similarity(
            _planes(truth[rows], on_luma), _planes(image[rows], on_luma), data_range=1.0, channel_axis=2,
            gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        )  # fmt: skip
        total += float(value) * (y1 - y0)
    return total / (height - 2 * margin)


def fidelity(truth: Image, image: Image, *, crop_border: int = 0, with_luma: bool = False) -> dict[str, float]:
    """`psnr` and, from 11 pixels a side on, `ssim`; `with_luma` adds `psnr_y` and `ssim_y`. Raises as `psnr` does.

    Then `swd` and `grain`, see `texture`, where the truth has some.
    """
    metrics: dict[str, float] = {}
    for suffix, on_luma in (("", False), ("_y", True)) if with_luma else (("", False),):
        metrics["psnr" + suffix] = psnr(truth, image, crop_border=crop_border, on_luma=on_luma)
        similarity = ssim(truth, image, crop_border=crop_border, on_luma=on_luma)
        if similarity is not None:
            metrics["ssim" + suffix] = similarity
    return metrics | texture(*_cropped(truth, image, crop_border))


def mean_fidelity(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each number over the images that have it, in the order of first occurrence; inf stays inf."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}


def seam_score(image: Image, rows: Sequence[int], columns: Sequence[int], period: int = 1) -> float | None:
    """How much more an image changes across the borders of tiles than beside them: 1 is seamless.

    A border at row y lies between the rows y - 1 and y. The mean absolute difference across all borders is divided by
    that across the lines `period` pixels to both sides of each. A patched network leaves a pattern of its own that
    repeats with its grid, tiled or not; a period of that grid compares like with like. None without a border that has
    both neighbours, or in a flat image.
    """
    across: list[float] = []
    beside: list[float] = []
    for axis, borders in ((0, rows), (1, columns)):
        lines = image if axis == 0 else image.swapaxes(0, 1)
        for border in borders:
            others = [line for line in (border - period, border + period) if line not in borders]
            if others and period < border < len(lines) - period:
                across.append(_step(lines, border))
                beside.append(sum(_step(lines, line) for line in others) / len(others))
    return sum(across) / sum(beside) if sum(beside) else None


def _step(lines: Image, border: int) -> float:
    """Mean absolute difference between two rows, weighted by their length."""
    near = _as_unit(lines[border - 1 : border + 1]).astype(np.float64)
    return float(np.abs(near[1] - near[0]).mean() * lines.shape[1])


def _cropped(truth: Image, image: Image, border: int) -> tuple[Image, Image]:
    if truth.shape != image.shape:
        raise ValueError(f"cannot compare an image of {image.shape} with a ground truth of {truth.shape}")
    if border < 0 or min(truth.shape[:2]) <= 2 * border:
        raise ValueError(f"a border of {border} pixels leaves nothing of an image of {truth.shape}")
    inner = slice(border, -border or None)
    return truth[inner, inner], image[inner, inner]


def _bands(height: int, width: int) -> Iterator[tuple[int, int]]:
    """[y0, y1) from top to bottom, of about BAND_PIXELS pixels each."""
    rows = max(BAND_PIXELS // width, LEAST_ROWS)
    for y0 in range(0, height, rows):
        yield y0, min(y0 + rows, height)


def _planes(rows: Image, on_luma: bool) -> Image:
    values = _as_unit(rows)
    return studio_luma(values) if on_luma else values


def _as_unit(samples: Image) -> Image:
    """Float images as they are, integer samples as float64 in [0, 1]."""
    if np.issubdtype(samples.dtype, np.integer):
        return samples / float(np.iinfo(samples.dtype).max)
    return samples


def mean_metrics(per_image: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """Mean of every metric of every label over the images that have it; what is not finite is left out."""
    values: dict[str, dict[str, list[float]]] = {}
    for metrics in per_image:
        for label, row in metrics.items():
            for name, value in row.items():
                numbers = values.setdefault(label, {}).setdefault(name, [])
                if math.isfinite(value):
                    numbers.append(value)
    return {
        label: {name: sum(numbers) / len(numbers) for name, numbers in row.items() if numbers}
        for label, row in values.items()
    }
