"""How strongly an image was once compressed as a JPEG: from its quantisation table, or from its pixels alone.

From pixels: a JPEG leaves each DCT coefficient of its 8x8 blocks near a multiple of that coefficient's quantisation
step, and the steps tell the quality. The idea is that of Fan and de Queiroz, "Identification of bitmap compression
history", IEEE Trans. Image Processing 12(2), 2003; here one likelihood ratio is summed over the low frequencies.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np

from ...images.bands import Rows

BLOCK = 8
# ITU-T T.81, table K.1: the luminance table at quality 50.
LUMINANCE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
QUALITIES = np.arange(1, 101)
_LOW = [(row, column) for row in range(4) for column in range(4) if 0 < row + column < 5]
_BASIS = np.array(  # of the orthonormal DCT-II of 8 numbers: a row for each frequency
    [[math.sqrt((1 if k == 0 else 2) / BLOCK) * math.cos(math.pi * k * (2 * n + 1) / (2 * BLOCK)) for n in range(BLOCK)]
     for k in range(BLOCK)], dtype=np.float32,
)  # fmt: skip
_ROUNDING = 0.5  # deviation of a coefficient after pixels were rounded to 8 bits and colours converted
_OUTLIERS = 0.05  # share of coefficients that clipping at black or white has moved
_LEAST = 2.0  # smaller coefficients fit every step and say nothing
_ENOUGH = 200  # coefficients
# Nats per coefficient in favour of a quality over no compression at all. On 21 photographs at qualities 10 to 90 right
# answers have 0.17 to 3.5; wrong ones, and the best for pictures that were no JPEGs or of 95, have -0.25 to 0.01.
_SURE = 0.1
_MOST_BLOCKS = 20_000
_BAND_PIXELS = 2**21  # looked at once


class Quality(NamedTuple):
    """A quality 1..100 on the scale of the Independent JPEG Group, and whether the table is exactly that one's."""

    quality: int
    exact: bool


