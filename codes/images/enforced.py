"""Keeping a result to its input: what it shows coarsely must be what the input shows, up to a tolerance.

A result is made small again by area and compared with the input in means over cells of CELL x CELL input pixels,
blurred: the low frequencies. What differs by more than the tolerance is added to the result, smoothly enlarged; what
differs by less stays. This is DDNM's A^+ y + (I - A^+ A) x (Wang et al. 2023) on the low frequencies alone, and onto a
box instead of a point, because the input is itself compressed and blurred.

C channels; h, w of the input; H = s * h, W = s * w of the result, which may lie in a larger canvas; rows and columns of
cells, those at the end smaller.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .canvas import Canvas

CELL = 2  # input pixels a side
SIGMA = 1.0  # of the blur, in cells: half of a wave of 11 input pixels passes
ROUNDS = 12  # of the correction, each of which leaves what a blur takes off the last one's
LEAST = 2 / 255  # tolerance in [-1, 1] of an input without any corruption: a level of its 8 bits
Wrap = tuple[bool, bool]


class CellMeans:
    """Means over cells of `side` pixels of an image (C, height, width) whose rows come in any order."""

    def __init__(self, channels: int, height: int, width: int, side: int) -> None:
        self.height, self.width, self.side = height, width, side
        self.sums = torch.zeros(channels, -(-height // side), -(-width // side))

    def add(self, y0: int, rows: Tensor) -> None:
        """Rows (C, n, W) from y0 on; what lies beyond height and width is passed over."""
        rows = rows[:, : max(self.height - y0, 0), : self.width]
        if rows.shape[1]:
            padded = F.pad(rows, (0, self.sums.shape[2] * self.side - self.width))
            by_row = padded.unflatten(2, (-1, self.side)).sum(dim=3).cpu()
            self.sums.index_add_(1, torch.arange(y0, y0 + rows.shape[1]) // self.side, by_row)

    def means(self) -> Tensor:
        """(C, rows, columns)."""
        return self.sums / (self._sizes(self.height)[:, None] * self._sizes(self.width))

    def _sizes(self, length: int) -> Tensor:
        return (length - torch.arange(0, length, self.side)).clamp(max=self.side).float()


def cells_of(image: Tensor) -> Tensor:
    """(C, rows, columns) of an input (C, h, w)."""
    channels, height, width = image.shape
    cells = CellMeans(channels, height, width, CELL)
    cells.add(0, image)
    return cells.means()


def low_frequencies(cells: Tensor, wrap: Wrap = (False, False)) -> Tensor:
    """The blurred cells; at borders the blur takes what lies inside, or what lies around."""
    taps = torch.exp(-0.5 * (torch.arange(-3, 4) / SIGMA) ** 2)
    for axis, wrapped in ((1, wrap[0]), (2, wrap[1])):
        lines = cells.movedim(axis, -1)
        flat = lines.reshape(-1, 1, lines.shape[-1])
        if wrapped:
            around = torch.arange(-3, flat.shape[-1] + 3) % flat.shape[-1]
            blurred = F.conv1d(flat[..., around], taps[None, None] / taps.sum())
        else:
            inside = F.conv1d(torch.ones_like(flat[:1]), taps[None, None], padding=3)
            blurred = F.conv1d(flat, taps[None, None], padding=3) / inside
        cells = blurred.reshape(lines.shape).movedim(-1, axis)
    return cells


def correction(shown: Tensor, given: Tensor, tolerance: Tensor | float, wrap: Wrap = (False, False)) -> Tensor:
    """(C, rows, columns): what is to be added to a result of cells `shown`, so that it agrees with those of its input.

    Afterwards the low frequencies of the two differ by `tolerance` (of their shape, or one number) at most, up to what
    ROUNDS leave.
    """
    added, limit = torch.zeros_like(shown), torch.as_tensor(tolerance)
    for _ in range(ROUNDS):
        difference = low_frequencies(given - shown - added, wrap)
        added += difference - difference.clamp(-limit, limit)
    return added


class Correction:
    """A correction of cells, read as rows of the result at `scale` pixels per input pixel."""

    def __init__(self, cells: Tensor, scale: int, width: int, wrap: Wrap = (False, False)) -> None:
        self.cells, self.factor, self.width, self.wrap = cells, CELL * scale, width, wrap

    def rows(self, y0: int, y1: int) -> Tensor:
        """(C, y1 - y0, width), by bilinear interpolation; beyond the last cell it stays as it is."""
        first, last = y0 // self.factor - 1, -(-y1 // self.factor) + 1
        columns = torch.arange(-1, -(-self.width // self.factor) + 1)
        part = self.cells[:, self._at(torch.arange(first, last), 1)][:, :, self._at(columns, 2)]
        large = F.interpolate(part[None], scale_factor=self.factor, mode="bilinear", align_corners=False)[0]
        top = y0 - first * self.factor
        return large[:, top : top + y1 - y0, self.factor : self.factor + self.width]

    def _at(self, places: Tensor, axis: int) -> Tensor:
        count = self.cells.shape[axis]
        return places % count if self.wrap[axis - 1] else places.clamp(0, count - 1)


@dataclass(frozen=True, eq=False)
class Agreement:
    """What results of an input must agree with: `low_res` (C, h, w) in [-1, 1], up to `tolerance` (of its cells).

    `scale`: pixels of a result per pixel of the input. `wrap`: whether (height, width) go on with their beginning.
    """

    low_res: Tensor
    tolerance: Tensor | float
    scale: int
    wrap: Wrap = (False, False)

    def cells(self) -> CellMeans:
        """To add the rows of a result to."""
        channels, height, width = self.low_res.shape
        return CellMeans(channels, height * self.scale, width * self.scale, CELL * self.scale)

    def correction(self, shown: CellMeans, width: int) -> Correction:
        """What is to be added to a result whose cells were gathered, in a canvas of this width."""
        added = correction(shown.means(), cells_of(self.low_res), self.tolerance, self.wrap)
        return Correction(added, self.scale, width, self.wrap)

    def enforce(self, result: Canvas, *, clip: bool = True) -> None:
        """Correct a result (C, H, W) in [-1, 1] IN PLACE, by bands of rows."""
        cells = self.cells()
        for y0, y1 in result.bands():
            cells.add(y0, result.rows(y0, y1))
        added = self.correction(cells, result.width)
        for y0, y1 in result.bands():
            shown = result.rows(y0, y1)
            rows = shown + added.rows(y0, y1).to(shown.device)
            result.write(y0, rows.clamp(-1.0, 1.0) if clip else rows)
