"""One image of a test run: read from its file, and sampled together with others."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...data.base import Item
from ...data.image_dataset import ImageDataset
from ...data.image_options import ImageOptions
from ...data.imagefolder import Traits
from ...graph.graph import StepContext
from ...graph.step_graph import StepGraph
from ...images.bands import LARGE
from ...images.file_canvas import FileCanvas
from ...images.files import LARGEST_SIDE, WRITERS, Alpha, to_rgb, to_tensor
from ...recipe.output_options import OutputOptions
from ...utils.console import get_logger, warn_once
from ...utils.errors import DataError
from ...utils.names import problem_with_length
from ..run import OnStep, Run
from .results import Chain, Planned

logger = get_logger(__name__)
COLOUR, ALPHA = "colour", "alpha"


@dataclass(frozen=True)
class Input:
    """An image that has been read: the item of its dataset, and what its results take over from its file.

    `key`: that of its low resolution. `traits`: None where the file is not itself what is restored; their alpha is
    None where it is dropped.
    """

    item: Item
    traits: Traits | None
    key: str
    options: ImageOptions

    @property
    def low_res(self) -> torch.Tensor | FileCanvas:
        """(3, h, w) in the dataset's range."""
        values = self.item[self.key]
        assert isinstance(values, torch.Tensor | FileCanvas)
        return values

    @property
    def alpha(self) -> np.ndarray | None:
        """The transparency that the results keep, float32 (h, w)."""
        return None if self.traits is None else self.traits.alpha

    def low_res_in(self, unit: bool) -> torch.Tensor | FileCanvas:
        """The low resolution in the range of a result: [0, 1] or [-1, 1]."""
        values = self.low_res
        if isinstance(values, FileCanvas):
            return values.in_range(not unit)
        if unit == (not self.options.rgb_n1_to_1):
            return values
        return (values + 1) / 2 if unit else values * 2 - 1

    def shown(self) -> np.ndarray:
        """The low resolution as one looks at it, float32 (h, w, 3) in [0, 1], laid over the `alpha` ground."""
        values = self.low_res
        small = to_rgb(
            values.rows(0, values.height) if isinstance(values, FileCanvas) else values, self.options.rgb_n1_to_1
        )
        if self.alpha is None:
            return small
        ground, alpha = np.float32(0.0 if self.options.alpha == "black" else 1.0), self.alpha[..., None]
        return small * alpha + ground * (1 - alpha)


@dataclass(frozen=True)
class Inputs:
    """The images of a dataset, each as it is restored. `key`: that of their low resolution.

    `as_they_are`: the files are themselves what is restored. `ground`: what transparency is laid over where it is shown
    or measured. `targets`: for each image what its results are named by. `on_disk`: a canvas lies on disk, so that
    images may be larger than memory. `whole_because`: what of the recipe, its datasets apart, needs images as a whole;
    None where large ones are read by rows.
    """

    dataset: ImageDataset
    options: ImageOptions
    as_they_are: bool
    ground: Alpha
    key: str
    output: OutputOptions
    targets: Sequence[Path]
    on_disk: bool
    whole_because: str | None

    def read(self, position: int) -> Input:
        """The image of a position. Raises DataError."""
        return Input(*self._item(position), self.key, self.options)

    def _item(self, position: int) -> tuple[Item, Traits | None]:
        dataset = self.dataset
        if not self.as_they_are:
            return dataset.item(position), None
        item, traits = dataset.whole(position, by_rows=self.whole_because is None)
        if traits is None or traits.alpha is None:
            return item, traits
        holds_none = WRITERS[self.targets[position].suffix.lower()] == "JPEG"
        if holds_none and self.output.alpha != "drop":
            text = f"{dataset.files[position]}: JPEG holds no transparency, so it is laid over {self.options.alpha}"
            warn_once(logger, f"alpha {dataset.files[position]}", text)
        if holds_none or self.output.alpha == "drop":
            return dataset.item(position), replace(traits, alpha=None)
        return item, traits

    def tell_if_whole(self, image: Input, source: Path) -> None:
        """Say why a large input is in memory where canvas: disk promises that images need not be."""
        values = image.low_res
        if not self.on_disk or isinstance(values, FileCanvas) or values[0].numel() <= LARGE:
            return
        layout = "its format, layout or transparency (PNG and TIFF in strips are read by rows)"
        logger.warning(
            "%s: its %.0f megapixels are in memory as a whole, because of %s",
            source, values[0].numel() / 1e6, self.whole_because or self.dataset.whole_because or layout,
        )  # fmt: skip


