"""How well a restored image agrees with what it was restored from: downsampled again, it should be the input."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .canvas import Canvas, RamCanvas


def consistency(result: Canvas, low_res: Tensor | np.ndarray | Canvas, *, n1_to_1: bool = True) -> float:
    """PSNR in dB between `result`, downsampled by area to the size of `low_res`, and `low_res`; inf when equal.

    result: (C, s*h, s*w), low_res: (C, h, w), both in [-1, 1] (n1_to_1) or [0, 1]; the result is clipped to that range
    first, as its file is. High for a result that keeps to its input (bicubic upsampling: 50 dB or so), lower for one
    that removed blur, blocks and noise from it (25 to 30 dB), or invented what is not there.
    """
    given = low_res if isinstance(low_res, Canvas) else RamCanvas(as_input(low_res))
    low, high = (-1.0 if n1_to_1 else 0.0), 1.0
    total = 0.0
    for y0, rows in reduced_bands(result, given, (low, high)):
        difference = rows.double() - given.rows(y0, y0 + rows.shape[1]).double()
        total += float(difference.square().sum())
    if total == 0:
        return math.inf
    return 10 * math.log10((high - low) ** 2 * math.prod(given.shape) / total)


def reduced_bands(
    result: Canvas, low_res: Tensor | Canvas, limits: tuple[float, float] | None = None
) -> Iterator[tuple[int, Tensor]]:
    """`result` downsampled by area to the size of `low_res`, band by band: (first row, float32 (C, n, w)).

    `limits`: the values are clipped to them first.
    """
    scale = scale_of(result, low_res)
    for y0, y1 in low_bands(result, scale):
        rows = result.rows(y0 * scale, y1 * scale)
        rows = rows if limits is None else rows.clamp(*limits)
        yield y0, F.avg_pool2d(rows[None], scale)[0]


def low_bands(result: Canvas, scale: int) -> Iterator[tuple[int, int]]:
    """[y0, y1) of the bands of the canvas (`Canvas.bands`), in rows of the input: at least one each."""
    first, last = next(result.bands())
    count = max((last - first) // scale, 1)
    height = result.height // scale
    for y0 in range(0, height, count):
        yield y0, min(y0 + count, height)


def as_input(low_res: Tensor | np.ndarray | Canvas) -> Tensor:
    """The image that was restored as a float32 tensor (C, h, w) on the CPU, all of it."""
    if isinstance(low_res, Canvas):
        return low_res.rows(0, low_res.height)
    tensor = torch.from_numpy(low_res) if isinstance(low_res, np.ndarray) else low_res.detach()
    return tensor.to("cpu", torch.float32)


def scale_of(result: Canvas, low_res: Tensor | Canvas) -> int:
    """Pixels of the result per pixel of its input. Raises ValueError unless that is one whole number."""
    channels, height, width = low_res.shape
    scale = result.height // height
    if result.shape != (channels, scale * height, scale * width) or scale < 1:
        raise ValueError(f"a result of {result.shape} is no whole multiple of its input of {tuple(low_res.shape)}")
    return scale
