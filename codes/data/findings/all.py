"""Every finding that comes with the project, and which of them a set of corruptions does not explain."""

from collections.abc import Iterator, Sequence

import numpy as np

from ..corruptions.all import CORRUPTIONS, Corruption
from . import enlarged, few_colours, impulses, noise
from .base import FINDINGS, Found

# Importing the modules enters their functions in the registry.
KINDS = (noise, impulses, few_colours, enlarged)
ROOM = 1.2  # times the most that a corruption makes; findings are that exact

__all__ = ["FINDINGS", "KINDS", "Found", "unexplained"]


def unexplained(pieces: Sequence[np.ndarray], corruptions: Sequence[str]) -> tuple[Found, ...]:
    """What pieces of an image, float32 RGB (h, w, 3) in [0, 1], show that none of the named corruptions makes.

    Names that are not registered explain nothing.
    """
    return tuple(_found(pieces, [CORRUPTIONS.get(name) for name in corruptions if name in CORRUPTIONS]))


def _found(pieces: Sequence[np.ndarray], corruptions: Sequence[type[Corruption]]) -> Iterator[Found]:
    for name in FINDINGS.names():
        found = FINDINGS.get(name)(pieces)
        most = max((corruption.explains.get(name, 0.0) for corruption in corruptions), default=0.0)
        if found is not None and found.amount > ROOM * most:
            yield found
