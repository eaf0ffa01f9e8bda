"""One image of a test run: from its file to the states that are sampled, and from their results to files."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...data.base import Item
from ...data.imagefolder import Traits
from ...graph.graph import StepContext
from ...images.bands import LARGE
from ...images.canvas import Canvas, as_canvas
from ...images.channels import Channels, FileOptions, Mean, Result, Spread, enlarged, write_channels
from ...images.colour_fix import fix_colours
from ...images.consistency import consistency
from ...images.file_canvas import FileCanvas
from ...images.files import LARGEST_SIDE, WRITERS, to_tensor
from ...images.output_size import Framing
from ...images.resampling import Resampled
from ...utils.console import get_logger, warn_once
from ...utils.errors import DataError
from ...utils.names import problem_with_length
from ..run import OnStep
from .output import SPREAD, ImageRecord, Planned
from .plan import Plan

logger = get_logger(__name__)
BAND_PIXELS = 2**21  # of a result, converted and written at once
COLOUR, ALPHA = "colour", "alpha"


@dataclass(frozen=True)
class Unit:
    """One state of an image: a sample of its colours or of its transparency."""

    sample: int
    kind: str


class Job:
    """An image that has been read. Building it raises DataError when it cannot be."""

    def __init__(self, plan: Plan, image: Planned) -> None:
        self.plan = plan
        self.image = image
        self._refuse_what_does_not_fit()
        self.item, self.traits = read_item(plan, image.phase, image.position)
        self.low_res_key = plan.low_res_key(self.item)
        self._tell_if_whole()
        size = self.low_res.shape[-2], self.low_res.shape[-1]  # where transparency was cut off, not that of the header
        self.passes = plan.sizes(size, frozenset(self.item))[1]
        self.framings = {key: plan.framing(key, size) for key in plan.outputs}
        self.n1_to_1: bool = plan.datasets[image.phase].options.rgb_n1_to_1
        self.alpha = self._alpha()
        kinds = [COLOUR, ALPHA] if self._restores_alpha() else [COLOUR]
        self.units = [Unit(sample, kind) for kind in kinds for sample in range(plan.output.num_samples)]

    def states(self) -> list[dict[str, Any]]:
        """The first state of every unit, a batch of one each."""
        colour = batch_of(self.item)
        if len(self.units) == self.plan.output.num_samples:
            return [colour for _ in self.units]
        assert self.alpha is not None
        gray = np.repeat(self.alpha[..., None], 3, axis=2)
        alpha = {**colour, self.low_res_key: to_tensor(gray, self.n1_to_1)[None]}
        return [colour if unit.kind == COLOUR else alpha for unit in self.units]

    def contexts(self, on_step: OnStep) -> list[StepContext]:
        """What the injectors get for each unit; units share no scratch folder."""
        scratch = self.plan.records.scratch(self.image) if self.image.key else None
        return [
            self.plan.use.context(
                (self.image.position,),
                on_step,
                unit.sample,
                scratch and scratch / f"{unit.sample}-{unit.kind}",
                self.passes,
            )
            for unit in self.units
        ]

    def write(self, states: Sequence[Mapping[str, Any]]) -> ImageRecord:
        """Write the results, given the state of each unit after all injectors; what is to be remembered of them."""
        image, files, sizes = self.image, dict[str, Path](), []
        consistent: dict[str, float] = {}
        for key in self.plan.outputs:
            canvases = [as_canvas(state[key]) for state in states]
            pairs = [*zip(canvases, self.units, strict=True)]
            samples, alphas = ([canvas for canvas, unit in pairs if unit.kind == kind] for kind in (COLOUR, ALPHA))
            self._fix_colours(key, samples)
            sizes.append((samples[0].height, samples[0].width))
            for part in self.plan.output.labels:
                label = self.plan.names.label(key, part)
                channels = self._channels(key, part, samples, alphas)
                write_channels(image.files[label], channels, *self._form(self.framings[key], part))
                files[label] = image.files[label]
            consistent |= self._consistency(key, samples)
        return ImageRecord(
            image.phase, image.position, image.source, image.name, image.input, image.key, files,
            (self.low_res.shape[-2], self.low_res.shape[-1]), next(iter(self.framings.values())).size, sizes[0],
            self.plan.use.seed, strengths_in_words(self.item), consistency=consistent,
        )  # fmt: skip

    @property
    def low_res(self) -> torch.Tensor | FileCanvas:
        """(3, h, w) in the dataset's range."""
        values = self.item[self.low_res_key]
        assert isinstance(values, torch.Tensor | FileCanvas)
        return values

    def _tell_if_whole(self) -> None:
        """Say why a large input is in memory where canvas: disk promises that images need not be."""
        values = self.low_res
        if not self.plan.on_disk or isinstance(values, FileCanvas) or values[0].numel() <= LARGE:
            return
        dataset = self.plan.datasets[self.image.phase]
        layout = "its format, layout or transparency (PNG and TIFF in strips are read by rows)"
        logger.warning(
            "%s: its %.0f megapixels are in memory as a whole, because of %s",
            self.image.source, values[0].numel() / 1e6, self.plan.whole_because or dataset.whole_because or layout,
        )  # fmt: skip

    def _fix_colours(self, key: str, samples: Sequence[Canvas]) -> None:
        kind = self.plan.output.color_fix
        if kind != "none":
            for sample in samples:
                fix_colours(sample, self._small_like(key), kind, n1_to_1=not self.plan.node(key).undo_n1_to_1)

    def _consistency(self, key: str, samples: Sequence[Canvas]) -> dict[str, float]:
        """Label of the page -> dB, of each sample."""
        parts = [""] if len(samples) == 1 else [str(number + 1) for number in range(len(samples))]
        named = {self.plan.names.label(key, part): sample for part, sample in zip(parts, samples, strict=True)}
        low_res, n1_to_1 = self._small_like(key), not self.plan.node(key).undo_n1_to_1
        return {label: consistency(sample, low_res, n1_to_1=n1_to_1) for label, sample in named.items()}

    def _small_like(self, key: str) -> torch.Tensor | FileCanvas:
        """The low resolution (3, h, w) in the range of a result."""
        values = self.low_res
        unit = self.plan.node(key).undo_n1_to_1
        if isinstance(values, FileCanvas):
            return values.in_range(not unit)
        if unit == (not self.n1_to_1):
            return values
        return (values + 1) / 2 if unit else values * 2 - 1

    def _channels(self, key: str, part: str, colours: Sequence[Canvas], alphas: Sequence[Canvas]) -> list[Channels]:
        """What a file is made of."""
        unit, gray = self.plan.node(key).undo_n1_to_1, self._kept_gray()
        samples = [self._framed(key, Result(canvas, unit, gray), canvas) for canvas in colours]
        if part == SPREAD:
            return [Spread(samples)]
        transparency = [self._framed(key, Result(canvas, unit, gray=True), canvas, light=False) for canvas in alphas]
        if not transparency and self.alpha is not None:
            transparency = [enlarged(self.alpha[..., None], self.framings[key])] * len(samples)
        layers = [samples, transparency] if transparency else [samples]
        if part == "mean":
            return [Mean(layer) for layer in layers]
        index = int(part or 1) - 1
        return [layer[index] for layer in layers]

    def _framed(self, key: str, picture: Result, canvas: Canvas, *, light: bool = True) -> Channels:
        """A restored image as it is written; transparency is no light."""
        output, framing = self.plan.output, self.framings[key]
        if framing == Framing(canvas.height, canvas.width):
            return picture
        return Resampled(
            picture, canvas.height, canvas.width, framing, output.resampling, light and output.linear_light,
            self.plan.node(key).wrapped,
        )  # fmt: skip

    def _form(self, framing: Framing, part: str) -> tuple[FileOptions, int]:
        """How a file is written, and the rows of a band."""
        band = max(BAND_PIXELS // framing.width, 1)
        options = FileOptions(*framing.size, 8, self.plan.output.quality, None, None)
        if part == SPREAD or self.traits is None:
            return options, band
        return replace(
            options, bit_depth=self._bit_depth(), exif=self.traits.exif, icc=self.traits.icc, dpi=self.traits.dpi
        ), band

    def _bit_depth(self) -> int:
        holds_8 = WRITERS[self.image.target.suffix.lower()] in ("JPEG", "WEBP")
        keep = self.traits is not None and self.plan.output.bit_depth == "same" and not holds_8
        return self.traits.bit_depth if keep and self.traits is not None else 8

    def _kept_gray(self) -> bool:
        return self.traits is not None and self.traits.gray

    def _alpha(self) -> np.ndarray | None:
        """The transparency that the results keep, float32 (h, w)."""
        return None if self.traits is None else self.traits.alpha

    def _restores_alpha(self) -> bool:
        """Transparency that is the same everywhere has nothing to restore."""
        return self.plan.output.alpha == "restore" and self.alpha is not None and np.ptp(self.alpha) > 0

    def _refuse_what_does_not_fit(self) -> None:
        """Before hours of work whose result no file of this name or format could hold."""
        if problem := next(filter(None, map(problem_with_length, self.image.files.values())), None):
            raise DataError(f"{self.image.source}: {problem}; shorten its name, or output.suffix")
        name = WRITERS[self.image.target.suffix.lower()]
        most = self.plan.datasets[self.image.phase].options.max_pixels
        for height, width in (framing.size for framing in self.image.framings.values()):
            if self.plan.output.resized and height * width > most:
                raise DataError(
                    f"{self.image.source}: output.{self.plan.output.in_words} asks for {width}x{height} pixels, more "
                    f"than max_pixels of its dataset, {most}"
                )
            if max(height, width) > LARGEST_SIDE.get(name, math.inf):
                raise DataError(
                    f"{self.image.source}: its result of {width}x{height} pixels is larger than {name} holds "
                    f"({LARGEST_SIDE[name]} a side); set output.format to png or tiff"
                )


def sampled(plan: Plan, jobs: Sequence[Job], on_step: OnStep) -> list[list[dict[str, Any]]]:
    """The states of every job after all injectors, one for each of its units; all are sampled together."""
    states = [state for job in jobs for state in job.states()]
    contexts = [context for job in jobs for context in job.contexts(on_step)]
    ran: list[str] = []
    for name, step in plan.steps.items():
        if step.options.runs(None, {*states[0], *ran}):
            states = step.at(None, {*states[0], *ran}).inject_many(states, contexts)
            ran.append(name)
    results = iter(states)
    return [[next(results) for _ in job.units] for job in jobs]


def read_item(plan: Plan, phase: str, position: int) -> tuple[Item, Traits | None]:
    """The item of an image, and what its results take over from its file. Raises DataError.

    The latter is None where the file is not itself what is restored; its alpha is None where it is dropped.
    """
    dataset = plan.datasets[phase]
    if not plan.is_input(phase):
        return dataset.item(position), None
    item, traits = dataset.whole(position, by_rows=plan.whole_because is None)
    if traits is None or traits.alpha is None:
        return item, traits
    target = plan.targets[phase][position]
    holds_none = WRITERS[target.suffix.lower()] == "JPEG"
    if holds_none and plan.output.alpha != "drop":
        text = f"{dataset.files[position]}: JPEG holds no transparency, so it is laid over {dataset.options.alpha}"
        warn_once(logger, f"alpha {dataset.files[position]}", text)
    if holds_none or plan.output.alpha == "drop":
        return dataset.item(position), replace(traits, alpha=None)
    return item, traits


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
    spans = [(float(strength.min()), float(strength.max())) for strength in values]
    return ", ".join(f"{low:g}" if low == high else f"{low:.2f} to {high:.2f} (map)" for low, high in spans)
