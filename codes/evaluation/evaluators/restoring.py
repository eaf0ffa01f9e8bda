"""The restored images of a dataset, sampled from a network or made by injectors: what several evaluators measure."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, model_validator

from ...config.options import OneOf, nested
from ...config.yaml_source import Issue, KeyPath
from ...data.datasets import DATASETS, DatasetOptions
from ...graph.graph import INJECTORS, StepContext, check_keys
from ...graph.injectors.gaussian_diffusion_inference import GaussianDiffusionInferenceOptions
from ...graph.node_options import InjectorOptions, TiledOptions
from ...graph.step_graph import StepGraph, running_injectors
from ...graph.step_options import StepOptions
from ...images.canvas import Canvas, as_canvas
from ...images.files import quantise, to_image, to_rgb
from ...models.diffusion.networks.base import DiffusionNetwork
from ...models.diffusion.sampling_options import SamplingOptions
from ...runtime.devices import to_device
from ...utils.console import get_logger, progress, warn_once
from ...utils.errors import ConfigError
from .base import EvaluatorOptions

logger = get_logger(__name__)
Pixels = npt.NDArray[np.uint8]
SAMPLED = "sample"  # name of the injector that stands for `diffusion_params`


class ImagesOptions(EvaluatorOptions):
    """A dataset and how the images to measure are made from its items."""

    dataset: Annotated[DatasetOptions, OneOf(DATASETS, "mode")] = Field(description="Images with their ground truth.")
    use_ema: bool = Field(True, description="Measure the averaged weights where there are some.")
    batch_size: int = Field(
        4, ge=1, description="Images at once; also tiles at once, where diffusion_params sets no tile_batch_size."
    )
    max_images: int | None = Field(
        None, ge=1, description="At most this many images of the dataset, the first; ~: all."
    )

    @property
    def held_out(self) -> DatasetOptions:
        return self.dataset

    @property
    def params(self) -> SamplingOptions | None:
        """How to sample, where that is what makes the images."""
        raise NotImplementedError

    @property
    def out_key(self) -> str:
        """The state key of the images to measure."""
        raise NotImplementedError

    def nodes(self) -> dict[str, InjectorOptions]:
        """The injectors that make `out_key` from an item; the only one that samples by `params` is called SAMPLED."""
        raise NotImplementedError

    @property
    def measures_ema(self) -> bool:
        return self.use_ema and all(node.tiled.use_ema for node in self.nodes().values() if node.tiled)

    def network_names(self) -> list[str]:
        """The networks that have to be there: the one evaluated, and all that injectors run."""
        names = [self.for_network, *(name for node in self.nodes().values() for name in node.networks())]
        return list(dict.fromkeys(names))

    def problems(self, networks: Mapping[str, DiffusionNetwork]) -> list[Issue]:
        issues, provided = [], self.dataset.provides()
        if "hq" not in provided:
            issues.append(Issue(("dataset",), f"gives no ground truth hq (it has: {', '.join(sorted(provided))})"))
        if self.params is not None and not self.dataset.rgb_n1_to_1:
            message = "must be true: diffusion works on images in [-1, 1], and this dataset gives [0, 1]"
            issues.append(Issue(("dataset", "rgb_n1_to_1"), message))
        if self.for_network not in networks:
            there = ", ".join(networks) or "none"
            issues.append(Issue(("for",), f"no network {self.for_network!r} (there are: {there})"))
        return issues

    def unknown_keys(self, keys: Mapping[str, str]) -> list[Issue]:
        """Keys (network argument -> dataset key) that the dataset does not have."""
        provided = self.dataset.provides()
        return [
            Issue(
                ("model_input_keys", argument),
                f"the dataset has no key {key!r} (it has: {', '.join(sorted(provided))})",
            )
            for argument, key in keys.items()
            if key not in provided
        ]


class RestoringOptions(ImagesOptions):
    """Images sampled by `diffusion_params`, or made by `injectors`."""

    diffusion_params: SamplingOptions | None = Field(
        None, description="How to sample: steps, sampler, tiles; ~ with `injectors`, else the defaults."
    )
    model_input_keys: dict[str, str] = Field(
        {"low_res": "lq", "corruption_factor": "corruption_entropy"},
        description="Network argument -> key of the dataset, where `diffusion_params` applies.",
    )
    injectors: dict[str, Annotated[InjectorOptions, OneOf(INJECTORS, "type")]] = Field(
        {}, description="Instead of sampling: these are run on each item, in order; they write `out`."
    )
    out: str = Field("restored", description="State key of the restored image that `injectors` write.")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.injectors:
            for name in ("diffusion_params", "model_input_keys"):
                if name in self.model_fields_set and getattr(self, name) is not None:
                    raise nested([Issue((name,), "contradicts `injectors`, which make the image; remove one of them")])
        elif "out" in self.model_fields_set:
            raise nested([Issue(("out",), "names what `injectors` write; without them remove this key")])
        return self

    @property
    def params(self) -> SamplingOptions | None:
        return None if self.injectors else self.diffusion_params or SamplingOptions()

    @property
    def out_key(self) -> str:
        return self.out

    @property
    def input_keys(self) -> dict[str, str]:
        """`model_input_keys` as they apply."""
        return self.model_input_keys

    def nodes(self) -> dict[str, InjectorOptions]:
        params = self.params
        if params is None:
            return dict(self.injectors)
        chosen = {name: getattr(params, name) for name in params.model_fields_set}
        fixed = {
            "type": "gaussian_diffusion_inference",
            "generator": self.for_network,
            "model_input_keys": self.input_keys,
            "output_scale_factor": self.dataset.scale,
            "out": self.out,
        }
        node = GaussianDiffusionInferenceOptions.model_validate({"tile_batch_size": self.batch_size, **chosen, **fixed})
        return {SAMPLED: node}

    def problems(self, networks: Mapping[str, DiffusionNetwork]) -> list[Issue]:
        of_sampling = self._sampling_problems(networks) if self.params else self._injector_problems(networks)
        return list(dict.fromkeys([*super().problems(networks), *of_sampling]))

    def _sampling_problems(self, networks: Mapping[str, DiffusionNetwork]) -> list[Issue]:
        issues = self.unknown_keys(self.input_keys)
        for issue in self.nodes()[SAMPLED].problems(networks):
            top = issue.path[0] if issue.path else ""
            if top == "generator" and self.for_network not in networks:
                continue  # said already
            own = {"generator": ("for",), "model_input_keys": issue.path}
            issues.append(Issue(own.get(str(top), ("diffusion_params", *issue.path)), issue.message))
        return issues

    def _injector_problems(self, networks: Mapping[str, DiffusionNetwork]) -> list[Issue]:
        provided = dict.fromkeys(self.dataset.provides(), "dataset")
        running = running_injectors(self.injectors, None, provided)
        nodes: list[tuple[KeyPath, InjectorOptions]] = [(("injectors", name), self.injectors[name]) for name in running]
        issues, known = check_keys(nodes, provided)
        for path, node in nodes:
            issues += [Issue((*path, *issue.path), issue.message) for issue in node.problems(networks)]
        if self.out not in known:
            issues.append(Issue(("out",), f"no injector that runs writes {self.out!r} (there are: {', '.join(known)})"))
        return issues


@dataclass(frozen=True)
class Restored:
    """An item of the dataset with its restored image and its ground truth, (H, W, 3) uint8, as they would be saved."""

    position: int
    item: Mapping[str, Any]
    image: Pixels
    truth: Pixels


class ItemRestorer:
    """Makes images from the items of a dataset as options say. Raises DataError when there is no data."""

    def __init__(self, options: ImagesOptions) -> None:
        self.options = options
        self.nodes = options.nodes()
        self.graph = StepGraph(StepOptions(injectors=self.nodes))
        # Read here, so that a folder that is not there is an error at the start and not after hours.
        self.dataset: Any = DATASETS.get(options.dataset.mode)(options.dataset, seed=0, shuffle=False)
        self.n1_to_1 = options.dataset.rgb_n1_to_1

    @property
    def tiled(self) -> TiledOptions | None:
        """What makes the image tile by tile, if that is how it is made."""
        made = (node.tiled for node in self.nodes.values() if self.options.out_key in node.writes().values())
        return next(made, None)

    def __len__(self) -> int:
        return min(len(self.dataset), self.options.max_images or len(self.dataset))

    def all(self, context: StepContext, title: str) -> Iterator[Restored]:
        """Every item restored, in order, with a bar. `context` comes from `measuring`."""
        return progress(self._all(context), len(self), title)

    def truth(self, item: Mapping[str, Any]) -> Pixels:
        """(H, W, 3) uint8: the ground truth of an item."""
        return to_image(item["hq"], self.n1_to_1)

    def made(self, positions: Sequence[int], items: Sequence[Mapping[str, Any]], context: StepContext) -> list[Pixels]:
        """(H, W, 3) uint8: the image that follows from each item; all are made together."""
        with ExitStack() as stack:
            contexts = [self._context(context, position, stack) for position in positions]
            states = [self._state(item, context) for item in items]
            finished = self.graph.at(None, states[0].keys()).inject_many(states, contexts)
            names = [str(item.get("HQ_path", position)) for position, item in zip(positions, items, strict=True)]
            canvases = [as_canvas(state[self.options.out_key]) for state in finished]
            return [self._pixels(canvas, name) for canvas, name in zip(canvases, names, strict=True)]

    def _all(self, context: StepContext) -> Iterator[Restored]:
        for positions in batches(len(self), self.options.batch_size):
            items = [self.dataset.item(position) for position in positions]
            images = self.made(positions, items, context)
            for position, item, image in zip(positions, items, images, strict=True):
                truth = self.truth(item)
                if image.shape != truth.shape:
                    raise ConfigError(
                        f"evaluation: {item['HQ_path']}: {self.options.out_key} is {image.shape}, its ground truth "
                        f"{truth.shape}; check scale"
                    )
                yield Restored(position, item, image, truth)

    def _context(self, context: StepContext, position: int, stack: ExitStack) -> StepContext:
        """Each item's own position; a folder that goes when the batch is done, where canvases lie on disk."""
        scratch = None
        if any(node.tiled.canvas == "disk" for node in self.nodes.values() if node.tiled):
            scratch = Path(stack.enter_context(TemporaryDirectory(prefix="tessera-")))
        return replace(context, positions=(position,), scratch=scratch)

    def _state(self, item: Mapping[str, Any], context: StepContext) -> dict[str, Any]:
        """One item as a batch. Sampling keeps images in host memory; other injectors find them on the device."""
        device = torch.device("cpu") if SAMPLED in self.nodes else context.device
        return {
            key: to_device(value[None], device) if isinstance(value, torch.Tensor) else [value]
            for key, value in item.items()
        }

    def _pixels(self, canvas: Canvas, name: str) -> Pixels:
        """uint8 (H, W, 3) of a canvas, by bands."""
        image = np.empty((canvas.height, canvas.width, canvas.channels), np.uint8)
        for y0, y1 in canvas.bands():
            rows = canvas.rows(y0, y1)
            if not torch.isfinite(rows).all():
                warn_once(logger, f"not finite {name}", f"{name}: the restored image holds values that are not finite")
            image[y0:y1] = quantise(to_rgb(rows, self._out_n1_to_1()))
        return image

    def _out_n1_to_1(self) -> bool:
        """Whether the restored image is in [-1, 1]: sampling says it, other injectors keep the range of the data."""
        return not self.tiled.undo_n1_to_1 if self.tiled else self.n1_to_1


def batches(count: int, size: int) -> Iterator[range]:
    """The positions 0..count in parts of `size`."""
    for start in range(0, count, size):
        yield range(start, min(start + size, count))


def stacked(images: Sequence[Pixels]) -> Iterator[Pixels]:
    """Neighbouring images of one size as one array (B, H, W, 3)."""
    start = 0
    for stop in range(1, len(images) + 1):
        if stop == len(images) or images[stop].shape != images[start].shape:
            yield np.stack(images[start:stop])
            start = stop
