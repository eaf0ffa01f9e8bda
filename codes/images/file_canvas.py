"""A large image file as a canvas: its rows are read when they are asked for, so it is never in memory as a whole."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .bands import LARGE, Bands, open_bands
from .canvas import Canvas
from .decode import MAX_PIXELS, probe_image, reported
from .exif import density_of, fitted_exif
from .headers import opened
from .pixels import to_float


@dataclass(frozen=True)
class FileTraits:
    """What a result of a file takes over from it; as of `Picture`."""

    gray: bool
    bit_depth: int
    exif: bytes | None
    icc: bytes | None
    dpi: tuple[float, float] | None


class FileCanvas(Canvas):
    """The pixels of a file, float32 (3, height, width) in [-1, 1] (n1_to_1) or [0, 1]; nobody writes to it."""

    def __init__(self, bands: Bands, traits: FileTraits, n1_to_1: bool) -> None:
        height, width, channels = bands.shape
        super().__init__(channels, height, width)
        self.bands_of_file = bands
        self.traits = traits
        self.n1_to_1 = n1_to_1

    def rows(self, y0: int, y1: int) -> Tensor:
        self._check(y0, y1)
        unit = torch.from_numpy(to_float(self.bands_of_file[y0:y1]).transpose(2, 0, 1).copy())
        return unit * 2 - 1 if self.n1_to_1 else unit

    def write(self, y0: int, rows: Tensor) -> None:
        raise NotImplementedError(f"{self.bands_of_file.path} is an input")

    def flush(self) -> None:
        pass

    def in_range(self, n1_to_1: bool) -> "FileCanvas":
        """The same pixels in another range."""
        return self if n1_to_1 == self.n1_to_1 else FileCanvas(self.bands_of_file, self.traits, n1_to_1)


def file_canvas(path: Path, *, n1_to_1: bool, max_pixels: int = MAX_PIXELS) -> FileCanvas | None:
    """The canvas of a large PNG or TIFF without transparency whose layout can be read by rows; None for others.

    Raises DataError as `read_image` does.
    """
    info = probe_image(path, max_pixels=max_pixels)
    bands = open_bands(path) if info.height * info.width > LARGE else None
    if bands is None or bands.has_alpha:
        return None
    with reported(path), opened(path) as header:
        exif = fitted_exif(header.image.getexif() if header.image else header.exif, info.height, info.width)
        dpi = density_of(header.image.info) if header.image else None
    first, icc = bands.first_row()
    depth = 16 if first.dtype == np.uint16 else 8
    return FileCanvas(bands, FileTraits(first.shape[2] == 1, depth, exif, icc, dpi), n1_to_1)
