"""An image that is read and written by rows, in memory or in a file: what sampling works on whatever its size.

C channels, H, W; float32. Height before width.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..utils.errors import TesseraError

MAPPED_BYTES = 8 * 2**20  # of a file that are mapped at once while rows are copied out of it
BAND_BYTES = 32 * 2**20  # of a float32 band that `bands` yields: large enough to be fast, small beside any image


class Canvas(ABC):
    """A float32 image (channels, height, width) of which bands of rows are read and written."""

    def __init__(self, channels: int, height: int, width: int) -> None:
        if min(channels, height, width) < 1:
            raise ValueError(f"a canvas of {channels}x{height}x{width}: each must be at least 1")
        self.channels = channels
        self.height = height
        self.width = width

    @abstractmethod
    def rows(self, y0: int, y1: int) -> Tensor:
        """float32 (channels, y1 - y0, width). It may share the canvas' memory, so do not write to it."""

    @abstractmethod
    def write(self, y0: int, rows: Tensor) -> None:
        """Replace the rows from y0 on by `rows` (channels, n, width)."""

    @abstractmethod
    def flush(self) -> None:
        """Return when everything written lies where it outlives this process; nothing to do in memory."""

    @property
    def device(self) -> torch.device:
        """Where its rows lie."""
        return torch.device("cpu")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return self.channels, self.height, self.width

    def bands(self) -> Iterator[tuple[int, int]]:
        """[y0, y1) of bands from top to bottom, each of about BAND_BYTES."""
        count = max(BAND_BYTES // (4 * self.channels * self.width), 1)
        for y0 in range(0, self.height, count):
            yield y0, min(y0 + count, self.height)

    def _check(self, y0: int, y1: int) -> None:
        if not 0 <= y0 < y1 <= self.height:
            raise ValueError(f"rows [{y0}, {y1}) of a canvas of {self.height} rows")


class RamCanvas(Canvas):
    """A canvas in memory, the host's or a device's, around a tensor (channels, height, width) that it shares."""

    def __init__(self, values: Tensor) -> None:
        super().__init__(*values.shape)
        self.values = values

    @property
    def device(self) -> torch.device:
        return self.values.device

    def rows(self, y0: int, y1: int) -> Tensor:
        self._check(y0, y1)
        return self.values[:, y0:y1]

    def write(self, y0: int, rows: Tensor) -> None:
        self._check(y0, y0 + rows.shape[1])
        self.values[:, y0 : y0 + rows.shape[1]] = rows

    def flush(self) -> None:
        pass


class DiskCanvas(Canvas):
    """A canvas in a file of raw float32, of which only the band in use is mapped into memory.

    The file is made, with all its space, when it is not there (OSError when the disk is too full); one of another size
    is refused with TesseraError. The order (height, channels, width) keeps a band of rows in one piece.
    """

    def __init__(self, path: Path, channels: int, height: int, width: int) -> None:
        super().__init__(channels, height, width)
        self.path = path
        size = 4 * channels * height * width
        if not path.exists():
            _allocate(path, size)
        elif path.stat().st_size != size:
            raise TesseraError(f"{path}: {path.stat().st_size} bytes, expected {size}; remove this file")

    def rows(self, y0: int, y1: int) -> Tensor:
        self._check(y0, y1)
        rows = torch.empty(self.channels, y1 - y0, self.width)
        step = max(MAPPED_BYTES // (4 * self.channels * self.width), 1)
        for top in range(y0, y1, step):  # copied, so that each mapping ends and its pages do not add up in memory
            part = self._map(top, min(top + step, y1), "r")
            rows[:, top - y0 : top - y0 + len(part)].numpy()[:] = part.transpose(1, 0, 2)
        return rows

    def write(self, y0: int, rows: Tensor) -> None:
        y1 = y0 + rows.shape[1]
        self._check(y0, y1)
        self._map(y0, y1, "r+")[:] = rows.permute(1, 0, 2).cpu().numpy()

    def flush(self) -> None:
        # Pages written through any mapping of a file are written out by syncing that file.
        with self.path.open("rb+") as file:
            os.fsync(file.fileno())

    def _map(self, y0: int, y1: int, mode: Literal["r", "r+"]) -> np.ndarray:
        offset = 4 * y0 * self.channels * self.width
        return np.memmap(self.path, np.float32, mode, offset, (y1 - y0, self.channels, self.width))


class CanvasWindow(Canvas):
    """The upper left (channels, height, width) of another canvas, as one of its own."""

    def __init__(self, whole: Canvas, channels: int, height: int, width: int) -> None:
        super().__init__(channels, height, width)
        if channels > whole.channels or height > whole.height or width > whole.width:
            raise ValueError(f"a window of {self.shape} does not fit a canvas of {whole.shape}")
        self.whole = whole

    def rows(self, y0: int, y1: int) -> Tensor:
        self._check(y0, y1)
        return self.whole.rows(y0, y1)[: self.channels, :, : self.width]

    def write(self, y0: int, rows: Tensor) -> None:
        y1 = y0 + rows.shape[1]
        self._check(y0, y1)
        around = self.whole.rows(y0, y1).clone()
        around[: self.channels, :, : self.width] = rows
        self.whole.write(y0, around)

    def flush(self) -> None:
        self.whole.flush()


def _allocate(path: Path, size: int) -> None:
    """Make a file whose space is reserved: a mapped page that the disk has no room for would kill the process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("wb") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                for start in range(0, size, BAND_BYTES):
                    file.write(bytes(min(BAND_BYTES, size - start)))
    except OSError as error:
        path.unlink(missing_ok=True)
        error.filename = str(path)  # neither call says which file it was
        raise


def as_canvas(image: Tensor | Canvas) -> Canvas:
    """The canvas of an image of a state: a tensor (1, C, H, W), or a canvas already."""
    if isinstance(image, Canvas):
        return image
    assert image.shape[:-3] == (1,), f"expected one image (1, C, H, W), found {tuple(image.shape)}"
    return RamCanvas(image[0])
