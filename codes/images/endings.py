"""Whether an image file ends as its format says, and holds no hole: a copy that stopped, a sector that was lost.

Decoders fill what is missing with gray or black and say nothing. Zeros in uncompressed pixels (BMP, PPM, plain TIFF)
are black, and are damage where they begin in the middle of a row (`lost_pixels`). Bytes behind the end are allowed
everywhere: phones and editors put data of their own there.
"""

import re
import zlib
from collections.abc import Callable, Mapping

import imagecodecs

from .boxes import Box, boxes, image_extents
from .layers import Refused
from .lost_pixels import check_bmp

_JPEG_MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")
_MOST_SCANS = 500  # of a progressive JPEG; honest ones have about ten, and each costs a pass over the picture
_MOST_ZEROS = 64  # bytes in a row; the arithmetic coders of AVIF and HEVC write 16 at most
_MOST_ZEROS_JP2 = 512  # empty packets are zero bytes
_ZEROS_A_MACROBLOCK = 0.05  # of VP8; measured on flat pictures: 0.026
_GAP = 8  # zero bytes that some programs write between the blocks of a GIF


def check_ending(data: bytes, kind: str) -> None:
    """Raises Refused for a file of Pillow's format `kind` that is cut off or has a hole."""
    check = _CHECKS.get(kind)
    if check is not None:
        check(data)


def _cut() -> Refused:
    return Refused("damaged: its end is missing")


def _hole() -> Refused:
    return Refused("damaged: a part of it was overwritten with zeros")


def _jpeg(data: bytes) -> None:
    place, scans = 2, 0
    while True:
        match = _JPEG_MARKER.search(data, place)
        if match is None:
            raise _cut()
        marker, place = match[0][-1], match.end()
        if marker == 0xD9:
            return
        if marker == 0x01 or marker == 0xD8:
            continue
        scans += marker == 0xDA
        if scans > _MOST_SCANS:
            raise Refused(f"a JPEG of more than {_MOST_SCANS} scans, which would take very long to decode")
        place += max(int.from_bytes(data[place : place + 2], "big"), 2)


