"""One run at a time in a folder: a lock file that a dead process does not hold.

The lock names its holder (host, process, start) and is touched every few seconds. On the same machine the process
itself tells whether it is alive; for another machine (a network drive) only its signs of life can, and since they are
watched and no clocks are compared, the machines' clocks may differ.
"""

import json
import os
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType

from ..utils.console import get_logger
from ..utils.errors import ConfigError, TakenOver
from ..utils.files import json_text
from .processes import host_name, process_space, started_at

try:
    import fcntl
except ImportError:  # only where there is no Unix
    fcntl = None  # type: ignore[assignment]

logger = get_logger(__name__)
NAME = ".run.lock"
BEAT = 10.0  # seconds between two signs of life
PATIENCE = 90.0  # seconds without one after which a run on another machine is dead
SHOWN = 120  # characters of the holder's command


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock; `token` is its own in every lock file that is ever written."""

    host: str = ""
    pid: int = 0
    started: str = ""
    space: str = ""
    since: str = ""
    command: str = ""
    token: str = ""

    @classmethod
    def this_process(cls) -> "Holder":
        return cls(
            host_name(), os.getpid(), started_at(os.getpid()), process_space(), time.strftime("%Y-%m-%d %H:%M:%S%z"),
            " ".join(sys.argv)[:SHOWN], uuid.uuid4().hex,
        )  # fmt: skip

    @classmethod
    def read(cls, data: bytes) -> "Holder":
        """What a lock file says; nothing is known of the holder of one that is damaged."""
        with suppress(ValueError, TypeError):
            said = json.loads(data)
            kinds = {name: type(value) for name, value in asdict(cls()).items()}
            if said.keys() == kinds.keys() and all(type(said[name]) is kind for name, kind in kinds.items()):
                return cls(**said)
        return cls(token=data[:64].hex())

    def lives(self) -> bool | None:
        """Whether the process runs; None where that cannot be seen from here."""
        if not self.space or self.space != process_space():
            return None
        return bool(self.started) and started_at(self.pid) == self.started

    def __str__(self) -> str:
        if not self.pid:
            return "an unknown process (its lock file is damaged)"
        return f"process {self.pid} on {self.host}, since {self.since} ({self.command})"


@dataclass
class RunLock:
    """Context manager that holds a folder, which is made where it is missing.

    Entering raises ConfigError where another run holds it; nothing else in the folder is touched. Leaving gives it
    back, and takes away the folders that it made and that are still empty.
    """

    root: Path
    beat: float = BEAT
    patience: float = PATIENCE
    holder: Holder = field(default_factory=Holder.this_process)

    def __post_init__(self) -> None:
        self._made: list[Path] = []
        self._lost: Holder | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def file(self) -> Path:
        return self.root / NAME

    def __enter__(self) -> "RunLock":
        self._take()
        self._thread = threading.Thread(target=self._show_life, name="run lock", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=self.beat)
        with suppress(OSError):  # out of reach: the next run sees that this process is gone
            if self._at(self.file) == self.holder.token:
                self.file.unlink()
        for folder in reversed(self._made):
            with suppress(OSError):
                folder.rmdir()

    def check(self) -> None:
        """Raise TakenOver when another run has taken the folder, because nothing was heard of this one for long."""
        if self._lost is not None:
            raise TakenOver(
                f"{self.root} was taken over by {self._lost}, since nothing was heard of this run for long (a machine "
                "that slept, a drive out of reach); this run stops and writes nothing more"
            )

    def moved(self, aside: Path) -> None:
        """The folder was renamed to `aside`, the lock with it: hold the place where it was. Raises ConfigError."""
        self._take()
        with suppress(OSError):
            (aside / NAME).unlink()

    def _take(self) -> None:
        self._make_folder()
        while not self._took():
            seen = self._seen()
            if seen is None:
                continue
            holder, beat = seen
            if holder.lives() or (holder.lives() is None and not self._silent(holder, beat)):
                raise ConfigError(self._refusal(holder))
            with _alone(self.root):
                if self._seen() == seen:
                    logger.info("%s: its lock is that of %s, which has ended; taken over", self.root, holder)
                    self._write(replace=True)
                    time.sleep(0.05)  # where files cannot be locked, of two that take over the later one has it

    def _took(self) -> bool:
        """Whether the lock is this process's now."""
        if self._seen() is None:
            with suppress(FileExistsError):
                self._write(replace=False)
        return self._at(self.file) == self.holder.token

    def _write(self, replace: bool) -> None:
        """Write the lock file whole. Raises FileExistsError where there is one that is not to be replaced."""
        temporary = self.root / f"{NAME}.{uuid.uuid4().hex[:8]}.tmp"
        temporary.write_text(json_text(asdict(self.holder)), encoding="utf-8")
        try:
            if replace:
                temporary.replace(self.file)
                return
            try:
                os.link(temporary, self.file)
            except FileExistsError:
                raise
            except OSError:  # a file system without links
                with self.file.open("xb") as file:
                    file.write(temporary.read_bytes())
        finally:
            with suppress(OSError):
                temporary.unlink()

    def _seen(self) -> tuple[Holder, int] | None:
        """Whose lock there is, and when it was last touched; opened anew, so that a network drive looks again."""
        with suppress(FileNotFoundError), self.file.open("rb") as file:
            return Holder.read(file.read()), os.fstat(file.fileno()).st_mtime_ns
        return None

    @staticmethod
    def _at(file: Path) -> str:
        """The token of a lock file, "" where there is none."""
        with suppress(FileNotFoundError):
            return Holder.read(file.read_bytes()).token
        return ""

    def _silent(self, holder: Holder, beat: int) -> bool:
        """Whether a run that cannot be seen from here gives no sign of life for `patience` seconds."""
        logger.info("%s: locked by %s; waiting up to %.0f s for a sign of life", self.root, holder, self.patience)
        end = time.monotonic() + self.patience
        while time.monotonic() < end:
            time.sleep(min(self.beat / 4, 1.0))
            if self._seen() != (holder, beat):
                return False
        return True

    def _refusal(self, holder: Holder) -> str:
        return (
            f"{self.root} is in use by another run: {holder}. Nothing was touched. Wait for it or stop it; for a run "
            "beside it set another `name` (--set name=...), or path.results for one of test.py. If that process is "
            f"surely gone, delete {self.file}"
        )

    def _make_folder(self) -> None:
        missing = [folder for folder in (self.root, *self.root.parents) if not folder.exists()]
        self.root.mkdir(parents=True, exist_ok=True)
        self._made += reversed(missing)

    def _show_life(self) -> None:
        while not self._stop.wait(self.beat) and self._lost is None:
            with suppress(OSError):  # out of reach for now
                self._touch()

    def _touch(self) -> None:
        seen = self._seen()
        if seen is None:
            if self.root.is_dir():  # the file was deleted; that frees the folder only for whoever is first
                with suppress(FileExistsError):
                    self._write(replace=False)
        elif seen[0].token == self.holder.token:
            os.utime(self.file)
        else:
            self._lost = seen[0]


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """No other process is in such a block for this folder, where the file system can lock a folder."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
