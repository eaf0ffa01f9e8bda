"""Reading PNG and TIFF files by bands of rows, so that a large picture never has to be in memory at once.

The samples are those of `read_samples`. Use it through `images.files`.
"""

import io
import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

import numpy as np
import tifffile

from .decode import MAX_PIXELS, Alpha, probe_image, read_samples, reported, to_srgb, without_alpha
from .headers import Header, opened
from .layers import Refused
from .readers import embedded_profile, read_layers
from .tiff_layers import BLACK_IS_ZERO, RGB, check_large

BAND_BYTES = 4 * 2**20  # of samples, decoded at once
LARGE = 16_000_000  # pixels; smaller files are decoded as a whole, which is faster for those who read them twice
_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}  # by PNG's colour types without a palette
# What may lie in a PNG without changing how its samples are read.
_HARMLESS = frozenset((b"IHDR", b"IDAT", b"IEND", b"iCCP", b"eXIf", b"sRGB", b"gAMA", b"cHRM", b"pHYs", b"tIME"))
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class Rows(Protocol):
    """Something whose rows [y0:y1] can be had: an array (height, width, C), or a file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(height, width, C)."""

    def __getitem__(self, rows: slice, /) -> np.ndarray:
        """(y1 - y0, width, C)."""


class Bands(ABC):
    """The rows of a file: uint8 or uint16 (height, width, 3), sRGB, transparency laid over white or black.

    Reading from top to bottom is what is fast. `shape` is that of the whole.
    """

    def __init__(self, path: Path, header: Header, alpha: Alpha) -> None:
        self.path = path
        self.shape = (header.height, header.width, 3)
        self._profile = embedded_profile(header, b"")
        self._alpha = alpha

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Rows [start, stop) as of an array. Raises DataError where the file turns out to be damaged."""
        start, stop, _ = rows.indices(self.shape[0])
        with reported(self.path):
            samples = self._stored(start, stop)
            rgb, _ = to_srgb(samples, samples.shape[2] in (2, 4), self._profile, self.path)
        return rgb if rgb.shape[2] == 3 else without_alpha(rgb, self._alpha, self.path)

    def first_row(self) -> tuple[np.ndarray, bytes | None]:
        """The first row as it is stored, (1, W, C), and the profile that its result keeps."""
        with reported(self.path):
            samples = self._stored(0, 1)
            return samples, to_srgb(samples, samples.shape[2] in (2, 4), self._profile, self.path)[1]

    @property
    def has_alpha(self) -> bool:
        """Whether pixels are more or less transparent."""
        return self.first_row()[0].shape[2] in (2, 4)

    @abstractmethod
    def _stored(self, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop) as they are stored, (n, W, C), native byte order."""


def image_rows(path: Path, *, max_pixels: int = MAX_PIXELS, alpha: Alpha = "white") -> Rows:
    """Integer samples (height, width, 3) as of `read_samples`; a large file is read anew, by bands, where it can be.

    `alpha` white or black. Raises DataError as `read_samples` does.
    """
    info = probe_image(path, max_pixels=max_pixels)
    bands = open_bands(path, alpha) if info.height * info.width > LARGE else None
    return read_samples(path, max_pixels=max_pixels, alpha=alpha) if bands is None else bands


def open_bands(path: Path, alpha: Alpha = "white") -> Bands | None:
    """The rows of a PNG or TIFF whose layout can be read in parts; None for any other file.

    `alpha` white or black. Raises DataError as `read_image` does when the file cannot be opened.
    """
    assert alpha != "crop"
    with reported(path), opened(path) as header:
        if header.orientation != 1:
            return None
        if header.format == "PNG":
            return _png(path, header, alpha)
        if header.format != "TIFF" or not _is_plain_tiff(path):
            return None
        check_large(path)
        return _TiffBands(path, header, alpha)


class _Chunk(NamedTuple):
    name: bytes
    start: int  # of its data
    length: int


def _chunks(file: BinaryIO) -> Iterator[_Chunk]:
    """The chunks of a PNG up to its end; fewer where the file is cut."""
    place, length = len(_SIGNATURE), file.seek(0, io.SEEK_END)
    while place + 12 <= length:
        file.seek(place)
        size, name = struct.unpack(">I4s", file.read(8))
        yield _Chunk(name, place + 8, size)
        place += 12 + size


def _png(path: Path, header: Header, alpha: Alpha) -> "Bands | None":
    with path.open("rb") as file:
        chunks = list(_chunks(file))
        file.seek(chunks[0].start)
        depth, colour, *_, interlaced = struct.unpack(">8xBBBBB", file.read(13))
    names = [chunk.name for chunk in chunks]
    front = names[: names.index(b"IDAT")] if b"IDAT" in names else []
    plain = depth in (8, 16) and colour in _CHANNELS and not interlaced and names[-1] == b"IEND"
    if not plain or not _HARMLESS.issuperset(names) or names.count(b"eXIf") != front.count(b"eXIf"):
        return None
    parts = [chunk for chunk in chunks if chunk.name == b"IDAT"]
    return _PngBands(path, header, alpha, parts, depth, colour)