def standard_table(quality: int) -> np.ndarray:
    """The Independent JPEG Group's luminance table, int (8, 8), of a quality 1..100 (libjpeg's jcparam.c)."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    return np.clip((LUMINANCE * percent + 50) // 100, 1, 255)


def quality_of_table(table: np.ndarray) -> Quality:
    """The quality whose standard table is nearest to a luminance table (8, 8), by the mean ratio of their steps."""
    logs = np.log([standard_table(int(quality)) for quality in QUALITIES])
    distances = np.abs(logs - np.log(np.maximum(table, 1))).mean((1, 2))
    best = int(distances.argmin())
    return Quality(int(QUALITIES[best]), bool(distances[best] == 0))


def quality_of_pixels(samples: Rows) -> int | None:
    """The quality 1..100 of the JPEG that uint8 or uint16 RGB (H, W, 3) pixels once were; None without a sure trace.

    The grid of blocks may start anywhere (the picture may be a crop), but resized pictures have lost it. Rows of a file
    are read from top to bottom, three times at most, and never all at once.
    """
    if min(samples.shape[:2]) < 4 * BLOCK or samples[0:1].dtype != np.uint8:
        return None
    origins = {(0, 0), _grid_origin(samples)}
    guesses = [_best_quality(_coefficients(samples, top, left)) for top, left in sorted(origins)]
    evidence, quality = max(guesses)
    return quality if evidence >= _SURE else None


def _luma(samples: Rows, y0: int, y1: int) -> np.ndarray:
    """float32 (n, W) of the rows [y0, y1), as far as there are so many."""
    rows = np.ascontiguousarray(samples[y0 : min(y1, samples.shape[0])])
    return cv2.cvtColor(rows, cv2.COLOR_RGB2GRAY).astype(np.float32)


def _bands(samples: Rows, top: int = 0) -> Iterator[tuple[int, int]]:
    """[y0, y1) of the bands below `top`, each of a multiple of BLOCK rows but the last."""
    height, width = samples.shape[:2]
    count = max(_BAND_PIXELS // width // BLOCK, 1) * BLOCK
    for y0 in range(top, height, count):
        yield y0, min(y0 + count, height)


def _grid_origin(samples: Rows) -> tuple[int, int]:
    """(top, left), each 0..7, of the first whole block: where the third difference, a step between
    two smooth sides, is largest on average."""
    height, width = samples.shape[:2]
    down, across = [], np.zeros(width - 3)
    for y0, y1 in _bands(samples):
        luma = _luma(samples, y0, y1 + 3)  # the differences that begin in the band
        down.append(np.abs(np.diff(luma, 3, axis=0)).mean(1))
        across += np.abs(np.diff(luma[: y1 - y0], 3, axis=1)).sum(0, dtype=np.float64)
    return _blockiest(np.concatenate(down)), _blockiest(across / height)


def _blockiest(steps: np.ndarray) -> int:
    # The difference number k lies between the pixels k + 1 and k + 2.
    return max(range(BLOCK), key=lambda start: float(steps[(start - 2) % BLOCK :: BLOCK].mean()))


def _coefficients(samples: Rows, top: int, left: int) -> np.ndarray:
    """float32 (blocks, len(_LOW)): the low DCT coefficients of the 8x8 blocks, orthonormal, as a JPEG has them.

    Of a large picture every n-th block, counted row by row from the first whole one at (top, left).
    """
    flat = np.concatenate([*_some_blocks(samples, top, left)])
    # Summed place by place and not as a matrix product, whose last bits depend on the processor.
    lines = [sum(_BASIS[row, y] * flat[:, y] for y in range(BLOCK)) for row in range(max(_LOW)[0] + 1)]
    low = [sum(_BASIS[column, x] * lines[row][:, x] for x in range(BLOCK)) for row, column in _LOW]
    return np.stack(low, axis=1)


def _some_blocks(samples: Rows, top: int, left: int) -> Iterator[np.ndarray]:
    """float32 (n, BLOCK, BLOCK) of each band: every so many blocks, at most about _MOST_BLOCKS in all."""
    rows, columns = (samples.shape[0] - top) // BLOCK, (samples.shape[1] - left) // BLOCK
    every, before = max(rows * columns // _MOST_BLOCKS, 1), 0
    for y0, y1 in _bands(samples, top):
        count = (y1 - y0) // BLOCK
        if count == 0:
            return
        luma = _luma(samples, y0, y0 + count * BLOCK)[:, left : left + columns * BLOCK]
        blocks = luma.reshape(count, BLOCK, columns, BLOCK).swapaxes(1, 2).reshape(-1, BLOCK, BLOCK)
        yield blocks[-before % every :: every]
        before += count * columns


def _best_quality(coefficients: np.ndarray) -> tuple[float, int]:
    """The evidence, nats per coefficient, for the likeliest quality, and that quality."""
    kept = [column[np.abs(column) >= _LEAST] for column in coefficients.T]
    count = sum(len(column) for column in kept)
    if count < _ENOUGH:
        return -np.inf, 0
    ratios: dict[tuple[int, int], float] = {}
    evidence = []
    for quality in QUALITIES.tolist():
        table, total = standard_table(quality), 0.0
        for index, place in enumerate(_LOW):
            step = int(table[place])
            if (index, step) not in ratios:
                ratios[index, step] = _log_ratio(kept[index], step)
            total += ratios[index, step]
        evidence.append(total / count)
    best = QUALITIES[np.array(evidence) == max(evidence)]  # several may have the same low steps
    return max(evidence), int(best[len(best) // 2])


def _log_ratio(values: np.ndarray, step: int) -> float:
    """Log-likelihood of coefficients as multiples of `step`, with rounding and outliers, over that of any values."""
    distance = values - step * np.rint(values / step)
    near = np.exp(-0.5 * (distance / _ROUNDING) ** 2) / (_ROUNDING * np.sqrt(2 * np.pi))
    return float(np.log((1 - _OUTLIERS) * step * near + _OUTLIERS).sum())
