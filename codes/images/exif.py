"""EXIF that fits the pixels it is stored with. Use it through `utils.images`."""

import warnings
from collections.abc import Mapping
from typing import Any

from PIL import ExifTags, Image

ORIENTATION = 0x0112
_POINTERS = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)
MOST_DENSITY = 1e6  # dots an inch; what says more is damaged
_PIXEL_WIDTH, _PIXEL_HEIGHT = 0xA002, 0xA003
# Tags that say how a file stores its pixels (TIFF 6.0: sizes, strips, tiles, compression, colour) or that hold other
# kinds of metadata (XMP, IPTC, Photoshop, ICC): in a TIFF they lie among the EXIF tags and are wrong in another file.
_OF_THE_FILE = frozenset(
    (*range(254, 267), 269, 273, *range(277, 282), *range(284, 294), 297, 301, *range(317, 348), *range(512, 534))
) | frozenset((700, 33723, 34377, 34675, 37724))


def density_of(info: Mapping[str | tuple[int, int], Any]) -> tuple[float, float] | None:
    """Dots an inch (across, down) as Pillow's `info` has them from JFIF, pHYs or TIFF's tags; None where none are said.

    They say how large a picture is printed, and nothing of its pixels: a result keeps them.
    """
    try:
        across, down = (float(value) for value in info["dpi"])
    except (KeyError, TypeError, ValueError):
        return None
    return (across, down) if min(across, down) > 0 and max(across, down) < MOST_DENSITY else None


def fitted_exif(source: Image.Exif | bytes, height: int, width: int) -> bytes | None:
    """EXIF for an upright image of (height, width) pixels: as `source`, with what it says about pixels corrected.

    The orientation is reset, the size corrected where it is named, and what describes another file's storage is left
    out. None when nothing remains, or when the tags are malformed: a camera's mistake is no reason to refuse a picture.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, about single tags
            kept = _fitted(_loaded(source), height, width)
            return kept.tobytes() if len(kept) else None
    except Exception:  # whatever Pillow's parser raises on malformed tags
        return None


def _loaded(source: Image.Exif | bytes) -> Image.Exif:
    if isinstance(source, Image.Exif):
        return source
    exif = Image.Exif()
    exif.load(source)
    return exif


def _fitted(exif: Image.Exif, height: int, width: int) -> Image.Exif:
    kept = Image.Exif()
    kept.endian = exif.endian or "<"
    for tag, value in exif.items():
        if tag not in _OF_THE_FILE and tag not in _POINTERS:
            kept[tag] = 1 if tag == ORIENTATION else value
    for pointer in _POINTERS:
        tags: dict[int, Any] = dict(exif.get_ifd(pointer))
        interop = exif.get_ifd(ExifTags.IFD.Interop) if tags.pop(ExifTags.IFD.Interop, None) is not None else None
        if interop:
            tags[ExifTags.IFD.Interop] = dict(interop)
        tags |= {tag: size for tag, size in ((_PIXEL_WIDTH, width), (_PIXEL_HEIGHT, height)) if tag in tags}
        if tags:
            kept[pointer] = tags
    return kept


def little_endian(exif: bytes) -> bytes:
    """The same tags as a little-endian TIFF directory, without the mark in front; offsets count from its start."""
    parsed = _loaded(exif)
    kept = Image.Exif()
    for tag, value in parsed.items():
        kept[tag] = parsed.get_ifd(tag) if tag in _POINTERS else value
    kept.endian = "<"
    return kept.tobytes().removeprefix(b"Exif\0\0")
