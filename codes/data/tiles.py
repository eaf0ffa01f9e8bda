"""The tile cutter: overlapping square tiles of photographs of any size, as PNG files, resumable."""

import json
import math
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from ..images.files import MAX_PIXELS, read_samples, resize_area, to_float, write_image
from ..utils.console import get_logger, progress
from ..utils.errors import DataError, TesseraError, reason_of
from ..utils.files import remove_temporaries, write_json
from ..utils.names import first_free, numbered, problem_with_length, same_file
from .base import Rejected, failures, named
from .scan import Scan, scan
from .windows import gray_deviation, window
from .worker_advice import Advice

logger = get_logger(__name__)
Corner = tuple[int, int]  # top, left
SETTINGS_FILE = ".tiles.json"  # hidden, so that a search for images passes them by
NOTES_FILE = ".photographs.json"
WRITING = 600.0  # seconds that no writing of a tile takes
ADVICE = Advice("a process", "processes", "lower --workers", "use --workers 1")
KEPT = "what is cut is kept, and the same command goes on"
SAVE_NOTES = 20.0  # seconds of work that a killed run may lose at most


class Note(NamedTuple):
    """What was cut: a photograph by its name below the inputs, its time of change (ns) and size, its flat tiles."""

    source: str
    stamp: tuple[int, int]
    flat: tuple[Corner, ...]


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
        return failures(self.rejected)


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


def cut_folders(
    inputs: Sequence[Path], output: Path, settings: TileSettings, workers: int = 1, max_pixels: int = MAX_PIXELS
) -> CutReport:
    """Cut every image of the inputs (folders or files) into `output`, with the folders below the inputs kept.

    Tiles of the same photograph, unchanged, are not written again, and one whose other tiles were flat is not read
    again. Photographs of more than `max_pixels` are left out. Raises DataError for an output inside an input, an output
    that was cut with other settings, and inputs without any usable image.
    """
    refuse_output(inputs, output)
    scanned = scan(inputs, settings.tile, max_pixels=max_pixels)
    if not scanned.files:
        reasons = "; ".join(line.strip() for line in named(scanned.rejected)) or "no files"
        raise DataError(f"{', '.join(map(str, inputs))}: no image of {settings.tile} pixels or more ({reasons})")
    _claim(output, settings)
    notes = _read_notes(output)
    names = _names(inputs, scanned)
    jobs = [
        _Job(
            file, name, output / target, tuple(tile_corners(info.height, info.width, settings)), notes.get(str(target))
        )
        for file, info, name, target in zip(scanned.files, scanned.infos, map(str, names), _targets(names), strict=True)
    ]
    remove_temporaries({output, *(job.target.parent for job in jobs)}, older_than=WRITING)
    done: list[_Cut] = []
    failed: list[Rejected] = []
    saved = time.monotonic()
    try:
        work = progress(_run(jobs, settings, workers), len(jobs), "cutting tiles")
        for job, result in zip(jobs, work, strict=True):
            if isinstance(result, str):
                failed.append(Rejected(job.source, result, "unreadable"))
                continue
            done.append(result)
            notes[str(job.target.relative_to(output))] = result.note
            if time.monotonic() - saved > SAVE_NOTES:
                _write_notes(output, notes)
                saved = time.monotonic()
    finally:
        _write_notes(output, notes)
    written, existing = sum(cut.written for cut in done), sum(cut.existing for cut in done)
    flat = sum(len(cut.note.flat) for cut in done)
    return CutReport(len(done), written, existing, flat, (*scanned.rejected, *failed))


def refuse_output(inputs: Sequence[Path], output: Path) -> None:
    """Raise DataError for a place that tiles cannot go to."""
    for path in inputs:
        if path.is_dir() and output.resolve().is_relative_to(path.resolve()):
            raise DataError(f"{output}: the output lies inside the input {path}; choose a folder outside of it")
    if output.exists() and not output.is_dir():
        raise DataError(f"{output}: is a file; name a folder for the tiles")


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
    """One photograph, by its name below the inputs: tiles go to `<target>_<top>_<left>.png`.

    `note` is what an earlier run left of this target, perhaps of another photograph.
    """

    source: Path
    name: str
    target: Path
    corners: tuple[Corner, ...]
    note: Note | None


@dataclass(frozen=True)
class _Cut:
    """What became of a photograph; `note` says which it was."""

    note: Note
    written: int
    existing: int


