"""Where the state of one image lives while it is sampled, and how an interrupted restoration finds it again.

A step reads `state` and writes `upcoming`; `commit` exchanges the two. So the state before a step is whole whenever the
process dies, and a step is never applied to half of an image.
"""

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from ..utils.files import atomic_write, write_json
from .canvas import Canvas, DiskCanvas, RamCanvas

JOURNAL = "state.json"
WRITING_SHARE = 0.05  # of the time, at most, goes into writing a state in memory to disk


class CanvasStore(ABC):
    """Two canvases (channels, height, width) of one image and the number of steps that made `state`."""

    state: Canvas
    upcoming: Canvas
    steps_done: int

    @abstractmethod
    def commit(self) -> None:
        """`upcoming` holds the state after one more step."""

    @abstractmethod
    def keep(self) -> None:
        """Write what a later process needs to go on here, as far as it is not written yet."""

    def to_host(self) -> bool:
        """Bring both canvases to host memory; False where no device holds them."""
        return False


class DiskStore(CanvasStore):
    """Both canvases are files of `folder`; each commit is on disk before the next step begins.

    It goes on where a store of the same folder and `key` stopped. `key` says what is being sampled and how; what
    another key left is removed.
    """

    def __init__(self, folder: Path, key: str, shape: tuple[int, int, int]) -> None:
        self.folder = folder
        self.key = key
        names = ["a.raw", "b.raw"]
        journal = _journal(folder, key)
        if journal and all((folder / name).exists() for name in names):
            self.steps_done = int(journal["steps_done"])
            names = names if journal["state"] == names[0] else names[::-1]
        else:
            _clear(folder)
            self.steps_done = 0
        self.state = self._state = DiskCanvas(folder / names[0], *shape)
        self.upcoming = self._upcoming = DiskCanvas(folder / names[1], *shape)

    def commit(self) -> None:
        self._upcoming.flush()
        self._state, self._upcoming = self._upcoming, self._state
        self.state, self.upcoming = self._state, self._upcoming
        self.steps_done += 1
        _write_journal(self.folder, self.key, self.steps_done, self._state.path.name)

    def keep(self) -> None:
        pass


class RamStore(CanvasStore):
    """Both canvases are in memory, of the host or of `device`.

    With a `folder` the state is written there now and then, and found there again.

    A state is written once `seconds` have passed since the last time, or more where writing takes long, so that this
    takes no more than about WRITING_SHARE of the time; with 0 seconds after every step. A disk without room costs the
    safety, not the work: `on_event` is told.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        folder: Path | None = None,
        key: str = "",
        seconds: float = 10.0,
        on_event: Callable[[str], None] | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.folder = folder
        self.key = key
        self.seconds = seconds
        self.on_event = on_event
        self.steps_done = self._kept = 0
        self.state = RamCanvas(torch.empty(shape, device=device))
        if folder is not None:
            self._load(folder)
        self.upcoming = RamCanvas(torch.empty(shape, device=device))
        self._written = time.monotonic()
        self._cost = 0.0

    def commit(self) -> None:
        self.state, self.upcoming = self.upcoming, self.state
        self.steps_done += 1
        pause = max(self.seconds, self._cost / WRITING_SHARE) if self.seconds else 0.0
        if time.monotonic() - self._written >= pause:
            self.keep()

    def to_host(self) -> bool:
        if self.state.device.type == "cpu":
            return False
        self.state = RamCanvas(self.state.rows(0, self.state.height).cpu())
        self.upcoming = RamCanvas(torch.empty(self.state.shape))
        return True

    def keep(self) -> None:
        if self.folder is None or self._kept == self.steps_done:
            return
        begin = time.monotonic()
        try:
            self._write(self.folder)
        except OSError as error:
            self._tell(f"the state of this image could not be written to {self.folder} ({error.strerror or error})")
            self.folder = None  # told once; the work goes on without
            return
        self._kept = self.steps_done
        self._written = time.monotonic()
        self._cost = self._written - begin

    def _write(self, folder: Path) -> None:
        name = f"{self.steps_done}.raw"
        with atomic_write(folder / name) as temporary:
            copy = DiskCanvas(temporary, *self.state.shape)
            for y0, y1 in self.state.bands():
                copy.write(y0, self.state.rows(y0, y1))
        _write_journal(folder, self.key, self.steps_done, name)
        _clear(folder, keep=(name, JOURNAL))

    def _load(self, folder: Path) -> None:
        journal = _journal(folder, self.key)
        if not journal or not (folder / journal["state"]).exists():
            _clear(folder)
            return
        saved = DiskCanvas(folder / journal["state"], *self.state.shape)
        for y0, y1 in saved.bands():
            self.state.write(y0, saved.rows(y0, y1))
        self.steps_done = self._kept = int(journal["steps_done"])

    def _tell(self, message: str) -> None:
        if self.on_event:
            self.on_event(f"{message}; an interruption would begin this image anew")


def _journal(folder: Path, key: str) -> dict[str, Any] | None:
    with suppress(OSError, ValueError, AttributeError):
        journal = json.loads((folder / JOURNAL).read_text(encoding="utf-8"))
        if journal.keys() == {"key", "steps_done", "state"} and journal["key"] == key:
            return dict(journal)
    return None


def _write_journal(folder: Path, key: str, steps_done: int, name: str) -> None:
    write_json(folder / JOURNAL, {"key": key, "steps_done": steps_done, "state": name}, indent=None)


def _clear(folder: Path, keep: tuple[str, ...] = ()) -> None:
    """Remove the files of earlier states, those of a killed write among them."""
    if folder.is_dir():
        for file in folder.iterdir():
            if file.name not in keep and (file.suffix == ".raw" or file.name == JOURNAL):
                file.unlink(missing_ok=True)
