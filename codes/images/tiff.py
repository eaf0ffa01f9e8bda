"""TIFF files written strip by strip (TIFF 6.0 and BigTIFF), with EXIF and a colour profile.

Libraries write a TIFF that is there as a whole, or without the directories of EXIF. Use it through `utils.images`.
"""

import struct
import zlib
from typing import BinaryIO, NamedTuple

import numpy as np

from .exif import little_endian

_STRIP_BYTES = 2**20  # of samples
_LARGEST_CLASSIC = 2**32 - 2**27  # bytes of samples; what compression adds to noise, and the directory, fit above
_SHORT, _LONG, _RATIONAL, _UNDEFINED, _LONG8 = 3, 4, 5, 7, 16
_ACROSS, _DOWN, _UNIT = 282, 283, 296  # dots, of which unit 2 is an inch
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
_DIRECTORIES = (34665, 34853, 40965)  # tags of EXIF that point to a directory: Exif, GPS, Interop


class _Tag(NamedTuple):
    """An entry of a directory: little-endian data, or for one that points to a directory that one's entries."""

    number: int
    kind: int
    length: int
    data: bytes
    directory: "tuple[_Tag, ...]" = ()


class TiffStrips:
    """Writes samples (height, width, channels), uint8 or uint16, in deflated strips; the directory comes last.

    channels: 1 gray, 2 gray and alpha, 3 RGB, 4 RGB and alpha (not premultiplied). `file` is open for writing bytes.
    """

    def __init__(self, file: BinaryIO, shape: tuple[int, int, int], dtype: np.dtype) -> None:
        height, width, channels = self.shape = shape
        self.file = file
        self.dtype = dtype
        self.big = height * width * channels * dtype.itemsize > _LARGEST_CLASSIC
        self.rows_per_strip = min(max(_STRIP_BYTES // (width * channels * dtype.itemsize), 1), height)
        self.pending = np.empty((self.rows_per_strip, width, channels), dtype)
        self.filled = 0
        self.places: list[int] = []  # where each strip starts
        self.sizes: list[int] = []
        # The place of the directory is filled in at the end.
        file.write(struct.pack("<2sHHHQ", b"II", 43, 8, 0, 0) if self.big else struct.pack("<2sHI", b"II", 42, 0))

    def write(self, rows: np.ndarray) -> None:
        """Append rows (n, width, channels)."""
        start = 0
        while start < len(rows):
            taken = rows[start : start + self.rows_per_strip - self.filled]
            self.pending[self.filled : self.filled + len(taken)] = taken
            self.filled += len(taken)
            start += len(taken)
            if self.filled == self.rows_per_strip:
                self._strip()

    def finish(self, exif: bytes | None, icc: bytes | None, dpi: tuple[float, float] | None = None) -> None:
        """Write the last strip and the directory; `dpi` (across, down), where `exif` says none."""
        if self.filled:
            self._strip()
        tags = [*self._tags(), *(_exif_tags(exif) if exif is not None else ())]
        if dpi is not None and _ACROSS not in {tag.number for tag in tags}:
            tags += [_rational(_ACROSS, dpi[0]), _rational(_DOWN, dpi[1]), _numbers(_UNIT, _SHORT, 2)]
        if icc is not None:
            tags.append(_Tag(34675, _UNDEFINED, len(icc), icc))
        self._align()
        place = self.file.tell()
        self.file.write(_directory(tags, place, self.big))
        self.file.seek(8 if self.big else 4)
        self.file.write(struct.pack("<Q" if self.big else "<I", place))

    def _strip(self) -> None:
        rows = self.pending[: self.filled].astype(self.dtype.newbyteorder("<"))
        rows[:, 1:] -= self.pending[: self.filled, :-1]  # predictor 2: the difference to the pixel on the left
        deflate = zlib.compressobj(3, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_RLE)
        self._align()
        self.places.append(self.file.tell())
        self.sizes.append(self.file.write(deflate.compress(rows.data)) + self.file.write(deflate.flush()))
        self.filled = 0

    def _align(self) -> None:
        if self.file.tell() % 2:
            self.file.write(b"\0")

    def _tags(self) -> list[_Tag]:
        height, width, channels = self.shape
        bits = 8 * self.dtype.itemsize
        tags = [
            _numbers(256, _LONG, width),
            _numbers(257, _LONG, height),
            _numbers(258, _SHORT, *[bits] * channels),
            _numbers(259, _SHORT, 8),  # deflate
            _numbers(262, _SHORT, 1 if channels < 3 else 2),  # black is 0, or RGB
            _numbers(273, _LONG8 if self.big else _LONG, *self.places),
            _numbers(277, _SHORT, channels),
            _numbers(278, _LONG, self.rows_per_strip),
            _numbers(279, _LONG8 if self.big else _LONG, *self.sizes),
            _numbers(284, _SHORT, 1),  # the channels of a pixel lie together
            _numbers(317, _SHORT, 2),  # predictor
            _numbers(339, _SHORT, *[1] * channels),  # unsigned
        ]
        return [*tags, _numbers(338, _SHORT, 2)] if channels in (2, 4) else tags  # alpha, not premultiplied


def _numbers(number: int, kind: int, *values: int) -> _Tag:
    code = {_SHORT: "H", _LONG: "I", _LONG8: "Q"}[kind]
    return _Tag(number, kind, len(values), struct.pack(f"<{len(values)}{code}", *values))


def _rational(number: int, value: float) -> _Tag:
    return _Tag(number, _RATIONAL, 1, struct.pack("<II", round(value * 1000), 1000))


def _exif_tags(exif: bytes) -> tuple[_Tag, ...]:
    data = little_endian(exif)
    (place,) = struct.unpack_from("<I", data, 4)
    return _parsed(data, place)


def _parsed(data: bytes, place: int) -> tuple[_Tag, ...]:
    """The entries of the classic little-endian directory at `place`."""
    (count,) = struct.unpack_from("<H", data, place)
    return tuple(_entry(data, place + 2 + 12 * index) for index in range(count))


def _entry(data: bytes, place: int) -> _Tag:
    number, kind, count, target = struct.unpack_from("<HHII", data, place)
    if number in _DIRECTORIES:
        return _Tag(number, _LONG, 1, b"", _parsed(data, target))
    size = _TYPE_BYTES[kind] * count
    start = target if size > 4 else place + 8
    return _Tag(number, kind, count, data[start : start + size])


def _directory(tags: "list[_Tag] | tuple[_Tag, ...]", place: int, big: bool) -> bytes:
    """The bytes, at `place` of the file, of a directory with what its entries point to behind it."""
    room, head, entry = (8, "<Q", "<HHQ") if big else (4, "<H", "<HHI")
    ordered = sorted(tags)
    start = place + struct.calcsize(head) + len(ordered) * (struct.calcsize(entry) + room) + room
    table, behind = struct.pack(head, len(ordered)), b""
    for tag in ordered:
        here = start + len(behind)
        data = _directory(tag.directory, here, big) if tag.directory else tag.data
        table += struct.pack(entry, tag.number, tag.kind, tag.length)
        if len(data) <= room and not tag.directory:
            table += data.ljust(room, b"\0")
        else:
            table += here.to_bytes(room, "little")
            behind += data + bytes(len(data) % 2)
    return table + bytes(room) + behind
