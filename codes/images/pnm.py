"""PGM and PPM files, as text or bytes, with any maximum (netpbm's formats P2, P3, P5, P6)."""

import re

import numpy as np

from .layers import Layers, Refused, scaled
from .lost_pixels import check_rows

_MAGIC = {b"P2": (1, False), b"P3": (3, False), b"P5": (1, True), b"P6": (3, True)}  # colours, as bytes
_TOKEN = re.compile(rb"(?:\s|#[^\r\n]*[\r\n])*(\d{1,9})(?!\d)")


def read_pnm(data: bytes) -> Layers | None:
    """The samples of a PGM or PPM file; None for netpbm's other formats. Raises Refused for a damaged one."""
    if data[:2] not in _MAGIC:
        return None
    colours, binary = _MAGIC[data[:2]]
    (width, height, top), place = _header(data)
    if not 1 <= top <= 65535 or not width or not height:
        raise Refused(f"damaged: {width} x {height} pixels and a maximum of {top}; expected 1 to 65535")
    count = width * height * colours
    values = _bytes(data, place, count, top, width * colours, colours) if binary else _text(data, place, count)
    return Layers(scaled(values, top).reshape(height, width, colours), colours, False)


def _header(data: bytes) -> tuple[list[int], int]:
    """Width, height and maximum, and where they end."""
    numbers, place = [], 2
    for _ in range(3):
        match = _TOKEN.match(data, place)
        if match is None:
            raise Refused("damaged: its header has no width, height and maximum")
        numbers.append(int(match[1]))
        place = match.end()
    return numbers, place


def _bytes(data: bytes, place: int, count: int, top: int, row: int, pixel: int) -> np.ndarray:
    """`count` samples, of which `row` are a row of the picture and `pixel` a pixel."""
    kind = np.dtype(">u2" if top > 255 else "u1")
    start = place + 1  # one white space
    if len(data) - start < count * kind.itemsize:
        raise Refused(f"damaged: {max(len(data) - start, 0)} of {count * kind.itemsize} bytes of pixels are there")
    check_rows(data, [(start, count * kind.itemsize)], row * kind.itemsize, row * kind.itemsize, pixel * kind.itemsize)
    return np.frombuffer(data, kind, count, start)


def _text(data: bytes, place: int, count: int) -> np.ndarray:
    words = re.sub(rb"#[^\r\n]*", b"", data[place:]).split(maxsplit=count)[:count]
    if len(words) < count:
        raise Refused(f"damaged: {len(words)} of {count} samples are there")
    if max(map(len, words)) > 9 or not all(word.isdigit() for word in words):
        raise Refused("damaged: its samples are no numbers")
    return np.array(words).astype(np.int64)
