"""Restore photographs in the browser:

python codes/app.py
"""

import argparse
import sys
from collections.abc import Sequence
from typing import get_args

if not __package__:
    from scripts.as_module import run_as_module

    run_as_module(__file__)

from .inference.app.models import ESTIMATOR, FAST, FULL, Models
from .inference.app.settings import MIB, Limits
from .runtime.command_line import main_with
from .runtime.devices import Precision
from .utils.errors import EXIT_OK, ConfigError


def arguments_of_app() -> argparse.ArgumentParser:
    """The flags of the app."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    limits = Limits()
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine alone)")
    parser.add_argument("--port", type=int, default=7860, help="default: 7860; 0: any that is free")
    parser.add_argument(
        "--allow_host", action="append", default=[], metavar="NAME",
        help="a name under which browsers may ask for the app, besides localhost and addresses",
    )  # fmt: skip
    parser.add_argument("--weights", default=FULL, metavar="FILE", help=f"for 4 and 8 steps (default: {FULL})")
    parser.add_argument("--fast_weights", default=FAST, metavar="FILE", help=f"for one step (default: {FAST})")
    parser.add_argument("--estimator", default=ESTIMATOR, metavar="FILE", help=f"of strengths (default: {ESTIMATOR})")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument("--precision", choices=get_args(Precision), default="fp32")
    parser.add_argument("--max_megabytes", type=float, default=limits.file_bytes / MIB, help="of a photograph's file")
    parser.add_argument("--max_megapixels", type=float, default=limits.pixels / 1e6, help="of a photograph")
    parser.add_argument(
        "--max_result_megapixels", type=float, default=limits.result_pixels / 1e6,
        help="of a result of another size than the network's",
    )  # fmt: skip
    parser.add_argument("--max_photographs", type=int, default=limits.photographs, help="of one browser at a time")
    parser.add_argument("--debug", action="store_true", help="show debug messages and the traceback of an error")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal ends it."""
    try:
        from .inference.app.server import Place, serve
    except ModuleNotFoundError as error:
        ways = 'pip install "tessera-restoration[app]", or starlette and uvicorn, or use make app'
        raise ConfigError(f"the app needs {error.name}: {ways}") from None
    for name, value in vars(arguments).items():
        if name.startswith("max_") and not value > 0:
            raise ConfigError(f"--{name} {value}: expected more than 0")
    limits = Limits(
        file_bytes=round(arguments.max_megabytes * MIB), pixels=round(arguments.max_megapixels * 1e6),
        photographs=arguments.max_photographs, result_pixels=round(arguments.max_result_megapixels * 1e6),
    )  # fmt: skip
    place = Place(arguments.host, arguments.port, arguments.allow_host)
    with place.listen() as listening:
        models = Models.load(
            arguments.weights, arguments.fast_weights, arguments.estimator, arguments.device, arguments.precision
        )
        serve(listening, place, models, limits)
    return EXIT_OK


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return main_with(arguments_of_app(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
