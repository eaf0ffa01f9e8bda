"""TIFF files of every layout that Pillow reads in 8 bits, wrongly or not at all (TIFF 6.0, by the library tifffile).

More than 8 bits, planes one after the other, white as 0, premultiplied transparency, floats, CMYK and L*a*b*.
"""

import io
import logging
import mmap
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import tifffile

from .layers import Layers, Refused, from_floats, from_long, inverted, lab_to_rgb, scaled, unpremultiplied
from .lost_pixels import Stored, check_rows

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what matters of a damaged file is raised

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, INKS, YCC, LAB, ICC_LAB = 0, 1, 2, 3, 5, 6, 8, 9
_COLOURS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, INKS: 4, LAB: 3, ICC_LAB: 3}
_PREMULTIPLIED, _SEPARATE = 1, 2  # kinds of extra samples
_UNSIGNED, _SIGNED, _FLOAT, _UNDEFINED = 1, 2, 3, 4
_PLAIN_BITS = (1, 2, 4, 8)
_KEPT = (270, 271, 272, 274, 305, 306, 315, 33432, 34675)  # title, maker, model, ..., author, rights, profile
_LZW, _PACKBITS, _DEFLATED = 5, 32773, (8, 32946)
# Bytes of pixels that a stored byte can stand for: as they are, a run of PackBits, a code of LZW, a match of deflate,
# two bits for 64 pixels of a JPEG.
_MOST_A_BYTE = {1: 1, _PACKBITS: 64, _LZW: 4096, 8: 1032, 32946: 1032, 6: 1024, 7: 1024}
# Bytes of zero in a row that a strip may hold: none say anything of pixels as they are, of those of a fax, of raw
# sensors' and of deflate, which has a checksum; LZW and PackBits hardly write them, JPEG and its like a few.
_ZEROS_MEAN_NOTHING = (*range(5), *_DEFLATED, *range(32767, 32773), *range(34661, 34664))
_MOST_ZEROS, _FEW_ZEROS = 64, 512
_QUIET = (*range(5), 7, _PACKBITS)  # compressions of which Pillow's library writes no remarks to the terminal


class TiffHeader(NamedTuple):
    """What the first directory says. `plain`: Pillow reads this layout right; `big`: a BigTIFF."""

    height: int
    width: int
    bits: int
    samples: int
    compression: int
    plain: bool
    big: bool


def is_tiff(head: bytes) -> bool:
    """Whether a file begins as a TIFF or BigTIFF."""
    return head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def tiff_header(source: bytes | BinaryIO) -> TiffHeader:
    """The header of a file. Raises whatever tifffile does for a damaged one."""
    with tifffile.TiffFile(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
        return _header(_first(file))


def tiff_tags(source: BinaryIO) -> dict[int, Any]:
    """Of the first directory: what the picture is called and who made it, how it is turned, and its ICC profile."""
    with tifffile.TiffFile(source) as file:
        tags = _first(file).tags
        return {number: tags.valueof(number) for number in _KEPT if number in tags}


def read_tiff(data: bytes) -> Layers:
    """The samples of the first page. Raises Refused for a layout that cannot be read right."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = _first(file)
        photometric = int(page.photometric)
        if photometric not in _COLOURS:
            raise Refused(f"a TIFF of {_name(page.photometric)} pixels; convert it to RGB or gray")
        values = _pixels(page)
        colours = _COLOURS[photometric]
        if values.shape[2] < colours:
            raise Refused(f"damaged: {values.shape[2]} channels of {colours}")
        return _layers(page, photometric, values[..., : colours + _has_alpha(page, colours)])


def check_strips(data: bytes) -> None:
    """Raises Refused unless every strip or tile of the first page lies in the file, was written, and can hold it."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = _first(file)
        places = list(zip(page.dataoffsets, page.databytecounts, strict=False))
        header = _header(page)
        declared = header.height * header.width * header.samples * header.bits // 8
        share = 1 if int(page.photometric) != YCC else 3  # colours may be stored at a part of the size
    if not places or any(count <= 0 or start + count > len(data) for start, count in places):
        raise Refused("damaged: it ends before its last strip of pixels, or a strip was never written")
    most = _MOST_A_BYTE.get(header.compression)
    stored = sum(count for _, count in places)
    if most is not None and declared > most * share * stored:
        raise Refused(
            f"damaged: its header declares {header.width} x {header.height} pixels, more than {stored} bytes can hold"
        )
    if header.compression == 1:
        _check_rows(data, page, places, header)
    if header.compression not in _ZEROS_MEAN_NOTHING:
        zeros = bytes(_MOST_ZEROS if header.compression in (_LZW, _PACKBITS) else _FEW_ZEROS)
        if any(data.find(zeros, start, start + count) >= 0 for start, count in places):
            raise Refused("damaged: a part of its pixels was overwritten with zeros")


def check_large(path: Path) -> None:
    """As `check_strips` does of pixels that are stored as they are, without reading the file into memory."""
    with path.open("rb") as file, tifffile.TiffFile(path) as tiff:
        page = _first(tiff)
        header = _header(page)
        places = list(zip(page.dataoffsets, page.databytecounts, strict=False))
        if header.compression == 1 and all(start + count <= path.stat().st_size for start, count in places):
            # Not closed by hand: an error still refers to it.
            _check_rows(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), page, places, header)


