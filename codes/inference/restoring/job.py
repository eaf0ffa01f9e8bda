"""One image of a test run: from its file to the states that are sampled, and from their results to files."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...data.base import Item
from ...data.imagefolder import ImageFolderDataset, Traits
from ...graph.graph import StepContext
from ...images.canvas import Canvas, as_canvas
from ...images.colour_fix import fix_colours
from ...images.consistency import consistency
from ...images.files import LARGEST_SIDE, WRITERS, to_rgb, to_tensor
from ...utils.console import get_logger, warn_once
from ...utils.errors import DataError
from .output_files import SPREAD
from .planes import Bicubic, FileOptions, Mean, Plane, Result, Spread, write_planes
from .records import Records
from .setup import Setup
from .work_plan import Planned

logger = get_logger(__name__)
BAND_PIXELS = 2**21  # of a result, converted and written at once
COLOUR, ALPHA = "colour", "alpha"
OnStep = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Unit:
    """One state of an image: a sample of its colours or of its transparency."""

    sample: int
    plane: str


@dataclass(frozen=True)
class Written:
    """What was written of an image, by label of the page, and how consistent each result is with the input."""

    files: Mapping[str, Path]
    size: tuple[int, int]
    consistency: Mapping[str, float]
    strengths: str


class Job:
    """An image that has been read. Building it raises DataError when it cannot be."""

    def __init__(self, setup: Setup, image: Planned) -> None:
        self.setup = setup
        self.image = image
        self._refuse_what_does_not_fit()
        self.item, self.traits = read_item(setup, image.phase, image.position)
        self.low_res_key = setup.low_res_key(self.item)
        self.n1_to_1: bool = setup.datasets[image.phase].options.rgb_n1_to_1
        self.alpha = self._alpha()
        planes = [COLOUR, ALPHA] if self._restores_alpha() else [COLOUR]
        self.units = [Unit(sample, plane) for plane in planes for sample in range(setup.output.num_samples)]

    def states(self) -> list[dict[str, Any]]:
        """The first state of every unit, a batch of one each."""
        colour = batch_of(self.item)
        if len(self.units) == self.setup.output.num_samples:
            return [colour for _ in self.units]
        assert self.alpha is not None
        gray = np.repeat(self.alpha[..., None], 3, axis=2)
        alpha = {**colour, self.low_res_key: to_tensor(gray, self.n1_to_1)[None]}
        return [colour if unit.plane == COLOUR else alpha for unit in self.units]

    def contexts(self, records: Records, on_step: OnStep) -> list[StepContext]:
        """What the injectors get for each unit; units share no scratch folder."""
        scratch = records.scratch(self.image) if self.image.key else None
        return [
            self.setup.use.context(
                (self.image.position,), on_step, unit.sample, scratch and scratch / f"{unit.sample}-{unit.plane}"
            )
            for unit in self.units
        ]

    def write(self, states: Sequence[Mapping[str, Any]]) -> Written:
        """Write the results, given the state of each unit after all injectors."""
        files: dict[str, Path] = {}
        consistent: dict[str, float] = {}
        named = self.setup.names.files(self.image.target)
        sizes = []
        for key in self.setup.outputs:
            canvases = [as_canvas(state[key]) for state in states]
            pairs = [*zip(canvases, self.units, strict=True)]
            samples, alphas = ([found for found, unit in pairs if unit.plane == plane] for plane in (COLOUR, ALPHA))
            self._fix_colours(key, samples)
            sizes.append((samples[0].height, samples[0].width))
            for part in self.setup.output.labels:
                label = self.setup.names.label(key, part)
                write_planes(named[label], self._planes(key, part, samples, alphas), *self._form(samples[0], part))
                files[label] = named[label]
            consistent |= self._consistency(key, samples)
        return Written(files, sizes[0], consistent, strengths_in_words(self.item))

    @property
    def low_res(self) -> torch.Tensor:
        """(3, h, w) in the dataset's range."""
        values = self.item[self.low_res_key]
        assert isinstance(values, torch.Tensor)
        return values

    def _fix_colours(self, key: str, samples: Sequence[Canvas]) -> None:
        kind = self.setup.output.color_fix
        if kind != "none":
            for sample in samples:
                fix_colours(sample, self._small_like(key), kind, n1_to_1=not self.setup.node(key).undo_n1_to_1)

    def _consistency(self, key: str, samples: Sequence[Canvas]) -> dict[str, float]:
        """Label of the page -> dB, of each sample."""
        parts = [""] if len(samples) == 1 else [str(number + 1) for number in range(len(samples))]
        named = {self.setup.names.label(key, part): sample for part, sample in zip(parts, samples, strict=True)}
        low_res, n1_to_1 = self._small_like(key), not self.setup.node(key).undo_n1_to_1
        return {label: consistency(sample, low_res, n1_to_1=n1_to_1) for label, sample in named.items()}

    def _small_like(self, key: str) -> torch.Tensor:
        """The low resolution (3, h, w) in the range of a result."""
        values = self.low_res
        unit = self.setup.node(key).undo_n1_to_1
        if unit == (not self.n1_to_1):
            return values
        return (values + 1) / 2 if unit else values * 2 - 1

    def _planes(self, key: str, part: str, colours: Sequence[Canvas], alphas: Sequence[Canvas]) -> list[Plane]:
        """What a file is made of."""
        unit, gray = self.setup.node(key).undo_n1_to_1, self._kept_gray()
        samples: list[Plane] = [Result(canvas, unit, gray) for canvas in colours]
        if part == SPREAD:
            return [Spread(samples)]
        transparency: list[Plane] = [Result(canvas, unit, gray=True) for canvas in alphas]
        if not transparency and self.alpha is not None:
            transparency = [Bicubic(self.alpha[..., None], colours[0].height // self.alpha.shape[0])] * len(samples)
        layers = [samples, transparency] if transparency else [samples]
        if part == "mean":
            return [Mean(layer) for layer in layers]
        index = int(part or 1) - 1
        return [layer[index] for layer in layers]

    def _form(self, canvas: Canvas, part: str) -> tuple[FileOptions, int]:
        """How a file is written, and the rows of a band."""
        band = max(BAND_PIXELS // canvas.width, 1)
        options = FileOptions(canvas.height, canvas.width, 8, self.setup.output.quality, None, None)
        if part == SPREAD or self.traits is None:
            return options, band
        return replace(options, bit_depth=self._bit_depth(), exif=self.traits.exif, icc=self.traits.icc), band

    def _bit_depth(self) -> int:
        holds_8 = WRITERS[self.image.target.suffix.lower()] in ("JPEG", "WEBP")
        keep = self.traits is not None and self.setup.output.bit_depth == "same" and not holds_8
        return self.traits.bit_depth if keep and self.traits is not None else 8

    def _kept_gray(self) -> bool:
        return self.traits is not None and self.traits.gray

    def _alpha(self) -> np.ndarray | None:
        """The transparency that the results keep, float32 (h, w)."""
        return None if self.traits is None else self.traits.alpha

    def _restores_alpha(self) -> bool:
        """Transparency that is the same everywhere has nothing to restore."""
        return self.setup.output.alpha == "restore" and self.alpha is not None and np.ptp(self.alpha) > 0

    def _refuse_what_does_not_fit(self) -> None:
        """Before hours of work whose result no file of this name or format could hold."""
        if problem := self.setup.names.problem(self.image.target):
            raise DataError(f"{self.image.source}: {problem}; shorten its name, or output.suffix")
        name = WRITERS[self.image.target.suffix.lower()]
        for height, width in self.image.sizes.values():
            if max(height, width) > LARGEST_SIDE.get(name, math.inf):
                raise DataError(
                    f"{self.image.source}: its result of {width}x{height} pixels is larger than {name} holds "
                    f"({LARGEST_SIDE[name]} a side); set output.format to png or tiff"
                )


def read_item(setup: Setup, phase: str, position: int) -> tuple[Item, Traits | None]:
    """The item of an image, and what its results take over from its file. Raises DataError.

    The latter is None where the file is not itself what is restored; its alpha is None where it is dropped.
    """
    dataset = setup.datasets[phase]
    if not (isinstance(dataset, ImageFolderDataset) and setup.is_input(phase)):
        return dataset.item(position), None
    item, traits = dataset.whole(position)
    if traits.alpha is None:
        return item, traits
    target = setup.targets[phase][position]
    holds_none = WRITERS[target.suffix.lower()] == "JPEG"
    if holds_none and setup.output.alpha != "drop":
        text = f"{dataset.files[position]}: JPEG holds no transparency, so it is laid over {dataset.options.alpha}"
        warn_once(logger, f"alpha {dataset.files[position]}", text)
    if holds_none or setup.output.alpha == "drop":
        return dataset.item(position), replace(traits, alpha=None)
    return item, traits


def low_res_shown(setup: Setup, phase: str, item: Item, traits: Traits | None) -> np.ndarray:
    """The low resolution as one looks at it, float32 (h, w, 3) in [0, 1]: transparency laid over the `alpha` ground."""
    values = item[setup.low_res_key(item)]
    assert isinstance(values, torch.Tensor)
    options = setup.datasets[phase].options
    small = to_rgb(values, options.rgb_n1_to_1)
    if traits is None or traits.alpha is None:
        return small
    ground = np.float32(0.0 if options.alpha == "black" else 1.0)
    alpha = traits.alpha[..., None]
    return small * alpha + ground * (1 - alpha)


def batch_of(item: Item) -> dict[str, Any]:
    """The state of a batch of this item alone."""
    return {key: value[None] if isinstance(value, torch.Tensor) else [value] for key, value in item.items()}


def strengths_in_words(item: Item) -> str:
    """The strengths that the network is told of an item."""
    values = item.get("corruption_entropy")
    if not isinstance(values, torch.Tensor) or not len(values):
        return "none"
    if values.ndim == 1:
        return ", ".join(f"{value:g}" for value in values.tolist())
    spans = [(float(plane.min()), float(plane.max())) for plane in values]
    return ", ".join(f"{low:g}" if low == high else f"{low:.2f} to {high:.2f} (map)" for low, high in spans)
