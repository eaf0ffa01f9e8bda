"""The one folder that a process keeps uploads and results in: it goes with the process, however that ends.

The process holds a lock on a file in its folder, which the system gives back even when the process is killed. The next
start removes the folders whose lock nobody holds.
"""

import os
import shutil
import stat
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from ...utils.console import get_logger

try:
    import fcntl
except ImportError:  # only where there is no Unix
    fcntl = None  # type: ignore[assignment]

logger = get_logger(__name__)
PREFIX = "tessera-app-"
LOCK = "lock"
BEGINNING = 60.0  # seconds after which a folder without a lock file is no longer one that is just being made


class ProcessFolder:
    """A folder of this process alone, readable by its user alone; `close` removes it."""

    def __init__(self, parent: Path | None = None) -> None:
        """Below `parent`, or the system's folder for temporary files. Raises OSError where nothing can be written."""
        base = parent or Path(tempfile.gettempdir())
        remove_abandoned(base)
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
        self._lock = (self.path / LOCK).open("wb")
        _locked(self._lock)

    def close(self) -> None:
        """Remove the folder with all that is in it."""
        self._lock.close()
        shutil.rmtree(self.path, ignore_errors=True)


def remove_abandoned(base: Path) -> list[Path]:
    """Remove the folders below `base` of this user's processes that are gone; returns them."""
    removed = []
    for folder in sorted(base.glob(f"{PREFIX}*")):
        with suppress(OSError):
            if _is_own(folder) and _is_abandoned(folder):
                shutil.rmtree(folder, ignore_errors=True)
                logger.info("%s: what a process that has ended left behind is removed", folder)
                removed.append(folder)
    return removed


def _is_own(folder: Path) -> bool:
    """A real folder, not a link, of this user."""
    status = folder.lstat()
    own = not hasattr(os, "getuid") or status.st_uid == os.getuid()
    return own and stat.S_ISDIR(status.st_mode)


def _is_abandoned(folder: Path) -> bool:
    lock = folder / LOCK
    if not lock.is_file():
        return time.time() - folder.lstat().st_mtime > BEGINNING
    if fcntl is None:
        with suppress(PermissionError):  # Windows removes no file that is open
            lock.unlink()
        return not lock.exists()
    with lock.open("rb+") as file:
        return _locked(file)


def _locked(file: BinaryIO) -> bool:
    """Whether the lock is this process's now."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