def _check_rows(data: Stored, page: tifffile.TiffPage, places: list[tuple[int, int]], header: TiffHeader) -> None:
    """Pixels that are stored as they are: one plane after the other, or in tiles, each of which has rows of its own."""
    apart = page.planarconfig is not None and int(page.planarconfig) == 2
    pixel_bits = header.bits * (1 if apart else header.samples)
    width = page.tilewidth if page.is_tiled else header.width
    row = width * pixel_bits // 8
    if header.bits in (8, 16, 32, 64) and int(page.photometric) != YCC and all(count % row == 0 for _, count in places):
        check_rows(data, places, row, row, pixel_bits // 8)


def _first(file: tifffile.TiffFile) -> tifffile.TiffPage:
    page = file.pages[0]
    assert isinstance(page, tifffile.TiffPage)
    return page


def _header(page: tifffile.TiffPage) -> TiffHeader:
    bits = page.bitspersample if isinstance(page.bitspersample, int) else max(page.bitspersample)
    extras = tuple(int(extra) for extra in page.extrasamples)
    photometric = int(page.photometric)
    known = photometric in (*_COLOURS, YCC) and photometric not in (LAB, ICC_LAB)
    layout = page.planarconfig is None or int(page.planarconfig) == 1
    # Premultiplied gray is the one that Pillow takes for plain.
    simple = not extras or (len(extras) == 1 and (extras[0] == _SEPARATE or photometric == RGB))
    sure = bits in _PLAIN_BITS and isinstance(page.bitspersample, int) and _format(page) == _UNSIGNED
    # Of deflate Pillow's library leaves the checksum unread.
    quiet = int(page.compression) in _QUIET or photometric == YCC
    plain = known and layout and simple and sure and quiet and (bits == 8 or page.samplesperpixel == 1)
    return TiffHeader(
        page.imagelength,
        page.imagewidth,
        bits,
        page.samplesperpixel,
        int(page.compression),
        plain,
        page.parent.is_bigtiff,
    )


def _format(page: tifffile.TiffPage) -> int:
    """How its numbers are stored; one for all channels."""
    formats = page.sampleformat
    kinds = {int(kind) for kind in (formats if isinstance(formats, tuple) else (formats,))}
    if len(kinds) != 1:
        raise Refused("a TIFF whose channels are of different kinds of numbers; convert it to RGB of 16 bits")
    kind = kinds.pop()
    return _UNSIGNED if kind == _UNDEFINED else kind


def _pixels(page: tifffile.TiffPage) -> np.ndarray:
    """(H, W, C) as stored."""
    if not isinstance(page.bitspersample, int):
        raise Refused(f"a TIFF with channels of {page.bitspersample} bits; convert it to 8 or 16 bits")
    values = page.asarray(maxworkers=1)
    if page.axes == "YX":
        return values[..., None]
    if page.axes == "SYX":
        return np.moveaxis(values, 0, 2)
    if page.axes != "YXS":
        raise Refused(f"a TIFF with the dimensions {page.axes}; convert it to a flat image")
    return values


def _has_alpha(page: tifffile.TiffPage, colours: int) -> bool:
    extras = tuple(int(extra) for extra in page.extrasamples)
    return page.samplesperpixel > colours and bool(extras) and extras[0] in (_PREMULTIPLIED, _SEPARATE)


def _layers(page: tifffile.TiffPage, photometric: int, values: np.ndarray) -> Layers:
    colours = _COLOURS[photometric]
    alpha = values.shape[2] > colours
    if photometric == PALETTE:
        return Layers(_coloured(page, values[..., 0]), 3, False)
    if photometric in (LAB, ICC_LAB):
        return Layers(lab_to_rgb(_lab(page, photometric, values)), 3, False)
    samples = _full_range(page, values)
    if photometric == WHITE_IS_ZERO:
        samples = np.concatenate([inverted(samples[..., :1]), samples[..., 1:]], axis=2)
    if photometric == INKS and int(page.tags.valueof(332, 1)) != 1:
        raise Refused("a TIFF of inks other than CMYK; convert it to RGB")
    if alpha and int(page.extrasamples[0]) == _PREMULTIPLIED:
        if photometric == INKS:
            raise Refused("a CMYK TIFF with premultiplied transparency; convert it to RGB")
        samples = unpremultiplied(samples)
    return Layers(np.ascontiguousarray(samples), colours, alpha)


def _full_range(page: tifffile.TiffPage, values: np.ndarray) -> np.ndarray:
    """uint8 or uint16 of full range."""
    kind, bits = _format(page), int(page.bitspersample)
    if kind == _FLOAT:
        return from_floats(values)
    if kind != _UNSIGNED:
        text = "signed integers" if kind == _SIGNED else "complex numbers"
        raise Refused(
            f"a TIFF of {bits}-bit {text}, whose black and white are not known; convert it to unsigned 16 bits"
        )
    return scaled(values.astype(np.uint8) if bits == 1 else values, 2**bits - 1) if bits <= 16 else from_long(values)


def _coloured(page: tifffile.TiffPage, numbers: np.ndarray) -> np.ndarray:
    """uint16 (H, W, 3) of the numbers of a palette's entries."""
    table = page.colormap
    if table is None or _format(page) != _UNSIGNED or int(numbers.max()) >= table.shape[1]:
        raise Refused("damaged: a palette that lacks entries")
    entries = table.T.astype(np.uint16)
    # Some programs write 8-bit entries into the 16 bits; libtiff's test for them.
    return (entries * 257 if int(entries.max()) < 256 else entries)[numbers]


def _lab(page: tifffile.TiffPage, photometric: int, values: np.ndarray) -> np.ndarray:
    """float32 (H, W, 3): L* 0..100, a*, b*. TIFF 6.0, section 23; ICC L*a*b* by Adobe's technical note."""
    bits = int(page.bitspersample)
    if bits not in (8, 16) or _format(page) not in (_UNSIGNED, _SIGNED):
        raise Refused(f"a TIFF of {bits}-bit L*a*b*; convert it to RGB")
    result: np.ndarray = values.astype(np.uint8 if bits == 8 else np.uint16).astype(np.float32)
    unit = 1 if bits == 8 else 256  # of a* and b*
    if photometric == ICC_LAB:
        result[..., 0] *= 100 / (255 if bits == 8 else 65280)
        result[..., 1:] = result[..., 1:] / unit - 128
        return result
    result[..., 0] *= 100 / (2**bits - 1)
    result[..., 1:] /= unit
    result[..., 1:] -= 256 * (result[..., 1:] >= 128)  # signed, as two's complement
    return result


def _name(photometric: object) -> str:
    return str(getattr(photometric, "name", photometric)).replace("_", " ").lower()
