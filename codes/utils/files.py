"""Writing files so that a reader never sees half of one, as text or JSON; where caches lie."""

import hashlib
import json
import math
import os
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any


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
        if isinstance(error, OSError) and error.filename is None:  # a full disk does not say what it was writing
            error.filename = str(path)
        raise


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
