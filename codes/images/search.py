"""Finding image files in folders: recursive, in natural order, without endless loops, past what is no picture."""

import errno
import importlib
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..utils.errors import DataError

Kind = Literal["other", "system", "unreachable", "format"]

MISSING: tuple[Kind, ...] = ("unreachable", "format")  # kinds that stand for pictures
READABLE = frozenset(
    f".{name}" for name in re.findall(r"\w+", "png jpg jpeg jpe jfif webp tif tiff bmp gif ppm pgm pnm jp2 avif")
)
_RAW = "3fr arw cr2 cr3 dng erf kdc mef mos mrw nef nrw orf pef raf raw rw2 rwl sr2 srf srw x3f"
_EDITOR = "psd psb exr hdr jxr wdp xcf"
# Package that teaches Pillow a format -> its module and the format's extensions.
_PACKAGES = {
    "pillow-heif": ("pillow_heif", [".heic", ".heif", ".hif"]),
    "pillow-jxl-plugin": ("pillow_jxl", [".jxl"]),
}
_ELSEWHERE = {f".{name}": "develop it and save it as TIFF" for name in _RAW.split()} | {
    f".{name}": "save it as TIFF or PNG" for name in _EDITOR.split()
}
# What systems and programs put among pictures: Synology, QNAP, macOS, Windows, Lightroom, thumbnailers.
_SYSTEM_NAMES = frozenset(
    name.casefold()
    for name in (
        "@eaDir", "@Recycle", "#recycle", "@Recently-Snapshot", "#snapshot", "__MACOSX", "$RECYCLE.BIN",
        "System Volume Information", "lost+found", "Thumbs.db", "ehthumbs.db", "desktop.ini",
    )
)  # fmt: skip
_SYSTEM_SUFFIXES = (".lrdata", ".lrcat-data")
_NAMED = 3  # names in the line that counts what was passed over


@dataclass(frozen=True)
class LeftOut:
    """What a search found and did not take.

    `kind`: "other" (no image by its extension, or not a file), "system" (one entry that counts the pictures and folders
    that are hidden or belong to a system), "unreachable" (a folder or link that cannot be followed), "format" (an image
    of a format that is not read). The last two stand for pictures that are missing.
    """

    path: Path
    reason: str
    kind: Kind


@dataclass
class FoundImages:
    """Image files in natural order, and what was left out."""

    files: list[Path] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)


def load_plugins() -> frozenset[str]:
    """The extensions of the formats that installed packages teach Pillow, which they are asked to do."""
    known: list[str] = []
    for module, extensions in _PACKAGES.values():
        try:
            loaded = importlib.import_module(module)
        except (ImportError, OSError):  # not installed, or without a library that it needs
            continue
        if hasattr(loaded, "register_heif_opener"):  # others register when they are imported
            loaded.register_heif_opener()
        known += extensions
    return frozenset(known)


EXTENSIONS = READABLE | load_plugins()


def find_images(paths: str | Path | Sequence[str | Path]) -> FoundImages:
    """All image files (by extension) in files and folders, and what was left out with the reason.

    Folders are searched recursively in natural order (img2 before img10), the same on every machine. Symbolic links
    are followed wherever they lead, each folder is visited once. Hidden entries and those of systems and programs
    (a NAS's @eaDir, Thumbs.db) are passed over, and those that may hold pictures counted. What cannot be reached is
    left out, and the search goes on. Raises DataError for a path that does not exist, or is neither a file nor a
    folder (a pipe, a device).
    """
    listed = [paths] if isinstance(paths, str | Path) else paths
    search = _Search()
    for entry in listed:
        search.add(Path(entry).expanduser())
    return search.images


