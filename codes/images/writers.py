"""Writing image files by bands of rows, so that an image never has to be in memory at once (PNG and TIFF).

Use it through `utils.images`. Files are written atomically. Height before width.
"""

import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from ..utils.console import get_logger
from ..utils.errors import DataError
from ..utils.files import atomic_write
from .exif import fitted_exif
from .profiles import fitted_icc
from .tiff import TiffStrips

logger = get_logger(__name__)

WRITERS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF"}
LARGEST_SIDE = {"JPEG": 65500, "WEBP": 16383}  # what libjpeg and the format hold, in pixels
_PNG_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # by channels
_STEP_BYTES = 4 * 2**20  # of samples handled at once
_LARGEST_JPEG_EXIF = 65533
_LARGEST_IDAT = 2**20
METRES_AN_INCH = 0.0254


@dataclass(frozen=True)
class Layout:
    """What a writer is told before the first row. `exif` and `icc` fit the file already."""

    height: int
    width: int
    channels: int  # of the rows that are given
    stored: int  # channels in the file
    bit_depth: int
    quality: int
    exif: bytes | None
    icc: bytes | None
    dpi: tuple[float, float] | None = None  # across, down

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.uint16 if self.bit_depth == 16 else np.uint8)


class RowWriter(ABC):
    """Takes the rows of one image from top to bottom. `open_writer` makes one and finishes it."""

    def __init__(self, file: BinaryIO, layout: Layout) -> None:
        self.file = file
        self.layout = layout
        self.written = 0  # rows

    def write_rows(self, rows: np.ndarray) -> None:
        """Append rows (n, W, C), uint8 or uint16 as the bit depth says; (n, W) for one channel.

        Raises ValueError for another shape or dtype, and for more rows than the image has.
        """
        layout = self.layout
        rows = rows[..., None] if rows.ndim == 2 else rows
        if rows.ndim != 3 or rows.shape[1:] != (layout.width, layout.channels) or rows.dtype != layout.dtype:
            expected = f"(n, {layout.width}, {layout.channels}) {layout.dtype}"
            raise ValueError(f"expected rows {expected}, found {rows.shape} {rows.dtype}")
        if self.written + len(rows) > layout.height:
            raise ValueError(f"{self.written + len(rows)} rows for an image of {layout.height}")
        step = max(_STEP_BYTES // (layout.width * layout.stored * layout.dtype.itemsize), 1)
        for y0 in range(0, len(rows), step):
            band = rows[y0 : y0 + step]
            if layout.stored != layout.channels:
                band = np.concatenate([np.repeat(band[..., :1], 3, axis=2), band[..., 1:]], axis=2)
            self._put(band)
            self.written += len(band)

    def finish(self) -> None:
        """Complete the file. Raises ValueError when rows are missing."""
        if self.written != self.layout.height:
            raise ValueError(f"only {self.written} of {self.layout.height} rows were written")
        self._end()

    @abstractmethod
    def _put(self, rows: np.ndarray) -> None:
        """Take rows (n, W, stored channels) that follow those of before."""

    @abstractmethod
    def _end(self) -> None:
        """Write what is left to write."""


class PngRows(RowWriter):
    """PNG (ISO/IEC 15948), in the memory of a few rows.

    The filter `up` for all rows, and runs as the only matches, are three times faster to write and twice as fast to
    read as the usual choice of a filter for each row with full matching, and smaller for photographs.
    """

    def __init__(self, file: BinaryIO, layout: Layout) -> None:
        super().__init__(file, layout)
        self.deflate = zlib.compressobj(3, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_RLE)
        self.above: np.ndarray | None = None  # the bytes of the last row
        file.write(b"\x89PNG\r\n\x1a\n")
        colour = _PNG_COLOUR_TYPES[layout.stored]
        self._chunk(b"IHDR", struct.pack(">IIBBBBB", layout.width, layout.height, layout.bit_depth, colour, 0, 0, 0))
        if layout.icc is not None:
            self._chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(layout.icc))
        if layout.dpi is not None:
            across, down = (round(dots / METRES_AN_INCH) for dots in layout.dpi)
            self._chunk(b"pHYs", struct.pack(">IIB", across, down, 1))
        if layout.exif is not None:
            self._chunk(b"eXIf", layout.exif.removeprefix(b"Exif\0\0"))

    def _put(self, rows: np.ndarray) -> None:
        ordered = np.ascontiguousarray(rows.astype(">u2") if rows.dtype == np.uint16 else rows)
        values = ordered.view(np.uint8).reshape(len(rows), -1)
        above = np.zeros_like(values[0]) if self.above is None else self.above
        filtered = np.empty((len(values), values.shape[1] + 1), np.uint8)
        filtered[:, 0] = 2
        np.subtract(values[0], above, out=filtered[0, 1:])
        np.subtract(values[1:], values[:-1], out=filtered[1:, 1:])
        self.above = values[-1].copy()
        self._data(self.deflate.compress(filtered.data))

    def _end(self) -> None:
        self._data(self.deflate.flush())
        self._chunk(b"IEND", b"")

    def _data(self, compressed: bytes) -> None:
        for start in range(0, len(compressed), _LARGEST_IDAT):
            self._chunk(b"IDAT", compressed[start : start + _LARGEST_IDAT])

    def _chunk(self, name: bytes, data: bytes) -> None:
        self.file.write(struct.pack(">I", len(data)) + name)
        self.file.write(data)
        self.file.write(struct.pack(">I", zlib.crc32(data, zlib.crc32(name))))


