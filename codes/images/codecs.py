"""Lossy compression in memory: what an image looks like after it was saved and opened again; and PNG as bytes.

OpenCV's codecs, because they are two to three times faster than Pillow's on small tiles. Images are float32 RGB
(H, W, 3) in [0, 1], quantised to 8 bits before they are encoded.
"""

import cv2
import numpy as np

from ..utils.errors import DataError
from .files import quantise, to_float

# Chroma subsampling in the usual notation -> OpenCV's code. 4:2:0 keeps a quarter of the chroma samples.
SUBSAMPLINGS = {
    "4:2:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    "4:2:2": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
    "4:4:4": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
}
# The largest side that the formats can hold, in pixels.
LARGEST_SIDE = {".jpg": 65500, ".webp": 16383}


def jpeg_round_trip(rgb: np.ndarray, quality: int, subsampling: str = "4:2:0") -> np.ndarray:
    """Save as a JPEG of `quality` 1..100 and read it back. Raises DataError for sides above 65500 pixels."""
    factor = SUBSAMPLINGS[subsampling]
    return _round_trip(".jpg", rgb, (cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor))


def webp_round_trip(rgb: np.ndarray, quality: int) -> np.ndarray:
    """Save as a lossy WebP of `quality` 1..100 and read it back. Raises DataError for sides above 16383 pixels."""
    return _round_trip(".webp", rgb, (cv2.IMWRITE_WEBP_QUALITY, quality))


def png_bytes(samples: np.ndarray) -> bytes:
    """uint8 RGB (H, W, 3) as a PNG file."""
    return _encode(".png", cv2.cvtColor(np.ascontiguousarray(samples), cv2.COLOR_RGB2BGR), ()).tobytes()


def _round_trip(suffix: str, rgb: np.ndarray, parameters: tuple[int, ...]) -> np.ndarray:
    height, width = rgb.shape[:2]
    if max(height, width) > LARGEST_SIDE[suffix]:
        limit = LARGEST_SIDE[suffix]
        raise DataError(
            f"{suffix[1:]} holds sides of at most {limit} pixels, found {width} x {height}; set target_size"
        )
    encoded = _encode(suffix, cv2.cvtColor(quantise(rgb), cv2.COLOR_RGB2BGR), parameters)
    decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    assert decoded is not None
    return to_float(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB))


def _encode(suffix: str, bgr: np.ndarray, parameters: tuple[int, ...]) -> np.ndarray:
    done, encoded = cv2.imencode(suffix, bgr, parameters)
    assert done, f"OpenCV failed to encode {suffix}"
    return encoded