def _run(jobs: Sequence[_Job], settings: TileSettings, workers: int) -> Iterator[_Cut | str]:
    work = partial(_cut, settings=settings)
    if workers <= 1:
        yield from map(work, jobs)
        return
    with ExitStack() as stack:
        try:
            pool = stack.enter_context(ProcessPoolExecutor(workers, initializer=_prepare_worker))
            # Without this a stop (Ctrl-C, an error) would wait for every photograph that is queued.
            stack.callback(pool.shutdown, wait=False, cancel_futures=True)
            results = pool.map(work, jobs)
        except OSError as error:
            raise TesseraError(ADVICE.not_started(error)) from error
        try:
            yield from results
        except BrokenProcessPool as error:
            raise TesseraError(
                f"{ADVICE.one} was killed, as systems do when memory runs out; {ADVICE.fewer}; {KEPT}"
            ) from error


def _prepare_worker() -> None:
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process, which stops its workers itself


def _cut(job: _Job, settings: TileSettings) -> _Cut | str:
    """What became of the photograph, or the reason why it cannot be cut. Raises DataError for a full disk."""
    files = {
        corner: job.target.with_name(f"{job.target.name}_{corner[0]:05d}_{corner[1]:05d}.png") for corner in job.corners
    }
    if problem := next((too_long for file in files.values() if (too_long := problem_with_length(file))), None):
        return f"{problem}, so its tiles cannot be written; shorten the name of the photograph"
    try:
        status = job.source.stat()
        stamp = (status.st_mtime_ns, status.st_size)
        known = job.note is not None and (job.note.source, job.note.stamp) == (job.name, stamp)
        flat = [*job.note.flat] if known and job.note else []
        wanted = {corner: file for corner, file in files.items() if corner not in flat}
        missing = {corner: file for corner, file in wanted.items() if not known or not file.exists()}
        samples = read_samples(job.source, max_pixels=sys.maxsize) if missing else None
    except DataError as error:
        return reason_of(error, job.source)
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    written = 0
    for (top, left), file in missing.items():
        assert samples is not None
        tile = window(samples, top, left, settings.tile)
        if settings.min_std and gray_deviation(tile) < settings.min_std:
            flat.append((top, left))
        else:
            _write(file, tile)
            written += 1
    return _Cut(Note(job.name, stamp, tuple(flat)), written, len(wanted) - len(missing))


def _write(file: Path, tile: np.ndarray) -> None:
    try:
        write_image(file, tile, bit_depth=16 if tile.dtype == np.uint16 else 8)
    except OSError as error:
        raise DataError(f"{file}: cannot be written ({error.strerror or error}); what is written is kept") from None


def _read_notes(output: Path) -> dict[str, Note]:
    """What was cut from which photograph, by target. A damaged file is as good as none."""
    try:
        data = json.loads((output / NOTES_FILE).read_text(encoding="utf-8"))
        return {
            key: Note(str(source), (stamp[0], stamp[1]), tuple((y, x) for y, x in flat))
            for key, (source, stamp, flat) in data.items()
        }
    except (OSError, ValueError, TypeError, AttributeError, IndexError):
        return {}


def _write_notes(output: Path, notes: Mapping[str, Note]) -> None:
    with suppress(OSError):  # they only save time
        write_json(output / NOTES_FILE, notes, indent=None)


def _names(inputs: Sequence[Path], scanned: Scan) -> list[Path]:
    """The path of each file below its input, with the input's own name in front where there are several."""
    files = []
    for path, folder in zip(inputs, scanned.folders, strict=True):
        base = path.expanduser()
        below = Path(base.resolve().name) if base.is_dir() and len(inputs) > 1 else Path()
        for number in folder:
            file = scanned.files[number]
            files.append(below / (file.relative_to(base) if base.is_dir() else Path(file.name)))
    return files


def _targets(files: Sequence[Path]) -> list[Path]:
    """Relative target of each file without suffix; no two are one on any file system.

    Files that would share a target have their suffix in its name, or a number; the others keep theirs whatever comes.
    """
    shared = Counter(same_file(file.with_suffix("")) for file in files)
    taken: set[tuple[str, ...]] = set()
    chosen: dict[int, Path] = {}
    for number in sorted(range(len(files)), key=lambda number: shared[same_file(files[number].with_suffix(""))] > 1):
        file = files[number]
        alone = shared[same_file(file.with_suffix(""))] == 1
        names = islice(numbered(file.stem, file.suffix.lstrip(".")), 0 if alone else 1, None)
        chosen[number] = first_free(map(file.with_name, names), lambda target: [target], taken)
    return [chosen[number] for number in range(len(files))]


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
    write_json(note, wanted, indent=None)
