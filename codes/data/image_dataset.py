"""What all datasets of image files share: the order of an epoch, decoding, tiles, and files that are damaged."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch

from ..images.files import ImageInfo, resize_area, to_float
from ..utils.console import get_logger, warn_once
from ..utils.errors import ConfigError, DataError, reason_of
from ..utils.rng import numpy_generator
from .base import DataReport, Dataset, Item, Rejected, Traits, named
from .companions import Companions, image_names
from .corruptions.strength import Reader
from .image_options import ImageOptions
from .sample_cache import SampleCache
from .samples import held_out_photograph, sample_photographs
from .scan import Scan, scan
from .spread import TileSpread, spread_for
from .windows import centre_corner, random_corner, window

logger = get_logger(__name__)
Generators = Callable[[str], np.random.Generator]


@dataclass(frozen=True)
class Drawn:
    """What an item is made of: the number of its file, its decoded images (with `tile: random` what is cut from them)
    and the generators of its purposes. `whole`: the images before, if they were decoded just now.
    """

    number: int
    images: tuple[np.ndarray, ...]
    generator: Generators
    whole: tuple[np.ndarray, ...] = ()


class ImageDataset(Dataset):
    """Base of the datasets of image files.

    Every draw is a function of (seed, epoch, index in the epoch's order, purpose), so the number of workers, the
    ranks and a resume change nothing. With `shuffle` (training) the order is a permutation per epoch; without it
    (validation, restoration) it is the order of the files, nothing is flipped, and an image without `target_size`
    stays whole.

    Raises DataError when nothing can be used or, with `shuffle`, less than one batch; ConfigError when `shuffle`
    comes without `target_size`.
    """

    reader: Reader | None = None
    """Reads the strengths that are `auto`; who restores sets it, since the data know no networks."""

    def __init__(self, options: ImageOptions, *, seed: int, shuffle: bool) -> None:
        if shuffle and options.target_size is None:
            raise ConfigError(f"dataset {options.name}: target_size is missing; training needs the size of its tiles")
        self.image_options = options
        self.shuffle = shuffle
        self.seed = seed if options.random_seed is None else options.random_seed
        self.unreadable: dict[Path, str] = {}
        self.state_keys = options.provides()
        self._scan = self._scan_folders()
        self._weights = options.weights or tuple(1.0 for _ in self._scan.folders)
        # An image that is shrunk anyway may be decoded smaller; twice the target leaves the averaging its say.
        shrunk = 2 * options.target_size if options.tile == "none" and options.target_size else None
        self._cache = SampleCache(options.cache_megabytes * 2**20, options.max_pixels, options.alpha, shrunk)
        self._orders: OrderedDict[int, np.ndarray] = OrderedDict()
        self._spread = TileSpread()
        self._waiting: dict[int, tuple[int, tuple[np.ndarray, ...]]] = {}  # ordinal of a tile -> file, what was cut
        photographs = len(self._epoch_order(0))
        self._spread = self._spread_of(photographs)
        self._length = photographs * self._spread.tiles
        self._require_enough()

    @property
    def files(self) -> tuple[Path, ...]:
        """The usable files, in order."""
        return self._scan.files

    @property
    def infos(self) -> tuple[ImageInfo, ...]:
        """What the headers of `files` say."""
        return self._scan.infos

    @cached_property
    def names(self) -> tuple[str, ...]:
        """A name for each of `files`, from which what is drawn for it follows: see `image_names`."""
        return image_names(self.files, self.image_options.path_list)

    @property
    def truths(self) -> Companions | None:
        """The files that results are compared with, where the options name some."""
        return None

    def map_files(self, path: Path) -> dict[int, Path]:  # noqa: ARG002 - without strengths there are no maps of them
        """Position of a strength -> the map of an image. Raises DataError when there is none."""
        return {}

    def whole(self, position: int, by_rows: bool = False) -> tuple[Item, Traits | None]:  # noqa: ARG002
        """The item of a file that is itself restored, with what its result takes over; None where it takes nothing.

        `by_rows`: a large image may come as a canvas, whose rows are read when they are needed.
        """
        return self.item(position), None

    @property
    def whole_because(self) -> str | None:
        """What of the options needs images as a whole, so that `whole` gives no canvas; None where nothing does."""
        return "the mode of its dataset"

    def check(self) -> None:
        """Raise DataError for what is wrong with further files that the options name, before any of them is needed."""

    def sources(self, number: int) -> tuple[Path, ...]:
        """The files that the images of a number in `files` are read from."""
        return self._sources(number)

    def wanted(self, position: int) -> Path:
        """The file that the item of a position is made of, unless it turns out to be damaged."""
        return self.files[self._number(self._spread.ordinal(position))]

    def __len__(self) -> int:
        return self._length

    def report(self) -> DataReport:
        """What was found and what was left out, files that failed later included."""
        damaged = tuple(Rejected(path, reason, "unreadable") for path, reason in self.unreadable.items())
        report = self._scan.report(self.image_options.name)
        return replace(report, usable=report.usable - len(damaged), rejected=report.rejected + damaged)

    def record_unreadable(self, reasons: Mapping[Path, str]) -> None:
        """Count damaged files; name each once, in the main process only (workers report to it)."""
        for path, reason in reasons.items():
            self.unreadable.setdefault(path, reason)
            if torch.utils.data.get_worker_info() is None:
                text = f"dataset {self.image_options.name}: {path}: {reason}; another image takes its place"
                warn_once(logger, f"unreadable {path}", text)

    def _selected(self, scanned: Scan) -> Scan:
        """The files to use, of those found; a subclass may reject some. Raises DataError."""
        return scanned

    def _load(self, number: int) -> tuple[np.ndarray, ...]:
        """The decoded images of a file. Raises DataError that begins with the path of the damaged one."""
        samples = self._cache.get(self.files[number])
        least = self.image_options.minimum_side
        if min(samples.shape[:2]) < least:  # smaller than its header says: what is transparent was cut off
            height, width = samples.shape[:2]
            raise DataError(f"{self.files[number]}: {width}x{height} visible pixels, at least {least}x{least} needed")
        return (samples,)

    def _draw(self, position: int) -> Drawn:
        """What the item of a position in the endless order is made of.

        With `shuffle` a file that cannot be decoded is replaced by the next readable one; without it DataError is
        raised, since restoring another image in its place would be wrong.
        """
        ordinal = self._spread.ordinal(position)
        generator = self._generator(ordinal)
        if ordinal in self._waiting:
            return Drawn(*self._waiting.pop(ordinal), generator)
        number, whole = self._readable(self._number(ordinal))
        self._cut_others(number, whole, position, ordinal)
        return Drawn(number, self._windows(whole, generator), generator, whole)

    def _number(self, ordinal: int) -> int:
        """The number of the file that a tile is cut from."""
        epoch, index = divmod(ordinal, self._length)
        return int(self._epoch_order(epoch)[index // self._spread.tiles])

    def _generator(self, ordinal: int) -> Generators:
        return partial(numpy_generator, self.seed, "data", *divmod(ordinal, self._length))

    def _cut_others(self, number: int, whole: tuple[np.ndarray, ...], position: int, ordinal: int) -> None:
        """The other tiles of a photograph are cut while it is there, and wait for their positions."""
        for kept in [kept for kept in self._waiting if self._spread.position(kept) < position]:
            del self._waiting[kept]  # another worker had the batch that it belongs to
        tiles = self._spread.tiles
        for later in range(ordinal + 1, ordinal - ordinal % tiles + tiles):
            cut = self._windows(whole, self._generator(later))
            self._waiting[later] = number, tuple(part.copy() for part in cut)  # not the whole photograph

    def _windows(self, images: tuple[np.ndarray, ...], generator: Generators) -> tuple[np.ndarray, ...]:
        """What is cut from the images of a file with `tile: random`; else the images."""
        options, samples = self.image_options, images[0]
        if options.tile != "random":
            return images
        if options.square:
            side = min(samples.shape[:2])
            samples = window(samples, *centre_corner(samples, side), side)
        side = self._cut_side(samples, generator)
        return (window(samples, *random_corner(samples, side, generator("tile"), options.min_tile_std), side),)

    def _hq(self, samples: np.ndarray, generator: Generators) -> np.ndarray:
        """float32 (H, W, 3) of what `_draw` gave: the tile, the resized square or the whole image, perhaps mirrored."""
        options = self.image_options
        if options.square and options.tile != "random":
            side = min(samples.shape[:2])
            samples = window(samples, *centre_corner(samples, side), side)
        if options.target_size is None:
            return to_float(samples)
        size = options.target_size
        if options.tile == "center":
            samples = window(samples, *centre_corner(samples, size), size)
        hq = to_float(samples)
        if hq.shape[:2] != (size, size):
            hq = resize_area(hq, size, size)
        return np.ascontiguousarray(hq[:, ::-1]) if self._flipped(generator) else hq

    def _cut_side(self, samples: np.ndarray, generator: Generators) -> int:
        """Side of the square that becomes a tile: to shrink what is cut is to cut from the shrunk photograph."""
        size, (low, high) = self.image_options.target_size, self.image_options.shrink
        assert size is not None
        if high == 1.0:
            return size
        return min(round(size * generator("shrink").uniform(low, high)), *samples.shape[:2])

    def _flipped(self, generator: Generators) -> bool:
        return bool(self.shuffle and not self.image_options.disable_flip and generator("flip").random() < 0.5)

    def _record(self, number: int) -> Item:
        """What an item says of the file that it is made from."""
        hq, lq = str(self._sources(number)[0]), str(self._sources(number)[-1])
        return {"LQ_path": lq, "HQ_path": hq, "GT_path": hq, "image_name": self.names[number]}

    def _sources(self, number: int) -> tuple[Path, ...]:
        """The files that `_load` reads, the hq first."""
        return (self.files[number],)

    def _blame(self, number: int, error: DataError) -> tuple[Path, str]:
        """The damaged file and the reason, of an error that begins with its path."""
        sources = self._sources(number)
        reasons = {source: reason_of(error, source) for source in sources}
        path = next((source for source, reason in reasons.items() if reason != str(error)), sources[0])
        return path, reasons[path]

    def _spread_of(self, photographs: int) -> TileSpread:
        """Outside of training every photograph gives its tiles in a row."""
        options = self.image_options
        if not self.shuffle or options.tile != "random" or options.target_size is None:
            return TileSpread(options.tiles_per_image or 1)
        pixels = float(np.mean([info.height * info.width for info in self.infos]))
        side = round(options.target_size * options.shrink[1])
        return spread_for(options.tiles_per_image, photographs, pixels, side, options.batch_size)

    def _scan_folders(self) -> Scan:
        options = self.image_options
        paths: list[str] | list[Path] = list(options.path_list)
        if not paths:
            paths = sample_photographs() if self.shuffle else [held_out_photograph()]
            logger.info("dataset %s: no `paths`, so the sample photographs of scikit-image are used", options.name)
        scanned = scan(paths, options.minimum_side, max_pixels=options.max_pixels, index=options.index)
        scanned = self._selected(scanned)
        if options.weights is None or not options.path_list:
            scanned = Scan(scanned.files, scanned.infos, (range(len(scanned.files)),), scanned.rejected)
        if not scanned.files:
            self._refuse(scanned, f"none of the {len(scanned.rejected)} files can be used")
        for line in named(scanned.rejected):
            logger.warning("dataset %s:%s", options.name, line)
        return scanned

    def _require_enough(self) -> None:
        """Fewer different items than one batch needs would repeat within every batch."""
        options, infos = self.image_options, self._scan.infos
        different = self._length
        if options.tile == "random" and options.target_size:
            size = options.target_size
            different = sum((info.height - size + 1) * (info.width - size + 1) for info in infos)
        if self.shuffle and different < options.batch_size:
            self._refuse(self._scan, f"{len(infos)} usable images are fewer than one batch of {options.batch_size}")

    def _refuse(self, scanned: Scan, problem: str) -> None:
        options = self.image_options
        places = ", ".join(options.path_list) or "the sample photographs"
        reasons = "; ".join(line.strip() for line in named(scanned.rejected)) or "there are no others"
        least = options.minimum_side
        raise DataError(
            f"dataset {options.name}: {places}: {problem} ({reasons}). Set `paths` to images of at least "
            f"{least}x{least} pixels, or lower target_size or batch_size"
        )

    def _epoch_order(self, epoch: int) -> np.ndarray:
        """int64 file numbers of one epoch. A folder of weight 1.5 comes once, and a drawn half of it once more."""
        if epoch in self._orders:
            return self._orders[epoch]
        rng = numpy_generator(self.seed, "data", epoch, "order")
        parts = []
        for folder, weight in zip(self._scan.folders, self._weights, strict=True):
            numbers = np.arange(folder.start, folder.stop)
            extra = round((weight - int(weight)) * len(numbers))
            parts += [np.tile(numbers, int(weight)), np.sort(rng.permutation(numbers)[:extra])]
        order = np.concatenate(parts)
        self._orders[epoch] = rng.permutation(order) if self.shuffle else order
        # Photographs of neighbouring tracks may belong to different epochs, of few photographs to many.
        while len(self._orders) > 2 + 2 * self._spread.tracks // len(order):
            self._orders.popitem(last=False)
        return self._orders[epoch]

    def _readable(self, wanted: int) -> tuple[int, tuple[np.ndarray, ...]]:
        """The number and the images of the wanted file, or of the next readable one."""
        count = len(self.files) if self.shuffle else 1
        for step in range(count):
            number = (wanted + step) % len(self.files)
            try:
                return number, self._load(number)
            except DataError as error:
                if not self.shuffle:
                    raise
                self.record_unreadable(dict([self._blame(number, error)]))
        raise DataError(f"dataset {self.image_options.name}: none of its {count} files can be decoded any more")
