"""`mode: imagefolder`: pairs of a photograph (hq) and its small, corrupted version (lq) from folders of any images."""

from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
import torch

from ..images.bands import Rows
from ..images.file_canvas import FileCanvas, FileTraits, file_canvas
from ..images.files import Picture, count_frames, jpeg_table, quantise, read_image, to_tensor
from ..utils.console import get_logger, warn_once
from ..utils.errors import ConfigError, DataError
from .base import Item, Traits
from .companions import Companions
from .corruptions.pipeline import CorruptionPipeline
from .corruptions.strength import Estimate, Reading, in_words, told_strength
from .corruptions.strength_map import StrengthMap, read_strength_map
from .datasets import DATASETS
from .image_dataset import Generators, ImageDataset
from .imagefolder_options import ImageFolderOptions

logger = get_logger(__name__)


@DATASETS.register("imagefolder")
class ImageFolderDataset(ImageDataset):
    """Items `hq`, `lq` (3, H, W) float32, `corruption_entropy` (K,), the paths and `image_name`.

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
        item = self._record(drawn.number)
        n1_to_1 = self.options.rgb_n1_to_1
        if self.options.skip_lq:
            whole = (drawn.whole or drawn.images)[0]
            resized = self._resizes(whole)
            shown = quantise(hq) if resized else whole
            told = self._told(self.files[drawn.number], shown, hq, resized)
            return item | {"hq": to_tensor(hq, n1_to_1), **told}
        entropy = self._entropy(drawn.generator)
        lq = self._lq(hq, entropy, drawn.generator)
        item |= {
            "hq": to_tensor(hq, n1_to_1),
            "lq": to_tensor(lq, n1_to_1),
            "corruption_entropy": torch.from_numpy(entropy),
        }
        return item

    def _resizes(self, samples: np.ndarray) -> bool:
        """Whether an image is brought to another size, so that its pixels are no longer those of the file."""
        options = self.options
        if options.target_size is None or options.tile != "none":
            return False
        height, width = samples.shape[:2]
        sides = (min(height, width),) * 2 if options.square else (height, width)
        return sides != (options.target_size, options.target_size)

    def _hq(self, samples: np.ndarray, generator: Generators) -> np.ndarray:
        hq = super()._hq(samples, generator)
        height, width = (side - side % self.options.scale for side in hq.shape[:2])
        return hq if self.options.skip_lq else hq[:height, :width]

    def whole(self, position: int, by_rows: bool = False) -> tuple[Item, Traits]:
        """The item of a file to be restored (skip_lq), and what its result takes over from it.

        Colours are those beside the transparency, not laid over anything; where nothing is visible they continue the
        nearest visible ones, so that hidden colours do not bleed into the edges. An image that is cut or shrunk to
        `target_size`, or cut to what is visible (alpha: crop), comes without its transparency. With `by_rows`, `hq`
        is a FileCanvas where the file is large and its rows can be read when they are needed.
        """
        path = self.files[position]
        if by_rows and self.whole_because is None and (canvas := self._canvas(path)) is not None:
            item = self._record(position)
            item |= {"hq": canvas, **self._told(path, canvas.bands_of_file, canvas.bands_of_file)}
            return item, _traits(canvas.traits, None)
        picture = read_image(path, max_pixels=self.options.max_pixels)
        if (frames := count_frames(path)) != 1:
            count = f"{frames}" if frames else "several"
            warn_once(logger, f"frames {path}", f"{path}: holds {count} frames or pages; only the first is restored")
        if self.options.target_size is not None or self.options.square or self.options.alpha == "crop":
            return self.item(position), _traits(picture, None)
        if min(picture.rgb.shape[:2]) < self.options.minimum_side:  # its header promised more
            raise DataError(f"{path}: {picture.rgb.shape[1]}x{picture.rgb.shape[0]} pixels are too few")
        samples = quantise(picture.rgb, picture.bit_depth) if self.options.auto_positions else picture.rgb
        rgb = picture.rgb if picture.alpha is None else visible_colours(picture.rgb, picture.alpha)
        item = self._record(position)
        item |= {"hq": to_tensor(rgb, self.options.rgb_n1_to_1), **self._told(path, samples, rgb)}
        return item, _traits(picture, picture.alpha)

    def check(self) -> None:
        _ = self.truths, self.maps

    @property
    def whole_because(self) -> str | None:
        options = self.options
        if any(isinstance(value, StrengthMap) or value == "auto_map" for value in options.known_entropy or ()):
            return "maps of strengths"
        asked = {"target_size": options.target_size is not None, "square": options.square}
        asked["alpha: crop"] = options.alpha == "crop"
        return next((name for name, set_so in asked.items() if set_so), None)

    def _canvas(self, path: Path) -> FileCanvas | None:
        canvas = file_canvas(path, n1_to_1=self.options.rgb_n1_to_1, max_pixels=self.options.max_pixels)
        if canvas is not None and count_frames(path) != 1:
            return None  # read as a whole, with what is to be said of it
        return canvas

    @cached_property
    def truths(self) -> Companions | None:
        """The ground truths; None where the options name none. Raises DataError when they cannot belong to the images.

        One file is the truth of one image.
        """
        if self.options.ground_truth is None:
            return None
        truths = Companions(self.options.ground_truth, self.options.path_list)
        if truths.single is not None and len(self.files) > 1:
            raise DataError(
                f"dataset {self.options.name}: ground_truth is one file ({truths.single}), but there are "
                f"{len(self.files)} images; name a folder with a file for each"
            )
        return truths

    @cached_property
    def maps(self) -> dict[int, Companions]:
        """Position of a strength that is a map -> the maps."""
        known = enumerate(self.options.known_entropy or ())
        strength_maps = {index: value for index, value in known if isinstance(value, StrengthMap)}
        return {index: Companions(value.map, self.options.path_list) for index, value in strength_maps.items()}

    def map_files(self, path: Path) -> dict[int, Path]:
        """Position of a strength -> the map of an image. Raises DataError when there is none."""
        files = {}
        for index, maps in self.maps.items():
            file = maps.of(path)
            if file is None:
                raise DataError(f"{path}: no strength map of this name in {maps.place}")
            files[index] = file
        return files

    def _told(self, path: Path, samples: Rows, rgb: Rows, resized: bool = False) -> Item:
        """What is known of an image to be restored: its strengths, and with an estimator what these do not explain.

        `resized`: the samples are no longer those of the file, and only they are looked at.
        """
        reading = self._reading(rgb)
        told: Item = {"corruption_entropy": torch.from_numpy(self._known(path, samples, rgb, resized, reading))}
        if reading is None:
            return told
        unexplained = in_words(reading.unexplained)
        if unexplained:
            warn_once(logger, f"unexplained {path}", f"{path}: {unexplained}")
        return told | {"unexplained": unexplained}

    def _known(self, path: Path, samples: Rows, rgb: Rows, resized: bool, reading: Reading | None) -> np.ndarray:
        """float32 (K,) strengths of an image, or (K, H, W) where one is a map; `auto` is read from the file."""
        maps, size = self.map_files(path), (rgb.shape[0], rgb.shape[1])
        listed = self.options.known_entropy or ()
        strengths: list[float | np.ndarray] = []
        for index, value in enumerate(listed):
            if isinstance(value, StrengthMap):
                strengths.append(read_strength_map(maps[index], *size, value.white))
            elif value == "auto_map":
                assert reading is not None, "the options refuse auto_map without an estimator"
                default = self.options.fixed_parameters.auto_default
                strengths.append(reading.map(self.options.fixed_corruptions[index], default))
            elif value == "auto":
                corruption = self.options.fixed_corruptions[index]
                strengths.append(self._estimate(path, samples, corruption, reading, resized).strength)
            else:
                strengths.append(value)
        if any(isinstance(value, np.ndarray) for value in strengths):
            return np.stack([np.broadcast_to(np.float32(value), size) for value in strengths])
        return np.array(strengths, np.float32)

    def _reading(self, rgb: Rows) -> Reading | None:
        """What the estimator says of an image, where a strength of it is asked for."""
        if self.reader is None or not self.options.auto_positions:
            return None
        return self.reader.read(rgb, everywhere="auto_map" in (self.options.known_entropy or ()))

    def _estimate(self, path: Path, samples: Rows, corruption: str, reading: Reading | None, resized: bool) -> Estimate:
        key = (path, corruption)
        if key not in self._estimates:
            default = self.options.fixed_parameters.auto_default
            table = None if resized else jpeg_table(path)
            estimate = told_strength(corruption, default, table, samples, reading)
            self._estimates[key] = estimate
            logger.info("%s: strength of %s: %.2f (%s)", path, corruption, estimate.strength, estimate.reason)
        return self._estimates[key]

    def _entropy(self, generator: Generators) -> np.ndarray:
        """float32 (K,): the strength of each fixed corruption, in listed order."""
        if self.options.known_entropy is not None:
            return np.array(self.options.known_entropy, np.float32)  # numbers alone: others belong to skip_lq
        return self._corruptions.strengths(generator("strength"))

    def _lq(self, hq: np.ndarray, entropy: np.ndarray, generator: Generators) -> np.ndarray:
        return self._corruptions.low_res(hq, self.options.scale, entropy, generator)


def _traits(picture: Picture | FileTraits, alpha: np.ndarray | None) -> Traits:
    return Traits(alpha, picture.gray, picture.bit_depth, picture.exif, picture.icc, picture.dpi)


def visible_colours(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """float32 (H, W, 3) with the colour of the nearest visible pixel wherever `alpha` (H, W) is 0."""
    hidden = alpha == 0
    if not hidden.any() or hidden.all():
        return rgb
    # Every visible pixel has a label of its own, and every hidden one that of the nearest visible pixel.
    labels = cv2.distanceTransformWithLabels(hidden.astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)[1]
    visible = np.flatnonzero(~hidden)
    pixel_of = np.zeros(int(labels.max()) + 1, np.int64)
    pixel_of[labels.reshape(-1)[visible]] = visible
    return rgb.reshape(-1, 3)[pixel_of[labels.reshape(-1)]].reshape(rgb.shape)
