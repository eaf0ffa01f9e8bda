"""What a sweep restores again and again: one image, the networks, and the injectors that lead to one result."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...config.yaml_source import Source
from ...graph.graph import INJECTORS, Graph
from ...graph.node_options import InjectorOptions, TiledOptions
from ...images.canvas import RamCanvas, as_canvas
from ...images.colour_fix import fix_colours
from ...images.files import quantise, read_image, resize_bicubic, to_rgb
from ...images.output_size import WAYS
from ...recipe.recipe import EvalOptions, Recipe
from ...runtime.devices import Ranks
from ...utils.errors import ConfigError, DataError
from ..restoring.job import batch_of
from ..restoring.setup import Setup
from .axes import Axis, Cell

Crop = tuple[int, int, int, int]
WARM_UP = 32  # pixels of the input: enough to start the device's libraries, which must not count as a cell's time


@dataclass(frozen=True)
class SweepRequest:
    """What the command line asks for. `crop`: top, left, height, width in pixels of the input."""

    image: Path
    axes: Sequence[tuple[str, str]]
    crop: Crop | None = None
    truth: Path | None = None
    result: str | None = None
    output: Path | None = None
    yes: bool = False


class Subject:
    """The image, ready to be restored at any combination.

    Building it raises ConfigError or DataError when something does not fit.
    """

    def __init__(self, recipe: Recipe, source: Source, request: SweepRequest, root: Path) -> None:
        self.request = request
        self.phase = next(iter(recipe.datasets))
        self.setup = Setup(_of_one_image(recipe, self.phase, request.image, root), source, Ranks())
        self.node = self._chosen(request.result)
        self.injectors = self._leading_to(self.node)
        inputs = self.setup.inputs[self.phase]
        dataset = inputs.dataset
        if len(dataset) == 0:
            raise DataError("; ".join(str(line) for line in dataset.report().failed) or f"{request.image}: no image")
        self.n1_to_1: bool = inputs.options.rgb_n1_to_1
        self.key = inputs.key
        self.state, self.truth = self._state(batch_of(dataset.item(0)))

    @property
    def low_res(self) -> np.ndarray:
        """(h, w, 3) float32 in [0, 1]."""
        return to_rgb(self.state[self.key][0], self.n1_to_1)

    def bicubic(self) -> np.ndarray:
        """The low resolution as large as a result, (H, W, 3) float32 in [0, 1]."""
        scale = self.scale
        height, width = self.state[self.key].shape[-2:]
        return resize_bicubic(self.low_res, height * scale, width * scale)

    @property
    def scale(self) -> int:
        """Pixels of the result per pixel of the input."""
        height, width = self.state[self.key].shape[-2:]
        results = self.setup.chain.results(self.key, (height, width))
        return next(result.size[0] for result in results if result.key == self.node.out) // height

    def check(self, cell: Cell) -> None:
        """Raise ConfigError for steps that the process of the network does not have, and for a part of a seamless
        texture, which is none, before anything is restored."""
        if self.request.crop is not None and cell.node.wrap != "none":
            raise ConfigError(
                f"--crop: cuts a seamless texture open, and wrap is {cell.node.wrap}; leave one of them out"
            )
        cell.node.check_processes(self.setup.use.processes)

    def restore(
        self, cell: Cell, axes: Sequence[Axis], on_step: Callable[[str, int, int], None]
    ) -> tuple[np.ndarray, float]:
        """The result of one combination, uint8 (H, W, 3), and the seconds that sampling took."""
        start = time.monotonic()
        result = as_canvas(self._sampled(self._at(cell, axes), cell, on_step))
        unit = cell.node.undo_n1_to_1
        if cell.output.color_fix != "none":
            given = self.state[self.key][0]
            given = (given + 1) / 2 if self.n1_to_1 else given
            result = RamCanvas(result.rows(0, result.height).clone())
            fix_colours(result, given if unit else given * 2 - 1, cell.output.color_fix, n1_to_1=not unit)
        pixels = quantise(to_rgb(result.rows(0, result.height), not unit))
        return pixels, time.monotonic() - start

    def warm_up(self, cell: Cell) -> None:
        """One step on a corner of the image, so that the first cell is not slower than the others."""
        small = {
            key: value[..., :WARM_UP, :WARM_UP] if isinstance(value, Tensor) and value.ndim == 4 else value
            for key, value in self.state.items()
        }
        one = cell.node.in_one_step()
        self._sampled(small, replace(cell, node=one), lambda *_: None)

    def _sampled(self, state: Mapping[str, Any], cell: Cell, on_step: Callable[[str, int, int], None]) -> Any:
        nodes = {**self.injectors, "swept": cell.node}
        graph = Graph({name: INJECTORS.get(node.type)(node) for name, node in nodes.items()}, {})
        context = self.setup.use.context(on_step=on_step)
        if "seed" in cell.values:
            context = replace(context, seed=cell.values["seed"])
        return graph.inject(state, context)[cell.node.out]

    def _at(self, cell: Cell, axes: Sequence[Axis]) -> dict[str, Any]:
        """The state with the strengths of a cell."""
        names = self.corruptions
        swept = {names.index(axis.name): cell.values[axis.name] for axis in axes if axis.kind == "strength"}
        if not swept:
            return dict(self.state)
        given: Any = self.state.get("corruption_entropy")
        unset = given is None or given.shape[1] != len(names)
        strengths = torch.zeros(1, len(names)) if unset else given.clone()
        for index, value in swept.items():
            strengths[:, index] = value
        return {**self.state, "corruption_entropy": strengths}

    @property
    def read_strengths(self) -> dict[str, float]:
        """Corruption -> the strength in [0, 1] that `auto` read from the whole image; none where it is a map."""
        given = self.state.get("corruption_entropy")
        if given is None or given.ndim != 2:
            return {}
        asked = self.setup.recipe.datasets[self.phase].known_entropy or ()
        return {self.corruptions[index]: float(given[0, index]) for index, value in enumerate(asked) if value == "auto"}

    @property
    def unexplained(self) -> str:
        """What the image holds that no corruption of the estimator explains, as a sentence; empty for none."""
        return str(self.state.get("unexplained", [""])[0])

    @property
    def corruptions(self) -> list[str]:
        """Names of the strengths, in their order."""
        return list(self.setup.recipe.datasets[self.phase].corruption_names)

    def _chosen(self, result: str | None) -> TiledOptions:
        """The injector whose options are swept."""
        wanted = self.setup.chain.outputs[0] if result is None else result
        known = [node.out for node in self.setup.chain.nodes]
        if wanted not in known:
            raise ConfigError(f"--result {wanted}: no injector writes it (there are: {', '.join(known)})")
        return self.setup.chain.node(wanted)

    def _leading_to(self, node: TiledOptions) -> dict[str, InjectorOptions]:
        """The other injectors whose results this one needs, in order."""
        every = [
            (f"{step}.{name}", other)
            for step, options in self.setup.recipe.steps.items()
            for name, other in options.injectors.items()
            if not other.train
        ]
        needed = set(node.reads().values())
        chosen: dict[str, InjectorOptions] = {}
        for name, other in reversed(every[: [other for _, other in every].index(node)]):
            if needed & set(other.writes().values()):
                chosen[name] = other
                needed |= set(other.reads().values())
        return dict(reversed(chosen.items()))

    def _state(self, batch: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray | None]:
        """The state, cut to the crop, and the ground truth (H, W, 3) float32 where there is one."""
        self.state = batch
        scale, low = self.scale, batch[self.key].shape[-2:]
        truth = self._truth(batch, low[0] * scale, low[1] * scale)
        if self.request.crop is None:
            return batch, truth
        y, x, height, width = _checked(self.request.crop, *low)
        cut = {
            key: value[..., y : y + height, x : x + width]
            if isinstance(value, Tensor) and value.ndim == 4 and value.shape[-2:] == low
            else value
            for key, value in batch.items()
        }
        if truth is not None:
            truth = truth[y * scale : (y + height) * scale, x * scale : (x + width) * scale]
        return cut, truth

    def _truth(self, batch: Mapping[str, Any], height: int, width: int) -> np.ndarray | None:
        made = self.key != "hq" and "hq" in batch
        if self.request.truth is None:
            return to_rgb(batch["hq"][0], self.n1_to_1) if made else None
        if made:
            raise ConfigError(
                "--truth: this recipe makes its low resolution from the image, which is the truth; remove it"
            )
        if not self.request.truth.is_file():
            raise ConfigError(f"--truth {self.request.truth}: no such file")
        truth = read_image(self.request.truth).rgb
        if truth.shape[:2] != (height, width):
            truth_size = f"{truth.shape[1]}x{truth.shape[0]}"
            raise DataError(f"--truth {self.request.truth}: is {truth_size} pixels, but the result is {width}x{height}")
        return truth


def _of_one_image(recipe: Recipe, phase: str, image: Path, root: Path) -> Recipe:
    """The recipe with this image as its only data, and nothing to evaluate."""
    dataset = recipe.datasets[phase]
    update: dict[str, Any] = {"paths": str(image)}
    if "ground_truth" in type(dataset).model_fields:
        update["ground_truth"] = None
    evaluation = EvalOptions(output_state=recipe.eval.output_state)
    path = recipe.path.model_copy(update={"results": str(root)})
    # A sweep shows what the networks make, at their own scale.
    output = recipe.output.model_copy(update=dict.fromkeys(WAYS))
    data = {phase: dataset.model_copy(update=update)}
    changes = {"datasets": data, "eval": evaluation, "path": path, "output": output}
    return recipe.model_copy(update=changes)


def _checked(crop: Crop, height: int, width: int) -> Crop:
    y, x, rows, columns = crop
    if min(y, x) < 0 or min(rows, columns) < 1 or y + rows > height or x + columns > width:
        raise ConfigError(
            f"--crop {','.join(map(str, crop))}: top,left,height,width must lie within the input of {height} rows and "
            f"{width} columns"
        )
    return crop
