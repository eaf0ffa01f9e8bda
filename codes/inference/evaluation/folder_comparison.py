"""Two folders of images compared: the numbers of every result against the ground truth of the same name."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...data.companions import stem_below
from ...evaluation.effnet_lite0 import NAME, EffnetLite0
from ...evaluation.metrics import fidelity, mean_fidelity
from ...images.files import MISSING, find_images, quantise, read_samples, to_float
from ...utils.console import get_logger, progress
from ...utils.errors import DataError
from ...utils.files import write_json
from .run import DIGITS, table

logger = get_logger(__name__)
MOST_FAILED = 20  # lines of images that could not be compared


@dataclass
class Comparison:
    """The numbers of every image by its name below the folder, and what could not be compared."""

    images: dict[str, dict[str, float]] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)  # one line each: file and reason

    @property
    def mean(self) -> dict[str, float]:
        return mean_fidelity(list(self.images.values()))


def compare_folders(
    results: Path, truth: Path, *, crop_border: int, with_luma: bool, perceptual: EffnetLite0 | None = None
) -> Comparison:
    """Compare every image of `results` with that of the same name and sub-folder in `truth`, whatever the suffixes.

    Either may be one file. Raises DataError for a folder that is missing or empty, or names that occur twice. An image
    without a partner, of another size or damaged is told in `failed`; truth without a result only in the log.
    """
    (given, missing), (wanted, _) = _by_name(results), _by_name(truth)
    if results.is_file() and truth.is_file():
        wanted = {next(iter(given)): next(iter(wanted.values()))}
    comparison = Comparison()
    comparison.failed += missing
    for name, file in progress(given.items(), len(given), "compared"):
        if name not in wanted:
            comparison.failed.append(f"{file}: no ground truth of this name in {truth}")
            continue
        try:
            pair = read_samples(wanted[name]), read_samples(file)
            comparison.images[name] = fidelity(*pair, crop_border=crop_border, with_luma=with_luma)
            if perceptual is not None:
                comparison.images[name][NAME] = perceptual.distance(*map(_as_8_bit, pair))
        except (DataError, ValueError) as error:
            text = str(error)
            comparison.failed.append(text if isinstance(error, DataError) else f"{file}: {text}")
    unused = [name for name in wanted if name not in given]
    if unused:
        logger.warning("%d of %d images in %s have no result, %s first", len(unused), len(wanted), truth, unused[0])
    return comparison


def log_failures(comparison: Comparison, output: Path) -> None:
    """Say what could not be compared: the first images, and where all of them stand."""
    for line in comparison.failed[:MOST_FAILED]:
        logger.error("%s", line)
    if len(comparison.failed) > MOST_FAILED:
        logger.error(
            "and %d more that could not be compared; all are in %s", len(comparison.failed) - MOST_FAILED, output
        )


def comparison_table(comparison: Comparison) -> str:
    """One line for each image, and the mean."""
    mean = comparison.mean
    rows = [(name, *_shown(numbers, mean)) for name, numbers in comparison.images.items()]
    title = f"mean of {len(rows)}"
    return table(("image", *mean), [*rows, (title, *_shown(mean, mean))])


def write_comparison(file: Path, comparison: Comparison) -> None:
    """JSON with `mean`, `images` and `failed`; a PSNR that is infinite is written as null."""
    numbers = {
        "mean": comparison.mean,
        "images": comparison.images,
        "failed": comparison.failed,
    }
    write_json(file, numbers)


def _by_name(place: Path) -> tuple[dict[str, Path], list[str]]:
    """Name below the folder without suffix -> file; and a line for each picture that cannot be reached or read."""
    search = find_images(place)
    files = search.files
    missing = [f"{entry.path}: {entry.reason}" for entry in search.left_out if entry.kind in MISSING]
    if not files:
        raise DataError(f"{place}: no images in it")
    result: dict[str, Path] = {}
    root = place if place.is_dir() else place.parent
    for file in files:
        name = stem_below(file.relative_to(root))
        if name in result:
            raise DataError(f"{file} and {result[name]} have the same name; keep one of them")
        result[name] = file
    return result, missing


def _as_8_bit(samples: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    return samples if samples.dtype == np.uint8 else quantise(to_float(samples))


def _shown(numbers: Mapping[str, float], columns: Mapping[str, float]) -> list[str]:
    return [f"{numbers[name]:.{DIGITS}g}" if name in numbers else "-" for name in columns]
