"""The tile cutter: overlapping square tiles of photographs of any size, as PNG files, resumable."""

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from ..utils.console import get_logger, progress
from ..utils.errors import DataError
from ..utils.files import write_text
from ..utils.images import quantise, read_samples, resize_area, to_float, write_image
from .base import Rejected, named
from .scan import Scan, scan

logger = get_logger(__name__)
SETTINGS_FILE = ".tiles.json"  # hidden, so that a search for images passes it by


@dataclass(frozen=True)
class TileSettings:
    """`tile` and `step` in pixels; tiles whose gray values (0..255) deviate by less than `min_std` are left out."""

    tile: int = 256
    step: int = 192
    min_std: float = 0.0

    def __post_init__(self) -> None:
        if self.tile < 1 or self.step < 1 or self.min_std < 0:
            raise DataError(
                f"tile {self.tile}, step {self.step}, min-std {self.min_std}: sizes start at 1, min-std at 0"
            )
        if self.step > self.tile:
            raise DataError(f"step {self.step} is larger than tile {self.tile}: what lies between would be lost")


@dataclass(frozen=True)
class CutReport:
    """What a run of the cutter did: tiles written, tiles that were there already, tiles left out as flat."""

    images: int
    written: int
    existing: int
    flat: int
    rejected: tuple[Rejected, ...]

    @property
    def failed(self) -> tuple[Rejected, ...]:
        """Images that could not be cut; files that never claimed to be images are not among them."""
        return tuple(entry for entry in self.rejected if entry.kind != "other")


def tile_starts(length: int, tile: int, step: int) -> tuple[int, ...]:
    """Where tiles start along one side. The last one is shifted back to the border, so nothing is lost.

    Raises ValueError when `length` is smaller than one tile.
    """
    if length < tile:
        raise ValueError(f"{length} pixels are less than one tile of {tile}")
    starts = range(0, length - tile + 1, step)
    last = length - tile
    return (*starts, last) if starts[-1] != last else tuple(starts)


def tile_corners(height: int, width: int, settings: TileSettings) -> list[tuple[int, int]]:
    """(top, left) of every tile of an image, row by row."""
    tops = tile_starts(height, settings.tile, settings.step)
    lefts = tile_starts(width, settings.tile, settings.step)
    return [(top, left) for top in tops for left in lefts]


def cut_folders(inputs: Sequence[Path], output: Path, settings: TileSettings, workers: int = 1) -> CutReport:
    """Cut every image of the inputs (folders or files) into `output`, with the folders below the inputs kept.

    Tiles newer than their photograph are not written again. Raises DataError for an output inside an input, an output
    that was cut with other settings, and inputs without any usable image.
    """
    for path in inputs:
        if path.is_dir() and output.resolve().is_relative_to(path.resolve()):
            raise DataError(f"{output}: the output lies inside the input {path}; choose a folder outside of it")
    found = scan(inputs, settings.tile)
    if not found.files:
        reasons = "; ".join(line.strip() for line in named(found.rejected)) or "no files"
        raise DataError(f"{', '.join(map(str, inputs))}: no image of {settings.tile} pixels or more ({reasons})")
    _claim(output, settings)
    jobs = [
        _Job(file, output / target, tuple(tile_corners(info.height, info.width, settings)))
        for file, info, target in zip(found.files, found.infos, _targets(inputs, found), strict=True)
    ]
    counts: Counter[str] = Counter()
    failed: list[Rejected] = []
    for job, result in zip(jobs, progress(_run(jobs, settings, workers), len(jobs), "cutting tiles"), strict=True):
        if isinstance(result, str):
            failed.append(Rejected(job.source, result, "unreadable"))
        else:
            counts.update(result)
    rejected = (*found.rejected, *failed)
    return CutReport(len(jobs) - len(failed), counts["written"], counts["existing"], counts["flat"], rejected)


