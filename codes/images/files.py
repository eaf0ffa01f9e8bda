"""Image files in and out: with image_*.py the only files that know Pillow, OpenCV's (w, h), depths, ICC and EXIF.

Everywhere else an image is float32 RGB, (H, W, 3), in [0, 1], sRGB; a tensor is (3, H, W). Height before width.
"""

from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from .decode import MAX_PIXELS as MAX_PIXELS
from .decode import Alpha as Alpha
from .decode import ImageInfo as ImageInfo
from .decode import Picture as Picture
from .decode import count_frames as count_frames
from .decode import jpeg_table as jpeg_table
from .decode import looks_whole as looks_whole
from .decode import probe_image as probe_image
from .decode import read_image as read_image
from .decode import read_samples as read_samples
from .pixels import quantise as quantise
from .pixels import to_float as to_float
from .search import MISSING as MISSING
from .search import FoundImages as FoundImages
from .search import find_images as find_images
from .writers import LARGEST_SIDE as LARGEST_SIDE
from .writers import WRITERS as WRITERS
from .writers import RowWriter as RowWriter
from .writers import open_writer as open_writer

_BAND_PIXELS = 2**20  # converted at once, so that writing needs little memory beside the image
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
    rgb = np.empty(values.shape, np.float32)  # worked on in place: of a large image every copy counts
    np.multiply(values, np.float32(0.5 if n1_to_1 else 1.0), out=rgb)
    if n1_to_1:
        rgb += np.float32(0.5)
    return np.clip(rgb, 0.0, 1.0, out=rgb)


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
    dpi: tuple[float, float] | None = None,
) -> None:
    """Write (H, W, 3), float in [0, 1] or uint8 or uint16, atomically as PNG, JPEG, WebP or TIFF by the suffix.

    (H, W) or (H, W, 1) is gray, and stays one channel in the file where the format has gray. `alpha` (H, W) of the
    dtype of `image`, not for JPEG. `bit_depth=16` is for PNG and TIFF. The rest is as of `open_writer`.
    """
    planes = image[..., None] if image.ndim == 2 else image
    height, width, colours = planes.shape
    channels = colours + (alpha is not None)
    rows = max(_BAND_PIXELS // width, 1)
    with open_writer(
        path, height, width, channels, bit_depth=bit_depth, quality=quality, exif=exif, icc=icc, dpi=dpi
    ) as writer:
        for y0 in range(0, height, rows):
            band = planes[y0 : y0 + rows]
            if alpha is not None:
                band = np.concatenate([band, alpha[y0 : y0 + rows, :, None]], axis=2)
            writer.write_rows(_as_depth(band, bit_depth))


def write_picture(path: str | Path, picture: Picture, *, quality: int = 95) -> None:
    """Write what `read_image` gave, or a restorer made of it: gray, depth, EXIF and profile kept as the format allows.

    JPEG and WebP have 8 bits. Raises DataError for JPEG with transparency, and as `open_writer` does.
    """
    holds_8 = WRITERS.get(Path(path).suffix.lower()) in LARGEST_SIDE
    colours = picture.rgb.mean(axis=2, dtype=np.float32) if picture.gray else picture.rgb
    write_image(
        path, colours, quality=quality, bit_depth=8 if holds_8 else picture.bit_depth, alpha=picture.alpha,
        exif=picture.exif, icc=picture.icc, dpi=picture.dpi,
    )  # fmt: skip


def _as_depth(image: np.ndarray, bit_depth: int) -> np.ndarray:
    if image.dtype == (np.uint16 if bit_depth == 16 else np.uint8):
        return image
    return quantise(to_float(image) if np.issubdtype(image.dtype, np.integer) else image, bit_depth)
