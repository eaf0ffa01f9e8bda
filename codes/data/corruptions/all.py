"""Every corruption that comes with the project, in one registry: name -> class.

An object of such a class maps (image, strength, rng) to a corrupted image. An image is float32 RGB (H, W, 3) in [0, 1];
a strength is in [0, 1], 1 the strongest. The argument is never changed. To add one: a frozen dataclass below
`Corruption`, decorated with `@CORRUPTIONS.register("its-name")`, in a file of this folder or in a plugin.
"""

from . import blur, colour, noise, resize
from .base import CORRUPTIONS, Corruption, CorruptionSettings, Stage
from .compression import Jpeg

# Importing the modules enters their classes in the registry.
KINDS = (blur, noise, colour, resize)

__all__ = ["CORRUPTIONS", "KINDS", "Corruption", "CorruptionSettings", "Jpeg", "Stage"]