def write_contact_sheet(output: Path, side: int = 96, limit: int = 96) -> Path | None:
    """A JPEG beside `output` with up to `limit` tiles, evenly chosen and scaled to `side`. None without tiles."""
    tiles = sorted(output.rglob("[!.]*.png"))
    if not tiles:
        return None
    chosen = [tiles[number] for number in np.unique(np.linspace(0, len(tiles) - 1, min(limit, len(tiles))).astype(int))]
    columns = math.ceil(math.sqrt(len(chosen) * 1.5))
    rows = math.ceil(len(chosen) / columns)
    sheet = np.ones((rows * (side + 4) + 4, columns * (side + 4) + 4, 3), np.float32)
    for number, path in enumerate(chosen):
        top, left = (4 + place * (side + 4) for place in divmod(number, columns))
        tile = to_float(read_samples(path))
        small = resize_area(tile, min(side, tile.shape[0]), min(side, tile.shape[1]))
        sheet[top : top + small.shape[0], left : left + small.shape[1]] = small
    target = output.with_name(f"{output.name}_contact_sheet.jpg")
    write_image(target, sheet, quality=90)
    return target


@dataclass(frozen=True)
class _Job:
    """One photograph: tiles go to `<target>_<top>_<left>.png`."""

    source: Path
    target: Path
    corners: tuple[tuple[int, int], ...]


def _run(jobs: Sequence[_Job], settings: TileSettings, workers: int) -> Iterator[dict[str, int] | str]:
    work = partial(_cut, settings=settings)
    if workers <= 1:
        yield from map(work, jobs)
        return
    with ExitStack() as stack:
        pool = stack.enter_context(ProcessPoolExecutor(workers, initializer=_single_thread))
        # Without this a stop (Ctrl-C, an error) would wait for every photograph that is queued.
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        yield from pool.map(work, jobs)


def _single_thread() -> None:
    cv2.setNumThreads(0)


def _cut(job: _Job, settings: TileSettings) -> dict[str, int] | str:
    """Counts of tiles, or the reason why the photograph cannot be read."""
    files = {
        corner: job.target.with_name(f"{job.target.name}_{corner[0]:05d}_{corner[1]:05d}.png") for corner in job.corners
    }
    changed = job.source.stat().st_mtime
    missing = {corner: file for corner, file in files.items() if not file.exists() or file.stat().st_mtime < changed}
    counts = {"existing": len(files) - len(missing), "written": 0, "flat": 0}
    if not missing:
        return counts
    try:
        samples = read_samples(job.source)
    except DataError as error:
        return str(error).removeprefix(f"{job.source}: ")
    for (top, left), file in missing.items():
        tile = samples[top : top + settings.tile, left : left + settings.tile]
        if settings.min_std and _deviation(tile) < settings.min_std:
            counts["flat"] += 1
            continue
        write_image(file, tile, bit_depth=16 if tile.dtype == np.uint16 else 8)
        counts["written"] += 1
    return counts


def _deviation(tile: np.ndarray) -> float:
    """Standard deviation of the gray values, 0..255."""
    return float(cv2.cvtColor(quantise(to_float(tile)), cv2.COLOR_RGB2GRAY).std())


def _targets(inputs: Sequence[Path], found: Scan) -> list[Path]:
    """Relative target of each file without suffix; one that two files would share keeps its suffix or gets a number."""
    targets = []
    for path, folder in zip(inputs, found.folders, strict=True):
        base = path.expanduser()
        below = Path(base.resolve().name) if base.is_dir() and len(inputs) > 1 else Path()
        for number in folder:
            file = found.files[number]
            targets.append(below / (file.relative_to(base) if base.is_dir() else Path(file.name)))
    shared = Counter(target.with_suffix("") for target in targets)
    unique: Counter[Path] = Counter()
    result = []
    for target in targets:
        short = target.with_suffix("")
        chosen = short if shared[short] == 1 else target.with_name(target.name.replace(".", "_"))
        unique[chosen] += 1
        result.append(chosen if unique[chosen] == 1 else chosen.with_name(f"{chosen.name}_{unique[chosen]}"))
    return result


def _claim(output: Path, settings: TileSettings) -> None:
    """Note the settings in the output folder, or refuse to mix tiles of two kinds."""
    note = output / SETTINGS_FILE
    wanted = asdict(settings)
    if note.is_file():
        try:
            before = json.loads(note.read_text(encoding="utf-8"))
        except ValueError:
            before = None
        if before != wanted:
            raise DataError(f"{output}: was cut with {before}, not {wanted}; choose another folder or delete this one")
        return
    if output.exists() and not output.is_dir():
        raise DataError(f"{output}: is a file; name a folder for the tiles")
    write_text(note, json.dumps(wanted))
