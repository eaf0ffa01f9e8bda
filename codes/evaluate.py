"""Measure a trained network, or two folders of images:

python codes/evaluate.py -opt recipes/diffusion/train_sr.yml
python codes/evaluate.py --results results/infer/test --truth /my/originals --crop_border 2 --y
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:
    from scripts.as_module import run_as_module

    run_as_module(__file__)

from .config.yaml_source import located
from .evaluation.effnet_lite0 import EffnetLite0
from .inference.evaluation.folder_comparison import (
    compare_folders,
    comparison_table,
    log_failures,
    write_comparison,
)
from .inference.evaluation.run import RecipeEvaluation, evaluation_table
from .recipe.recipe import read_recipe
from .runtime.command_line import common_arguments, main_with, path_argument, source_of
from .utils.errors import EXIT_FAILED, EXIT_OK, ConfigError


def run(arguments: argparse.Namespace) -> int:
    """Evaluate the recipe, or compare the folders; 1 when some images could not be compared."""
    if arguments.opt is None:
        return compare(arguments)
    given = [name for name in ("results", "truth", "crop_border", "output") if getattr(arguments, name) is not None]
    given += [name for name in ("y", "perceptual") if getattr(arguments, name)]
    if given:
        raise ConfigError(f"--{given[0]} compares two folders and does not go with -opt; set it in the recipe")
    source = source_of(arguments)
    with located(source):
        sys.stdout.write(evaluation_table(RecipeEvaluation(read_recipe(source), source).run()))
    return EXIT_OK


def compare(arguments: argparse.Namespace) -> int:
    """Compare two folders, write the table to stdout and the numbers to a file."""
    results, truth = arguments.results, arguments.truth
    if results is None or truth is None:
        raise ConfigError("give a recipe (-opt RECIPE), or two folders (--results A --truth B)")
    output = arguments.output or Path("comparison.json")
    if any(output.resolve().is_relative_to(folder.resolve()) for folder in (results, truth)):
        raise ConfigError(f"--output {output} lies in a folder that is compared; name another place")
    border = arguments.crop_border or 0
    if border < 0:
        raise ConfigError(f"--crop_border {border}: expected a number of pixels, 0 or more")
    perceptual = EffnetLite0() if arguments.perceptual else None
    comparison = compare_folders(results, truth, crop_border=border, with_luma=arguments.y, perceptual=perceptual)
    log_failures(comparison, output)
    if comparison.images:
        sys.stdout.write(comparison_table(comparison))
    write_comparison(output, comparison)
    return EXIT_FAILED if comparison.failed else EXIT_OK


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = common_arguments(
        "Run the evaluators of a recipe, or compare two folders of images.", recipe_required=False
    )
    parser.add_argument("--results", type=path_argument, metavar="FOLDER", help="the images to measure")
    parser.add_argument("--truth", type=path_argument, metavar="FOLDER", help="what they should be, by the same names")
    parser.add_argument("--crop_border", type=int, metavar="PIXELS", help="pixels left out on every side (default: 0)")
    parser.add_argument("--y", action="store_true", help="also on BT.601 luma, as papers on super-resolution do")
    parser.add_argument(
        "--perceptual", action="store_true", help="also effnet_lite0_distance (pip install 'tessera[perceptual]')"
    )
    parser.add_argument("--output", type=path_argument, metavar="FILE", help="the numbers as JSON (comparison.json)")
    return main_with(parser, run, argv)


if __name__ == "__main__":
    sys.exit(main())
