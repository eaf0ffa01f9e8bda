"""What injectors that make images of any size have in common: requests to an engine, tile by tile."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...images.canvas import Canvas
from ...images.enforced import LEAST
from ...models.diffusion.engine import Engine
from ...models.diffusion.networks.base import DiffusionNetwork
from ...models.diffusion.request import Request
from ...utils.console import get_logger, warn_once
from ...utils.errors import ConfigError
from ...utils.rng import image_seed
from ..graph import INJECTORS, Injector, State, StepContext
from ..node_options import TiledOptions

logger = get_logger(__name__)


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
        cond = {name: _taken(state[key], options.output_batch_size) for name, key in options.model_input_keys.items()}
        factor = cond.get("corruption_factor")
        if isinstance(factor, Tensor) and factor.shape[1] == 0:
            warn_once(
                logger, options.out, f"{options.out}: no strengths are set (fixed_parameters), so 0 (clean) is assumed"
            )
            del cond["corruption_factor"]
        side = engine.network.image_size
        height, width = options.size or (side, side)
        if "low_res" in cond:
            height, width = (length * self.options.scale for length in cond["low_res"][:1][0].shape[-2:])
        count = len(next(iter(cond.values()))) if cond else len(context.positions[: options.output_batch_size])
        seeds = image_seeds(state, context, count, options.one_noise)
        scratch = context.scratch and context.scratch / options.out  # the results of other injectors lie beside it
        return [
            Request(
                {name: _of_row(value, row) for name, value in cond.items()}, height, width, seed,
                scratch / str(row) if scratch and count > 1 else scratch,
                context.passes.get(options.out, 1),
                self.tolerance({name: v[row] for name, v in cond.items() if isinstance(v, Tensor)}, context),
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


def tiled_injector(options: TiledOptions) -> TiledInjector:
    """The injector with these options."""
    made: TiledInjector = INJECTORS.get(options.type)(options)
    return made


def _taken(value: Tensor | list[Canvas], count: int | None) -> Tensor | list[Canvas]:
    """The first images of a state in host memory, or as the canvases that they are."""
    return value[:count] if isinstance(value, list) else value[:count].cpu()


def _of_row(value: Tensor | list[Canvas], row: int) -> Tensor | Canvas:
    """What one image is told, (1, ...), or the canvas that it is made from."""
    return value[row] if isinstance(value, list) else value[row : row + 1]


def image_seeds(state: State, context: StepContext, count: int, shared: bool) -> list[int]:
    """A seed per image: of its name, so that the other images change nothing, else of its position."""
    images = state.get("image_name", context.positions)
    return [image_seed(context.seed, None if shared else image, context.sample) for image in images[:count]]
