"""How far the corruptions that an image is said to have may have moved its low frequencies: a tolerance for results.

The image is corrupted once more by the same corruptions at the same strengths, and what this changes in the low
frequencies is taken for what they changed the first time. To first order it is: a blur H left H x, and (I - H) H x is
(I - H) x where H is nearly 1, which is what low frequencies are (Van Cittert's first step); quantisation by a JPEG
moves each coefficient by up to half a step, about uniformly (Robertson and Stevenson 2005), whenever its grid is not
that of the first time, so the image is moved by half a block before.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...images.enforced import LEAST, cells_of, low_frequencies
from ...utils.errors import ConfigError
from ...utils.rng import numpy_generator
from .all import CORRUPTIONS
from .base import CorruptionSettings

HALF_BLOCK = 4  # pixels
NEIGHBOURHOOD = 4  # times that the squares are blurred: about 4 cells, 8 input pixels, to each side
DEVIATIONS = 2.0  # within which 95 of 100 normal values lie


def tolerance_of(low_res: Tensor, told: Tensor | None, names: Sequence[str] | None, factor: float = 1.0) -> Tensor:
    """(C, rows, columns) in units of [-1, 1], for an input (C, h, w) in [-1, 1] and `images.enforced`.

    told: strengths (K,), or maps (K, h, w) of which the strongest place counts, of the corruptions `names`.
    LEAST + factor * DEVIATIONS * the local root mean square of what the corruptions change in the low frequencies.
    Raises ConfigError where strengths are told of which nobody knows what they stand for.
    """
    strengths = [] if told is None else told.flatten(1).amax(1).tolist() if told.ndim > 1 else told.tolist()
    if names is None and any(strengths):
        raise ConfigError(
            "consistency: the checkpoint does not record what its strengths stand for, so the tolerance is not known; "
            "use consistency: none, or name the corruptions (Restorer(..., corruptions=...))"
        )
    image = ((low_res + 1) / 2).clamp(0, 1).permute(1, 2, 0).numpy()
    moved = np.pad(image, ((HALF_BLOCK, 0), (HALF_BLOCK, 0), (0, 0)), mode="edge")
    corrupted = moved
    for index, (name, strength) in enumerate(zip(names or (), strengths, strict=False)):
        if strength == 0:
            continue  # told as clean, whatever little a corruption does at its weakest
        rng = numpy_generator(0, "consistency", index)
        corrupted = CORRUPTIONS.get(name)(CorruptionSettings())(corrupted, strength, rng)
    change = (corrupted - moved)[HALF_BLOCK:, HALF_BLOCK:].transpose(2, 0, 1) * 2
    squares = low_frequencies(cells_of(torch.from_numpy(np.ascontiguousarray(change)).float())).square()
    for _ in range(NEIGHBOURHOOD):
        squares = low_frequencies(squares)
    return LEAST + factor * DEVIATIONS * squares.clamp(min=0).sqrt()
