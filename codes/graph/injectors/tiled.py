"""What injectors that make images of any size have in common: requests to an engine, tile by tile."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor

from ...config.options import FilePart
from ...config.yaml_source import KeyPath
from ...images.canvas import Canvas
from ...images.enforced import LEAST
from ...models.diffusion.engine import Engine, Request
from ...models.diffusion.networks.base import DiffusionNetwork
from ...models.diffusion.sampling_options import TilingOptions
from ...utils.console import get_logger, warn_once
from ...utils.errors import ConfigError
from ...utils.rng import image_seed
from ..graph import INJECTORS, Injector, InjectorOptions, State, StepContext

logger = get_logger(__name__)


class TiledOptions(InjectorOptions, TilingOptions):
    """Options of an injector that makes images of any size."""

    needs_n1_to_1: ClassVar[bool] = True

    generator: str | tuple[str, ...] = Field(description="Name of the network that makes the images.")
    output_batch_size: int | None = Field(
        None, ge=1, description="At most this many images of a batch are made; ~ makes all."
    )
    output_scale_factor: int = Field(1, ge=1, le=1024, description="Output pixels per pixel of low_res.")
    model_input_keys: dict[str, str] = Field({}, description="Network argument -> state key, e.g. low_res: hq.")
    undo_n1_to_1: bool = Field(False, description="Write the result in [0, 1] instead of [-1, 1].")
    out: FilePart = Field(description="State key of the images that are made, (B, C, H, W).")

    @property
    def tiled(self) -> Self:
        return self

    @property
    def generators(self) -> tuple[str, ...]:
        """The networks, in the order of the experts."""
        return (self.generator,) if isinstance(self.generator, str) else self.generator

    @property
    def restores(self) -> bool:
        """Whether the images are made from others."""
        return "low_res" in self.model_input_keys

    @property
    def scale(self) -> int:
        """Pixels of the result per pixel of what it is made from."""
        return self.output_scale_factor if self.restores else 1

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of images that are made from nothing, None for the network's own."""
        return None

    @property
    def one_noise(self) -> bool:
        """Whether all images start from the same noise."""
        return False

    @property
    def draws(self) -> bool:
        """Whether another sample of an image is another image."""
        return False

    @property
    def method(self) -> str:
        """How an image is made, in a few words."""
        raise NotImplementedError

    def method_under(self, processes: Mapping[str, Any]) -> str:  # noqa: ARG002 - some change with what was trained
        """The same of networks that were trained under these processes."""
        return self.method

    def reads(self) -> dict[KeyPath, str]:
        return {("model_input_keys", name): key for name, key in self.model_input_keys.items()}

    def writes(self) -> dict[KeyPath, str]:
        return {("out",): self.out}

    def networks(self) -> tuple[str, ...]:
        return self.generators

    def check_processes(self, processes: Mapping[str, Any]) -> None:
        """Raise ConfigError where these options do not go with the processes that the networks were trained under."""

    def build(self) -> "TiledInjector":
        """The injector with these options."""
        made: TiledInjector = INJECTORS.get(self.type)(self)
        return made

    def in_one_step(self) -> Self:
        """The same in as little time as possible."""
        return self

    def to_unit_range(self, image: Tensor) -> Tensor:
        """What was written, in [0, 1]."""
        return torch.clamp(image if self.undo_n1_to_1 else (image + 1) / 2, 0, 1)


