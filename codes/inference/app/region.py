"""The square of a photograph that is previewed, with what surrounds it, and where it lies in the result of both."""

from ...images.output_size import Framing, SizeOptions
from ..restorer_sizes import ResultSize

REGION = 256  # pixels of what is restored, the side of a preview
MARGIN = 8  # pixels of the photograph around a region, so that its border is restored as in the whole image
Box = list[tuple[int, int]]  # (start, end) of y, x


def regions(size: tuple[int, int], centre: tuple[int, int], side: int) -> tuple[Box, Box]:
    """A square around a point, moved into the image and cut to it, and the same with a margin: (start, end) of y, x."""
    inner, outer = [], []
    for whole, middle in zip(size, centre, strict=True):
        start = min(max(middle - side // 2, 0), max(whole - side, 0))
        end = min(start + side, whole)
        inner.append((start, end))
        outer.append((max(start - MARGIN, 0), min(end + MARGIN, whole)))
    return inner, outer


def region_side(wanted: ResultSize, scale: int) -> int:
    """Pixels of the photograph along a side of a region, which the network makes REGION pixels of."""
    return max(REGION // scale**wanted.passes, 1)


def window_of(inner: Box, outer: Box, factors: tuple[float, float]) -> tuple[Framing, tuple[slice, ...]]:
    """The size of the result of what surrounds a region, `factors` times as large (down, across); the region in it."""
    sides, window = [], []
    for (start, end), (first, last), factor in zip(inner, outer, factors, strict=True):
        side = max(round((last - first) * factor), 1)
        begin = min(round((start - first) * factor), side - 1)
        sides.append(side)
        window.append(slice(begin, max(round((end - first) * factor), begin + 1)))
    return Framing(sides[0], sides[1]), tuple(window)


def exactly(size: Framing, asked: SizeOptions) -> SizeOptions:
    """The options of a part's result, resampled as all of it is."""
    if not asked.resized:
        return asked
    return asked.model_copy(
        update={"scale": None, "megapixels": None, "size": f"{size.width}x{size.height}", "size_mode": "exact"}
    )
