"""Files made of boxes (ISO 14496-12): AVIF, HEIC and JPEG 2000. Where their pixels lie, and what colours they say."""

from collections.abc import Iterator
from typing import NamedTuple

from .layers import Refused

_CODED = (b"av01", b"hvc1", b"j2k1", b"jpeg")  # kinds of items that are pictures; a grid refers to such


class Box(NamedTuple):
    """A box: its name, and where what it holds begins and ends."""

    name: bytes
    start: int
    end: int


def boxes(data: bytes, start: int = 0, end: int | None = None) -> Iterator[Box]:
    """The boxes of a part of a file; the last one may claim to end behind it. Stops at what is no box."""
    end = len(data) if end is None else min(end, len(data))
    while start + 8 <= end:
        size, name, head = int.from_bytes(data[start : start + 4], "big"), data[start + 4 : start + 8], 8
        if size == 1:
            size, head = int.from_bytes(data[start + 8 : start + 16], "big"), 16
        size = size or end - start
        if size < head or not any(name):
            return
        yield Box(name, start + head, start + size)
        start += size


def find_box(data: bytes, *path: bytes) -> Box | None:
    """The first box at a path of names; `meta` holds its boxes behind four bytes."""
    start, end, inner = 0, len(data), None
    for name in path:
        inner = next((box for box in boxes(data, start, end) if box.name == name), None)
        if inner is None:
            return None
        start, end = inner.start + (4 if name == b"meta" else 0), inner.end
    return inner


def image_extents(data: bytes) -> list[tuple[int, int]]:
    """Where the coded pictures of an AVIF or HEIC lie in the file. Raises Refused when it does not say so."""
    try:
        kinds, places = _item_kinds(data), _item_places(data)
    except (IndexError, ValueError):
        raise Refused("damaged: its directory of pictures cannot be read") from None
    extents = [extent for item, parts in places.items() if kinds.get(item) in _CODED for extent in parts]
    if not extents and find_box(data, b"moov") is None:  # a sequence keeps its pictures elsewhere
        raise Refused("damaged: it holds no picture")
    return extents


def colour_numbers(data: bytes) -> tuple[int, int] | None:
    """Primaries and transfer of ITU-T H.273 (`nclx`) of an AVIF or HEIC, where it says them."""
    properties = find_box(data, b"meta", b"iprp", b"ipco")
    for box in boxes(data, properties.start, properties.end) if properties else ():
        if box.name == b"colr" and data[box.start : box.start + 4] == b"nclx":
            numbers = data[box.start + 4 : box.start + 8]
            return int.from_bytes(numbers[:2], "big"), int.from_bytes(numbers[2:], "big")
    return None


class _Reader:
    """Big-endian numbers, one after the other."""

    def __init__(self, data: bytes, box: Box) -> None:
        self.data, self.place, self.end = data, box.start, min(box.end, len(data))

    def number(self, size: int) -> int:
        if self.place + size > self.end:
            raise ValueError("the box ends too early")
        self.place += size
        return int.from_bytes(self.data[self.place - size : self.place], "big")


def _item_kinds(data: bytes) -> dict[int, bytes]:
    """Item -> its kind, from `iinf`."""
    box = find_box(data, b"meta", b"iinf")
    if box is None:
        raise ValueError("no iinf")
    kinds = {}
    version = data[box.start]
    for entry in boxes(data, box.start + (6 if version == 0 else 8), box.end):
        reader = _Reader(data, entry)
        infe = reader.number(4) >> 24
        item = reader.number(4 if infe >= 3 else 2)
        reader.number(2)
        kinds[item] = reader.number(4).to_bytes(4, "big")
    return kinds


def _item_places(data: bytes) -> dict[int, list[tuple[int, int]]]:
    """Item -> where its parts lie in the file, from `iloc`; those that lie in a box of their own are left out."""
    box = find_box(data, b"meta", b"iloc")
    if box is None:
        raise ValueError("no iloc")
    reader = _Reader(data, box)
    version = reader.number(4) >> 24
    sizes = reader.number(2)
    offset_size, length_size, base_size = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15
    index_size = sizes & 15 if version else 0
    places: dict[int, list[tuple[int, int]]] = {}
    for _ in range(reader.number(2 if version < 2 else 4)):
        item = reader.number(2 if version < 2 else 4)
        method = reader.number(2) & 15 if version else 0
        reader.number(2)
        base = reader.number(base_size)
        parts = []
        for _ in range(reader.number(2)):
            reader.number(index_size)
            start = base + reader.number(offset_size)
            length = reader.number(length_size)
            parts.append((start, start + length if length else len(data)))
        if method == 0:
            places[item] = parts
    return places