class _Search:
    def __init__(self) -> None:
        self.images = FoundImages()
        self.visited: set[tuple[int, int]] = set()

    def add(self, path: Path) -> None:
        """A path that the user named."""
        try:
            status = path.stat()
        except FileNotFoundError:
            raise DataError(f"{path}: no such file or folder") from None
        except OSError as error:
            raise DataError(f"{path}: cannot be reached ({error.strerror or error})") from None
        if not stat.S_ISDIR(status.st_mode) and not stat.S_ISREG(status.st_mode):
            raise DataError(f"{path}: a {_kind(status.st_mode)}; expected an image file or a folder")
        passed: list[Path] = []
        for file in self._walk(path, passed):
            self._take(file)
        if passed:
            names = ", ".join(dict.fromkeys(entry.name for entry in passed[:_NAMED]))
            more = ", ..." if len(passed) > _NAMED else ""
            entries = "entry" if len(passed) == 1 else "entries"
            text = f"{len(passed)} hidden or system {entries} inside passed over ({names}{more})"
            self._leave(path, text, "system")

    def _walk(self, root: Path, passed: list[Path]) -> Iterator[Path]:
        """The files below `root`, or itself. A stack, because folders may lie deeper than Python recurses."""
        pending = [root]
        while pending:
            path = pending.pop()
            try:
                status = path.stat()
                if stat.S_ISDIR(status.st_mode):
                    pending += reversed(self._entries(path, (status.st_dev, status.st_ino), passed))
                elif stat.S_ISREG(status.st_mode):
                    yield path
                else:
                    stands = path.suffix.lower() in EXTENSIONS
                    self._leave(path, f"a {_kind(status.st_mode)}", "unreachable" if stands else "other")
            except OSError as error:
                kind: Kind = "unreachable" if _stands_for_picture(path, error) else "other"
                self._leave(path, _why_not(path, error), kind)

    def _entries(self, folder: Path, identity: tuple[int, int], passed: list[Path]) -> list[Path]:
        """What a folder holds, in order; nothing the second time. Raises OSError."""
        if identity in self.visited:
            return []
        self.visited.add(identity)
        if not os.access(folder, os.X_OK):  # what it holds could be listed at best
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        entries = sorted(folder.iterdir(), key=_natural_key)
        passed += [entry for entry in entries if _is_system(entry.name) and _may_hold_pictures(entry)]
        return [entry for entry in entries if not _is_system(entry.name)]

    def _take(self, file: Path) -> None:
        suffix = file.suffix.lower()
        if suffix in EXTENSIONS:
            self.images.files.append(file)
        elif (advice := _advice(suffix)) is not None:
            self._leave(file, f"{suffix} files are not read; {advice}", "format")
        else:
            self._leave(file, f"not an image by its extension ({file.suffix or 'none'})", "other")

    def _leave(self, path: Path, reason: str, kind: Kind) -> None:
        self.images.left_out.append(LeftOut(path, reason, kind))


def _kind(mode: int) -> str:
    """What is neither a file nor a folder, in a word."""
    kinds = {stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket", stat.S_IFCHR: "device", stat.S_IFBLK: "device"}
    return kinds.get(stat.S_IFMT(mode), "special file")


def _why_not(path: Path, error: OSError) -> str:
    if error.errno == errno.ENOENT:
        return "a broken link" if path.is_symlink() else "no longer there"
    if error.errno == errno.ELOOP:
        return "a link that leads in a circle"
    return f"cannot be reached ({error.strerror or error})"


def _stands_for_picture(path: Path, error: OSError) -> bool:
    """Whether what cannot be reached may be a picture or a folder of them: all but broken links with other names."""
    suffix = path.suffix.lower()
    return error.errno != errno.ENOENT or not suffix or suffix in EXTENSIONS or _advice(suffix) is not None


def _advice(suffix: str) -> str | None:
    """What to do about a file of an image format that is not read; None for what is no image."""
    for package, (_, extensions) in _PACKAGES.items():
        if suffix in extensions:
            return f"install {package} (pip install {package}), or convert it to PNG or TIFF"
    return _ELSEWHERE.get(suffix)


def _is_system(name: str) -> bool:
    folded = name.casefold()
    return name.startswith(".") or folded in _SYSTEM_NAMES or folded.endswith(_SYSTEM_SUFFIXES)


def _may_hold_pictures(entry: Path) -> bool:
    """Whether a hidden or system entry is worth counting: a picture, or a folder; not a program's notes."""
    return entry.suffix.lower() in EXTENSIONS or os.path.isdir(entry)


def _natural_key(path: Path) -> tuple[list[tuple[int, int, str]], str]:
    parts = re.split(r"(\d+)", path.name.casefold())
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts], path.name
