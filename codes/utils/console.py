"""What the user sees while work runs: log lines, a progress bar with ETA, plain lines where there is no terminal."""

import logging
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TextIO, TypeVar

from tqdm import tqdm

from .printable import printable

T = TypeVar("T")
ROOT = "tessera"
_warned: set[str] = set()


class _OneLine(logging.Formatter):
    """A record is one line, so that a file's name cannot forge another."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = printable(record.message)
        return super().formatMessage(record)


class _ThroughBar(logging.Handler):
    """Writes log lines above a running progress bar instead of through it."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self.stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        encoding = getattr(self.stream, "encoding", None) or "utf-8"
        text = self.format(record).encode(encoding, "backslashreplace").decode(encoding)
        # A terminal that went away is no reason to stop a run of days.
        with suppress(OSError, ValueError):
            tqdm.write(text, file=self.stream)


class _LogFile(logging.FileHandler):
    """A log file that keeps quiet when its disk is full: the same line is on the terminal."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass


def get_logger(name: str) -> logging.Logger:
    """A logger below the project's own root; pass `__name__`."""
    return logging.getLogger(f"{ROOT}.{name.removeprefix('codes.').removeprefix('tessera.')}")


def setup_logging(debug: bool = False, quiet: bool = False) -> None:
    """Send the project's log to stderr: level, time and message. `quiet` is for ranks other than 0."""
    # What Pillow remarks about single tags, once a file and on two lines; what matters of a file is told by its name.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    root = logging.getLogger(ROOT)
    for handler in [*root.handlers]:
        root.removeHandler(handler)
    handler = _ThroughBar(sys.stderr)
    handler.setFormatter(_OneLine("%(asctime)s %(levelname).1s %(message)s", "%H:%M:%S"))
    root.addHandler(handler)
    root.setLevel(logging.DEBUG if debug else logging.WARNING if quiet else logging.INFO)
    root.propagate = False
    _warned.clear()


def log_to_file(path: Path) -> logging.Handler:
    """Also append the log to a file, with dates; returns the handler so that the caller can close it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = _LogFile(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(_OneLine("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger(ROOT).addHandler(handler)
    return handler


def stop_logging_to(handler: logging.Handler) -> None:
    """Close what `log_to_file` opened."""
    logging.getLogger(ROOT).removeHandler(handler)
    with suppress(OSError):  # what a full disk did not take
        handler.close()


def warn_once(logger: logging.Logger, key: str, message: str) -> None:
    """Log a warning the first time `key` comes up in this process."""
    if key not in _warned:
        _warned.add(key)
        logger.warning(message)


def size_text(size: tuple[int, int]) -> str:
    """(height, width) as people write it: 640x480."""
    return f"{size[1]}x{size[0]}"


def counted(number: int, noun: str) -> str:
    """1 image, 2 images."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def format_seconds(seconds: float) -> str:
    """75.2 -> '1:15', 4000 -> '1:06:40'."""
    whole = round(max(seconds, 0.0))
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{left:02d}" if hours else f"{minutes}:{left:02d}"


def progress(iterable: Iterable[T], total: int, title: str, every_seconds: float = 15.0) -> Iterator[T]:
    """Iterate with a bar and an ETA on a terminal, with a log line every `every_seconds` elsewhere."""
    if sys.stderr.isatty():
        with tqdm(iterable, total=total, desc=title, dynamic_ncols=True, leave=False) as bar:
            yield from bar
        return
    logger = get_logger("progress")
    start = last = time.monotonic()
    for count, item in enumerate(iterable, 1):
        yield item
        now = time.monotonic()
        if now - last >= every_seconds and count < total:
            last = now
            eta = (now - start) / count * (total - count)
            logger.info("%s: %d of %d, %s left", title, count, total, format_seconds(eta))


class TrainingBar:
    """A bar over the iterations of a run on a terminal; nothing elsewhere, where the log lines tell."""

    def __init__(self, start: int, total: int) -> None:
        shown = sys.stderr.isatty() and get_logger("bar").isEnabledFor(logging.INFO)
        self._bar = tqdm(total=total, initial=start, dynamic_ncols=True, disable=not shown, leave=False)

    def advance(self, iteration: int, loss: float) -> None:
        self._bar.set_postfix_str(f"loss {loss:.4g}", refresh=False)
        self._bar.update(iteration - self._bar.n)

    def close(self) -> None:
        self._bar.close()


class StepLine:
    """Progress of one image through its sampling steps: a bar on a terminal, a line every 15 seconds elsewhere."""

    def __init__(self, title: str, every_seconds: float = 15.0) -> None:
        self.title = printable(title)
        self.every_seconds = every_seconds
        self._bar: tqdm[None] | None = None
        self._key = ""
        self._start = self._last = time.monotonic()

    def __enter__(self) -> "StepLine":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def show(self, key: str, done: int, total: int) -> None:
        """`done` of `total` tiles of the result `key` are finished, counted over all sampling steps."""
        if key != self._key:
            self.__exit__()
            self._key, self._start = key, time.monotonic()
            self._bar = (
                tqdm(total=total, desc=f"{self.title} {key}", dynamic_ncols=True, leave=False)
                if sys.stderr.isatty()
                else None
            )
        if self._bar is not None:
            self._bar.update(done - self._bar.n)
            return
        now = time.monotonic()
        if now - self._last >= self.every_seconds and done < total:
            self._last = now
            eta = (now - self._start) / done * (total - done)
            get_logger("progress").info(
                "%s %s: tile %d of %d, %s left", self.title, key, done, total, format_seconds(eta)
            )
