"""What is known about the files of a folder from an earlier run, kept in the user's cache folder.

A convenience only: a missing, damaged or outdated index is rebuilt, and one that cannot be written is left alone.
"""

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path

from ..images.files import ImageInfo
from ..utils.files import remove_temporaries, user_cache_folder, write_json

VERSION = 1
WORTH_WRITING = 64  # new entries; fewer headers are read faster than an index is


class FolderIndex:
    """The headers of one folder's files; an entry holds as long as the file's size and time of change do.

    Each save replaces the whole file at once, so writers at the same time cannot mix; the last one wins.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        name = hashlib.blake2b(os.fsencode(self.folder), digest_size=12).hexdigest()
        self.file = user_cache_folder() / "index" / f"{name}.json"
        self._known = {} if self._is_inside_input() else self._read()
        self._seen: dict[str, list[int | str]] = {}
        self._new = 0

    def get(self, file: Path, status: os.stat_result) -> ImageInfo | None:
        """What is known of a file, or None when nothing is or it changed."""
        key = self._key(file)
        entry = self._known.get(key)
        if entry is None or entry[:2] != [status.st_mtime_ns, status.st_size]:
            return None
        self._seen[key] = entry
        height, width, mode, kind = entry[2:]
        return ImageInfo(int(height), int(width), str(mode), str(kind))

    def put(self, file: Path, status: os.stat_result, info: ImageInfo) -> None:
        """Remember a file whose header was read."""
        entry: list[int | str] = [status.st_mtime_ns, status.st_size, info.height, info.width, info.mode, info.format]
        self._seen[self._key(file)] = entry
        self._new += 1

    def save(self) -> None:
        """Write what was seen, when it is worth it. Files that are gone are forgotten."""
        if self._new < WORTH_WRITING or self._is_inside_input():
            return
        data = {"version": VERSION, "folder": str(self.folder), "files": self._seen}
        # A full disk, a read-only home, a file name that is no text: the next run reads the headers again.
        with suppress(OSError, ValueError):
            remove_temporaries([self.file.parent], older_than=3600)  # other runs may be writing theirs
            write_json(self.file, data, indent=None)

    def _read(self) -> dict[str, list[int | str]]:
        try:
            data = json.loads(self.file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        fits = isinstance(data, dict) and data.get("version") == VERSION and isinstance(data.get("files"), dict)
        return {key: entry for key, entry in data["files"].items() if _is_entry(entry)} if fits else {}

    def _key(self, file: Path) -> str:
        return os.path.relpath(file, self.folder)

    def _is_inside_input(self) -> bool:
        return self.file.resolve().is_relative_to(self.folder)


def _is_entry(entry: object) -> bool:
    kinds = (int, int, int, int, str, str)
    return (
        isinstance(entry, list)
        and len(entry) == len(kinds)
        and all(isinstance(value, kind) for value, kind in zip(entry, kinds, strict=True))
    )
