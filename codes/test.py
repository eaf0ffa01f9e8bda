"""Restore images from a recipe: python codes/test.py -opt recipes/diffusion/infer.yml"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    __package__ = "codes"

from .trainer.door import common_arguments, main_with
from .trainer.recipe import read_recipe
from .trainer.tester import Tester
from .utils.console import get_logger
from .utils.errors import EXIT_FAILED, EXIT_OK
from .utils.yaml_source import load_source


def run(arguments: argparse.Namespace) -> int:
    """Read the recipe and restore; 1 when some images failed."""
    source = load_source(arguments.opt, arguments.overrides)
    outcome = Tester(read_recipe(source), source).run()
    logger = get_logger("test")
    if outcome.failed:
        logger.error("%d images restored, %d failed:", len(outcome.done), len(outcome.failed))
        for line in outcome.failed:
            logger.error("  %s", line)
        return EXIT_FAILED
    logger.info("done: %d images restored", len(outcome.done))
    return EXIT_OK


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return main_with(common_arguments("Restore images with a trained network."), run, argv)


if __name__ == "__main__":
    sys.exit(main())
