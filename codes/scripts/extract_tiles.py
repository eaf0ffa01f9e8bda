"""Cut photographs of any size into overlapping square tiles.

python codes/scripts/extract_tiles.py --input photos --output tiles --tile 256 --step 192

Can be stopped and started again: what exists is skipped. Exit codes: 0 all cut, 1 some images could not be read or
are too small (each is named), 2 wrong arguments or nothing to cut.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:
    from as_module import run_as_module

    run_as_module(__file__)

from ..data.base import named
from ..data.samples import sample_photographs
from ..data.tiles import CutReport, TileSettings, cut_folders, refuse_output, write_contact_sheet
from ..images.files import MAX_PIXELS
from ..runtime.command_line import path_argument
from ..runtime.run_lock import RunLock
from ..utils.console import get_logger, setup_logging
from ..utils.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, TesseraError

logger = get_logger(__name__)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Cut photographs into overlapping square tiles (PNG).")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--input", nargs="+", type=path_argument, metavar="DIR", help="folders (searched recursively) or image files"
    )
    source.add_argument("--samples", action="store_true", help="cut the sample photographs that come with scikit-image")
    parser.add_argument(
        "--output", type=path_argument, required=True, metavar="DIR", help="folder for the tiles, not inside an input"
    )
    parser.add_argument("--tile", type=int, default=256, help="side of a tile in pixels (default: 256)")
    parser.add_argument("--step", type=int, default=192, help="pixels from one tile to the next (default: 192)")
    parser.add_argument(
        "--min-std", type=float, default=0.0, help="leave out tiles flatter than this, in gray values 0..255"
    )
    parser.add_argument(
        "--max-pixels", type=int, default=MAX_PIXELS, help=f"leave out images of more pixels (default: {MAX_PIXELS})"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes (default: 1)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cutter; returns the exit code."""
    options = parse_arguments(arguments)
    setup_logging()
    try:
        inputs = sample_photographs() if options.samples else options.input
        settings = TileSettings(options.tile, options.step, options.min_std)
        refuse_output(inputs, options.output)  # before anything is written there
        with RunLock(options.output):
            report = cut_folders(inputs, options.output, settings, options.workers, options.max_pixels)
            sheet = write_contact_sheet(options.output)
    except TesseraError as error:
        logger.error("%s", error)
        return error.exit_code
    except OSError as error:
        logger.error("%s: %s", error.filename or options.output, error.strerror or error)
        return EXIT_FAILED
    except KeyboardInterrupt:
        logger.error("stopped; the same command goes on where it was")
        return EXIT_INTERRUPTED
    tell(report, options.output, sheet)
    return EXIT_FAILED if report.failed else EXIT_OK


def tell(report: CutReport, output: Path, sheet: Path | None) -> None:
    """Log what was done."""
    for line in named(report.rejected):
        logger.warning("%s", line.strip())
    counts = f"{report.written} tiles written, {report.existing} were there, {report.flat} left out as flat"
    logger.info("%d images cut: %s; %d images failed", report.images, counts, len(report.failed))
    logger.info("tiles: %s, contact sheet: %s", output, sheet or "none, every tile was flat")


if __name__ == "__main__":
    sys.exit(main())
