"""Image files in and out: with image_decode.py the only files that know Pillow, OpenCV's (w, h), depths, ICC and EXIF.

Everywhere else an image is float32 RGB, (H, W, 3), in [0, 1], sRGB; a tensor is (3, H, W). Height before width.
"""

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from .errors import DataError
from .files import atomic_write
from .image_decode import MAX_PIXELS as MAX_PIXELS
from .image_decode import Alpha as Alpha
from .image_decode import ImageInfo as ImageInfo
from .image_decode import Picture as Picture
from .image_decode import jpeg_table as jpeg_table
from .image_decode import looks_whole as looks_whole
from .image_decode import probe_image as probe_image
from .image_decode import read_image as read_image
from .image_decode import read_samples as read_samples
from .image_search import find_images as find_images
from .pixels import quantise as quantise
from .pixels import to_float as to_float

WRITERS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF"}
# Files that are read again quickly: the filter `up` for all rows costs 2 to 10 % of size and saves a third to a half of
# the time to decode, against the usual choice for each row. OpenCV before 4.11 has no choice and takes `sub`.
_FAST_PNG = (
    *(cv2.IMWRITE_PNG_COMPRESSION, 3, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE),
    *((cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP) if hasattr(cv2, "IMWRITE_PNG_FILTER") else ()),
)
_KERNELS = {
    "area": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
KERNELS = tuple(_KERNELS)  # of `resample`


def to_tensor(rgb: np.ndarray, n1_to_1: bool) -> torch.Tensor:
    """(H, W, 3) float in [0, 1], or uint8/uint16, to a float32 tensor (3, H, W) in [-1, 1] (n1_to_1) or [0, 1]."""
    top = np.iinfo(rgb.dtype).max if np.issubdtype(rgb.dtype, np.integer) else 1
    values = np.empty((rgb.shape[2], *rgb.shape[:2]), np.float32)  # filled in one pass, which is what takes the time
    np.multiply(rgb.transpose(2, 0, 1), np.float32(1 / top) * np.float32(2 if n1_to_1 else 1), out=values)
    if n1_to_1:
        values -= np.float32(1.0)
    return torch.from_numpy(values)


def to_rgb(tensor: torch.Tensor, n1_to_1: bool) -> np.ndarray:
    """A tensor (3, H, W) to float32 (H, W, 3), clipped to [0, 1]."""
    values = tensor.detach().to("cpu", torch.float32).numpy().transpose(1, 2, 0)
    if n1_to_1:
        values = values * np.float32(0.5) + np.float32(0.5)
    return np.ascontiguousarray(np.clip(values, 0.0, 1.0))


def to_image(tensor: torch.Tensor, n1_to_1: bool) -> np.ndarray:
    """A tensor (3, H, W) to uint8 (H, W, 3): clipped, then rounded."""
    return quantise(to_rgb(tensor, n1_to_1))


def resize_area(rgb: np.ndarray, height: int, width: int) -> np.ndarray:
    """Downsample float32 (H, W, 3) by area (each new pixel is the mean of what it covers). Enlarging is refused."""
    if height > rgb.shape[0] or width > rgb.shape[1]:
        raise ValueError(f"area resize cannot enlarge {rgb.shape[0]}x{rgb.shape[1]} to {height}x{width}")
    if (height, width) == rgb.shape[:2]:
        return rgb.copy()
    return cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)


def resample(rgb: np.ndarray, height: int, width: int, kernel: str) -> np.ndarray:
    """Resize float32 (H, W, 3) with one of KERNELS, antialiased where it shrinks (Pillow's), clipped to [0, 1]."""
    channels = np.ascontiguousarray(rgb.transpose(2, 0, 1), np.float32)
    planes = [Image.fromarray(channel).resize((width, height), _KERNELS[kernel]) for channel in channels]
    return np.clip(np.stack([np.asarray(plane) for plane in planes], axis=2), 0.0, 1.0)


def resize_bicubic(rgb: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bicubic with a = -0.5, antialiased when it shrinks, clipped to [0, 1]: the field's usual baseline."""
    return resample(rgb, height, width, "bicubic")


def write_image(
    path: str | Path,
    image: np.ndarray,
    *,
    quality: int = 95,
    bit_depth: int = 8,
    alpha: np.ndarray | None = None,
    exif: bytes | None = None,
    icc: bytes | None = None,
) -> None:
    """Write (H, W, 3), float in [0, 1] or uint8 or uint16, atomically as PNG, JPEG, WebP or TIFF by the suffix.

    `quality` 1..100 for JPEG and WebP (100: lossless WebP). `alpha` (H, W) of the dtype of `image`, not for JPEG.
    `bit_depth=16` is for PNG and TIFF; such files carry no metadata and no profile, which means sRGB.
    """
    path = Path(path)
    name = WRITERS.get(path.suffix.lower())
    if name is None:
        raise DataError(
            f"{path}: cannot write {path.suffix or 'a name without suffix'}; use one of {', '.join(WRITERS)}"
        )
    if alpha is not None:
        if name == "JPEG":
            raise DataError(f"{path}: JPEG holds no transparency; write PNG, WebP or TIFF")
        image = np.concatenate([image, alpha[..., None]], axis=2)
    if bit_depth == 16:
        if name not in ("PNG", "TIFF"):
            raise DataError(f"{path}: {name} holds 8 bits; write 16 bits as PNG or TIFF")
        data = _encode_16_bit(path.suffix.lower(), _as_depth(image, 16))
    else:
        data = _encode_8_bit(name, _as_depth(image, 8), quality, exif, icc)
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)


def _as_depth(image: np.ndarray, bit_depth: int) -> np.ndarray:
    if image.dtype == (np.uint16 if bit_depth == 16 else np.uint8):
        return image
    return quantise(to_float(image) if np.issubdtype(image.dtype, np.integer) else image, bit_depth)


def _encode_8_bit(name: str, samples: np.ndarray, quality: int, exif: bytes | None, icc: bytes | None) -> bytes:
    options: dict[str, Any] = {"exif": exif, "icc_profile": icc}
    if name == "JPEG":
        options |= {"quality": quality, "subsampling": 0 if quality >= 90 else 2}
    elif name == "WEBP":
        options |= {"quality": quality, "lossless": quality == 100, "exact": True}
    elif name == "TIFF":
        options |= {"compression": "tiff_adobe_deflate"}
    elif exif is None and icc is None:
        order = cv2.COLOR_RGBA2BGRA if samples.shape[2] == 4 else cv2.COLOR_RGB2BGR
        return _encode(".png", cv2.cvtColor(samples, order), *_FAST_PNG).tobytes()
    buffer = io.BytesIO()
    given = {key: value for key, value in options.items() if value is not None}
    Image.fromarray(np.ascontiguousarray(samples)).save(buffer, name, **given)
    return buffer.getvalue()


def _encode_16_bit(suffix: str, samples: np.ndarray) -> bytes:
    order = cv2.COLOR_RGBA2BGRA if samples.shape[2] == 4 else cv2.COLOR_RGB2BGR
    return _encode(suffix, cv2.cvtColor(samples, order)).tobytes()


def _encode(suffix: str, bgr: np.ndarray, *parameters: int) -> np.ndarray:
    done, encoded = cv2.imencode(suffix, bgr, parameters)
    assert done, f"OpenCV failed to encode {suffix}"
    return encoded
