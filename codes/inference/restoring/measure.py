"""How close restored images are to the truth, where there is one."""

import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from ...data.base import Item
from ...evaluation.metrics import fidelity
from ...images.bands import Rows
from ...images.channels import Bicubic, Channels, enlarged, pixels_of
from ...images.files import quantise, read_samples, to_rgb
from ...images.output_size import Framing
from ...images.resampling import Resampled
from ...recipe.output_options import OutputOptions
from ...utils.console import get_logger, size_text
from ...utils.errors import DataError
from ...utils.files import digest_of
from ...viewer.layers import (
    BICUBIC,
)
from .job import Input, Inputs
from .output import ImageRecord
from .results import SPREAD, Order
from .setup import Setup
from .work import Work

logger = get_logger(__name__)
BAND_ROWS = 256


def measured(inputs: Inputs, row: ImageRecord, image: Input) -> ImageRecord:
    """With the metrics of its results; without any where no ground truth fits, of which a warning tells."""
    row = replace(row, metrics={}, truth=truth_digest(inputs, row.position))
    truth = truth_of(inputs, row.position, image.item)
    if truth is None:
        return row
    sizes = size_text((truth.shape[0], truth.shape[1])), size_text(row.size)
    if not _fits(inputs.output, row, truth.shape):
        logger.warning("%s: its ground truth is %s pixels, the result %s; not measured", row.source, *sizes)
        return row
    compared = ""
    if truth.shape[:2] != row.size:
        compared = f"with the ground truth of {sizes[0]} pixels brought to {sizes[1]} by {inputs.output.resampling}"
        logger.info("%s: compared %s", row.source, compared)
        truth = whole_pixels(as_result(inputs.output, row, truth), row, 16 if truth.dtype == np.uint16 else 8)
    bicubic = enlarged(image.shown(), framing_of(inputs.output, row))
    metrics = {BICUBIC: fidelity(truth, whole_pixels(bicubic, row))}
    for label, file in row.files.items():
        if not label.endswith(f" {SPREAD}"):
            metrics[label] = fidelity(truth, _result_pixels(inputs, file))
    return replace(row, metrics=metrics, compared=compared)


def measured_again(setup: Setup, work: Work) -> dict[Order, ImageRecord]:
    """The finished images, measured again and remembered where the ground truth is another than then."""
    records = dict(work.earlier)
    for image in work.images:
        row, inputs = records.get(image.order), setup.inputs[image.phase]
        if row is None or row.truth == truth_digest(inputs, row.position):
            continue
        with suppress(DataError):  # an input that is damaged by now; its result is still there
            records[image.order] = measured(inputs, row, inputs.read(row.position))
            setup.records.put(records[image.order], image)
    return records


def _fits(output: OutputOptions, row: ImageRecord, truth: tuple[int, ...]) -> bool:
    """Whether results can be compared with a truth (H, W, 3): of their size, or where one was asked for, brought to it.

    Then it shows what the input shows, in its proportions, up to a pixel of the smaller one.
    """
    if truth[:2] == row.size:
        return True
    (height, width), (high, wide) = row.low_res, truth[:2]
    return output.resized and abs(height * wide - width * high) <= max(height, width, high, wide)


def framing_of(output: OutputOptions, row: ImageRecord) -> Framing:
    """What of the restored image the first result shows, and how large."""
    return output.framing(*row.low_res, scale=1) if output.resized else Framing(*row.size)


def as_result(output: OutputOptions, row: ImageRecord, truth: Rows) -> Channels:
    """A truth of another size than the results, resampled as these are."""
    height, width = truth.shape[:2]
    return Resampled(Bicubic(truth, 1), height, width, framing_of(output, row), output.resampling, output.linear_light)


def whole_pixels(picture: Channels, row: ImageRecord, bit_depth: int = 8) -> np.ndarray:
    """Integer samples (H, W, 3) of a picture as large as the result, made by bands."""
    height = row.size[0]
    bands = range(0, height, BAND_ROWS)
    return np.concatenate([pixels_of(picture, y0, min(y0 + BAND_ROWS, height), bit_depth) for y0 in bands])


def truth_digest(inputs: Inputs, position: int) -> str:
    """What tells one ground truth file from another; "" without one."""
    dataset = inputs.dataset
    if dataset.truths is None:
        return ""
    with suppress(OSError, DataError):
        file = dataset.truths.of(dataset.files[position])
        return digest_of(file) if file else ""
    return ""


def truth_of(inputs: Inputs, position: int, item: Item) -> np.ndarray | None:
    """Integer samples (H, W, 3) of what an image was made from, or of the file that its dataset names as the truth."""
    if inputs.key != "hq" and "hq" in item:
        return quantise(to_rgb(item["hq"], inputs.options.rgb_n1_to_1))  # type: ignore[arg-type]
    file = truth_file(inputs, position)
    if file is None:
        return None
    try:
        return read_samples(file, max_pixels=sys.maxsize, alpha=inputs.options.alpha)
    except DataError as error:
        source = inputs.dataset.files[position]
        logger.warning("%s: its ground truth cannot be used (%s); not measured", source, error)
        return None


def truth_file(inputs: Inputs, position: int) -> Path | None:
    """The file that the dataset names as the truth of an image; None, with a warning, where it has none."""
    dataset = inputs.dataset
    if dataset.truths is None:
        return None
    source = dataset.files[position]
    try:
        file = dataset.truths.of(source)
    except DataError as error:
        logger.warning("%s: its ground truth cannot be used (%s); not measured", source, error)
        return None
    if file is None:
        logger.warning("%s: no ground truth of this name in %s; not measured", source, dataset.truths.place)
    return file


def _result_pixels(inputs: Inputs, file: Path) -> np.ndarray:
    """Integer samples (H, W, 3) of a result; its transparency laid over what the dataset says."""
    return read_samples(file, max_pixels=sys.maxsize, alpha=inputs.ground)


def metrics_text(metrics: Mapping[str, Mapping[str, float]]) -> str:
    """Metrics for the end of a line."""
    return "".join(f"; {label}: {numbers_text(values)}" for label, values in metrics.items())


def numbers_text(values: Mapping[str, float]) -> str:
    """The numbers of a result, with their units."""
    units = {"psnr": "PSNR {:.2f} dB", "ssim": "SSIM {:.4f}"}
    return ", ".join(units.get(name, name + " {:.4g}").format(value) for name, value in values.items())
