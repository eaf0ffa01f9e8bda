"""Images in memory (arrays, tensors, Pillow's, files that were read), taken apart and put together.

What comes out again is of the same kind as what went in: dtype, channels, Pillow's mode, colour profile, EXIF data.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeGuard

import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps

from ..utils.errors import DataError
from .decode import Picture, table_of, to_srgb
from .exif import density_of, fitted_exif
from .layers import Refused
from .pixels import quantise, to_float
from .profiles import fitted_icc
from .readers import pillow_layers

Rebuild = Callable[[np.ndarray, np.ndarray | None], object]
_CHANNELS = (1, 2, 3, 4)  # gray, gray and alpha, RGB, RGB and alpha
_SLACK = 1e-3  # how far floats may leave [0, 1], as rounding and resampling make them do, before they are refused
_NOWHERE = Path("the image")  # stands in messages where a file would


@dataclass(frozen=True)
class ImageObject:
    """An image of the caller, as `read_image` gives one from a file.

    `rgb` float32 (H, W, 3) in [0, 1], upright; `alpha` float32 (H, W) in [0, 1] or None; `gray`: it has one colour
    channel; `bit_depth` 8 or 16 (floats count as 8); `jpeg_table`: the luminance table (8, 8) of the JPEG that it
    was opened from. `rebuild(rgb, alpha)` makes an image of the caller's kind, of any size.
    """

    rgb: np.ndarray
    alpha: np.ndarray | None
    gray: bool
    bit_depth: int
    jpeg_table: np.ndarray | None
    rebuild: Rebuild


def take_apart(image: object) -> ImageObject:
    """An array (H, W) or (H, W, 1..4), a tensor (1..4, H, W), a Pillow image, or a `Picture` of `read_image`.

    Arrays and tensors hold uint8, uint16 or floats in [0, 1]. Raises TypeError for another kind or dtype, ValueError
    for a shape or values that are none of these, DataError for a Pillow image whose file cannot be decoded.
    """
    if isinstance(image, np.ndarray):
        return _of_array(image)
    if isinstance(image, torch.Tensor):
        return _of_tensor(image)
    if isinstance(image, Image.Image):
        return _of_pillow(image)
    if isinstance(image, Picture):
        return _of_picture(image)
    kind = type(image).__name__
    raise TypeError(f"image: expected a NumPy array, a torch tensor, a Pillow image or a Picture, found {kind}")


def _of_array(image: np.ndarray) -> ImageObject:
    if image.ndim not in (2, 3) or 0 in image.shape or (image.ndim == 3 and image.shape[2] not in _CHANNELS):
        raise ValueError(
            f"image: expected an array (H, W) or (H, W, C) of 1 to 4 channels and at least 1 pixel, "
            f"found shape {image.shape}"
        )
    values = _floats(image)
    channels = 1 if image.ndim == 2 else image.shape[2]
    planes = values.reshape(*values.shape[:2], channels)
    colours = 1 if channels < 3 else 3
    alpha = None if channels == colours else np.ascontiguousarray(planes[..., -1])
    rgb = np.ascontiguousarray(np.broadcast_to(planes[..., :colours], (*planes.shape[:2], 3)))

    def rebuild(restored: np.ndarray, opacity: np.ndarray | None) -> np.ndarray:
        colour = restored if colours == 3 else _to_gray(restored)[..., None]
        whole = colour if opacity is None else np.concatenate([colour, opacity[..., None]], axis=2)
        return _as_dtype(whole[..., 0] if image.ndim == 2 else whole, image.dtype)

    return ImageObject(
        rgb, alpha, colours == 1, 16 if image.dtype.kind == "u" and image.dtype.itemsize == 2 else 8, None, rebuild
    )


def _floats(image: np.ndarray) -> np.ndarray:
    """float32 in [0, 1], same shape."""
    if image.dtype.kind == "u" and image.dtype.itemsize <= 2:
        return to_float(image)
    if image.dtype.kind != "f":
        raise TypeError(f"image: expected uint8, uint16 or floats in [0, 1], found {image.dtype}")
    low, high = float(image.min()), float(image.max())
    if not (low >= -_SLACK and high <= 1 + _SLACK):  # false for NaN as well
        raise ValueError(f"image: expected floats in [0, 1], found {low:g} to {high:g}; pass 0..255 as uint8")
    return np.clip(image.astype(np.float32), 0.0, 1.0)


def _to_gray(rgb: np.ndarray) -> np.ndarray:
    """(H, W): the mean of the channels, which are all restorations of the same gray."""
    return rgb.mean(axis=2, dtype=np.float32)


def _as_dtype(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if dtype.kind == "f":
        return np.ascontiguousarray(values.astype(dtype))
    return np.ascontiguousarray(quantise(values, 8 * dtype.itemsize).astype(dtype))


def _of_tensor(image: torch.Tensor) -> ImageObject:
    if image.ndim != 3 or image.shape[0] not in _CHANNELS or 0 in image.shape:
        raise ValueError(
            f"image: expected a tensor (C, H, W) of 1 to 4 channels, one image at a time, "
            f"found shape {tuple(image.shape)}"
        )
    wide = image.detach().float() if image.is_floating_point() else image.detach()
    taken = _of_array(wide.permute(1, 2, 0).cpu().numpy())

    def rebuild(restored: np.ndarray, opacity: np.ndarray | None) -> torch.Tensor:
        array = taken.rebuild(restored, opacity)
        assert isinstance(array, np.ndarray)
        return torch.from_numpy(array).permute(2, 0, 1).contiguous().to(image.device, image.dtype)

    return ImageObject(taken.rgb, taken.alpha, taken.gray, taken.bit_depth, None, rebuild)


def _of_picture(image: Picture) -> ImageObject:
    """A file as it was read: the result keeps its depth, EXIF and profile, all in float32."""

    def rebuild(restored: np.ndarray, opacity: np.ndarray | None) -> Picture:
        return replace(image, rgb=restored, alpha=opacity, jpeg_table=None)

    return ImageObject(image.rgb, image.alpha, image.gray, image.bit_depth, image.jpeg_table, rebuild)


def _of_pillow(image: Image.Image) -> ImageObject:
    if 0 in image.size:
        raise ValueError(f"image: expected at least 1 pixel, found {image.size[0]} x {image.size[1]}")
    try:
        image = _second_view(image)
        table = _jpeg_table(image)  # before the pixels: it shows that they are still the file's
        exif, dpi = image.getexif(), density_of(image.info)
        upright = ImageOps.exif_transpose(image)  # a copy, so that nothing below changes the caller's image
        if upright.mode.startswith(("I", "F")):
            return _of_deep_gray(upright, exif, dpi)
        layers = pillow_layers(upright)
        converted, icc = to_srgb(layers.samples, layers.alpha, upright.info.get("icc_profile"), _NOWHERE)
    except (MemoryError, KeyboardInterrupt):
        raise
    except Refused as error:
        raise DataError(f"image: {error}") from None
    except Exception as error:  # Pillow decodes here, and raises anything on damaged files
        if isinstance(error, ValueError) and str(error).startswith("image: "):
            raise
        raise DataError(f"image: Pillow cannot decode it ({' '.join(str(error).split())})") from None
    taken, gray = _of_array(converted), layers.colours == 1

    def rebuild(restored: np.ndarray, opacity: np.ndarray | None) -> Image.Image:
        colour = _to_gray(restored)[..., None] if gray else restored
        whole = colour if opacity is None else np.concatenate([colour, opacity[..., None]], axis=2)
        samples = quantise(whole)
        result = Image.fromarray(samples[..., 0] if whole.shape[2] == 1 else samples)
        return _with_info(result, fitted_icc(icc, gray) if icc else None, exif, dpi)

    return ImageObject(taken.rgb, taken.alpha, gray, 8, table, rebuild)


def _of_deep_gray(image: Image.Image, exif: Image.Exif, dpi: tuple[float, float] | None) -> ImageObject:
    """Gray of more than 8 bits: I;16 and I hold 0 to 65535 (as Pillow opens 16-bit files), F holds [0, 1]."""
    samples = np.asarray(image)
    if image.mode == "F":
        taken, kind = _of_array(samples), samples.dtype
    else:
        low, high = int(samples.min()), int(samples.max())
        if low < 0 or high > 65535:
            raise ValueError(f"image: expected 0 to 65535 in Pillow's mode {image.mode}, found {low} to {high}")
        taken, kind = _of_array(samples.astype(np.uint16)), np.dtype(np.int32 if image.mode == "I" else np.uint16)

    def rebuild(restored: np.ndarray, opacity: np.ndarray | None) -> Image.Image:
        array = taken.rebuild(restored, opacity)
        assert isinstance(array, np.ndarray)
        return _with_info(Image.fromarray(array.astype(kind)), image.info.get("icc_profile"), exif, dpi)

    return ImageObject(taken.rgb, None, True, 16, None, rebuild)


def _with_info(image: Image.Image, icc: bytes | None, exif: Image.Exif, dpi: tuple[float, float] | None) -> Image.Image:
    known = {"icc_profile": icc, "exif": fitted_exif(exif, image.height, image.width), "dpi": dpi}
    image.info |= {key: value for key, value in known.items() if value}
    return image


def _is_jpeg_file(image: Image.Image) -> TypeGuard[ImageFile.ImageFile]:
    return isinstance(image, ImageFile.ImageFile) and hasattr(image, "quantization")


def _second_view(image: Image.Image) -> Image.Image:
    """A JPEG that is not decoded yet, opened once more, so that the caller's stays as it is; others as they are.

    Only of such a one it is sure that its pixels are those of the file, and so a second call gives the first's result.
    """
    if not _is_jpeg_file(image) or not image.tile or image.fp is None:
        return image
    place = image.fp.tell()
    image.fp.seek(0)
    data = image.fp.read()
    image.fp.seek(place)
    try:
        again = Image.open(io.BytesIO(data))
    except Image.UnidentifiedImageError:  # it lies inside another file
        return image
    return again if (again.format, again.size, again.mode) == (image.format, image.size, image.mode) else image


def _jpeg_table(image: Image.Image) -> np.ndarray | None:
    """The luminance table of a Pillow image that still has the pixels of its JPEG file, else None.

    `draft` and `thumbnail` shrink an image in place, and painting changes it; Pillow keeps the tables all the same.
    """
    if not _is_jpeg_file(image):
        return None
    if image.tile:
        shrunk = tuple(getattr(image, "decoderconfig", ()))[:1] not in ((), (1,))
        return None if shrunk else table_of(image)
    try:
        with Image.open(image.filename) as file:
            same = file.size == image.size and file.mode == image.mode and file.tobytes() == image.tobytes()
            return table_of(image) if same else None
    except (OSError, ValueError, AttributeError):  # opened from memory, or the file is gone
        return None
