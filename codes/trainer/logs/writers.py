"""Where a run's numbers and pictures go: JSON lines, TensorBoard, Weights & Biases. None of them can end a run."""

import errno
import json
import os
import shutil
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.tensorboard import SummaryWriter

from ...recipe.log_checks import import_wandb
from ...utils.console import get_logger
from ...utils.errors import ConfigError
from ...utils.files import json_text, require_folder, write_text

logger = get_logger(__name__)
LEAST_FREE = 2**20  # bytes; TensorBoard writes from a thread, whose failures come too late to be told well
PAUSE = 10.0  # seconds before TensorBoard's folder, once it failed, is tried again
MOST_PENDING = 10_000


class WriterGuard:
    """Does what may fail for want of room: warns once, goes on, and says when it works again."""

    def __init__(self, what: str, errors: tuple[type[Exception], ...] = (OSError,)) -> None:
        self.what = what
        self.errors = errors
        self.failing = False

    def attempt(self, work: Callable[[], object]) -> bool:
        """Whether `work` succeeded."""
        try:
            work()
        except self.errors as error:
            if not self.failing:
                reason = error.strerror if isinstance(error, OSError) and error.strerror else error
                logger.warning("%s cannot be written (%s); training goes on and tries again", self.what, reason)
            self.failing = True
            return False
        if self.failing:
            logger.info("%s is written again", self.what)
        self.failing = False
        return True


class LogWriter(ABC):
    """One place that a run tells."""

    @abstractmethod
    def scalars(self, iteration: int, numbers: Mapping[str, float]) -> None:
        """Numbers by name; some may not be finite."""

    def picture(self, iteration: int, tag: str, image: npt.NDArray[Any]) -> None:  # noqa: B027 - not every writer's
        """(H, W, 3) uint8."""

    def distribution(self, iteration: int, tag: str, weights: npt.NDArray[np.float64]) -> None:  # noqa: B027
        """Weights (N,) of the N bins of a distribution, of a positive sum."""

    def note(self, iteration: int, facts: Mapping[str, Any]) -> None:  # noqa: B027
        """What is no number."""

    def close(self) -> None:  # noqa: B027
        """Nothing more comes."""


