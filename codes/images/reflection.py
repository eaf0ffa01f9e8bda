"""How a line of pixels goes on beyond its ends."""

import numpy as np
import numpy.typing as npt


def reflected(start: int, stop: int, length: int) -> npt.NDArray[np.int64]:
    """Where the positions start..stop lie on a line of `length` pixels that is continued by reflection at its ends.

    (stop - start,) indices in [0, length): ... 2 1 0 1 2 ... The end pixels are not repeated, and the reflection goes
    on as often as needed, so positions may lie anywhere.
    """
    assert length >= 1, "nothing to reflect"
    period = max(2 * (length - 1), 1)
    folded = np.arange(start, stop) % period
    return np.where(folded < length, folded, period - folded)
