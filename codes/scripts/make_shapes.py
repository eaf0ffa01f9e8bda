"""Draw a small set of pictures with classes: ten shapes and patterns in drawn colours, places, sizes and tilts.

    python codes/scripts/make_shapes.py --output shapes

Writes OUTPUT/<class>/<number>.png, what recipes/diffusion/train_classes.yml trains on. The same seed draws the same
pictures. Can be stopped and started again: what exists is kept. Exit codes: 0 all there, 2 wrong arguments.
"""

import argparse
import sys
from collections.abc import Sequence

if not __package__:
    from as_module import run_as_module

    run_as_module(__file__)

from ..data.shapes import SHAPES, draw_shape
from ..images.files import write_image
from ..runtime.command_line import path_argument
from ..utils.console import get_logger, progress, setup_logging
from ..utils.errors import EXIT_INTERRUPTED, EXIT_OK

logger = get_logger(__name__)
SMALLEST = 8  # pixels: below, the shapes look alike


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Draw pictures of ten shapes and patterns, one folder a class.")
    parser.add_argument("--output", type=path_argument, required=True, metavar="DIR", help="folder for the pictures")
    parser.add_argument("--per-class", type=int, default=400, help="pictures of each class (default: 400)")
    parser.add_argument("--size", type=int, default=32, help="side of a picture in pixels (default: 32)")
    parser.add_argument("--seed", type=int, default=0, help="another seed draws other pictures (default: 0)")
    options = parser.parse_args(arguments)
    if options.per_class < 1:
        parser.error(f"--per-class must be at least 1, got {options.per_class}")
    if options.size < SMALLEST:
        parser.error(f"--size must be at least {SMALLEST} pixels, got {options.size}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the set; returns the exit code."""
    options = parse_arguments(arguments)
    setup_logging()
    wanted = [(name, number) for name in SHAPES for number in range(options.per_class)]
    written = 0
    try:
        for name, number in progress(wanted, len(wanted), "drawing"):
            file = options.output / name / f"{number:05d}.png"
            if not file.exists():
                write_image(file, draw_shape(name, options.size, options.seed, number))
                written += 1
    except KeyboardInterrupt:
        logger.error("stopped; the same command goes on where it was")
        return EXIT_INTERRUPTED
    logger.info(
        "%d pictures of %d classes in %s (%d new), %d pixels a side",
        len(wanted), len(SHAPES), options.output, written, options.size,
    )  # fmt: skip
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