class JsonLines(LogWriter):
    """log.jsonl: one JSON object a line, with `iteration` and `time`.

    What an earlier run wrote after iteration `start` is dropped, because a resumed run goes through it again. Lines
    for which there is no room wait in memory.
    """

    def __init__(self, file: Path, start: int) -> None:
        self.file = file
        self._pending: deque[str] = deque(maxlen=MOST_PENDING)
        self._guard = WriterGuard(str(file))
        if file.exists():
            write_text(file, "".join(_lines_until(file, start)))

    def scalars(self, iteration: int, numbers: Mapping[str, float]) -> None:
        self.note(iteration, numbers)

    def note(self, iteration: int, facts: Mapping[str, Any]) -> None:
        self._pending.append(json_text({"iteration": iteration, "time": time.time(), **facts}))
        if self._guard.attempt(self._append):
            self._pending.clear()

    def close(self) -> None:
        if self._pending and self._guard.attempt(self._append):
            self._pending.clear()

    def _append(self) -> None:
        data = "".join(self._pending).encode()
        require_folder(self.file.parent)
        with self.file.open("ab", buffering=0) as file:
            size = file.tell()
            try:
                if file.write(data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                with suppress(OSError):  # half a line would spoil the next one
                    file.truncate(size)
                raise


class TensorBoard(LogWriter):
    """tb_logger/: scalars, images, distributions, and the recipe as text."""

    def __init__(self, folder: Path, start: int, recipe: str) -> None:
        self.folder = folder
        self._purge: int | None = start + 1
        self._guard = WriterGuard(str(folder))
        self._writer: SummaryWriter | None = None
        self._next = 0.0  # when it is tried again
        self._threads_told = threading.excepthook
        threading.excepthook = self._tell_of_thread
        self._write(lambda writer: writer.add_text("recipe", f"```yaml\n{recipe}\n```", start))

    def scalars(self, iteration: int, numbers: Mapping[str, float]) -> None:
        def write(writer: SummaryWriter) -> None:
            for name, value in numbers.items():
                writer.add_scalar(name, value, iteration)

        self._write(write)

    def picture(self, iteration: int, tag: str, image: npt.NDArray[Any]) -> None:
        self._write(lambda writer: writer.add_image(tag, image, iteration, dataformats="HWC"))

    def distribution(self, iteration: int, tag: str, weights: npt.NDArray[np.float64]) -> None:
        places = np.arange(len(weights)) + 0.5
        total = weights.sum()
        self._write(
            lambda writer: writer.add_histogram_raw(
                tag, 0.0, float(len(weights)), float(total), float(weights @ places), float(weights @ places**2),
                [float(place) for place in places + 0.5], weights.tolist(), iteration,
            )
        )  # fmt: skip

    def close(self) -> None:
        if self._writer is not None:
            self._guard.attempt(self._writer.close)
        threading.excepthook = self._threads_told

    def _tell_of_thread(self, args: threading.ExceptHookArgs) -> None:
        """The threads of TensorBoard hand their errors to the next call here as well: told once, without traceback."""
        if not type(args.thread).__module__.startswith("tensorboard."):
            self._threads_told(args)

    def _write(self, work: Callable[[SummaryWriter], object]) -> None:
        if time.monotonic() < self._next:
            return
        if not self._guard.attempt(lambda: work(self._open())) and self._writer is not None:
            # A writer that failed once fails for ever; the next one begins another file.
            with suppress(OSError):
                self._writer.close()
            self._writer = None
        if self._guard.failing:
            self._next = time.monotonic() + PAUSE

    def _open(self) -> SummaryWriter:
        require_folder(self.folder.parent)
        self.folder.mkdir(exist_ok=True)
        if shutil.disk_usage(self.folder).free < LEAST_FREE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self._writer is None:
            self._writer = SummaryWriter(str(self.folder), purge_step=self._purge)
            self._purge = None
        return self._writer


class Wandb(LogWriter):
    """Weights & Biases. A resumed run continues the same run there; WANDB_MODE=offline keeps it on this machine."""

    def __init__(self, root: Path, project: str, name: str, recipe: Mapping[str, Any]) -> None:
        self.module = import_wandb()
        self._guard = WriterGuard("wandb", (Exception,))  # whatever a service or its client fails of
        kept = root / "wandb_id"
        identity = kept.read_text(encoding="utf-8").strip() if kept.exists() else None
        try:
            self.run = self.module.init(
                project=project, name=name, id=identity, resume="allow", dir=str(root), config=dict(recipe)
            )
        except Exception as error:
            reason = (str(error).splitlines() or [""])[0]
            raise ConfigError(f"wandb: cannot start ({reason}); `wandb login`, or set WANDB_MODE=offline") from None
        write_text(kept, f"{self.run.id}\n")

    def scalars(self, iteration: int, numbers: Mapping[str, float]) -> None:
        self._guard.attempt(lambda: self.run.log(dict(numbers), step=iteration))

    def picture(self, iteration: int, tag: str, image: npt.NDArray[Any]) -> None:
        self._guard.attempt(lambda: self.run.log({tag: self.module.Image(image)}, step=iteration))

    def distribution(self, iteration: int, tag: str, weights: npt.NDArray[np.float64]) -> None:
        made = (weights, np.arange(len(weights) + 1))
        self._guard.attempt(lambda: self.run.log({tag: self.module.Histogram(np_histogram=made)}, step=iteration))

    def close(self) -> None:
        self._guard.attempt(self.run.finish)


def _lines_until(file: Path, iteration: int) -> list[str]:
    """The whole lines of a log up to an iteration; the last one may have been cut by a crash."""
    kept = []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        with suppress(ValueError, KeyError, TypeError):
            if json.loads(line)["iteration"] <= iteration and line.endswith("\n"):
                kept.append(line)
    return kept
