"""`mode: imagefolder`: pairs of a photograph (hq) and its small, corrupted version (lq) from folders of any images."""

from pathlib import Path

import numpy as np
import torch

from ..utils.console import get_logger
from ..utils.errors import ConfigError
from ..utils.images import to_tensor
from .base import Item
from .corruption_pipeline import CorruptionPipeline
from .datasets import DATASETS
from .image_dataset import Generators, ImageDataset
from .imagefolder_options import ImageFolderOptions
from .strength import Estimate, estimate_strength

logger = get_logger(__name__)


@DATASETS.register("imagefolder")
class ImageFolderDataset(ImageDataset):
    """Items `hq`, `lq` (3, H, W) float32, `corruption_entropy` (K,), `LQ_path`, `HQ_path`, `GT_path`.

    Without `target_size` an image is cut on the right and at the bottom to a multiple of `scale`, unless `skip_lq`.
    Raises as ImageDataset does, and ConfigError for strengths `auto` in training.
    """

    Options = ImageFolderOptions

    def __init__(self, options: ImageFolderOptions, *, seed: int, shuffle: bool) -> None:
        if shuffle and options.auto_positions:
            raise ConfigError(
                f"dataset {options.name}: fixed_parameters.corruption_entropy: auto reads the strength of files to be "
                "restored; in training give a number in [0, 1], or remove the key to draw strengths"
            )
        self.options = options
        self._corruptions = CorruptionPipeline(options)
        self._estimates: dict[tuple[Path, str], Estimate] = {}
        super().__init__(options, seed=seed, shuffle=shuffle)

    def item(self, position: int) -> Item:
        """The item of a position in the endless order."""
        drawn = self._draw(position)
        hq = self._hq(drawn.images[0], drawn.generator)
        name = str(self.files[drawn.number])
        item: Item = {"LQ_path": name, "HQ_path": name, "GT_path": name}
        n1_to_1 = self.options.rgb_n1_to_1
        if self.options.skip_lq:
            known = self._known(self.files[drawn.number], drawn.images[0])
            item |= {"hq": to_tensor(hq, n1_to_1), "corruption_entropy": torch.tensor(known, dtype=torch.float32)}
            return item
        entropy = self._entropy(drawn.generator)
        lq = self._lq(hq, entropy, drawn.generator)
        item |= {
            "hq": to_tensor(hq, n1_to_1),
            "lq": to_tensor(lq, n1_to_1),
            "corruption_entropy": torch.from_numpy(entropy),
        }
        return item

    def _hq(self, samples: np.ndarray, generator: Generators) -> np.ndarray:
        hq = super()._hq(samples, generator)
        height, width = (side - side % self.options.scale for side in hq.shape[:2])
        return hq if self.options.skip_lq else hq[:height, :width]

    def _known(self, path: Path, samples: np.ndarray) -> list[float]:
        """The strengths set for an image; those that are `auto` are read from its file."""
        strengths = []
        for index, value in enumerate(self.options.known_entropy or ()):
            if value == "auto":
                strengths.append(self._estimate(path, samples, self.options.fixed_corruptions[index]).strength)
            else:
                strengths.append(value)
        return strengths

    def _estimate(self, path: Path, samples: np.ndarray, corruption: str) -> Estimate:
        key = (path, corruption)
        if key not in self._estimates:
            found = estimate_strength(path, samples, corruption, self.options.fixed_parameters.auto_default)
            self._estimates[key] = found
            logger.info("%s: strength of %s: %.2f (%s)", path, corruption, found.strength, found.reason)
        return self._estimates[key]

    def _entropy(self, generator: Generators) -> np.ndarray:
        """float32 (K,): the strength of each fixed corruption, in listed order."""
        if self.options.known_entropy is not None:
            return np.array(self.options.known_entropy, np.float32)
        return self._corruptions.strengths(generator("strength"))

    def _lq(self, hq: np.ndarray, entropy: np.ndarray, generator: Generators) -> np.ndarray:
        return self._corruptions.low_res(hq, self.options.scale, entropy, generator)
