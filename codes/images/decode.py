"""Reading image files: every depth and layout as sRGB, upright; damaged ones and bombs are refused by name.

Use it through `images.files`, which is the whole interface.
"""

import io
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from ..utils.errors import DataError, TesseraError
from . import endings
from .exif import density_of, fitted_exif
from .headers import TURNED, Header, opened
from .layers import Refused
from .pixels import quantise, to_float
from .profiles import convert_profile, without_profile
from .readers import embedded_profile, read_layers
from .room import available_memory, check_declared, check_memory

Alpha = Literal["white", "black", "crop"]
MAX_PIXELS = 1_000_000_000
_END_BYTES = 4096
_SIGNATURES = {
    "a JPEG": b"\xff\xd8\xff", "a PNG": b"\x89PNG\r\n\x1a\n", "a GIF": b"GIF8", "a RIFF": b"RIFF", "a BMP": b"BM",
    "JPEG 2000": b"\0\0\0\x0cjP  ", "a JPEG 2000 stream": b"\xff\x4f\xff\x51", "a portable pixmap": b"P6",
    "a portable graymap": b"P5",
}  # fmt: skip
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
# A decoder's own picture, the samples, and their conversion; with `_FLOATS` more where they become float32.
_BYTES_A_PIXEL, _FLOATS = 12, 16


@dataclass(frozen=True)
class Picture:
    """A decoded image file.

    `rgb` float32 (H, W, 3) in [0, 1], sRGB, upright; `alpha` float32 (H, W) in [0, 1] or None (not premultiplied);
    `gray`: the file has one colour channel; `bit_depth` 8 or 16: the depth that `rgb` really has; `exif` and `icc` are
    bytes that fit `rgb` and can go to `write_image` as they are (orientation reset; the profile describes sRGB, None
    where the file had none); `format` is Pillow's name ("JPEG", "PNG", ...); `dpi`: dots an inch (across, down), where
    the file says them.
    """

    rgb: np.ndarray
    alpha: np.ndarray | None
    gray: bool
    bit_depth: int
    exif: bytes | None
    icc: bytes | None
    format: str
    dpi: tuple[float, float] | None = None
    jpeg_table: np.ndarray | None = None


@dataclass(frozen=True)
class ImageInfo:
    """What the header of an image file says: upright size in pixels, Pillow's mode and format."""

    height: int
    width: int
    mode: str
    format: str


@dataclass(frozen=True)
class _Decoded:
    """Integer samples (H, W, 3 or 4), upright and sRGB, before the conversion to float."""

    samples: np.ndarray
    gray: bool
    exif: bytes | None
    icc: bytes | None
    format: str
    dpi: tuple[float, float] | None
    jpeg_table: np.ndarray | None


