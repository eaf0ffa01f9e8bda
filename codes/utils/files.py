"""Writing files so that a reader never sees half of one, as text or JSON; where caches lie."""

import errno
import hashlib
import json
import math
import os
import re
import sys
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

# What `atomic_write` names a file that is not whole yet, and what the library of safetensors does.
TEMPORARY = re.compile(r"\.(.*\.)?[0-9a-f]{8}\.tmp(\..+)?|\.tmp[A-Za-z0-9]{6}", re.DOTALL)


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; on success it is flushed to disk and renamed to `path`.

    The temporary name keeps the suffix, because encoders choose the format by it, and starts with a dot, so that no
    image search picks it up. On any exception the temporary file is removed and `path` is left as it was. An OSError
    that does not say which file it is about gets `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # 20 characters are at most 80 bytes, so that a name of the greatest length still leaves room.
    temporary = path.with_name(f".{path.stem[:20]}.{uuid.uuid4().hex[:8]}.tmp{path.suffix}")
    try:
        yield temporary
        _flush_to_disk(temporary)
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        # A full disk does not say what it was writing, and other errors name a file that nobody knows.
        if isinstance(error, OSError) and error.filename in (None, str(temporary), temporary):
            error.filename = str(path)
        raise


def require_folder(folder: Path) -> None:
    """Raise FileNotFoundError where a folder is not there any more: a drive that is gone must not be made anew beneath
    its place, where nobody would look for what is written.
    """
    if not folder.is_dir():
        raise FileNotFoundError(errno.ENOENT, "the folder is not there any more", str(folder))


def remove_temporaries(folders: Iterable[Path], older_than: float = 0.0) -> None:
    """Remove what killed writers left in folders, not below them; only files untouched for `older_than` seconds.

    Whoever calls this must be the only one that writes there, or give an age that no writing takes.
    """
    for folder in folders:
        with suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                with suppress(OSError):
                    old = time.time() - entry.stat(follow_symlinks=False).st_mtime >= older_than
                    if TEMPORARY.fullmatch(entry.name) and old and entry.is_file(follow_symlinks=False):
                        os.unlink(entry.path)


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, data: Any, indent: int | None = 2) -> None:
    """Write a JSON file atomically, as `json_text` has it."""
    write_text(path, json_text(data, indent))


def json_text(data: Any, indent: int | None = None) -> str:
    """JSON that ends with a newline; numbers that it lacks (NaN, infinity) become null."""
    plain = _finite(data)
    text = json.dumps(plain, indent=indent, allow_nan=False, ensure_ascii=False) + "\n"
    try:
        text.encode()
    except UnicodeEncodeError:  # the name of a file that is no text
        return json.dumps(plain, indent=indent, allow_nan=False) + "\n"
    return text


def user_cache_folder() -> Path:
    """Where the platform wants caches: $XDG_CACHE_HOME, ~/Library/Caches, %LOCALAPPDATA% or ~/.cache; then tessera."""
    given = os.environ.get("XDG_CACHE_HOME")
    if given and Path(given).is_absolute():  # the standard ignores relative ones
        base = Path(given)
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path.home() / ".cache"
    return base / "tessera"


def digest_of(path: str | Path) -> str:
    """32 hexadecimal digits of a file's content, read by pieces (BLAKE2b)."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, partial(hashlib.blake2b, digest_size=16)).hexdigest()


def _finite(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def _flush_to_disk(path: Path) -> None:
    # A full disk may show only here; after the rename it would be too late to keep the old file.
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