class TiffRows(RowWriter):
    """TIFF 6.0 in strips, or BigTIFF where 4 GiB might not do, in the memory of one strip."""

    def __init__(self, file: BinaryIO, layout: Layout) -> None:
        super().__init__(file, layout)
        self.strips = TiffStrips(file, (layout.height, layout.width, layout.stored), layout.dtype)

    def _put(self, rows: np.ndarray) -> None:
        self.strips.write(rows)

    def _end(self) -> None:
        self.strips.finish(self.layout.exif, self.layout.icc, self.layout.dpi)


class WholeRows(RowWriter):
    """JPEG and WebP, whose encoders want all samples at once: collected here, 1 byte a sample. 8 bits only."""

    def __init__(self, file: BinaryIO, layout: Layout, name: str) -> None:
        super().__init__(file, layout)
        self.name = name
        self.samples = np.empty((layout.height, layout.width, layout.stored), np.uint8)

    def _put(self, rows: np.ndarray) -> None:
        self.samples[self.written : self.written + len(rows)] = rows

    def _end(self) -> None:
        quality = self.layout.quality
        options: dict[str, Any] = {"quality": quality}
        if self.name == "JPEG":
            options |= {"subsampling": 0 if quality >= 90 else 2}
            options |= {} if self.layout.dpi is None else {"dpi": tuple(round(dots) for dots in self.layout.dpi)}
        else:
            options |= {"lossless": quality == 100, "exact": True}
        given = {"exif": self.layout.exif, "icc_profile": self.layout.icc}
        options |= {key: value for key, value in given.items() if value is not None}
        samples = self.samples[..., 0] if self.samples.shape[2] == 1 else self.samples
        Image.fromarray(samples).save(self.file, self.name, **options)


@contextmanager
def open_writer(
    path: str | Path,
    height: int,
    width: int,
    channels: int,
    *,
    bit_depth: int = 8,
    quality: int = 95,
    exif: bytes | None = None,
    icc: bytes | None = None,
    dpi: tuple[float, float] | None = None,
) -> Iterator[RowWriter]:
    """Write an image of (height, width) row by row as PNG, JPEG, WebP or TIFF by the suffix: yields its RowWriter.

    `channels`: 1 gray, 2 gray and alpha, 3 RGB, 4 RGB and alpha; gray becomes RGB in WebP, and gray with alpha in a
    TIFF of 16 bits, because nothing else is read by most programs. `bit_depth` 16 is for PNG and TIFF. `quality` 1..100
    for JPEG and WebP (100: lossless WebP). `exif` and `icc` as `read_image` gives them; what they say about the pixels
    is corrected: orientation, size, gray or RGB. `dpi` (across, down) is kept by all but WebP, which has no place for
    it outside of EXIF. PNG and TIFF need the memory of a few rows, JPEG and WebP 1 byte a sample. The file appears,
    whole, when the block ends; after an exception or with rows missing (ValueError) it does
    not. Raises DataError for what the format cannot hold.
    """
    path = Path(path)
    if min(height, width) < 1 or channels not in (1, 2, 3, 4) or bit_depth not in (8, 16):
        raise ValueError(f"an image of {height}x{width}, {channels} channels of {bit_depth} bits")
    name = checked_format(path, height, width, channels, bit_depth)
    stored = _stored_channels(name, channels, bit_depth)
    layout = Layout(
        height=height,
        width=width,
        channels=channels,
        stored=stored,
        bit_depth=bit_depth,
        quality=quality,
        exif=None if exif is None else _checked_exif(path, name, fitted_exif(exif, height, width)),
        icc=None if icc is None else fitted_icc(icc, stored < 3),
        dpi=dpi,
    )
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        writer = _writer(name, file, layout)
        yield writer
        writer.finish()


def _writer(name: str, file: BinaryIO, layout: Layout) -> RowWriter:
    if name in LARGEST_SIDE:
        return WholeRows(file, layout, name)
    return PngRows(file, layout) if name == "PNG" else TiffRows(file, layout)


def _stored_channels(name: str, channels: int, bit_depth: int) -> int:
    """WebP has no gray, and hardly a program (Pillow, OpenCV) reads a TIFF of 16-bit gray and alpha."""
    repeated = channels < 3 and (name == "WEBP" or (name == "TIFF" and channels == 2 and bit_depth == 16))
    return channels + 2 if repeated else channels


def checked_format(path: Path, height: int, width: int, channels: int, bit_depth: int) -> str:
    """Pillow's name of the format that the suffix asks for. Raises DataError when it cannot hold such an image."""
    name = WRITERS.get(path.suffix.lower())
    if name is None:
        suffix = path.suffix or "a name without suffix"
        raise DataError(f"{path}: cannot write {suffix}; use one of {', '.join(WRITERS)}")
    if name == "JPEG" and channels in (2, 4):
        raise DataError(f"{path}: JPEG holds no transparency; write PNG, WebP or TIFF")
    if bit_depth == 16 and name in LARGEST_SIDE:
        raise DataError(f"{path}: {name} holds 8 bits; write 16 bits as PNG or TIFF")
    largest = LARGEST_SIDE.get(name, max(height, width))
    if max(height, width) > largest:
        raise DataError(
            f"{path}: {name} holds sides of at most {largest} pixels, found {width} x {height}; write PNG or TIFF"
        )
    return name


def _checked_exif(path: Path, name: str, exif: bytes | None) -> bytes | None:
    if name != "JPEG" or exif is None or len(exif) <= _LARGEST_JPEG_EXIF:
        return exif
    logger.warning(
        "%s: its %d bytes of EXIF are left out: JPEG holds %d; write PNG, WebP or TIFF to keep them",
        path, len(exif), _LARGEST_JPEG_EXIF,
    )  # fmt: skip
    return None
