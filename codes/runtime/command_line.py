"""What all commands share: arguments, logging, exit codes, one line for every error."""

import argparse
import errno
from collections.abc import Callable, Sequence
from pathlib import Path

from ..config.paths import user_path
from ..config.yaml_source import Issue, Source, load_source
from ..utils.console import get_logger, setup_logging
from ..utils.errors import EXIT_FAILED, EXIT_INTERRUPTED, Interrupted, TesseraError

logger = get_logger(__name__)


def common_arguments(description: str, recipe_required: bool = True) -> argparse.ArgumentParser:
    """The flags that all commands have in common."""
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    parser.add_argument(
        "-opt", "--opt", required=recipe_required, type=path_argument, metavar="RECIPE", help="the YAML recipe"
    )
    parser.add_argument(
        "--set",
        "--force_yml",
        dest="overrides",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY.PATH=VALUE",
        help="override options of the recipe; a value is taken as it stands, [lists], {mappings} and 'quotes' are YAML",
    )
    parser.add_argument(
        "--no_plugins", action="store_true", help="refuse a recipe that names code of its own (plugins), also in a base"
    )
    parser.add_argument("--debug", action="store_true", help="show debug messages and the traceback of an error")
    return parser


def source_of(arguments: argparse.Namespace) -> Source:
    """The recipe of `common_arguments` with its bases and overrides, of which nothing has run yet. Raises ConfigError,
    with --no_plugins also for one that names code.
    """
    source = load_source(arguments.opt, arguments.overrides)
    if arguments.no_plugins and source.data.get("plugins"):
        message = "this recipe names code that would run, and --no_plugins refuses that; look at these files first"
        raise source.error([Issue(("plugins",), message)])
    return source


def path_argument(text: str) -> Path:
    """`type=` of arguments that name a file or folder, as options of recipes do: ~ is the home folder."""
    try:
        return Path(user_path(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def guarded(work: Callable[[], int], debug: bool) -> int:
    """Run `work`; turn every error that a user can put right into one line and its exit code."""
    try:
        return work()
    except Interrupted as stop:
        logger.warning("%s", stop)
        return stop.exit_code
    except KeyboardInterrupt:
        logger.error("stopped at once; nothing more was saved")
        return EXIT_INTERRUPTED
    except TesseraError as error:
        _tell(error, str(error), debug)
        return error.exit_code
    except OSError as error:
        hint = "; free some space and run again" if error.errno == errno.ENOSPC else ""
        _tell(error, f"{error.filename or 'a file'}: {error.strerror or error}{hint}", debug)
        return EXIT_FAILED
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        _tell(error, f"{type(error).__name__}: {first} (run again with --debug for the traceback)", debug)
        return EXIT_FAILED


def _tell(error: Exception, message: str, debug: bool) -> None:
    for line in message.splitlines():
        logger.error("%s", line)
    if debug:
        logger.error("traceback:", exc_info=error)


def main_with(
    parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], int], argv: Sequence[str] | None
) -> int:
    """Parse, set up the log, run; the exit code."""
    arguments = parser.parse_args(argv)
    setup_logging(arguments.debug)
    return guarded(lambda: run(arguments), arguments.debug)
