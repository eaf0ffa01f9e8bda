"""Restore or generate images from a recipe: python codes/test.py -opt recipes/diffusion/infer.yml"""

import argparse
import sys
from collections.abc import Sequence

if not __package__:
    from scripts.as_module import run_as_module

    run_as_module(__file__)

from .config.yaml_source import Source, located
from .inference.generation.run import Generation
from .inference.restoring.estimate import estimate
from .inference.restoring.run import Restoration
from .recipe.recipe import Recipe, read_recipe, settled
from .recipe.remarks import warn_of
from .runtime.command_line import common_arguments, main_with, source_of
from .runtime.devices import is_first, join_ranks, leave_ranks
from .utils.console import setup_logging
from .utils.errors import EXIT_FAILED, EXIT_OK, ConfigError


def run(arguments: argparse.Namespace) -> int:
    """Read the recipe, then estimate, generate or restore; 1 when some images failed."""
    source = source_of(arguments)
    recipe = read_recipe(source)
    source = settled(source)
    with located(source):
        if is_first(arguments.launcher):
            warn_of(recipe, source)
        return _run(arguments, recipe, source)


def _run(arguments: argparse.Namespace, recipe: Recipe, source: Source) -> int:
    if arguments.dry_run:
        if arguments.launcher == "pytorch":
            raise ConfigError("--dry_run estimates for one process; leave --launcher out")
        if recipe.generate is not None:
            raise ConfigError("--dry_run estimates a restoration; this recipe generates images (`generate`)")
        return estimate(recipe, source)
    ranks = join_ranks(arguments.launcher, cuda=False)  # ranks exchange no tensors of the device, so gloo does
    try:
        if not ranks.first:
            setup_logging(arguments.debug, quiet=True)
        if recipe.generate is None:
            return EXIT_FAILED if Restoration(recipe, source, ranks).run().failed else EXIT_OK
        Generation(recipe, source, ranks).run()
        return EXIT_OK
    finally:
        leave_ranks(ranks)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = common_arguments("Restore or generate images with a trained network.")
    parser.add_argument(
        "--launcher",
        choices=("auto", "none", "pytorch"),
        default="auto",
        help="pytorch: one of several processes that torchrun started, which auto notices by itself",
    )
    parser.add_argument(
        "--dry_run", action="store_true", help="read everything, estimate sizes, memory and time; restore nothing"
    )
    return main_with(parser, run, argv)


if __name__ == "__main__":
    sys.exit(main())