def _png(data: bytes) -> None:
    place = 8
    while place + 12 <= len(data):
        length, name = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
        end = place + 12 + length
        if end > len(data):
            break
        # An ancillary chunk (small first letter) may be wrong, the picture is not.
        if not name[0] & 0x20 and zlib.crc32(data[place + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            raise Refused(f"damaged: the checksum of its {_letters(name)} chunk is wrong")
        if name == b"IEND":
            return
        place = end
    raise _cut()


def _letters(name: bytes) -> str:
    return name.decode("latin-1") if name.isalpha() else "unnamed"


def _webp(data: bytes) -> None:
    end = 8 + int.from_bytes(data[4:8], "little")
    if end > len(data):
        raise _cut()
    place, canvas = 12, 0
    while place + 8 <= end:
        name, length = data[place : place + 4], int.from_bytes(data[place + 4 : place + 8], "little")
        if place + 8 + length > end:
            raise _cut()
        if name == b"VP8 ":
            _vp8(data, place + 8, place + 8 + length)
        elif name == b"VP8X":
            width, height = (int.from_bytes(data[place + at : place + at + 3], "little") for at in (12, 15))
            canvas = width | height << 14
        elif name == b"ALPH" and data[place + 8] & 3 == 1:  # compressed as a lossless picture without its head
            _vp8l(b"\x2f" + canvas.to_bytes(4, "little") + data[place + 9 : place + 8 + length])
        elif name == b"VP8L":
            _vp8l(data[place + 8 : place + 8 + length])
        # A frame of an animation holds chunks of its own behind 16 bytes.
        place += 8 + (16 if name == b"ANMF" else length + length % 2)


def _vp8(data: bytes, start: int, end: int) -> None:
    width, height = (int.from_bytes(data[start + at : start + at + 2], "little") & 0x3FFF for at in (6, 8))
    blocks = -(-width // 16) * -(-height // 16)
    if data.find(bytes(_MOST_ZEROS + int(_ZEROS_A_MACROBLOCK * blocks)), start, end) >= 0:
        raise _hole()


def _vp8l(data: bytes) -> None:
    """Zeros may stand for a flat area. Wrong ones bring the decoder to the end of the picture before that of the data,
    or past it, which it says itself.
    """
    if bytes(_MOST_ZEROS) not in data:
        return
    part = data[:-_MOST_ZEROS]
    chunk = b"VP8L" + len(part).to_bytes(4, "little") + part + bytes(len(part) % 2)
    try:
        imagecodecs.webp_decode(b"RIFF" + (4 + len(chunk)).to_bytes(4, "little") + b"WEBP" + chunk)
    except Exception:  # what is missing is missed
        return
    raise _hole()


def _gif(data: bytes) -> None:
    place = 13 + _palette(data, 10)
    gap = 0
    while place < len(data):
        introducer, place = data[place], place + 1
        if introducer == 0x3B:
            return
        gap = gap + 1 if introducer == 0 else 0
        if introducer == 0x21:
            place = _blocks(data, place + 1)
        elif introducer == 0x2C:
            place = _blocks(data, place + 9 + _palette(data, place + 8) + 1)
        elif introducer or gap > _GAP:
            raise Refused("damaged: what follows one of its blocks is none")
    raise _cut()


def _palette(data: bytes, place: int) -> int:
    """Bytes of the palette that the flags at `place` announce."""
    if place >= len(data):
        raise _cut()
    return 3 * 2 ** ((data[place] & 7) + 1) if data[place] & 0x80 else 0


def _blocks(data: bytes, place: int) -> int:
    """Where the sub-blocks that begin at `place` end."""
    while place < len(data):
        length = data[place]
        place += 1 + length
        if not length:
            return place
    raise _cut()


def _box_file(data: bytes) -> None:
    for start, end in image_extents(data):
        if end > len(data):
            raise _cut()
        if data.find(bytes(_MOST_ZEROS), start, end) >= 0:
            raise _hole()


def _jpeg_2000(data: bytes) -> None:
    streams = [Box(b"jp2c", 0, len(data))] if data.startswith(b"\xff\x4f") else boxes(data)
    stream = next((box for box in streams if box.name == b"jp2c"), None)
    if stream is None:
        raise _cut()
    place = data.find(b"\xff\x90", stream.start, stream.end)  # the first tile-part
    while place >= 0 and place + 12 <= len(data) and data[place : place + 2] == b"\xff\x90":
        length = int.from_bytes(data[place + 6 : place + 10], "big")
        place = place + length if length else data.rfind(b"\xff\xd9", place)  # 0: up to the end
    if place < 0 or data[place : place + 2] != b"\xff\xd9":
        raise _cut()
    if data.find(bytes(_MOST_ZEROS_JP2), stream.start, place) >= 0:
        raise _hole()


_CHECKS: Mapping[str, Callable[[bytes], None]] = {
    "JPEG": _jpeg,
    "MPO": _jpeg,
    "PNG": _png,
    "WEBP": _webp,
    "GIF": _gif,
    "BMP": check_bmp,
    "AVIF": _box_file,
    "HEIF": _box_file,
    "JPEG2000": _jpeg_2000,
}


def looks_whole(head: bytes, tail: bytes, length: int) -> bool:
    """A glance at the first and last bytes of a file of `length` bytes: False when its end may be missing.

    False proves nothing, since data may follow the end; only reading the file does.
    """
    if head.startswith(b"\xff\xd8"):
        return b"\xff\xd9" in tail
    if head.startswith(b"\x89PNG"):
        return b"IEND" in tail
    if head.startswith(b"GIF8"):
        return tail.endswith(b"\x3b")
    if head.startswith(b"RIFF"):
        return 8 + int.from_bytes(head[4:8], "little") <= length and any(tail[-_MOST_ZEROS:])
    return head[4:8] not in (b"ftyp", b"jP  ") or any(tail[-_MOST_ZEROS:])
