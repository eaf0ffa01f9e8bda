"""Where tiles lie on a canvas and how much each counts: pure geometry, on NumPy alone.

All sizes are in pixels of the output; height before width.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

LARGEST = 2.25  # side of a tile that is chosen, in sides of training
FloatArray = npt.NDArray[np.float64]
Size = int | tuple[int, int]
NOWHERE = (False, False)
LEAST_PERIODS = 3  # of a wrapped axis that one tile covers from a single origin: a whole one between two cut ones


class Tile(NamedTuple):
    """A tile's place in the grid and the half-open region [y0, y1) x [x0, x1) of the canvas that it covers.

    Along a wrapped axis the region may end beyond the canvas, which goes on there with its beginning.
    """

    row: int
    column: int
    y0: int
    y1: int
    x0: int
    x1: int


@dataclass(frozen=True)
class TilePlan:
    """A grid of equal tiles over a canvas of (height, width) pixels; build one with `TilePlan.cover`.

    `ys` and `xs` are the ascending origins of the grid's rows and columns, all multiples of `align`. The tile in row i
    and column j covers [ys[i], ys[i] + tile[0]) x [xs[j], xs[j] + tile[1]). `wrap` says of (height, width) whether the
    canvas is a circle along it: its end is then an inner place like any other, which lies within some tile.
    """

    height: int
    width: int
    tile: tuple[int, int]
    overlap: tuple[int, int]
    align: int
    ys: tuple[int, ...]
    xs: tuple[int, ...]
    wrap: tuple[bool, bool] = NOWHERE

    @classmethod
    def cover(
        cls, height: int, width: int, tile: Size, overlap: Size, align: int = 1, wrap: tuple[bool, bool] = NOWHERE
    ) -> "TilePlan":
        """Spread as few tiles as possible evenly over the canvas, neighbours sharing at least `overlap` pixels.

        `tile` and `overlap` are one number or (height, width). `align` is the multiple on which every tile must start:
        the least common multiple of upsampling scale and patch size. Along an axis on which the canvas is not larger
        than the tile there is one tile, as large as the canvas.

        Along a wrapped axis the canvas may have any length. There are at least two tiles, so that what one shows badly
        at its border lies inside of another; on a canvas too short for that one tile covers several rounds of it.

        Raises ValueError for sizes that are not positive, a tile that is not a multiple of `align`, an overlap that
        leaves no step of `align` pixels, and a canvas that needs several tiles but is not a multiple of `align`.
        """
        tiles, overlaps = _pair(tile), _pair(overlap)
        if min(height, width, *tiles, align) < 1:
            raise ValueError(f"canvas {height}x{width}, tile {tile}, align {align}: all must be at least 1 pixel")
        names, sides = ("height", "width"), (height, width)
        axes = [
            (_around if wrap[axis] else _along)(names[axis], sides[axis], tiles[axis], overlaps[axis], align)
            for axis in (0, 1)
        ]
        actual = (axes[0].tile, axes[1].tile)
        return cls(height, width, actual, overlaps, align, axes[0].origins, axes[1].origins, wrap)

    @classmethod
    def chosen(
        cls,
        height: int,
        width: int,
        *,
        tile: int | None,
        overlap: int | None,
        training: int,
        minimum: int,
        align: int,
        wrap: tuple[bool, bool],
    ) -> "TilePlan":
        """The tiles of an output of (height, width) pixels, padded to a multiple of `align`, and at least `minimum`.

        Not along an axis that wraps, where the canvas is the image: tiles of the right size go around its edge. `tile`:
        its side, 0 for the whole image, None for what is cheapest at about the size of `training`. `overlap`: None for
        the usual share of the tile.
        """
        padded = padded_size(height, width, minimum, align)
        canvas = (height if wrap[0] else padded[0], width if wrap[1] else padded[1])
        if tile == 0:
            whole = max(padded)
            return cls.cover(*canvas, tile=whole, overlap=whole // 4 // align * align, align=align, wrap=wrap)
        trained = tile_side(None, training, align)
        overlap = default_overlap(tile or trained, align) if overlap is None else overlap // align * align
        if tile is not None:
            return cls.cover(*canvas, tile=tile, overlap=overlap, align=align, wrap=wrap)
        overlap = min(overlap, trained - align)
        rows, columns = (
            trained if around else economical_side(side, trained, overlap, align)
            for side, around in zip(padded, wrap, strict=True)
        )
        shared = (min(overlap, rows - align), min(overlap, columns - align))
        return cls.cover(*canvas, tile=(rows, columns), overlap=shared, align=align, wrap=wrap)

    def __len__(self) -> int:
        return len(self.ys) * len(self.xs)

    @cached_property
    def tiles(self) -> tuple[Tile, ...]:
        """All tiles, row by row; predictions are summed in this order, whatever the batch size."""
        height, width = self.tile
        return tuple(
            Tile(row, column, y0, y0 + height, x0, x0 + width)
            for row, y0 in enumerate(self.ys)
            for column, x0 in enumerate(self.xs)
        )

    @cached_property
    def row_weights(self) -> FloatArray:
        """(rows, tile height): the vertical weight of each row of tiles; at every canvas line they add up to 1."""
        return _normalised_windows(self.height, self.tile[0], self.overlap[0], self.ys)

    @property
    def whole(self) -> bool:
        """One tile is the canvas: there is nothing to blend."""
        return len(self) == 1 and self.wrap == NOWHERE

    @cached_property
    def column_weights(self) -> FloatArray:
        """(columns, tile width): the horizontal counterpart. A pixel's weight is the product of the two."""
        return _normalised_windows(self.width, self.tile[1], self.overlap[1], self.xs)

    @property
    def borders(self) -> tuple[list[int], list[int]]:
        """The rows and the columns where tiles begin or end, ascending."""
        rows = {border for y in self.ys for border in (y, y + self.tile[0])}
        columns = {border for x in self.xs for border in (x, x + self.tile[1])}
        sides = ((rows, self.height, self.wrap[0]), (columns, self.width, self.wrap[1]))
        ends = [sorted({border % side if wrapped else border for border in some}) for some, side, wrapped in sides]
        return ends[0], ends[1]

    def shifted(self, down: int, right: int) -> "TilePlan":
        """The same canvas with the inner tiles of the grid moved, for a grid that differs from step to step.

        Rows then start at 0, `down`, `down` + stride, ... and at the bottom; columns alike. 0 leaves a side as it is.
        `down` and `right` are multiples of `align` of at most the tile minus the overlap, so that neighbours share at
        least the overlap. Sides of one tile stay. Along a wrapped axis the whole grid turns by the shift.
        Raises ValueError for other shifts.
        """
        ys = _shifted("down", self.ys, down, self.height, self.tile[0], self.overlap[0], self.align, self.wrap[0])
        xs = _shifted("right", self.xs, right, self.width, self.tile[1], self.overlap[1], self.align, self.wrap[1])
        return self if (ys, xs) == (self.ys, self.xs) else replace(self, ys=ys, xs=xs)

    def smaller(self, minimum: int) -> "TilePlan | None":
        """The same canvas with tiles and overlaps half as long, no tile side below `minimum`; None if none can shrink.

        Overlaps come down to half a tile at most. A canvas side that is not a multiple of `align` keeps its one tile.
        """
        least = _round_up(max(minimum, 1), self.align)
        sides = [
            side
            if (canvas % self.align and not wrapped) or side <= least
            else max(least, side // 2 // self.align * self.align)
            for side, canvas, wrapped in zip(self.tile, (self.height, self.width), self.wrap, strict=True)
        ]
        if tuple(sides) == self.tile:
            return None
        overlaps = [
            min(overlap * new // old, new // 2) // self.align * self.align
            for overlap, new, old in zip(self.overlap, sides, self.tile, strict=True)
        ]
        tile = (_round_up(sides[0], self.align), _round_up(sides[1], self.align))
        overlap = (overlaps[0], overlaps[1])
        return TilePlan.cover(self.height, self.width, tile, overlap, self.align, self.wrap)


def blend_window(size: int, overlap: int) -> FloatArray:
    """(size,) weights: 1 in the middle, falling smoothly towards both ends over `overlap` pixels, never zero.

    w[i] = sin^2(pi/2 * sin^2(pi/2 * u)), u = (i + 1/2) / overlap, and its mirror image: the square of the Vorbis I
    window, whose rise and fall add up to 1. Its ends are flatter than a raised cosine's, for a network errs most within
    a few pixels of a tile's border, where it has seen only padding. Where the two ramps would cross (an overlap of more
    than half the tile) they are shortened to meet in the middle.
    """
    ramp = min(overlap, size // 2)
    window = np.ones(size)
    if ramp:
        u = (np.arange(ramp) + 0.5) / ramp
        rise = np.sin(0.5 * math.pi * np.sin(0.5 * math.pi * u) ** 2) ** 2
        window[:ramp] = rise
        window[size - ramp :] = rise[::-1]
    return window


def padded_size(height: int, width: int, minimum: int, multiple: int) -> tuple[int, int]:
    """The least (height, width) that holds the image, each at least `minimum` and a multiple of `multiple`."""
    if min(height, width, minimum, multiple) < 1:
        raise ValueError(f"image {height}x{width}, minimum {minimum}, multiple {multiple}: all must be at least 1")
    return _round_up(max(height, minimum), multiple), _round_up(max(width, minimum), multiple)


def tile_side(chosen: int | None, training: int, align: int) -> int:
    """The side of a tile: the one chosen, else that of training, as the multiple of `align` that it holds.

    0 is one tile for everything.
    """
    return max(align, training // align * align) if chosen is None else chosen


def economical_side(canvas: int, training: int, overlap: int, align: int) -> int:
    """The side of a tile along an axis of `canvas` pixels with which the least is computed twice.

    As few tiles as a side of at most LARGEST times that of training allows, and each no larger than these need. Fewer
    tiles share fewer borders; larger ones cost memory and move the statistics of a network's normalisation away from
    those of training (docs/measurements.md).
    """
    most = max(align, int(LARGEST * training) // align * align)
    if canvas <= most:
        return canvas
    count = math.ceil((canvas - overlap) / (most - overlap))
    return min(_round_up(math.ceil((canvas + (count - 1) * overlap) / count), align), most)


def default_overlap(side: int, align: int) -> int:
    """An eighth of a tile's side, a multiple of `align`; with less, borders begin to show."""
    return max(_round_up(math.ceil(side / 8), align), align) if side > align else 0


class _Axis(NamedTuple):
    """The side of the tiles along an axis, and their origins, ascending."""

    tile: int
    origins: tuple[int, ...]


def _along(side: str, canvas: int, tile: int, overlap: int, align: int) -> _Axis:
    """Evenly spread multiples of `align` from 0 to canvas - tile, at most tile - overlap apart."""
    stride = _stride(side, tile, overlap, align)
    if canvas <= tile:
        return _Axis(canvas, (0,))
    if canvas % align:
        raise ValueError(f"canvas {side} {canvas} is not a multiple of {align}: pad it to {_round_up(canvas, align)}")
    gaps = math.ceil((canvas - tile) / stride)
    units = (canvas - tile) // align
    return _Axis(tile, tuple(gap * units // gaps * align for gap in range(gaps + 1)))


def _around(side: str, canvas: int, tile: int, overlap: int, align: int) -> _Axis:
    """Evenly spread multiples of `align` on a circle, at most tile - overlap apart, across its end as well.

    Tiles that the canvas made smaller overlap by half of them at most.
    """
    stride = _stride(side, tile, overlap, align)
    units = math.ceil(canvas / align)
    if units < 2:
        return _Axis(_round_up(LEAST_PERIODS * canvas, align), (0,))
    if units * align < tile:
        tile = units * align
        stride = max((tile - overlap) // align, tile // 2 // align, 1) * align
    count = max(math.ceil(units * align / stride), 2)
    return _Axis(tile, tuple(index * units // count * align for index in range(count)))


def _stride(side: str, tile: int, overlap: int, align: int) -> int:
    """The farthest that neighbours may lie apart."""
    if tile % align:
        raise ValueError(f"tile {side} {tile} is not a multiple of {align}: use {_round_up(tile, align)}")
    stride = (tile - overlap) // align * align
    if overlap < 0 or stride < 1:
        raise ValueError(f"overlap {overlap} for a tile {side} of {tile}: use 0 to {tile - align}")
    return stride


def _shifted(
    name: str, origins: tuple[int, ...], shift: int, canvas: int, tile: int, overlap: int, align: int, wrapped: bool
) -> tuple[int, ...]:
    if shift == 0 or len(origins) == 1:
        return origins
    if wrapped:
        return tuple(sorted((origin + shift) % canvas for origin in origins))
    stride = (tile - overlap) // align * align
    if not 0 < shift <= stride or shift % align:
        raise ValueError(f"shift {name} by {shift}: use a multiple of {align} from 0 to {stride}")
    last = canvas - tile
    return (0, *range(shift, last, stride), last)


def _normalised_windows(canvas: int, tile: int, overlap: int, origins: tuple[int, ...]) -> FloatArray:
    window = blend_window(tile, overlap)
    total = np.zeros(canvas)
    places = [np.arange(origin, origin + tile) % canvas for origin in origins]  # beyond the end only where it wraps
    for place in places:
        np.add.at(total, place, window)
    return np.stack([window / total[place] for place in places])


def _pair(size: Size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def _round_up(size: int, multiple: int) -> int:
    return math.ceil(size / multiple) * multiple