class _PngBands(Bands):
    """Inflates a PNG's rows in their order, and has each band decoded as a small PNG of its own.

    Its first row is the last one of the band above, which the filters of the next one refer to.
    """

    def __init__(self, path: Path, header: Header, alpha: Alpha, parts: list[_Chunk], depth: int, colour: int) -> None:
        super().__init__(path, header, alpha)
        self.parts = parts
        self.depth, self.colour = depth, colour
        self.row_bytes = self.shape[1] * _CHANNELS[colour] * depth // 8
        self._begin()

    def _begin(self) -> None:
        self.next_row = 0
        self.above = bytes(self.row_bytes)
        self.kept = np.empty((0,))  # the rows that were asked for last: bands that interpolate overlap
        self.inflated = self._inflated()
        self.rest = b""

    def _stored(self, start: int, stop: int) -> np.ndarray:
        if start < self.next_row - len(self.kept):
            self._begin()
        overlap = self.kept[len(self.kept) - max(self.next_row - start, 0) :]
        bands = [overlap[: stop - start]] if len(overlap) else []
        step = max(BAND_BYTES // self.row_bytes, 1)
        while self.next_row < start:
            self._decoded(min(step, start - self.next_row))
        while self.next_row < stop:
            bands.append(self._decoded(min(step, stop - self.next_row)))
        rows = bands[0] if len(bands) == 1 else np.concatenate(bands)
        if stop == self.next_row:
            self.kept = rows
        return rows

    def _decoded(self, count: int) -> np.ndarray:
        """The next rows, (count, W, C)."""
        needed = count * (self.row_bytes + 1)
        pieces = [self.rest]
        have = len(self.rest)
        while have < needed:
            piece = next(self.inflated, None)
            if piece is None:
                raise Refused("damaged: it ends before its last row of pixels")
            pieces.append(piece)
            have += len(piece)
        filtered = b"".join(pieces)
        self.rest = filtered[needed:]
        data = self._small_png(count + 1, b"\0" + self.above + filtered[:needed])
        with opened(io.BytesIO(data)) as header:
            samples = read_layers(header, data)[0].samples[1:]
        self.above = samples[-1].astype(">u2").tobytes() if self.depth == 16 else samples[-1].tobytes()
        self.next_row += count
        return samples

    def _small_png(self, height: int, filtered: bytes) -> bytes:
        head = struct.pack(">IIBBBBB", self.shape[1], height, self.depth, self.colour, 0, 0, 0)
        chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(filtered, 0)), (b"IEND", b""))
        packed = [
            struct.pack(">I4s", len(data), name) + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(name)))
            for name, data in chunks
        ]
        return b"".join((_SIGNATURE, *packed))

    def _inflated(self) -> Iterator[bytes]:
        """The filtered rows, in pieces of at most BAND_BYTES: a blank picture inflates a thousandfold."""
        inflate = zlib.decompressobj()
        with self.path.open("rb") as file:
            for part in self.parts:
                file.seek(part.start)
                data = file.read(part.length)
                if file.read(4) != struct.pack(">I", zlib.crc32(data, zlib.crc32(b"IDAT"))):
                    raise Refused("damaged: a checksum of its pixels is wrong")
                while data:
                    yield inflate.decompress(data, BAND_BYTES)
                    data = inflate.unconsumed_tail
            yield inflate.flush()


def _is_plain_tiff(path: Path) -> bool:
    """Gray or RGB of 8 or 16 bits in strips, transparency not premultiplied."""
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        assert isinstance(page, tifffile.TiffPage)
        kinds = page.sampleformat if isinstance(page.sampleformat, tuple) else (page.sampleformat,)
        extras = tuple(int(extra) for extra in page.extrasamples)
        photometric, colours = int(page.photometric), 3 if int(page.photometric) == RGB else 1
        return (
            page.bitspersample in (8, 16)
            and photometric in (BLACK_IS_ZERO, RGB)
            and {int(kind) for kind in kinds} == {1}
            and extras in ((), (2,))
            and page.samplesperpixel == colours + len(extras)
            and (page.planarconfig is None or int(page.planarconfig) == 1)
            and not page.is_tiled
        )


class _TiffBands(Bands):
    """Decodes the strips that the rows lie in."""

    def _stored(self, start: int, stop: int) -> np.ndarray:
        with tifffile.TiffFile(self.path) as file:
            page = file.pages[0]
            assert isinstance(page, tifffile.TiffPage)
            height, width, count = self.shape[0], self.shape[1], page.rowsperstrip
            strips = []
            for index in range(start // count, -(-stop // count)):
                file.filehandle.seek(page.dataoffsets[index])
                data = file.filehandle.read(page.databytecounts[index])
                if len(data) < page.databytecounts[index] or not data:
                    raise Refused("damaged: it ends before its last strip of pixels, or a strip was never written")
                values = page.decode(data, index)[0]
                inside = min(count, height - index * count)
                strips.append(np.asarray(values).reshape(-1, width, page.samplesperpixel)[:inside])
        rows = np.concatenate(strips)
        top = start // count * count
        return rows[start - top : stop - top].astype(rows.dtype.newbyteorder("="))
