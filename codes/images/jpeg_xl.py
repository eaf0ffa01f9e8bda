"""What the header of a JPEG XL says (ISO/IEC 18181-1, annex D), read without decoding the picture."""

from typing import NamedTuple

import imagecodecs

from .boxes import boxes
from .layers import Refused

_STREAM, _FILE = b"\xff\x0a", b"\0\0\0\x0cJXL \x0d\x0a\x87\x0a"
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))  # width : height
_ALPHA, _BLACK = 0, 4  # kinds of extra channels
_SIDE = ((1, 9), (1, 13), (1, 18), (1, 30))  # (added, bits) of a choice between four
_MOST_EXIF = 2**20  # bytes, however far they were compressed
_COUNT = ((0, 0), (1, 0), (2, 4), (1, 12))
_KIND = ((0, 0), (1, 0), (2, 4), (18, 6))
Choices = tuple[tuple[int, int], ...]


class JxlHeader(NamedTuple):
    """Upright size in pixels, bits of a sample, whether they are floats, and what lies beside the colours."""

    height: int
    width: int
    bits: int
    floating: bool
    premultiplied: bool
    black: bool


def is_jpeg_xl(head: bytes) -> bool:
    return head.startswith((_STREAM, _FILE))


def jpeg_xl_header(data: bytes) -> JxlHeader:
    """The header of a file, or of the first kilobytes of one. Raises Refused for a damaged one."""
    bits = _Bits(_stream(data))
    height, width = _size(bits)
    if bits.take(1):  # everything as usual
        return JxlHeader(height, width, 8, False, False, False)
    turned = _extras(bits) > 4 if bits.take(1) else False
    depth, floating = _depth(bits)
    bits.take(1)
    channels = [_channel(bits) for _ in range(bits.choice(_COUNT))]
    sides = (width, height) if turned else (height, width)
    black = any(kind == _BLACK for kind, _ in channels)
    return JxlHeader(*sides, depth, floating, any(premultiplied for _, premultiplied in channels), black)


def jpeg_xl_exif(data: bytes) -> bytes:
    """The EXIF of a file, empty where there is none. Raises whatever brotli does for a damaged one."""
    for box in boxes(data) if data.startswith(_FILE) else ():
        content = data[box.start : box.end]
        if box.name == b"brob" and content.startswith(b"Exif"):
            content = bytes(imagecodecs.brotli_decode(content[4:], out=_MOST_EXIF))
        elif box.name != b"Exif":
            continue
        return content[4 + int.from_bytes(content[:4], "big") :]
    return b""


def _stream(data: bytes) -> bytes:
    """The codestream behind its signature."""
    if data.startswith(_STREAM):
        return data[2:]
    for box in boxes(data):
        if box.name in (b"jxlc", b"jxlp"):  # a part begins with its number
            start = box.start + (4 if box.name == b"jxlp" else 0)
            if data[start : start + 2] == _STREAM:
                return data[start + 2 : box.end]
    raise Refused("damaged: it begins as JPEG XL, but its header cannot be read")


class _Bits:
    """Reads bits, lowest first."""

    def __init__(self, data: bytes) -> None:
        self.value = int.from_bytes(data[:4096], "little")
        self.left = 8 * min(len(data), 4096)

    def take(self, count: int) -> int:
        if count > self.left:
            raise Refused("damaged: its header is cut off")
        bits = self.value & ((1 << count) - 1)
        self.value >>= count
        self.left -= count
        return bits

    def choice(self, choices: Choices) -> int:
        added, count = choices[self.take(2)]
        return added + self.take(count)


def _size(bits: _Bits) -> tuple[int, int]:
    small = bits.take(1)

    def side() -> int:
        return 8 * (1 + bits.take(5)) if small else bits.choice(_SIDE)

    height = side()
    ratio = bits.take(3)
    if not ratio:
        return height, side()
    across, down = _RATIOS[ratio - 1]
    return height, height * across // down


def _extras(bits: _Bits) -> int:
    """The orientation, 1 to 8, past what follows it: intrinsic size, preview, animation."""
    orientation = 1 + bits.take(3)
    if bits.take(1):
        _size(bits)
    if bits.take(1):
        _preview(bits)
    if bits.take(1):
        bits.choice(((100, 0), (1000, 0), (1, 10), (1, 30)))
        bits.choice(((1, 0), (1001, 0), (1, 8), (1, 10)))
        bits.choice(((0, 0), (0, 3), (0, 16), (0, 32)))
        bits.take(1)
    return orientation


def _preview(bits: _Bits) -> None:
    choices = ((16, 0), (32, 0), (1, 5), (33, 9)) if bits.take(1) else ((1, 6), (65, 8), (321, 10), (1345, 12))
    bits.choice(choices)
    if not bits.take(3):
        bits.choice(choices)


def _depth(bits: _Bits) -> tuple[int, bool]:
    if bits.take(1):
        depth = bits.choice(((32, 0), (16, 0), (24, 0), (1, 6)))
        bits.take(4)
        return depth, True
    return bits.choice(((8, 0), (10, 0), (12, 0), (1, 6))), False


def _channel(bits: _Bits) -> tuple[int, bool]:
    """Kind of an extra channel, and whether colours were multiplied by it."""
    if bits.take(1):
        return _ALPHA, False
    kind = bits.choice(_KIND)
    _depth(bits)
    bits.choice(((0, 0), (3, 0), (4, 0), (1, 3)))
    for _ in range(bits.choice(((0, 0), (0, 4), (16, 5), (48, 10)))):
        bits.take(8)
    if kind == 2:  # a spot colour: four half floats
        bits.take(64)
    if kind == 5:  # a filter array
        bits.choice(((1, 0), (0, 2), (3, 4), (19, 8)))
    return kind, kind == _ALPHA and bool(bits.take(1))
