"""A strength for every pixel: a gray picture, painted by hand or computed, that says where an image is damaged."""

from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from ...config.fingerprint import CONTENT_ONLY
from ...config.options import Options
from ...config.paths import UserPath
from ...images.files import read_image, resample


class StrengthMap(Options):
    """An entry of `corruption_entropy` that differs from place to place."""

    map: Annotated[UserPath, CONTENT_ONLY] = Field(
        description="A gray image of any size, stretched over each image, or a folder with one for each image (same "
        "sub-folder and name; the suffix may differ). Black is strength 0."
    )
    white: float = Field(1.0, ge=0.0, le=1.0, description="The strength that white stands for, in [0, 1].")


def read_strength_map(path: Path, height: int, width: int, white: float) -> np.ndarray:
    """float32 (height, width) in [0, white], resized bilinearly; colours are averaged. Raises DataError."""
    plane = resample(read_image(path).rgb, height, width, "bilinear").mean(axis=2, dtype=np.float32)
    return np.asarray(plane * np.float32(white), np.float32)