class TiledInjector(Injector):
    """Makes one image for every image of `low_res`, of output_scale_factor times its size, and writes `out`.

    Without `low_res` it makes one image for every sample of the batch. With `canvas: disk` a state holds one image, and
    `out` is a Canvas.
    """

    Options: ClassVar[type[TiledOptions]]
    options: TiledOptions
    on_device = False  # only tiles of its images go there

    @abstractmethod
    def engine(self, context: StepContext) -> Engine:
        """What makes the images. Raises ConfigError where options and networks do not go together."""

    def network(self, name: str, context: StepContext) -> DiffusionNetwork:
        """A network by its name, with averaged weights where these are wanted and there."""
        averaged = self.options.use_ema and name in context.ema_networks
        return context.ema_networks[name] if averaged else context.networks[name]

    def __call__(self, state: State, context: StepContext) -> dict[str, Any]:
        return self.many([state], [context])[0]

    def many(self, states: Sequence[State], contexts: Sequence[StepContext]) -> list[dict[str, Any]]:
        """Images of all states are sampled together, so that their tiles share batches."""
        options, engine, on_event = self.options, self.engine(contexts[0]), contexts[0].on_event
        requests = [self._requests(state, context, engine) for state, context in zip(states, contexts, strict=True)]
        flat = [request for some in requests for request in some]
        networks = (engine.network, *engine.experts)
        modes = [network.training for network in networks]
        try:
            for network in networks:
                network.eval()
            restored = engine.restore(flat, self.options.scale, self._progress(engine, flat, contexts), on_event)
        finally:
            for network, mode in zip(networks, modes, strict=True):
                network.train(mode)
        canvases = iter(restored)
        return [{options.out: self._joined([next(canvases) for _ in some])} for some in requests]

    def tolerance(self, cond: Mapping[str, Tensor], context: StepContext) -> Tensor | float:  # noqa: ARG002
        """How far the image made from this conditioning, of one sample, may lie from low_res in the low frequencies."""
        return LEAST

    def _requests(self, state: State, context: StepContext, engine: Engine) -> list[Request]:
        """One for each image of a state."""
        options = self.options
        cond = {name: state[key][: options.output_batch_size].cpu() for name, key in options.model_input_keys.items()}
        if "corruption_factor" in cond and cond["corruption_factor"].shape[1] == 0:
            warn_once(
                logger, options.out, f"{options.out}: no strengths are set (fixed_parameters), so 0 (clean) is assumed"
            )
            del cond["corruption_factor"]
        side = engine.network.image_size
        height, width = options.size or (side, side)
        if "low_res" in cond:
            height, width = (length * self.options.scale for length in cond["low_res"].shape[-2:])
        count = len(next(iter(cond.values()))) if cond else len(context.positions[: options.output_batch_size])
        seeds = image_seeds(state, context, count, options.one_noise)
        scratch = context.scratch and context.scratch / options.out  # the results of other injectors lie beside it
        return [
            Request(
                {name: value[row : row + 1] for name, value in cond.items()}, height, width, seed,
                scratch / str(row) if scratch and count > 1 else scratch,
                context.passes.get(options.out, 1),
                self.tolerance({name: value[row] for name, value in cond.items()}, context),
            )
            for row, seed in enumerate(seeds)
        ]  # fmt: skip

    def _progress(
        self, engine: Engine, requests: Sequence[Request], contexts: Sequence[StepContext]
    ) -> Callable[[float], None]:
        total = engine.tile_steps(requests, self.options.scale)
        listeners = list(dict.fromkeys(context.on_step for context in contexts if context.on_step))

        def tell(share: float) -> None:
            for listener in listeners:
                listener(self.options.out, round(share * total), total)

        return tell

    def _joined(self, canvases: Sequence[Canvas]) -> Tensor | Canvas:
        """The images of a state: a tensor (B, C, H, W), or the canvas on disk."""
        if self.options.undo_n1_to_1:
            for canvas in canvases:
                for y0, y1 in canvas.bands():
                    canvas.write(y0, (canvas.rows(y0, y1) + 1) / 2)
        if self.options.canvas == "disk":
            if len(canvases) > 1:
                raise ConfigError(f"{self.options.out}: canvas: disk takes one image at a time, found {len(canvases)}")
            return canvases[0]
        whole = [canvas.rows(0, canvas.height) for canvas in canvases]
        return whole[0][None] if len(whole) == 1 else torch.stack(whole)


def image_seeds(state: State, context: StepContext, count: int, shared: bool) -> list[int]:
    """A seed per image: of its name, so that the other images change nothing, else of its position."""
    images = state.get("image_name", context.positions)
    return [image_seed(context.seed, None if shared else image, context.sample) for image in images[:count]]
