"""Restore one image at every combination of strengths or sampling options, and compare.

    python codes/scripts/sweep.py -opt recipes/diffusion/infer.yml --image photo.jpg \
        --axis jpeg 0:1:5 --axis gaussian_blur 0:1:5
    python codes/scripts/sweep.py -opt recipes/diffusion/infer.yml --image small.png --truth large.png \
        --axis steps 2,4,8,16,50 --axis sampler ancestral,ddim,dpm_solver_pp

Writes grid.png, index.html (a slider for every axis), sweep.json and the single pictures to
results/<name>/sweep_<image>.
Run again, it restores only what is not there yet.
"""

import argparse
import sys
from collections.abc import Sequence

if not __package__:
    from as_module import run_as_module

    run_as_module(__file__)

from ..config.yaml_source import located
from ..images.files import write_image
from ..inference.sweep.run import Sweep
from ..inference.sweep.subject import Crop, SweepRequest
from ..recipe.recipe import read_recipe, settled
from ..runtime.command_line import common_arguments, main_with, path_argument, source_of
from ..utils.console import get_logger
from ..utils.errors import ConfigError
from ..viewer.sweep_grid import sweep_grid
from ..viewer.sweep_page import write_sweep_page

logger = get_logger(__name__)


def run(arguments: argparse.Namespace) -> int:
    """Restore the cells, then write the grid and the page."""
    axes = [(name, values) for name, values in arguments.axis]
    request = SweepRequest(
        arguments.image, axes, _crop(arguments.crop), arguments.truth, arguments.result, arguments.output, arguments.yes
    )
    source = source_of(arguments)
    with located(source):
        sweep = Sweep(read_recipe(source), settled(source), request)
        result = sweep.run()
    write_image(sweep.root / "grid.png", sweep_grid(result))
    write_sweep_page(sweep.root / "index.html", result)
    logger.info("grid: %s", sweep.root / "grid.png")
    logger.info("page with sliders: %s", sweep.root / "index.html")
    return 0


def _crop(text: str | None) -> Crop | None:
    if text is None:
        return None
    try:
        top, left, height, width = map(int, text.split(","))
    except ValueError:
        raise ConfigError(f"--crop {text}: expected top,left,height,width in pixels of the input") from None
    return top, left, height, width


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = common_arguments("Restore one image at every combination of strengths or sampling options.")
    parser.add_argument("--image", type=path_argument, required=True, metavar="FILE", help="the image to restore")
    parser.add_argument(
        "--axis",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUES"),
        help="what to vary: a corruption of the recipe, steps, sampler, eta, stop_at_snr, guidance_scale, another "
        "option of sampling, color_fix or seed; VALUES is start:stop:count, as in 0:1:5, or a list, as in 2,4,8",
    )
    parser.add_argument(
        "--truth", type=path_argument, metavar="FILE", help="what the result should be, to measure PSNR and SSIM"
    )
    parser.add_argument("--crop", metavar="Y,X,H,W", help="restore only this part, in pixels of the input")
    parser.add_argument(
        "--result", metavar="KEY", help="which result, where the recipe has several (default: the first)"
    )
    parser.add_argument("--output", type=path_argument, metavar="FOLDER", help="default: results/<name>/sweep_<image>")
    parser.add_argument("--yes", action="store_true", help="also when there are more than 64 cells")
    return main_with(parser, run, argv)


if __name__ == "__main__":
    sys.exit(main())
