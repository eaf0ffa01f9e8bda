"""The files of generated images: one PNG a sample, a grid, and all of them as one npz."""

import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ...images.files import quantise, read_samples, resize_area, to_float, write_image
from ...images.picture_grid import picture_grid
from ...utils.errors import DataError
from ...utils.files import atomic_write

Pixels = npt.NDArray[np.uint8]
FOLDER = "samples"
DIGITS = 6  # of a sample's number; more where there are more samples
CELL = 256  # largest side of an image in the grid, pixels
ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # so that the same samples give the same file


@dataclass(frozen=True)
class SampleFiles:
    """The samples of a run below `root`; `labels` holds the class of every sample, or nothing without classes.

    With classes, each has a folder of its own (`folders`), so that the samples are a data set of `mode: labelled`.
    """

    root: Path
    count: int
    labels: npt.NDArray[np.int64] | None = None
    folders: tuple[str, ...] = ()

    def path(self, position: int) -> Path:
        """The PNG of a sample."""
        folder = self.root / FOLDER
        if self.labels is not None:
            folder = folder / self.folders[self.labels[position]]
        return folder / f"{position:0{DIGITS}d}.png"

    def missing(self, positions: Iterable[int]) -> list[int]:
        """Those samples that do not exist."""
        return [position for position in positions if not self.path(position).is_file()]

    def write(self, position: int, image: npt.NDArray[np.float32]) -> None:
        """Write a sample (H, W, 3) in [0, 1]; a reader sees all of it or nothing."""
        write_image(self.path(position), quantise(image))

    def read(self, position: int) -> Pixels:
        """A sample, uint8 (H, W, 3)."""
        return read_samples(self.path(position))

    def write_npz(self) -> Path:
        """All samples as samples_<M>x<H>x<W>x3.npz: arr_0 uint8 (M, H, W, 3), and with classes arr_1 int64 (M,).

        Holds one image at a time in memory. Raises DataError when a sample has another size than the first.
        """
        shape = self.read(0).shape
        file = self.root / f"samples_{'x'.join(map(str, (self.count, *shape)))}.npz"
        with atomic_write(file) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            with archive.open(zipfile.ZipInfo("arr_0.npy", ZIP_TIME), "w", force_zip64=True) as stream:
                header = {"descr": "|u1", "fortran_order": False, "shape": (self.count, *shape)}
                np.lib.format.write_array_header_1_0(stream, header)
                for position in range(self.count):
                    pixels = self.read(position)
                    if pixels.shape != shape:
                        own, wanted = (f"{size[1]}x{size[0]}" for size in (pixels.shape, shape))
                        raise DataError(
                            f"{self.path(position)}: is {own}, but the other samples are {wanted}; delete it and run "
                            "again, and it is sampled anew"
                        )
                    stream.write(pixels.tobytes())
            if self.labels is not None:
                with archive.open(zipfile.ZipInfo("arr_1.npy", ZIP_TIME), "w", force_zip64=True) as stream:
                    np.lib.format.write_array(stream, self.labels[: self.count])
        return file

    def grid_rows(self, rows: int, columns: int) -> list[list[int]]:
        """The samples that the grid shows: a row for each class in order of its number, or one after the other."""
        if self.labels is None:
            wide = min(columns, max(int(np.ceil(np.sqrt(self.count))), -(-self.count // rows)))
            starts = range(0, min(self.count, rows * wide), wide)
            return [list(range(start, min(start + wide, self.count))) for start in starts]
        labels = self.labels[: self.count]
        shown = np.unique(labels)[:rows]
        return [np.flatnonzero(labels == label)[:columns].tolist() for label in shown]

    def write_grid(self, rows: Sequence[Sequence[int]]) -> Path:
        """grid.png of these samples; large ones are shrunk."""
        file = self.root / "grid.png"
        write_image(file, picture_grid([[_cell(self.read(position)) for position in row] for row in rows]))
        return file


def _cell(pixels: Pixels) -> Pixels:
    height, width = pixels.shape[:2]
    scale = CELL / max(height, width)
    if scale >= 1:
        return pixels
    return quantise(resize_area(to_float(pixels), max(round(height * scale), 1), max(round(width * scale), 1)))
