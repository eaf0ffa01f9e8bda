"""Texture of a restored image beside the truth's: sliced Wasserstein distance of patches, and grain.

Both look at luma without what a small Gaussian blur keeps: the detail that a restorer has to find. PSNR is highest for
the mean of all that could be there, which is smooth; these numbers tell what of the texture is missing or too much.
Images are (H, W, 3), RGB: float in [0, 1], or uint8 or uint16 samples.
"""

from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from ..images.luma import luma_of
from ..images.pixels import to_float
from ..utils.rng import numpy_generator

Image = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
BLUR = 1.0  # pixels: sigma of the blur that is taken away; half of a wave of 0.19 cycles a pixel passes
PATCH = 7  # pixels a side
DIRECTIONS = 64
MOST_PATCHES = 2**15
BAND_ROWS = 256
FLAT = 0.25 / 255  # RMS of the detail of a truth that has none to compare with: below the rounding to 8 bits
SEED = 0  # of patches and directions: the same for all images, so that numbers can be compared


class _Detail(NamedTuple):
    """What is kept of an image: its detail's mean square, and the patches (N, PATCH^2) at the places drawn."""

    power: float
    patches: Floats


def texture(truth: Image, image: Image) -> dict[str, float]:
    """`swd` and `grain` of an image; nothing where it has less than 7 pixels a side or the truth has no detail.

    With D = L - G * L, L being luma (BT.601) in [0, 1] and G a Gaussian of sigma 1 (cut at 4 sigma, borders mirrored):

    grain = sum(D(image)^2) / sum(D(truth)^2): 1 is as much detail as the truth has, above 1 is grain.

    swd: of up to 32768 places, drawn evenly and the same in both images, the 7x7 patches of D without their mean are
    projected to 64 directions, unit vectors drawn evenly. swd is the mean over directions of the Wasserstein distance
    W1 between the values of the image and of the truth, over the root of the mean square of the truth's. 0 for the
    same texture, wherever it lies; about 0.8 for none. Rabin et al. 2011; on Laplacian patches as Karras et al. 2018.
    """
    if truth.shape != image.shape:
        raise ValueError(f"cannot compare an image of {image.shape} with a ground truth of {truth.shape}")
    if min(truth.shape[:2]) < PATCH:
        return {}
    places = _places(*truth.shape[:2])
    wanted, given = _detail(truth, places), _detail(image, places)
    if wanted.power < FLAT**2:
        return {}
    return {"swd": _distance(wanted.patches, given.patches), "grain": given.power / wanted.power}


def _distance(truth: Floats, image: Floats) -> float:
    directions = numpy_generator(SEED, "swd", "directions").standard_normal((PATCH**2, DIRECTIONS)).astype(np.float32)
    directions -= directions.mean(axis=0)  # patches are compared without their mean
    directions /= np.linalg.norm(directions, axis=0)
    ours, theirs = (np.sort(directions.T @ patches.T, axis=1) for patches in (image, truth))
    scale = float(np.sqrt(np.mean(np.square(theirs), dtype=np.float64)))
    return float(np.mean(np.abs(ours - theirs), dtype=np.float64)) / scale


def _places(height: int, width: int) -> npt.NDArray[np.int64]:
    """Top left corners of patches as y * width + x, ascending: all of a small image, else drawn without repeats."""
    rows, columns = height - PATCH + 1, width - PATCH + 1
    if rows * columns <= MOST_PATCHES:
        chosen = np.arange(rows * columns)
    else:
        rng = numpy_generator(SEED, "swd", "places", height, width)
        chosen = np.sort(rng.choice(rows * columns, MOST_PATCHES, replace=False, shuffle=False))
    return chosen // columns * width + chosen % columns


def _detail(image: Image, places: npt.NDArray[np.int64]) -> _Detail:
    """By bands of rows, so that a large image needs little memory beside itself."""
    height, width = image.shape[:2]
    margin = round(4 * BLUR)
    total = 0.0
    patches = []
    for y0 in range(0, height, BAND_ROWS):
        y1 = min(y0 + BAND_ROWS, height)
        low, high = max(y0 - margin, 0), min(y1 + PATCH - 1 + margin, height)
        luma = _luma(image[low:high])
        side = 2 * margin + 1
        detail = luma - cv2.GaussianBlur(luma, (side, side), BLUR, borderType=cv2.BORDER_REFLECT_101)
        total += float(np.square(detail[y0 - low : y1 - low], dtype=np.float64).sum())
        begin, end = np.searchsorted(places, (y0 * width, y1 * width))
        windows = np.lib.stride_tricks.sliding_window_view(detail, (PATCH, PATCH))
        rows, columns = np.divmod(places[begin:end], width)
        patches.append(windows[rows - low, columns].reshape(-1, PATCH**2))
    return _Detail(total / (height * width), np.concatenate(patches))


def _luma(rows: Image) -> Floats:
    values = to_float(rows) if np.issubdtype(rows.dtype, np.integer) else rows
    return np.ascontiguousarray(luma_of(values)[..., 0], np.float32)
