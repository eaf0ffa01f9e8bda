"""Corruptions with a known strength: name -> class whose objects map (image, strength, rng) to a corrupted image.

An image is float32 RGB (H, W, 3) in [0, 1]; a strength is in [0, 1], 1 the strongest. The argument is never changed.
To add one: a frozen dataclass below `Corruption`, decorated with `@CORRUPTIONS.register("its-name")`, in the file of
its kind (corruption_blur.py, _noise.py, _colour.py, _resize.py, _compression.py) or in a plugin.
"""

from . import corruption_blur, corruption_colour, corruption_noise, corruption_resize
from .corruption_base import CORRUPTIONS, Corruption, CorruptionSettings, Stage
from .corruption_compression import Jpeg

# Importing the modules enters their classes in the registry.
KINDS = (corruption_blur, corruption_noise, corruption_colour, corruption_resize)

__all__ = ["CORRUPTIONS", "KINDS", "Corruption", "CorruptionSettings", "Jpeg", "Stage"]