def read_image(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> Picture:
    """Read any image file. Raises DataError with path and reason: missing, empty, damaged, too large, no image."""
    decoded = _decode(Path(path), max_pixels, floats=True)
    values = to_float(decoded.samples)
    has_alpha = values.shape[2] == 4
    return Picture(
        rgb=np.ascontiguousarray(values[..., :3]),
        alpha=np.ascontiguousarray(values[..., 3]) if has_alpha else None,
        gray=decoded.gray,
        bit_depth=16 if decoded.samples.dtype == np.uint16 else 8,
        exif=decoded.exif,
        icc=decoded.icc,
        format=decoded.format,
        dpi=decoded.dpi,
        jpeg_table=decoded.jpeg_table,
    )


def read_samples(
    path: str | Path, *, max_pixels: int = MAX_PIXELS, alpha: Alpha = "white", shortest_side: int | None = None
) -> np.ndarray:
    """As `read_image`, but the integer samples, uint8 or uint16 (H, W, 3), without transparency.

    For training: large photographs stay small in memory until a tile of them is converted by `to_float`.
    `alpha` says what becomes of transparency: laid over white or black, or the rectangle that holds everything
    visible is cut out first and then laid over white. With `shortest_side` a JPEG may come at 1/2, 1/4 or 1/8 of its
    size, several times faster, as long as its short side keeps that many pixels.
    """
    path = Path(path)
    samples = _decode(path, max_pixels, shortest_side).samples
    return samples if samples.shape[2] == 3 else without_alpha(samples, alpha, path)


def without_alpha(samples: np.ndarray, alpha: Alpha, path: Path) -> np.ndarray:
    if alpha == "crop":
        visible = samples[..., 3] > 0
        rows, columns = np.flatnonzero(visible.any(axis=1)), np.flatnonzero(visible.any(axis=0))
        if not rows.size:
            raise DataError(f"{path}: nothing in it is visible (alpha is 0 everywhere)")
        samples = samples[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    values = to_float(samples)
    ground = np.float32(0.0 if alpha == "black" else 1.0)
    flat = values[..., :3] * values[..., 3:] + ground * (1.0 - values[..., 3:])
    return quantise(flat, 16 if samples.dtype == np.uint16 else 8)


def looks_whole(path: str | Path) -> bool:
    """False when the end of a file may be missing, by a glance at its last bytes; about 0.02 ms.

    A file without it may still decode (some programs append data), so only decoding proves it damaged.
    """
    with Path(path).open("rb") as file:
        head = file.read(12)
        length = file.seek(0, io.SEEK_END)
        file.seek(max(length - _END_BYTES, 0))
        return endings.looks_whole(head, file.read(), length)


def jpeg_table(path: str | Path) -> np.ndarray | None:
    """The quantisation table of the luminance, int (8, 8), of a JPEG file; None for other formats.

    Raises DataError as `read_image` does.
    """
    path = Path(path)
    with reported(path), opened(_regular(path)) as header:
        return table_of(header.image)


def table_of(image: Image.Image | None) -> np.ndarray | None:
    """The quantisation table of the luminance, int (8, 8), that Pillow keeps with a JPEG."""
    tables = getattr(image, "quantization", None)
    return np.array(tables[min(tables)]).reshape(8, 8) if tables else None


def count_frames(path: str | Path) -> int:
    """Frames of an animation or pages of a TIFF, of which only the first is ever read; 0 where they cannot be counted.

    Raises as `read_image` does where the first cannot be opened.
    """
    path = Path(path)
    with reported(path), opened(_regular(path)) as header:
        if header.format in ("JPEG", "MPO"):
            return 1
        try:
            return int(getattr(header.image, "n_frames", 1))
        except Exception:  # a later page is damaged, in whatever way
            return 0


def probe_image(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> ImageInfo:
    """Size and mode from the header alone (about 0.1 ms). Raises DataError as `read_image` does."""
    path = Path(path)
    with reported(path), opened(_regular(path)) as header:
        _check_size(header, max_pixels)
        return ImageInfo(*header.upright_size, mode=header.mode, format=header.format)


@contextmanager
def reported(path: Path) -> Iterator[None]:
    """Turn whatever a decoder raises into a DataError that names the file and the reason."""
    try:
        yield
    except TesseraError:
        raise
    except Refused as error:
        raise DataError(f"{path}: {error}") from None
    except Image.UnidentifiedImageError:
        raise DataError(f"{path}: {_what_it_is(path)}") from None
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except MemoryError:
        raise DataError(f"{path}: not enough memory to decode it") from None
    except Exception as error:  # decoders raise anything on damaged files, and one file is never the end of a run
        words = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{path}: cannot be decoded ({words})") from None


def _what_it_is(path: Path) -> str:
    """What is to be said of a file that Pillow does not know."""
    with path.open("rb") as file:
        head = file.read(12)
    if not head:
        return "the file is empty"
    if head[4:12] in (b"ftypavif", b"ftypavis"):
        return "damaged: it begins as an AVIF, but its header cannot be read"
    if head[4:8] == b"ftyp" and head[8:12] in _HEIC_BRANDS:
        return "a HEIC, whatever its name, that is damaged or needs pillow-heif (pip install pillow-heif)"
    known = next((kind for kind, signature in _SIGNATURES.items() if head.startswith(signature)), None)
    return f"damaged: it begins as {known}, but its header cannot be read" if known else "not an image file"


def _regular(path: Path) -> Path:
    """The path, unless reading it may never end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise Refused("not a regular file; expected an image file")
    return path


def _check_size(header: Header, max_pixels: int) -> None:
    if header.width * header.height > max_pixels:
        size = f"{header.width} x {header.height}"
        raise Refused(f"{size} pixels are more than the limit of {max_pixels} (max_pixels)")


def _decode(path: Path, max_pixels: int, shortest_side: int | None = None, *, floats: bool = False) -> _Decoded:
    with reported(path):
        length = _regular(path).stat().st_size
        free = available_memory()
        if free is not None and length > free:
            raise Refused(f"a file of {length} bytes, and {free} bytes of memory are available")
        data = path.read_bytes()
        with opened(io.BytesIO(data)) as header:
            _check_size(header, max_pixels)
            check_declared(header.format, header.width, header.height, len(data))
            check_memory(header.width, header.height, _BYTES_A_PIXEL + (_FLOATS if floats else 0))
            endings.check_ending(data, header.format)
            # Before the pixels: Pillow turns a TIFF as it decodes it.
            size = header.upright_size
            layers, orientation = read_layers(header, data, shortest_side)
            colours = upright(layers.samples, orientation)
            profile = embedded_profile(header, data)
            exif = fitted_exif(header.image.getexif() if header.image else header.exif, *size)
            samples, icc = to_srgb(colours, layers.alpha, profile, path)
            dpi = density_of(header.image.info) if header.image else None
            table = table_of(header.image)
            return _Decoded(samples, layers.colours == 1, exif, icc, header.format, dpi, table)


def to_srgb(samples: np.ndarray, alpha: bool, profile: bytes | None, path: Path) -> tuple[np.ndarray, bytes | None]:
    """Samples (H, W, colours + alpha) as RGB or RGBA in sRGB, and the profile to save with them."""
    colours = samples[..., :-1] if alpha else samples
    rgb, icc = convert_profile(colours, profile, path) if profile else (without_profile(colours), None)
    return np.ascontiguousarray(np.concatenate([rgb, samples[..., -1:]], axis=2) if alpha else rgb), icc


def upright(samples: np.ndarray, orientation: int) -> np.ndarray:
    """Apply EXIF orientation 1..8 to (H, W, C)."""
    if orientation in TURNED:
        samples = samples.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    if orientation in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    return samples
