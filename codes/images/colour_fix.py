"""Taking the low frequencies of a result from the image it was restored from, so that its colours cannot drift.

Everything here changes the result canvas in place, because that is its purpose, and works by bands of rows: a canvas
on disk is never in memory as a whole. C channels; H, W of the result; h, w of the input; H = s * h, W = s * w.
"""

from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .canvas import Canvas, RamCanvas
from .consistency import as_input, low_bands, reduced_bands, scale_of

ColourFix = Literal["none", "mean", "wavelet", "lowfreq"]

SIGMA = 8.0  # of `lowfreq`, in pixels of the input: at JPEG's block frequency (1/8) the Gaussian lets 3e-9 through
CELL = 4  # input pixels per side that `lowfreq` averages before it blurs; the field is smooth on that scale
LEVELS = 5  # of `wavelet`
REACH = 2**LEVELS - 1  # rows of the result on each side that its low frequencies depend on

_Correction = Callable[[int, int], Tensor]  # rows [y0, y1) of the result -> what is added to them, (C, n, W)


def fix_colours(
    result: Canvas, low_res: Tensor | np.ndarray | Canvas, kind: ColourFix, *, n1_to_1: bool = True
) -> None:
    """Correct the colours of `result` (C, H, W) IN PLACE by those of its input `low_res` (C, h, w), then clip.

    Both in [-1, 1] (n1_to_1) or [0, 1]; anything but `none` clips the result to that range.
    `none`: nothing. `mean`: each channel gets the mean of the input's.
    `lowfreq`: the difference between the input and the result downsampled by area, blurred by a Gaussian of SIGMA
    input pixels, is added: JPEG's 8x8 blocks are far above what passes.
    `wavelet`: the low frequencies of an undecimated wavelet decomposition of LEVELS levels (a trous, Holschneider et
    al. 1989) come from the bicubically upsampled input, the high ones stay: StableSR's (arXiv 2305.07015)
    `wavelet_reconstruction`. Its border is at REACH pixels of the result, so at scale 1 and 2 blocks come back with it.
    Raises ValueError when H, W is no whole multiple of h, w.
    """
    given = as_input(low_res)
    scale_of(result, given)
    limits = (-1.0 if n1_to_1 else 0.0, 1.0)
    if kind == "mean":
        _add(result, _mean_difference(result, given), limits)
    elif kind == "lowfreq":
        _add(result, _low_difference(result, given), limits)
    elif kind == "wavelet":
        _exchange_wavelets(result, given, limits)


def _add(result: Canvas, correction: _Correction, limits: tuple[float, float]) -> None:
    for y0, y1 in result.bands():
        result.write(y0, (result.rows(y0, y1) + correction(y0, y1)).clamp_(*limits))


def _mean_difference(result: Canvas, given: Tensor) -> _Correction:
    difference = (_mean(RamCanvas(given)) - _mean(result)).float()[:, None, None]
    return lambda _y0, _y1: difference


def _mean(image: Canvas) -> Tensor:
    """float64 (C,)."""
    sums = [image.rows(y0, y1).sum(dim=(1, 2), dtype=torch.float64) for y0, y1 in image.bands()]
    return torch.stack(sums).sum(dim=0) / (image.height * image.width)


def _low_difference(result: Canvas, given: Tensor) -> _Correction:
    """The blurred difference. All steps are linear, so the difference of blurred images is not needed."""
    scale = scale_of(result, given)
    cells = _cell_means(given, reduced_bands(result, given))
    field = _blurred(cells, SIGMA / CELL)
    # Twice (Tukey's twicing): what a blur takes off slopes at borders and off peaks comes back, and still no block.
    field += _blurred(cells - field, SIGMA / CELL)
    return lambda y0, y1: _enlarged(field, scale * CELL, y0, y1, result.width, "bilinear")


