"""Finding image files in folders: recursive, in natural order, without endless loops."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..utils.errors import DataError

EXTENSIONS = frozenset(
    f".{name}" for name in re.findall(r"\w+", "png jpg jpeg jpe jfif webp tif tiff bmp gif ppm pgm pnm jp2 avif")
)


def find_images(paths: str | Path | Sequence[str | Path]) -> tuple[list[Path], list[tuple[Path, str]]]:
    """All image files (by extension) in files and folders, and what was left out with the reason.

    Folders are searched recursively in natural order (img2 before img10), the same on every machine; symbolic links
    are followed, each folder is visited once; names that start with a dot are skipped. Raises DataError for a path
    that does not exist.
    """
    listed = [paths] if isinstance(paths, str | Path) else paths
    files: list[Path] = []
    rejected: list[tuple[Path, str]] = []
    visited: set[tuple[int, int]] = set()
    for path in (Path(entry).expanduser() for entry in listed):
        if not path.exists():
            raise DataError(f"{path}: no such file or folder")
        for file in _walk(path, visited, rejected) if path.is_dir() else [path]:
            if file.suffix.lower() in EXTENSIONS:
                files.append(file)
            else:
                rejected.append((file, f"not an image by its extension ({file.suffix or 'none'})"))
    return files, rejected


def _walk(folder: Path, visited: set[tuple[int, int]], rejected: list[tuple[Path, str]]) -> Iterator[Path]:
    try:
        status = folder.stat()
        entries = sorted(folder.iterdir(), key=_natural_key)
    except OSError as error:
        rejected.append((folder, f"the folder cannot be read ({error.strerror or error})"))
        return
    identity = (status.st_dev, status.st_ino)
    if identity in visited:
        return
    visited.add(identity)
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _walk(entry, visited, rejected)
        elif entry.is_file():
            yield entry
        else:
            rejected.append((entry, "a broken link" if entry.is_symlink() else "not a regular file"))


def _natural_key(path: Path) -> tuple[list[tuple[int, int, str]], str]:
    parts = re.split(r"(\d+)", path.name.casefold())
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts], path.name
