"""Looking through folders before a run: which files can be used, read from their headers alone."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..utils.errors import DataError
from ..utils.images import ImageInfo, find_images, probe_image
from .base import DataReport, Rejected


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


def scan(paths: Sequence[str | Path], minimum: int) -> Scan:
    """Find the images at least `minimum` pixels on both sides. Raises DataError for a path that does not exist."""
    files: list[Path] = []
    infos: list[ImageInfo] = []
    folders: list[range] = []
    rejected: list[Rejected] = []
    for path in paths:
        start = len(files)
        found, others = find_images(path)
        rejected += [Rejected(other, reason, "other") for other, reason in others]
        for file in found:
            usable = _usable(file, minimum)
            if isinstance(usable, Rejected):
                rejected.append(usable)
            else:
                files.append(file)
                infos.append(usable)
        folders.append(range(start, len(files)))
    return Scan(tuple(files), tuple(infos), tuple(folders), tuple(rejected))


def _usable(file: Path, minimum: int) -> ImageInfo | Rejected:
    try:
        info = probe_image(file)
    except DataError as error:
        return Rejected(file, str(error).removeprefix(f"{file}: "), "unreadable")
    if min(info.height, info.width) < minimum:
        return Rejected(
            file, f"{info.width}x{info.height} pixels, at least {minimum}x{minimum} are needed", "too_small"
        )
    return info
