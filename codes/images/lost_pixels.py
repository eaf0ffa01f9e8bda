"""Pixels that are stored as they are (BMP, PGM, PPM, plain TIFF) and stop in the middle of a row: a copy that stopped.

Zeros there are black, and nothing in the file tells them from black that was photographed. Their shape does: what was
never written begins at some byte in the middle of a row of pixels, and all behind it is zero.
"""

import mmap
import struct
from collections.abc import Sequence

import numpy as np

from .layers import Refused

Stored = bytes | mmap.mmap
_ROWS = 4  # that have to be zero behind the place, so that a dark corner is none
_PIXELS = 4  # on either side of the place
_SHARE = 0.95  # of the pixels in front of the place, in file order, that are not zero
_CHUNK = 2**20
_BMP_PLAIN, _BMP_FIELDS = 0, 3  # compressions


def check_rows(data: Stored, parts: Sequence[tuple[int, int]], row_bytes: int, used: int, pixel_bytes: int) -> None:
    """Raises Refused where pixels stop in the middle of a row and all that follows is zero.

    parts: (start, length) in `data` of whole rows of `row_bytes` each, in the order of writing, of which the first
    `used` bytes hold pixels of `pixel_bytes`. Where they stop at the edge of a row it may be a black bar, and stays.
    """
    behind = 0
    for number in range(len(parts) - 1, -1, -1):
        start, length = parts[number]
        filled = _filled(np.frombuffer(data, np.uint8, length, start))
        if filled:
            break
        behind += length
    else:
        return
    row, column = divmod(filled - 1, row_bytes)
    column = -(-(column + 1) // pixel_bytes)  # pixels of this row that are whole, or in part, before the zeros
    above = start + (row - 1) * row_bytes if row else start
    if not row and number:
        above = parts[number - 1][0] + parts[number - 1][1] - row_bytes
    behind += length - (row + 1) * row_bytes
    left = _pixels(data, start + row * row_bytes, 0, column, pixel_bytes)
    right = _pixels(data, above, column, used // pixel_bytes, pixel_bytes)
    if behind >= _ROWS * row_bytes and _written(left) and _written(right) and (row or number):
        raise Refused(
            "damaged: its pixels stop in the middle of a row, and all behind it is zero, as in a copy that was not "
            "finished; if that is the picture, save it as PNG"
        )


def _filled(values: np.ndarray) -> int:
    """Where the last byte that is not zero ends."""
    for end in range(len(values), 0, -_CHUNK):
        chunk = values[max(end - _CHUNK, 0) : end]
        if chunk.any():
            return end - int(np.argmax(chunk[::-1] != 0))
    return 0


def _pixels(data: Stored, row: int, first: int, last: int, pixel_bytes: int) -> np.ndarray:
    """Whether each of the pixels [first, last) of the row at `row` is other than zero."""
    count = max(last - first, 0)
    values = np.frombuffer(data, np.uint8, count * pixel_bytes, row + first * pixel_bytes)
    others: np.ndarray = values.reshape(count, pixel_bytes).max(axis=1) > 0
    return others


def _written(pixels: np.ndarray) -> bool:
    return len(pixels) >= _PIXELS and float(pixels.mean()) >= _SHARE


def check_bmp(data: bytes) -> None:
    """Raises Refused for a BMP of 8 bits a pixel or more, not compressed, whose pixels stop in the middle of a row."""
    start, head = struct.unpack_from("<II", data, 10)
    if head < 40:
        return
    width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    row_bytes = (width * bits + 31) // 32 * 4
    rows = min(abs(height), (len(data) - start) // row_bytes if row_bytes > 0 else 0)
    if bits in (8, 16, 24, 32) and compression in (_BMP_PLAIN, _BMP_FIELDS) and rows > 0:
        check_rows(data, [(start, rows * row_bytes)], row_bytes, width * bits // 8, bits // 8)