def _cell_means(given: Tensor, bands: Iterator[tuple[int, Tensor]]) -> Tensor:
    """Means over CELL x CELL input pixels of input minus reduced result, (C, h / CELL, w / CELL), rounded up."""
    channels, height, width = given.shape
    rows, columns = -(-height // CELL), -(-width // CELL)
    sums = torch.zeros(channels, rows, columns)
    for y0, reduced in bands:
        difference = given[:, y0 : y0 + reduced.shape[1]] - reduced
        padded = F.pad(difference, (0, columns * CELL - width))
        by_row = padded.unflatten(2, (columns, CELL)).sum(dim=3)
        sums.index_add_(1, torch.arange(y0, y0 + reduced.shape[1]) // CELL, by_row)
    return sums / (_sizes(height)[:, None] * _sizes(width))


def _sizes(length: int) -> Tensor:
    """How many pixels each cell along an axis holds: CELL, fewer in the last."""
    return (length - torch.arange(0, length, CELL)).clamp(max=CELL).float()


def _blurred(field: Tensor, sigma: float) -> Tensor:
    """A Gaussian blur of (C, rows, columns) that at borders is normalised by what lies inside."""
    radius = int(4 * sigma + 0.5)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    for _ in range(2):
        lines = field.flatten(0, 1)[:, None]
        inside = F.conv1d(torch.ones_like(lines[:1]), kernel[None, None], padding=radius)
        # Transposed: the second round blurs the other axis, and brings the axes back.
        field = (F.conv1d(lines, kernel[None, None], padding=radius) / inside).reshape(field.shape).transpose(1, 2)
    return field.contiguous()


def _enlarged(field: Tensor, factor: int, y0: int, y1: int, width: int, mode: str) -> Tensor:
    """Rows [y0, y1) and the first `width` columns of `field` (C, rows, columns) enlarged by `factor`, (C, n, width)."""
    margin = 2  # rows of the field that bicubic interpolation looks at on each side
    first = max(y0 // factor - margin, 0)
    last = min(-(-y1 // factor) + margin, field.shape[1])
    rows = F.interpolate(field[None, :, first:last], scale_factor=factor, mode=mode, align_corners=False)[0]
    return rows[:, y0 - first * factor : y1 - first * factor, :width]


def _exchange_wavelets(result: Canvas, given: Tensor, limits: tuple[float, float]) -> None:
    """Add the low frequencies of (upsampled input - result): high of the result plus low of the input."""
    scale = scale_of(result, given)
    above = result.rows(0, 1)[:, :0]  # the rows above the band, as they were
    for low0, low1 in low_bands(result, scale):
        y0, y1 = low0 * scale, low1 * scale
        bottom = min(y1 + REACH, result.height)
        rows = torch.cat([above, result.rows(y0, bottom)], dim=1)
        top = y0 - above.shape[1]
        difference = _enlarged(given, scale, top, bottom, result.width, "bicubic").clamp(*limits) - rows
        low = _wavelet_low(difference)
        inner = slice(y0 - top, y1 - top)
        above = rows[:, max(inner.stop - REACH, 0) : inner.stop].clone()
        result.write(y0, (rows[:, inner] + low[:, inner]).clamp_(*limits))


def _wavelet_low(image: Tensor) -> Tensor:
    """The lowest band of (C, n, W) after LEVELS levels: 1-2-1 blurs with holes of 1, 2, 4, ... pixels.

    Borders are replicated at each level, as StableSR does; where they are none of the image, REACH rows are wrong.
    """
    for level in range(LEVELS):
        step = 2**level
        image = _binomial(_binomial(image, 1, step), 2, step)
    return image


def _binomial(image: Tensor, axis: int, step: int) -> Tensor:
    size = image.shape[axis]
    ends = image.narrow(axis, 0, 1), image.narrow(axis, size - 1, 1)
    before, after = (end.expand(*[step if index == axis else -1 for index in range(3)]) for end in ends)
    padded = torch.cat([before, image, after], dim=axis)
    neighbours = padded.narrow(axis, 0, size) + padded.narrow(axis, 2 * step, size)
    return neighbours.mul_(0.25).add_(image, alpha=0.5)
