"""What is measured of a restored image: its fidelity, where there is a ground truth."""

import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from ...data.base import Item
from ...data.imagefolder import ImageFolderDataset, Traits
from ...evaluation.metrics import fidelity
from ...images.channels import Bicubic
from ...images.files import Alpha, quantise, read_samples, to_rgb
from ...utils.console import get_logger
from ...utils.errors import DataError
from ...utils.files import digest_of
from ...viewer.layers import BICUBIC
from .job import low_res_shown
from .output import SPREAD, ImageRecord
from .plan import Plan

logger = get_logger(__name__)
BAND_ROWS = 256


def measured(plan: Plan, row: ImageRecord, item: Item, traits: Traits | None) -> ImageRecord:
    """With the metrics of its results; without any where no ground truth fits, of which a warning tells."""
    row = replace(row, metrics={}, truth=truth_digest(plan, row.phase, row.position))
    truth = truth_of(plan, row.phase, row.position, item)
    if truth is None:
        return row
    height, width = row.size
    if truth.shape[:2] != (height, width):
        found = f"{truth.shape[1]}x{truth.shape[0]}"
        logger.warning(
            "%s: its ground truth is %s pixels, the result %dx%d; not measured", row.source, found, width, height
        )
        return row
    metrics = {BICUBIC: fidelity(truth, enlarged(low_res_shown(plan, row.phase, item, traits), height))}
    for label, file in row.files.items():
        if not label.endswith(f" {SPREAD}"):
            metrics[label] = fidelity(truth, result_pixels(plan, row.phase, file))
    return replace(row, metrics=metrics)


def truth_digest(plan: Plan, phase: str, position: int) -> str:
    """What tells one ground truth file from another; "" without one."""
    dataset = plan.datasets[phase]
    if not isinstance(dataset, ImageFolderDataset) or dataset.truths is None:
        return ""
    with suppress(OSError, DataError):
        file = dataset.truths.of(dataset.files[position])
        return digest_of(file) if file else ""
    return ""


def truth_of(plan: Plan, phase: str, position: int, item: Mapping[str, object]) -> np.ndarray | None:
    """Integer samples (H, W, 3) of what an image was made from, or of the file that its dataset names as the truth."""
    dataset = plan.datasets[phase]
    if plan.low_res_key(item) != "hq" and "hq" in item:
        return quantise(to_rgb(item["hq"], dataset.options.rgb_n1_to_1))  # type: ignore[arg-type]
    if not isinstance(dataset, ImageFolderDataset) or dataset.truths is None:
        return None
    source = dataset.files[position]
    try:
        file = dataset.truths.of(source)
        if file is None:
            logger.warning("%s: no ground truth of this name in %s; not measured", source, dataset.truths.place)
            return None
        return read_samples(file, max_pixels=sys.maxsize, alpha=dataset.options.alpha)
    except DataError as error:
        logger.warning("%s: its ground truth cannot be used (%s); not measured", source, error)
        return None


def result_pixels(plan: Plan, phase: str, file: Path) -> np.ndarray:
    """Integer samples (H, W, 3) of a result; its transparency laid over what the dataset says."""
    ground: Alpha = "black" if plan.datasets[phase].options.alpha == "black" else "white"
    return read_samples(file, max_pixels=sys.maxsize, alpha=ground)


def enlarged(small: np.ndarray, height: int) -> np.ndarray:
    """uint8 (H, W, 3): float32 (h, w, 3) in [0, 1] enlarged by bicubic interpolation to a height."""
    layer = Bicubic(small, height // small.shape[0])
    return np.concatenate([layer.pixels(y0, min(y0 + BAND_ROWS, height)) for y0 in range(0, height, BAND_ROWS)])
