"""Train from a recipe: python codes/train.py -opt recipes/diffusion/train_sr.yml"""

import argparse
import sys
from collections.abc import Sequence

if not __package__:
    from scripts.as_module import run_as_module

    run_as_module(__file__)

from .config.yaml_source import Source, located
from .recipe.checks import check_training
from .recipe.recipe import Recipe, read_recipe, settled
from .recipe.remarks import warn_of
from .runtime.command_line import common_arguments, main_with, source_of
from .runtime.devices import choose_device, is_first, join_ranks, leave_ranks
from .runtime.experiment import Experiment
from .runtime.run_lock import RunLock
from .trainer.check_run import check_run
from .trainer.trainer import Trainer
from .utils.console import setup_logging
from .utils.errors import EXIT_OK


def run(arguments: argparse.Namespace) -> int:
    """Read the recipe, then check it or train."""
    source = source_of(arguments)
    recipe = read_recipe(source, lambda checked: check_training(checked, source))
    source = settled(source)
    with located(source):
        if is_first(arguments.launcher):
            warn_of(recipe, source)
        return check_run(recipe, source) if arguments.check else _train_alone(arguments, recipe, source)


def _train_alone(arguments: argparse.Namespace, recipe: Recipe, source: Source) -> int:
    """Train in a folder that no other run may use meanwhile."""
    if not is_first(arguments.launcher):
        _train(arguments, recipe, source, None)
        return EXIT_OK
    # Rank 0 joins the others only once it has the folder, so none of them begins without it.
    with RunLock(Experiment.named(recipe.name).root) as lock:
        _train(arguments, recipe, source, lock)
    return EXIT_OK


def _train(arguments: argparse.Namespace, recipe: Recipe, source: Source, lock: RunLock | None) -> None:
    ranks = join_ranks(arguments.launcher, choose_device(recipe.device, recipe.gpu_ids).type == "cuda")
    try:
        if not ranks.first:
            setup_logging(arguments.debug, quiet=True)
        Trainer(recipe, source, ranks, arguments.auto_resume, lock).run()
    finally:
        leave_ranks(ranks)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = common_arguments("Train a network from a recipe.")
    parser.add_argument(
        "--launcher",
        choices=("auto", "none", "pytorch"),
        default="auto",
        help="pytorch: one of several processes that torchrun started, which auto notices by itself",
    )
    parser.add_argument("--auto_resume", action="store_true", help="continue the newest checkpoint of this experiment")
    parser.add_argument("--check", action="store_true", help="check recipe, data and disk; train nothing")
    return main_with(parser, run, argv)


if __name__ == "__main__":
    sys.exit(main())
