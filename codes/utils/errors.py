"""Errors that a user can put right; each carries the exit code that the commands return."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .printable import printable

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


class TesseraError(Exception):
    """A run that failed for a reason that can be named in one line. Exit code 1.

    What file names and values would do to a terminal is written out in the message (`utils.printable`).
    """

    exit_code = EXIT_FAILED

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(message))


class ConfigError(TesseraError):
    """The options, the command line or a checkpoint do not fit; nothing was started. Exit code 2.

    `issues`: the single problems (`yaml_source.Issue`), where they are problems of a recipe.
    """

    exit_code = EXIT_USAGE

    def __init__(self, message: str, issues: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.issues = tuple(issues)
        if issues:
            self.args = (message,)  # a line for each, which `Source.error` made printable


class DamagedError(ConfigError):
    """A checkpoint that is cut short, damaged or not finite: an earlier one may be whole. Exit code 2."""


class DataError(TesseraError):
    """The data cannot be used. Exit code 2 when it stops a run before it starts."""

    exit_code = EXIT_USAGE


class TakenOver(TesseraError):
    """Another run took the folder of this one, which was not heard of for long. Exit code 1, and nothing is written."""


class Interrupted(TesseraError):
    """The user (or the machine) asked the run to stop; everything was saved first. Exit code 130."""

    exit_code = EXIT_INTERRUPTED


def reason_of(error: BaseException, path: Path) -> str:
    """The message of an error about a file without the file's name in front of it."""
    return printable(str(error)).removeprefix(f"{printable(str(path))}: ")
