"""`mode: imagefolder`: pairs of a photograph (hq) and its small, corrupted version (lq) from folders of any images."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from ..utils.console import get_logger, warn_once
from ..utils.errors import ConfigError, DataError
from ..utils.images import read_samples, resize_area, to_float, to_tensor
from ..utils.rng import numpy_generator
from .base import DataReport, Item, Rejected, named
from .corruption import CORRUPTIONS, CorruptionSettings, apply_corruptions, draw_strengths
from .datasets import DATASETS
from .imagefolder_options import ImageFolderOptions
from .samples import held_out_photograph, sample_photographs
from .scan import Scan, scan

logger = get_logger(__name__)


@DATASETS.register("imagefolder")
class ImageFolderDataset:
    """Items `hq`, `lq` (3, H, W) float32, `corruption_entropy` (K,), `LQ_path`, `HQ_path`, `GT_path`.

    Every draw is a function of (seed, epoch, index in the epoch's order, purpose), so the number of workers, the
    ranks and a resume change nothing. With `shuffle` (training) the order is a permutation per epoch; without it
    (validation, restoration) it is the order of the files, nothing is flipped, and an image without `target_size`
    stays whole, cut on the right and at the bottom to a multiple of `scale`.

    Raises DataError when nothing can be used or, with `shuffle`, less than one batch; ConfigError when `shuffle`
    comes without `target_size`.
    """

    Options = ImageFolderOptions

    def __init__(self, options: ImageFolderOptions, *, seed: int, shuffle: bool) -> None:
        if shuffle and options.target_size is None:
            raise ConfigError(f"dataset {options.name}: target_size is missing; training needs the size of its tiles")
        self.options = options
        self.shuffle = shuffle
        self.seed = seed if options.random_seed is None else options.random_seed
        self.unreadable: dict[Path, str] = {}
        self.state_keys = options.provides()
        settings = CorruptionSettings(blur_scale=options.corruption_blur_scale)
        self._fixed = [CORRUPTIONS.get(name)(settings) for name in options.fixed_corruptions]
        self._random = [CORRUPTIONS.get(name)(settings) for name in options.random_corruptions]
        self._scan = self._scan_folders()
        self._weights = options.weights or tuple(1.0 for _ in self._scan.folders)
        self._cache = _SampleCache(options.cache_megabytes * 2**20)
        self._order: tuple[int, np.ndarray] | None = None
        self._length = len(self._epoch_order(0)) * options.tiles_per_image
        self._require_enough()

    @property
    def files(self) -> tuple[Path, ...]:
        """The usable files, in order."""
        return self._scan.files

    def __len__(self) -> int:
        return self._length

    def item(self, position: int) -> Item:
        """The item of a position in the endless order.

        With `shuffle` a file that cannot be decoded is replaced by the next readable one; without it DataError is
        raised, since restoring another image in its place would be wrong.
        """
        epoch, index = divmod(position, self._length)
        wanted = int(self._epoch_order(epoch)[index // self.options.tiles_per_image])
        file, samples = self._readable(wanted)
        generator = partial(numpy_generator, self.seed, "data", epoch, index)
        hq = self._hq(samples, generator)
        name = str(self.files[file])
        item: Item = {"LQ_path": name, "HQ_path": name, "GT_path": name}
        n1_to_1 = self.options.rgb_n1_to_1
        if self.options.skip_lq:
            known = self.options.known_entropy or ()
            item |= {"hq": to_tensor(hq, n1_to_1), "corruption_entropy": torch.tensor(known, dtype=torch.float32)}
            return item
        entropy = self._entropy(generator)
        lq = self._lq(hq, entropy, generator)
        item |= {
            "hq": to_tensor(hq, n1_to_1),
            "lq": to_tensor(lq, n1_to_1),
            "corruption_entropy": torch.from_numpy(entropy),
        }
        return item

    def report(self) -> DataReport:
        """What was found and what was left out, files that failed later included."""
        damaged = tuple(Rejected(path, reason, "unreadable") for path, reason in self.unreadable.items())
        report = self._scan.report(self.options.name)
        return replace(report, usable=report.usable - len(damaged), rejected=report.rejected + damaged)

    def record_unreadable(self, found: Mapping[Path, str]) -> None:
        """Count damaged files; name each once, in the main process only (workers report to it)."""
        for path, reason in found.items():
            self.unreadable.setdefault(path, reason)
            if torch.utils.data.get_worker_info() is None:
                text = f"dataset {self.options.name}: {path}: {reason}; another image takes its place"
                warn_once(logger, f"unreadable {path}", text)

    def _scan_folders(self) -> Scan:
        options = self.options
        paths: list[str] | list[Path] = list(options.path_list)
        if not paths:
            paths = sample_photographs() if self.shuffle else [held_out_photograph()]
            logger.info("dataset %s: no `paths`, so the sample photographs of scikit-image are used", options.name)
        found = scan(paths, options.target_size or options.scale)
        if options.weights is None or not options.path_list:
            found = Scan(found.files, found.infos, (range(len(found.files)),), found.rejected)
        if not found.files:
            self._refuse(found, f"none of the {len(found.rejected)} files can be used")
        for line in named(found.rejected):
            logger.warning("dataset %s:%s", options.name, line)
        return found

    def _require_enough(self) -> None:
        """Fewer different items than one batch needs would repeat within every batch."""
        options, infos = self.options, self._scan.infos
        different = self._length
        if options.tile == "random" and options.target_size:
            size = options.target_size
            different = sum((info.height - size + 1) * (info.width - size + 1) for info in infos)
        if self.shuffle and different < options.batch_size:
            self._refuse(self._scan, f"{len(infos)} usable images are fewer than one batch of {options.batch_size}")

    def _refuse(self, found: Scan, problem: str) -> None:
        places = ", ".join(self.options.path_list) or "the sample photographs"
        reasons = "; ".join(line.strip() for line in named(found.rejected)) or "there are no others"
        minimum = self.options.target_size or self.options.scale
        raise DataError(
            f"dataset {self.options.name}: {places}: {problem} ({reasons}). Set `paths` to images of at least "
            f"{minimum}x{minimum} pixels, or lower target_size or batch_size"
        )

    def _epoch_order(self, epoch: int) -> np.ndarray:
        """int64 file numbers of one epoch. A folder of weight 1.5 comes once, and a drawn half of it once more."""
        if self._order is not None and self._order[0] == epoch:
            return self._order[1]
        rng = numpy_generator(self.seed, "data", epoch, "order")
        parts = []
        for folder, weight in zip(self._scan.folders, self._weights, strict=True):
            numbers = np.arange(folder.start, folder.stop)
            extra = round((weight - int(weight)) * len(numbers))
            parts += [np.tile(numbers, int(weight)), np.sort(rng.permutation(numbers)[:extra])]
        order = np.concatenate(parts)
        self._order = (epoch, rng.permutation(order) if self.shuffle else order)
        return self._order[1]

    def _readable(self, wanted: int) -> tuple[int, np.ndarray]:
        """The number and the samples of the wanted file, or of the next readable one."""
        count = len(self.files) if self.shuffle else 1
        for step in range(count):
            number = (wanted + step) % len(self.files)
            try:
                return number, self._cache.get(number, self.files[number])
            except DataError as error:
                self._cache.forget(number, error)
                if not self.shuffle:
                    raise
                path = self.files[number]
                self.record_unreadable({path: str(error).removeprefix(f"{path}: ")})
        raise DataError(f"dataset {self.options.name}: none of its {count} files can be decoded any more")

    def _hq(self, samples: np.ndarray, generator: Callable[[str], np.random.Generator]) -> np.ndarray:
        """float32 (H, W, 3): the tile, the resized square or the whole image, perhaps mirrored."""
        options = self.options
        if options.square:
            side = min(samples.shape[:2])
            samples = _centre(samples, side)
        if options.target_size is None:
            height, width = (side - side % options.scale for side in samples.shape[:2])
            return to_float(samples if options.skip_lq else samples[:height, :width])
        if options.tile == "center":
            samples = _centre(samples, options.target_size)
        elif options.tile == "random":
            rng, size = generator("tile"), options.target_size
            top, left = (int(rng.integers(0, side - size + 1)) for side in samples.shape[:2])
            samples = samples[top : top + size, left : left + size]
        hq = resize_area(to_float(samples), options.target_size, options.target_size)
        if self.shuffle and not options.disable_flip and generator("flip").random() < 0.5:
            hq = hq[:, ::-1]
        return np.ascontiguousarray(hq)

    def _entropy(self, generator: Callable[[str], np.random.Generator]) -> np.ndarray:
        """float32 (K,): the strength of each fixed corruption, in listed order."""
        if self.options.known_entropy is not None:
            return np.array(self.options.known_entropy, np.float32)
        return draw_strengths(len(self._fixed), generator("strength"), self.options.cosine_bias)

    def _lq(self, hq: np.ndarray, entropy: np.ndarray, generator: Callable[[str], np.random.Generator]) -> np.ndarray:
        height, width = (side // self.options.scale for side in hq.shape[:2])
        if self.options.corrupt_before_downsize:
            return resize_area(self._corrupt(hq, entropy, generator), height, width)
        return self._corrupt(resize_area(hq, height, width), entropy, generator)

    def _corrupt(
        self, image: np.ndarray, entropy: np.ndarray, generator: Callable[[str], np.random.Generator]
    ) -> np.ndarray:
        image = apply_corruptions(image, self._fixed, entropy.tolist(), generator("corrupt"))
        count = self.options.num_corrupts_per_image
        if not count:
            return image
        rng = generator("random")
        picked = [self._random[int(number)] for number in rng.integers(0, len(self._random), count)]
        return apply_corruptions(image, picked, draw_strengths(count, rng, self.options.cosine_bias).tolist(), rng)


def _centre(samples: np.ndarray, side: int) -> np.ndarray:
    top, left = ((length - side) // 2 for length in samples.shape[:2])
    return samples[top : top + side, left : left + side]


class _SampleCache:
    """Decoded images of this process, least recently used out first; it changes the speed, never the items."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._bytes = 0
        self._kept: OrderedDict[int, np.ndarray] = OrderedDict()
        self._failed: dict[int, str] = {}

    def get(self, number: int, path: Path) -> np.ndarray:
        """uint8 or uint16 (H, W, 3). Raises DataError when the file cannot be decoded."""
        if number in self._failed:
            raise DataError(self._failed[number])
        if number in self._kept:
            self._kept.move_to_end(number)
            return self._kept[number]
        samples = read_samples(path)
        self._kept[number] = samples
        self._bytes += samples.nbytes
        while self._bytes > self.limit_bytes and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return samples

    def forget(self, number: int, error: DataError) -> None:
        """Remember a damaged file, so that it is not decoded in vain again."""
        self._failed[number] = str(error)
