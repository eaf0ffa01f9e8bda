"""From the bytes of an image file to its samples: one function for each format that needs more than Pillow's pixels."""

import importlib
import io
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import replace

import cv2
import imagecodecs
import numpy as np
import simplejpeg
from PIL import Image

from .boxes import colour_numbers, find_box
from .headers import Header
from .jpeg_xl import jpeg_xl_header
from .layers import Layers, Refused, from_floats, scaled, unpremultiplied
from .named_colours import numbered_profile, png_profile
from .pnm import read_pnm
from .tiff_layers import check_strips, read_tiff, tiff_header

logging.getLogger("PIL").setLevel(logging.CRITICAL)  # what matters of a damaged file is raised
if hasattr(cv2, "setLogLevel"):
    cv2.setLogLevel(2)  # errors alone; what matters of them is raised

_REDUCED = (8, 4, 2)
# What libjpeg says of data that is not there or wrong; bytes in front of the end or of a segment are harmless.
_LOST = re.compile(r"Premature end|Corrupt JPEG data")
_HARMLESS = re.compile(r"(\d+) extraneous bytes before marker 0x(e.|fe|d9)")
_PADDING = 64  # bytes in front of the end that cameras fill up with
Read = Callable[[Header, bytes, int | None], Layers | None]


def read_layers(header: Header, data: bytes, shortest_side: int | None = None) -> tuple[Layers, int]:
    """The samples of a file, and the orientation that they still have to be given.

    With `shortest_side` a JPEG may come at 1/2, 1/4 or 1/8 of its size, as long as its short side keeps that many
    pixels. Raises Refused, or whatever a decoder raises.
    """
    if header.format == "TIFF":
        check_strips(data)
        tiff = tiff_header(data)
        if header.image is None or not tiff.plain:
            return read_tiff(data), header.orientation
        orientation = 1  # Pillow turns a TIFF as it decodes it
    else:
        orientation = header.orientation
        reader = _READERS.get(header.format)
        layers = reader(header, data, shortest_side) if reader else None
        if layers is not None:
            return layers, orientation
    assert header.image is not None
    layers = pillow_layers(header.image)
    if header.format == "PNG":  # its EXIF may lie behind the pixels
        orientation = header.image.getexif().get(0x0112, 1)
    return layers, orientation if orientation in range(1, 9) else 1


def pillow_layers(image: Image.Image) -> Layers:
    """The samples of a Pillow image of any mode. Raises Refused for modes whose white is not known."""
    if image.mode.startswith("I;16"):
        return Layers(np.asarray(image).astype(np.uint16)[..., None], 1, False)
    if image.mode == "F":
        return Layers(from_floats(np.asarray(image))[..., None], 1, False)
    if image.mode in ("I", "LAB"):
        raise Refused(f"{image.format or 'an image'} in Pillow's mode {image.mode}; convert it to 8 or 16 bits")
    plain = _plain(image)
    samples = np.array(plain)
    colours = {"L": 1, "LA": 1, "RGB": 3, "RGBA": 3, "CMYK": 4}[plain.mode]
    return Layers(samples[..., None] if samples.ndim == 2 else samples, colours, plain.mode in ("LA", "RGBA"))


def _plain(image: Image.Image) -> Image.Image:
    """One of L, LA, RGB, RGBA, CMYK."""
    transparent = "transparency" in image.info
    if image.mode in ("1", "L", "LA", "La"):
        wanted = "LA" if transparent or image.mode in ("LA", "La") else "L"
    elif image.mode == "CMYK":
        wanted = "CMYK"
    else:
        wanted = "RGBA" if transparent or image.mode in ("RGBA", "PA", "RGBa") else "RGB"
    return image if image.mode == wanted else image.convert(wanted)