@dataclass(frozen=True)
class Unit:
    """One state of an image: a sample of its colours or of its transparency."""

    sample: int
    kind: str


class Job:
    """An image that has been read. Building it raises DataError when it cannot be."""

    def __init__(self, image: Planned, inputs: Inputs, chain: Chain, use: Run) -> None:
        self.image = image
        self.use = use
        self.output = chain.output
        _refuse_what_does_not_fit(image, chain.output, inputs.options.max_pixels)
        self.input = inputs.read(image.position)
        inputs.tell_if_whole(self.input, image.source)
        height, width = self.input.low_res.shape[-2:]
        self.low_res = height, width  # where transparency was cut off, not that of the header
        self.results = chain.results(inputs.key, self.low_res)
        self.written = [(result, result.framing) for result in self.results if result.framing]
        kinds = [COLOUR, ALPHA] if self._restores_alpha() else [COLOUR]
        self.units = [Unit(sample, kind) for kind in kinds for sample in range(self.output.num_samples)]

    def _restores_alpha(self) -> bool:
        """Transparency that is the same everywhere has nothing to restore."""
        alpha = self.input.alpha
        return self.output.alpha == "restore" and alpha is not None and np.ptp(alpha) > 0

    def states(self) -> list[dict[str, Any]]:
        """The first state of every unit, a batch of one each."""
        colour = batch_of(self.input.item)
        if len(self.units) == self.output.num_samples:
            return [colour for _ in self.units]
        assert self.input.alpha is not None
        gray = np.repeat(self.input.alpha[..., None], 3, axis=2)
        alpha = {**colour, self.input.key: to_tensor(gray, self.input.options.rgb_n1_to_1)[None]}
        return [colour if unit.kind == COLOUR else alpha for unit in self.units]

    def contexts(self, on_step: OnStep, scratch: Path | None) -> list[StepContext]:
        """What the injectors get for each unit; units share no folder below `scratch`."""
        passes = {result.key: result.passes for result in self.results}
        return [
            self.use.context(
                (self.image.position,), on_step, unit.sample,
                scratch and scratch / f"{unit.sample}-{unit.kind}", passes,
            )
            for unit in self.units
        ]  # fmt: skip


def _refuse_what_does_not_fit(image: Planned, output: OutputOptions, most: int) -> None:
    """Before hours of work whose result no file of this name or format could hold."""
    if problem := next(filter(None, map(problem_with_length, image.files.values())), None):
        raise DataError(f"{image.source}: {problem}; shorten its name, or output.suffix")
    name = WRITERS[image.target.suffix.lower()]
    for height, width in (result.framing.size for result in image.results if result.framing):
        if output.resized and height * width > most:
            raise DataError(
                f"{image.source}: output.{output.in_words} asks for {width}x{height} pixels, more "
                f"than max_pixels of its dataset, {most}"
            )
        if max(height, width) > LARGEST_SIDE.get(name, math.inf):
            raise DataError(
                f"{image.source}: its result of {width}x{height} pixels is larger than {name} holds "
                f"({LARGEST_SIDE[name]} a side); set output.format to png or tiff"
            )


def sampled(
    steps: Mapping[str, StepGraph], states: Sequence[Mapping[str, Any]], contexts: Sequence[StepContext]
) -> list[dict[str, Any]]:
    """The states after all injectors of a recipe's steps; all are sampled together."""
    after, ran = [dict(state) for state in states], list[str]()
    for name, step in steps.items():
        if step.options.runs(None, {*after[0], *ran}):
            after = step.at(None, {*after[0], *ran}).inject_many(after, contexts)
            ran.append(name)
    return after


def batch_of(item: Item) -> dict[str, Any]:
    """The state of a batch of this item alone."""
    return {key: value[None] if isinstance(value, torch.Tensor) else [value] for key, value in item.items()}
