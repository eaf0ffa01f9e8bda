"""Looking through folders before a run: which files can be used, read from their headers alone."""

import sys
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..images.files import MAX_PIXELS, ImageInfo, find_images, looks_whole, probe_image, read_samples
from ..utils.console import progress
from ..utils.errors import DataError, reason_of
from .base import DataReport, Rejected
from .index import FolderIndex


@dataclass(frozen=True)
class Scan:
    """The usable files of several folders: `folders[k]` are the positions in `files` that come from `paths[k]`."""

    files: tuple[Path, ...]
    infos: tuple[ImageInfo, ...]
    folders: tuple[range, ...]
    rejected: tuple[Rejected, ...]

    def report(self, name: str) -> DataReport:
        """The scan as a report. At least one file must be usable."""
        sizes = sorted(((info.height, info.width) for info in self.infos), key=lambda size: size[0] * size[1])
        modes = Counter(info.mode for info in self.infos)
        return DataReport(name, len(self.files), sizes[0], sizes[-1], modes, self.rejected)

    def without(self, judge: Callable[[int], Rejected | None]) -> "Scan":
        """The scan without the files that `judge` rejects by their number."""
        verdicts = [judge(number) for number in range(len(self.files))]
        kept = [number for number, verdict in enumerate(verdicts) if verdict is None]
        ends = [bisect_left(kept, folder.stop) for folder in self.folders]
        starts = [bisect_left(kept, folder.start) for folder in self.folders]
        return Scan(
            tuple(self.files[number] for number in kept),
            tuple(self.infos[number] for number in kept),
            tuple(range(start, end) for start, end in zip(starts, ends, strict=True)),
            (*self.rejected, *(verdict for verdict in verdicts if verdict is not None)),
        )


def scan(paths: Sequence[str | Path], minimum: int, *, max_pixels: int = MAX_PIXELS, index: bool = False) -> Scan:
    """Find the images of at least `minimum` pixels on both sides and at most `max_pixels` in all.

    With `index` the headers of folders are remembered in the user's cache folder. Raises DataError for a path that
    does not exist.
    """
    files: list[Path] = []
    infos: list[ImageInfo] = []
    folders: list[range] = []
    rejected: list[Rejected] = []
    for path in paths:
        start = len(files)
        search = find_images(path)
        rejected += [Rejected(entry.path, entry.reason, entry.kind) for entry in search.left_out]
        folder = Path(path)
        known = FolderIndex(folder) if index and folder.is_dir() else None
        for file in progress(search.files, len(search.files), f"looking at {path}"):
            usable = _usable(file, minimum, max_pixels, known)
            if isinstance(usable, Rejected):
                rejected.append(usable)
            else:
                files.append(file)
                infos.append(usable)
        if known is not None:
            known.save()
        folders.append(range(start, len(files)))
    return Scan(tuple(files), tuple(infos), tuple(folders), tuple(rejected))


def _usable(file: Path, minimum: int, max_pixels: int, known: FolderIndex | None) -> ImageInfo | Rejected:
    try:
        info = _info(file, max_pixels, known)
    except DataError as error:
        return Rejected(file, reason_of(error, file), "unreadable")
    except OSError as error:
        return Rejected(file, f"cannot be read ({error.strerror or error})", "unreadable")
    if info.height * info.width > max_pixels:
        text = f"{info.width}x{info.height} pixels are more than the limit of {max_pixels} (max_pixels)"
        return Rejected(file, text, "too_large")
    if min(info.height, info.width) < minimum:
        return Rejected(
            file, f"{info.width}x{info.height} pixels, at least {minimum}x{minimum} are needed", "too_small"
        )
    return info


def _info(file: Path, max_pixels: int, known: FolderIndex | None) -> ImageInfo:
    """The header, from the index where the file did not change. Raises DataError or OSError for a damaged file."""
    status = file.stat()
    remembered = known.get(file, status) if known else None
    if remembered is not None:
        return remembered
    info = probe_image(file, max_pixels=sys.maxsize)
    if info.height * info.width > max_pixels:
        return info
    if not looks_whole(file):
        read_samples(file, max_pixels=max_pixels)
    if known:
        known.put(file, status, info)
    return info