def _jpeg(header: Header, data: bytes, shortest_side: int | None) -> Layers | None:
    """Colour and gray by the same library as Pillow's, faster, and with what it says of damaged data."""
    spaces = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}
    if header.mode not in spaces:
        return None
    side = min(header.height, header.width)
    factor = next((factor for factor in _REDUCED if shortest_side and side // factor >= shortest_side), 1)
    low = (header.height // factor, header.width // factor) if factor > 1 else (0, 0)
    try:
        samples = simplejpeg.decode_jpeg(data, spaces[header.mode], min_height=low[0], min_width=low[1])
    except ValueError as error:
        if _is_lost(str(error)):
            raise Refused(f"damaged: {str(error).removeprefix('Corrupt JPEG data: ')}") from None
        return None  # a harmless remark, or a kind of JPEG that is Pillow's to refuse
    # Of inks Pillow knows which way round they are.
    return None if header.mode == "CMYK" else Layers(samples, samples.shape[2], False)


def _is_lost(remark: str) -> bool:
    harmless = _HARMLESS.search(remark)
    if harmless:
        return harmless[2] == "d9" and int(harmless[1]) > _PADDING
    return _LOST.search(remark) is not None


def _png(header: Header, data: bytes, _: int | None) -> Layers | None:
    """16 bits by OpenCV; Pillow keeps 8."""
    if data[24] != 16:
        return None
    samples = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if samples is None or samples.dtype != np.uint16 or samples.shape[:2] != (header.height, header.width):
        raise ValueError("its 16-bit samples cannot be read")
    gray, alpha = data[25] in (0, 4), data[25] in (4, 6) or (samples.ndim == 3 and samples.shape[2] in (2, 4))
    samples = samples.reshape(header.height, header.width, -1)
    if not gray:
        samples = samples[..., [2, 1, 0, 3]] if alpha else samples[..., ::-1]
        return Layers(np.ascontiguousarray(samples), 3, alpha)
    samples = samples[..., [0, -1]] if alpha else samples[..., :1]  # gray may come as three equal channels
    clear = header.image.info.get("transparency") if header.image else None
    if not alpha and isinstance(clear, int):  # OpenCV looks for a transparent colour in RGB alone
        samples = np.concatenate([samples, np.where(samples == clear, 0, 65535).astype(np.uint16)], axis=2)
        alpha = True
    return Layers(np.ascontiguousarray(samples), 1, alpha)


def _pnm(_: Header, data: bytes, __: int | None) -> Layers | None:
    return read_pnm(data)


def _jpeg_2000(header: Header, data: bytes, _: int | None) -> Layers | None:
    """More than 8 bits by OpenJPEG itself; Pillow keeps them of gray alone."""
    start = data.find(b"\xff\x4f\xff\x51")
    count = int.from_bytes(data[start + 40 : start + 42], "big")
    parts = [data[start + 42 + 3 * number : start + 45 + 3 * number] for number in range(count)]
    bits = {(part[0] & 0x7F) + 1 for part in parts}
    if start < 0 or max(bits, default=8) <= 8 or find_box(data, b"jp2h", b"pclr"):
        return None
    if len(bits) != 1 or any(part[0] & 0x80 or part[1:] != b"\1\1" for part in parts) or count > 4 or max(bits) > 16:
        raise Refused("JPEG 2000 whose channels differ in size, depth or sign; convert it to RGB of 16 bits")
    space = find_box(data, b"jp2h", b"colr")
    named = space is not None and data[space.start] == 1
    code = int.from_bytes(data[space.start + 3 : space.start + 7], "big") if named and space else None
    if code not in (None, 16, 17):
        raise Refused(f"JPEG 2000 of {max(bits)} bits in colour space {code}; convert it to RGB")
    samples = imagecodecs.jpeg2k_decode(data).reshape(header.height, header.width, count)
    return Layers(scaled(samples, 2 ** bits.pop() - 1), 3 if count > 2 else 1, count in (2, 4))


def _heif(header: Header, data: bytes, _: int | None) -> Layers | None:
    """More than 8 bits by the plugin's own function; through Pillow it gives 8."""
    bits = header.image.info.get("bit_depth", 8) if header.image else 8
    if bits <= 8:
        return None
    file = importlib.import_module("pillow_heif").open_heif(data, convert_hdr_to_8bit=False, hdr_to_16bit=False)
    samples = np.asarray(file)
    if samples.dtype != np.uint16 or samples.shape[:2] != (header.height, header.width):
        raise Refused(f"HEIC of {bits} bits whose samples cannot be read; convert it to TIFF or PNG")
    samples = samples.reshape(header.height, header.width, -1)
    count = samples.shape[2]
    layers = Layers(scaled(samples, 2**bits - 1), 3 if count > 2 else 1, count in (2, 4))
    return replace(layers, samples=unpremultiplied(layers.samples)) if file.premultiplied_alpha else layers


def _jpeg_xl(header: Header, data: bytes, _: int | None) -> Layers | None:
    """Every depth by libjxl itself; Pillow's plugin gives 8 bits of colour."""
    said = jpeg_xl_header(data)
    if said.black:
        raise Refused("a JPEG XL of inks; convert it to RGB")
    samples = imagecodecs.jpegxl_decode(data, index=0)
    samples = samples.reshape(header.height, header.width, -1)
    count = samples.shape[2]
    if count > 4:
        raise Refused(f"a JPEG XL of {count} channels; convert it to RGB")
    values = from_floats(samples) if said.floating else scaled(samples, 2**said.bits - 1)
    values = unpremultiplied(values) if said.premultiplied else values
    return Layers(values, 3 if count > 2 else 1, count in (2, 4))


def _jpeg_xl_profile(data: bytes) -> bytes | None:
    """By Pillow's plugin, which decodes the picture once more; a JPEG XL keeps its profile compressed."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            profile = image.info.get("icc_profile")
    except Image.UnidentifiedImageError:
        raise Refused("a JPEG XL; install pillow-jxl-plugin (pip install pillow-jxl-plugin)") from None
    return profile if isinstance(profile, bytes) and profile else None


def _avif(header: Header, data: bytes, _: int | None) -> Layers | None:
    """10 and 12 bits by libavif itself; Pillow keeps 8."""
    place = data.find(b"av1C")
    flags = data[place + 6] if 0 <= place < len(data) - 6 else 0
    if not flags & 0x40 or b"prem" in data[: place + 4096]:
        return None
    samples = imagecodecs.avif_decode(data, index=0)
    samples = samples.reshape(header.height, header.width, -1)
    if samples.dtype != np.uint16 or samples.shape[2] not in (1, 3, 4):
        return None
    bits = 12 if flags & 0x20 else 10
    return Layers(scaled(samples, 2**bits - 1), min(samples.shape[2], 3), samples.shape[2] == 4)


_READERS: Mapping[str, Read] = {
    "JPEG": _jpeg,
    "MPO": _jpeg,
    "PNG": _png,
    "PPM": _pnm,
    "JPEG2000": _jpeg_2000,
    "AVIF": _avif,
    "HEIF": _heif,
    "JXL": _jpeg_xl,
}


def embedded_profile(header: Header, data: bytes) -> bytes | None:
    """The ICC profile in a file, or one of the colours that it names by number. Raises Refused for an HDR curve."""
    if header.format == "JPEG2000":
        box = find_box(data, b"jp2h", b"colr")
        return data[box.start + 3 : box.end] if box and data[box.start] == 2 else None
    if header.format == "JXL":
        return _jpeg_xl_profile(data)
    if header.image is None:
        icc = header.exif.get(34675)
        return icc if isinstance(icc, bytes) else None
    profile = header.image.info.get("icc_profile")
    if isinstance(profile, bytes) and profile:
        return profile
    if header.format == "PNG":
        return png_profile(header.image.info, data)
    numbers = colour_numbers(data) if header.format in ("AVIF", "HEIF") else None
    return numbered_profile(*numbers, header.format) if numbers else None
