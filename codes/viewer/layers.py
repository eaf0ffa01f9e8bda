"""Layers of the comparison page: whole arrays, or pictures too large for memory of which parts are read.

Everything is uint8 RGB, height before width.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..images.bands import image_rows
from ..images.files import Alpha, quantise, to_float
from ..utils.console import get_logger, warn_once
from ..utils.errors import DataError

logger = get_logger(__name__)
Pixels = NDArray[np.uint8]
BAND_PIXELS = 2**20  # read at once while a layer is shrunk; what makes the rows may need several times their memory
# What the pages call the input, enlarged, and what a result should be.
BICUBIC, TRUTH = "input (bicubic)", "ground truth"


@runtime_checkable
class Layer(Protocol):
    """A picture that is read in parts."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(height, width, 3)."""

    def crop(self, y0: int, y1: int, x0: int, x1: int) -> Pixels:
        """Rows [y0, y1) and columns [x0, x1): (y1 - y0, x1 - x0, 3)."""

    def shrunk(self, height: int, width: int) -> Pixels:
        """The whole of it at (height, width, 3), by area: every new pixel is the mean of what it covers."""


class RowsLayer:
    """A layer around a function that reads rows: `rows(y0, y1)` is (y1 - y0, width, 3) uint8 RGB."""

    def __init__(self, height: int, width: int, rows: Callable[[int, int], Pixels]) -> None:
        self.shape = (height, width, 3)
        self._rows = rows

    def crop(self, y0: int, y1: int, x0: int, x1: int) -> Pixels:
        count = max(1, BAND_PIXELS // self.shape[1])
        bands = [self._rows(y, min(y + count, y1))[:, x0:x1] for y in range(y0, y1, count)]
        return bands[0] if len(bands) == 1 else np.concatenate(bands)

    def shrunk(self, height: int, width: int) -> Pixels:
        """By bands of rows, so that the memory needed does not grow with the height."""
        full_height, full_width, _ = self.shape
        ratio = full_height / height
        count = max(1, int(BAND_PIXELS / full_width / ratio))
        bands = []
        for top in range(0, height, count):
            bottom = min(top + count, height)
            y0, y1 = int(top * ratio), min(full_height, int(np.ceil(bottom * ratio)))
            box = (0, top * ratio - y0, full_width, min(bottom * ratio - y0, y1 - y0))
            bands.append(_resized(self._rows(y0, y1), bottom - top, width, box))
        return np.concatenate(bands)


class ArrayLayer(RowsLayer):
    """A layer that lies in memory."""

    def __init__(self, pixels: Pixels) -> None:
        height, width, _ = pixels.shape
        super().__init__(height, width, lambda y0, y1: pixels[y0:y1])
        self.pixels = pixels

    def crop(self, y0: int, y1: int, x0: int, x1: int) -> Pixels:
        return self.pixels[y0:y1, x0:x1]


def as_layer(picture: Pixels | Layer) -> Layer:
    """The layer of an array; a layer as it is."""
    return ArrayLayer(picture) if isinstance(picture, np.ndarray) else picture


def file_layer(path: Path, *, max_pixels: int = sys.maxsize, alpha: Alpha = "white") -> Layer:
    """The layer of an image file, of which no more than a band is in memory where it is large and lies in rows.

    Transparency is laid over `alpha`. Raises DataError when the file cannot be read; a large one that turns out to be
    damaged further down is black from there on, with a warning.
    """
    source = image_rows(path, max_pixels=max_pixels, alpha=alpha)
    if isinstance(source, np.ndarray):
        return ArrayLayer(as_8_bit(source))
    height, width, _ = source.shape
    return layer_of_file(path, height, width, lambda y0, y1: as_8_bit(source[y0:y1]))


def layer_of_file(path: Path, height: int, width: int, rows: Callable[[int, int], Pixels]) -> Layer:
    """A layer whose rows come from a file; they are black, with a warning, where it turns out to be damaged."""

    def rows_or_black(y0: int, y1: int) -> Pixels:
        try:
            return rows(y0, y1)
        except DataError as error:
            warn_once(logger, f"layer {path}", f"{error}; black on the page from there on")
            return np.zeros((y1 - y0, width, 3), np.uint8)

    return RowsLayer(height, width, rows_or_black)


def black_layer(height: int, width: int) -> Layer:
    """What stands for a picture that cannot be shown."""
    return RowsLayer(height, width, lambda y0, y1: np.zeros((y1 - y0, width, 3), np.uint8))


def as_8_bit(samples: np.ndarray) -> Pixels:
    """Integer samples, uint8 or uint16, as uint8."""
    return samples if samples.dtype == np.uint8 else quantise(to_float(samples))


def sampled(layer: Layer, stride: int) -> Pixels:
    """Every `stride`-th pixel of every `stride`-th row."""
    height, width, _ = layer.shape
    return np.concatenate([layer.crop(y, y + 1, 0, width)[:, ::stride] for y in range(0, height, stride)])


def _resized(rows: Pixels, height: int, width: int, box: tuple[float, float, float, float]) -> Pixels:
    picture = Image.fromarray(np.ascontiguousarray(rows))
    return np.asarray(picture.resize((width, height), Image.Resampling.BOX, box))
