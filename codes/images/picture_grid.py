"""Grids of images as one picture: what a user looks at during training."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

GAP = 4  # pixels between images
BACKGROUND = 96  # neutral dark grey, so that neither black nor white borders vanish


def picture_grid(rows: Sequence[Sequence[npt.NDArray[Any]]]) -> npt.NDArray[np.uint8]:
    """One uint8 picture of rows of (H, W, 3) uint8 images; every cell is as large as the largest image."""
    height = max(image.shape[0] for row in rows for image in row)
    width = max(image.shape[1] for row in rows for image in row)
    columns = max(len(row) for row in rows)
    canvas = np.full((len(rows) * (height + GAP) + GAP, columns * (width + GAP) + GAP, 3), BACKGROUND, dtype=np.uint8)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            y, x = GAP + i * (height + GAP), GAP + j * (width + GAP)
            canvas[y : y + image.shape[0], x : x + image.shape[1]] = image
    return canvas
