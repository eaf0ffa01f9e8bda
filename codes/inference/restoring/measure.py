"""A restored image looked at again: its fidelity, where there is a ground truth, and what the page shows of it."""

import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ...data.base import Item
from ...data.imagefolder import ImageFolderDataset, Traits
from ...evaluation.metrics import fidelity
from ...images.channels import Bicubic
from ...images.files import Alpha, quantise, read_samples, to_float, to_rgb
from ...utils.console import get_logger, size_text
from ...utils.errors import DataError
from ...utils.files import digest_of
from ...viewer.layers import BICUBIC, TRUTH, Layer, Pixels, RowsLayer
from .job import read_item
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


def pictures(plan: Plan, row: ImageRecord) -> dict[str, Pixels | Layer]:
    """Label -> what there is to look at: enlarged input, results, ground truth; read again from their files."""
    before = _before(plan, row)
    truth = before.pop(TRUTH, None)  # the last of the buttons
    layers = {**before, **_results(plan, row)}
    return layers if truth is None else {**layers, TRUTH: truth}


def _before(plan: Plan, row: ImageRecord) -> dict[str, Pixels | Layer]:
    """What the image was, at the size of the result, and the ground truth; a black one where it cannot be read now."""
    try:
        item, traits = read_item(plan, row.phase, row.position)
    except DataError as error:
        logger.warning("%s; black on the page", error)
        return {BICUBIC: np.zeros((*row.size, 3), np.uint8)}
    small = low_res_shown(plan, row.phase, item, traits)
    bicubic = Bicubic(small, row.size[0] // small.shape[0])
    layers: dict[str, Pixels | Layer] = {BICUBIC: RowsLayer(*bicubic.size, bicubic.pixels)}
    truth = truth_of(plan, row.phase, row.position, item) if row.metrics else None
    if truth is not None and truth.shape[:2] == row.size:
        layers[TRUTH] = _as_8_bit(truth)
    return layers


def _results(plan: Plan, row: ImageRecord) -> dict[str, Pixels | Layer]:
    """The results as uint8 RGB, but those that somebody replaced by something else."""
    found: dict[str, Pixels | Layer] = {}
    size = row.size
    for label, file in row.files.items():
        try:
            pixels = _as_8_bit(result_pixels(plan, row.phase, file))
        except DataError as error:
            logger.warning("%s; not on the page", error)
            continue
        if pixels.shape[:2] == size:
            found[label] = pixels
        else:
            known = size_text((pixels.shape[0], pixels.shape[1]))
            logger.warning("%s: %s pixels, expected %s; not on the page", file, known, size_text(size))
    return found


def low_res_shown(plan: Plan, phase: str, item: Item, traits: Traits | None) -> np.ndarray:
    """The low resolution as one looks at it, float32 (h, w, 3) in [0, 1]: transparency laid over the `alpha` ground."""
    values = item[plan.low_res_key(item)]
    assert isinstance(values, torch.Tensor)
    options = plan.datasets[phase].options
    small = to_rgb(values, options.rgb_n1_to_1)
    if traits is None or traits.alpha is None:
        return small
    ground = np.float32(0.0 if options.alpha == "black" else 1.0)
    alpha = traits.alpha[..., None]
    return small * alpha + ground * (1 - alpha)


def _as_8_bit(samples: np.ndarray) -> np.ndarray:
    return samples if samples.dtype == np.uint8 else quantise(to_float(samples))


def metrics_text(metrics: Mapping[str, Mapping[str, float]]) -> str:
    """Metrics for the end of a line."""
    return "".join(f"; {label}: {numbers_text(values)}" for label, values in metrics.items())


def numbers_text(values: Mapping[str, float]) -> str:
    """The numbers of a result, with their units."""
    units = {"psnr": "PSNR {:.2f} dB", "ssim": "SSIM {:.4f}"}
    return ", ".join(units.get(name, name + " {:.4g}").format(value) for name, value in values.items())
