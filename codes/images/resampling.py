"""Pictures brought to another size by bands of rows, so that one larger than memory is never there as a whole."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from .output_size import Framing
from .transfer import linear_of, srgb_of

SUPPORT = {"lanczos": 3.0, "bicubic": 2.0, "area": 0.5}  # pixels to each side that a kernel reads, where it enlarges
_FILTERS = {
    "lanczos": Image.Resampling.LANCZOS,
    "bicubic": Image.Resampling.BICUBIC,
    "area": Image.Resampling.BOX,
}
Planes = npt.NDArray[np.float32]


class RowSource(Protocol):
    """Rows in [0, 1] of a picture of some channels."""

    @property
    def channels(self) -> int: ...

    def rows(self, y0: int, y1: int) -> Tensor:
        """float32 (channels, y1 - y0, width)."""


@dataclass(frozen=True)
class Resampled:
    """A picture of (height, width) pixels, as `framing` shows it.

    `kernel`: lanczos, bicubic, or area, which is lanczos along an axis that does not become shorter. `linear`: light is
    resampled, not sRGB's values. `wrap`: whether the picture goes on with its beginning along (height, width); one that
    is cut is open there.
    """

    picture: RowSource
    height: int
    width: int
    framing: Framing
    kernel: str = "lanczos"
    linear: bool = False
    wrap: tuple[bool, bool] = (False, False)

    @property
    def channels(self) -> int:
        return self.picture.channels

    def rows(self, y0: int, y1: int) -> Tensor:
        """float32 (channels, y1 - y0, framing.width), clipped to [0, 1]."""
        if self.framing == Framing(self.height, self.width):
            return self.picture.rows(y0, y1)
        top, bottom, left, right = self.framing.box
        ratio = (bottom - top) * self.height / self.framing.height
        begin, end = top * self.height + y0 * ratio, top * self.height + y1 * ratio
        planes, first = self._band(begin, end, ratio)
        if self.linear:
            planes = linear_of(planes)
        planes = _along(planes, 1, begin - first, end - first, y1 - y0, self.kernel)
        planes = self._across(planes, left * self.width, right * self.width)
        return torch.from_numpy(np.clip(srgb_of(planes) if self.linear else planes, 0.0, 1.0))

    def _band(self, begin: float, end: float, ratio: float) -> tuple[Planes, int]:
        """The rows that a kernel reads for [begin, end), and the number of the first one."""
        reach = math.ceil(SUPPORT["lanczos"] * max(ratio, 1.0)) + 1
        first, last = math.floor(begin) - reach, math.ceil(end) + reach
        if self.wrap[0] and self.framing.is_whole:
            parts = [self.picture.rows(*piece) for piece in _pieces(first, last, self.height)]
        else:
            first, last = max(first, 0), min(last, self.height)
            parts = [self.picture.rows(first, last)]
        return torch.cat(parts, dim=1).numpy(), first

    def _across(self, planes: Planes, begin: float, end: float) -> Planes:
        if self.wrap[1] and self.framing.is_whole:
            ratio = (end - begin) / self.framing.width
            reach = math.ceil(SUPPORT["lanczos"] * max(ratio, 1.0)) + 1
            planes = planes[:, :, np.arange(-reach, self.width + reach) % self.width]
            begin, end = begin + reach, end + reach
        return _along(planes, 2, begin, end, self.framing.width, self.kernel)


def _pieces(first: int, last: int, length: int) -> list[tuple[int, int]]:
    """[first, last) of a circle of `length`, in parts of one round each."""
    cuts = [first, *range((first // length + 1) * length, last, length), last]
    return [(start % length, start % length + stop - start) for start, stop in pairwise(cuts)]


def _along(planes: Planes, axis: int, begin: float, end: float, count: int, kernel: str) -> Planes:
    """`count` pixels for the span [begin, end) of an axis of (C, n, W): 1 or 2."""
    length = planes.shape[axis]
    begin, end = max(begin, 0.0), min(end, float(length))  # rounding may lead outside by a hair
    if (begin, end, count) == (0.0, float(length), length):
        return planes
    chosen = _FILTERS["lanczos" if kernel == "area" and count >= end - begin else kernel]
    box = (0.0, begin, float(planes.shape[2]), end) if axis == 1 else (begin, 0.0, end, float(planes.shape[1]))
    size = (planes.shape[2], count) if axis == 1 else (count, planes.shape[1])
    made = [np.asarray(Image.fromarray(np.ascontiguousarray(plane)).resize(size, chosen, box)) for plane in planes]
    return np.stack(made)
