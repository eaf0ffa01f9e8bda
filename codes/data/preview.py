"""What a preview of a dataset shows: items as the network will see them, and corruptions swept over their strengths."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from ..images.files import quantise, resize_area, resize_bicubic, to_rgb
from ..utils.console import get_logger
from ..utils.errors import DataError
from ..utils.rng import numpy_generator
from .base import Dataset, Item
from .corruptions.all import CORRUPTIONS, Corruption, CorruptionSettings
from .corruptions.options import CorruptionOptions
from .datasets import DatasetOptions

logger = get_logger(__name__)

LARGEST_SHOWN = 512  # pixels; of larger images the middle is shown
SWEEP_SHOWN = 256  # pixels, the same for each picture of a sweep


@dataclass(frozen=True, eq=False)
class PreviewPicture:
    """A picture with its captions: uint8 RGB (H, W, 3), shown `width` x `height` pixels large at 1x."""

    pixels: np.ndarray
    title: str
    size: str
    quality: str
    height: int
    width: int


@dataclass(frozen=True, eq=False)
class PreviewItem:
    """One item of the file `path`: its pictures side by side, the strengths by name, and what else it holds."""

    position: int
    path: str
    pictures: Sequence[PreviewPicture]
    strengths: Mapping[str, float] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class PreviewTable:
    """Pictures in rows and columns, each with its label."""

    name: str
    corner: str
    columns: Sequence[str]
    rows: Mapping[str, Sequence[PreviewPicture]]


def items(dataset: Dataset, count: int) -> Iterator[tuple[int, Item]]:
    """The first items with their positions; one that cannot be read is named in the log and left out.

    With a dataset that repeats itself for ever (training) `count` may exceed its length. Raises DataError when no item
    can be read.
    """
    drawn = 0
    for position in range(count if dataset.shuffle else min(count, len(dataset))):
        try:
            item = dataset.item(position)
        except DataError as error:
            logger.warning("%s; left out", error)
            continue
        drawn += 1
        yield position, item
    if not drawn:
        raise DataError("the dataset has no item that can be shown; see the messages above")


def preview_item(position: int, item: Item, options: DatasetOptions) -> PreviewItem:
    """One item of a dataset with these options, every image in it beside the others at the size of hq."""
    n1_to_1 = options.rgb_n1_to_1
    tensors = {key: value for key, value in item.items() if isinstance(value, torch.Tensor)}
    images = {key: to_rgb(value, n1_to_1) for key, value in tensors.items() if _is_image(value)}
    reference = images.get("hq", next(iter(images.values()), None))
    pictures = [] if reference is None else [_picture(key, image, reference) for key, image in images.items()]
    values = tensors["corruption_entropy"].tolist() if "corruption_entropy" in tensors else []
    notes = {
        key: ", ".join(f"{number:g}" for number in value.flatten().tolist()[:16])
        for key, value in tensors.items()
        if key != "corruption_entropy" and not _is_image(value)
    }
    path = str(item.get("HQ_path", item.get("LQ_path", "")))
    return PreviewItem(position, path, pictures, dict(zip(_names(options, len(values)), values, strict=True)), notes)


def sweep_tables(
    item: Item, options: CorruptionOptions, scale: int, n1_to_1: bool, names: Sequence[str], strengths: Sequence[float]
) -> list[PreviewTable]:
    """A row of `strengths` for each named corruption; of exactly two also every pair, the first one's strength down.

    They damage the image that the dataset would corrupt: hq downsampled by `scale`, or with corrupt_before_downsize
    hq itself. A row draws the same angle, kernel or noise at all strengths. Raises ConfigError for unknown names.
    """
    settings = CorruptionSettings(options.corruption_blur_scale, options.corruption_jpeg_subsampling)
    corruptions = {name: CORRUPTIONS.get(name)(settings) for name in names}
    hq = item["hq"]
    assert isinstance(hq, torch.Tensor)
    image = to_rgb(hq, n1_to_1)
    if not options.corrupt_before_downsize:
        image = resize_area(image, image.shape[0] // scale, image.shape[1] // scale)
    image = _middle(image, SWEEP_SHOWN, 1)
    title = str(item.get("HQ_path", ""))
    labels = [f"{strength:g}" for strength in strengths]
    rows = {
        name: [_damaged(image, [(corruption, strength, name)]) for strength in strengths]
        for name, corruption in corruptions.items()
    }
    tables = [PreviewTable(title, "strength", labels, rows)]
    if len(names) == 2:
        tables.append(_pairs(image, corruptions, strengths, options.corruption_order))
    return tables


def _pairs(
    image: np.ndarray, corruptions: Mapping[str, Corruption], strengths: Sequence[float], order: str
) -> PreviewTable:
    first, second = corruptions
    rows: dict[str, list[PreviewPicture]] = {}
    for down in strengths:
        rows[f"{down:g}"] = []
        for across in strengths:
            uses = [(corruptions[first], down, first), (corruptions[second], across, second)]
            if order == "physical":
                uses.sort(key=lambda use: use[0].stage)
            rows[f"{down:g}"].append(_damaged(image, uses))
    title = f"Both: {first} downwards, {second} to the right"
    return PreviewTable(title, f"{first} ↓  {second} →", [f"{strength:g}" for strength in strengths], rows)


def _damaged(image: np.ndarray, uses: Sequence[tuple[Corruption, float, str]]) -> PreviewPicture:
    result = image
    for corruption, strength, name in uses:
        result = corruption(result, strength, numpy_generator(0, "sweep", name))
    return PreviewPicture(quantise(result), "", "", _decibels(result, image), *image.shape[:2])


def _picture(key: str, image: np.ndarray, reference: np.ndarray) -> PreviewPicture:
    height, width = image.shape[:2]
    # An integer for every pair that training makes; something else may come from folders of pairs.
    scale = max(1, round(reference.shape[0] / height))
    shown = _middle(image, LARGEST_SHOWN // scale, max(1, reference.shape[0] // LARGEST_SHOWN))
    size, quality = f"{width} × {height}", ""
    if shown.shape != image.shape:
        size += f" (its middle {shown.shape[1]} × {shown.shape[0]})"
    if image is not reference:
        quality = _decibels(resize_bicubic(image, *reference.shape[:2]), reference)
    return PreviewPicture(quantise(shown), key, size, quality, shown.shape[0] * scale, shown.shape[1] * scale)


def _middle(image: np.ndarray, side: int, step: int) -> np.ndarray:
    """The middle of an image, at most `side` pixels each way; its corner lies at a multiple of `step`."""
    tops = [max(0, (length - side) // 2) // step * step for length in image.shape[:2]]
    return image[tops[0] : tops[0] + side, tops[1] : tops[1] + side]


def _is_image(value: torch.Tensor) -> bool:
    return value.ndim == 3 and value.shape[0] == 3


def _names(options: DatasetOptions, count: int) -> list[str]:
    """The corruptions of an entropy vector; numbers where the recipe does not list as many, or lists one twice."""
    names = list(options.corruption_names)
    if len(names) == count == len(set(names)):
        return names
    return [f"{names[i]} ({i + 1})" if len(names) == count else f"strength {i + 1}" for i in range(count)]


def _decibels(image: np.ndarray, reference: np.ndarray) -> str:
    error = float(np.square(image - reference).mean(dtype=np.float64))
    return f"{-10 * math.log10(error):.1f} dB" if error > 0 else "unchanged"
