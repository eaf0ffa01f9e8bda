"""Sampling as an injector: restore or generate the images of a state."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from ...config.options import FilePart, nested
from ...config.yaml_source import Issue, KeyPath
from ...images.canvas import Canvas
from ...models.diffusion.engine import Engine, Request
from ...models.diffusion.networks.base import DiffusionNetwork
from ...models.diffusion.sampling_checks import sampling_problems
from ...models.diffusion.sampling_options import SamplingOptions
from ...utils.console import get_logger, warn_once
from ...utils.errors import ConfigError
from ...utils.rng import image_seed
from ..graph import INJECTORS, Injector, InjectorOptions, State, StepContext
from .gaussian_diffusion import conditioning_problems

logger = get_logger(__name__)
ALIKE = ("in_channels", "out_channels", "image_size", "multiple_of", "minimum_size", "null_label", "cond_names")


class GaussianDiffusionInferenceOptions(InjectorOptions, SamplingOptions):
    """Options of `gaussian_diffusion_inference`."""

    generator: str | tuple[str, ...] = Field(
        description="Name of the network that is sampled from; a list of experts with `snr_splits`, that for the "
        "cleanest images first."
    )
    snr_splits: tuple[float, ...] = Field(
        (), description="Signal-to-noise ratios, descending, at which the next expert takes over; one fewer than them."
    )
    output_batch_size: int | None = Field(
        None, ge=1, description="At most this many images of a batch are sampled; ~ samples all."
    )
    output_scale_factor: int = Field(1, ge=1, description="Output pixels per pixel of low_res.")
    output_size: int | tuple[int, int] | None = Field(
        None,
        description="Without low_res: side, or [height, width], of the generated images in pixels; ~ is the size the "
        "network was trained at.",
    )
    model_input_keys: dict[str, str] = Field({}, description="Network argument -> state key, e.g. low_res: hq.")
    undo_n1_to_1: bool = Field(False, description="Write the result in [0, 1] instead of [-1, 1].")
    out: FilePart = Field(description="State key of the sampled images, (B, C, H, W).")

    @model_validator(mode="after")
    def _experts_and_sizes(self) -> Self:
        issues = []
        if len(self.snr_splits) != len(self.generators) - 1:
            found = f"{len(self.snr_splits)} for {len(self.generators)} networks"
            issues.append(Issue(("snr_splits",), f"{found}; give one fewer than the networks that `generator` lists"))
        if self.output_size is not None and "low_res" in self.model_input_keys:
            issues.append(Issue(("output_size",), "is for generation; with low_res the size follows from the image"))
        if self.output_size is not None and min(self.size or (1,)) < 1:
            issues.append(Issue(("output_size",), f"must be at least 1 pixel, found {self.output_size}"))
        if issues:
            raise nested(issues)
        return self

    @property
    def generators(self) -> tuple[str, ...]:
        """The networks, in the order of the experts."""
        return (self.generator,) if isinstance(self.generator, str) else self.generator

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of generated images, None for the network's own."""
        size = self.output_size
        return (size, size) if isinstance(size, int) else size

    def reads(self) -> dict[KeyPath, str]:
        return {("model_input_keys", name): key for name, key in self.model_input_keys.items()}

    def writes(self) -> dict[KeyPath, str]:
        return {("out",): self.out}

    def problems(self, networks: Mapping[str, DiffusionNetwork]) -> list[Issue]:
        issues: dict[Issue, None] = {}
        for name in self.generators:
            issues |= dict.fromkeys(conditioning_problems(name, self.model_input_keys, networks))
            if name in networks:
                issues |= dict.fromkeys(sampling_problems(self, name, networks[name], self.output_scale_factor))
        found = [networks[name] for name in self.generators if name in networks]
        issues |= dict.fromkeys(_differences(found, self.generators))
        for network in found[:1]:
            needs_image = "low_res" in network.cond_names and "low_res" not in self.model_input_keys
            if needs_image:
                message = "missing; this network restores images (low_res: lq, or low_res: hq with skip_lq)"
                issues[Issue(("model_input_keys", "low_res"), message)] = None
        return list(issues)


def _differences(networks: Sequence[DiffusionNetwork], names: Sequence[str]) -> list[Issue]:
    """Experts that cannot stand in for each other."""
    different = [
        (name, trait, getattr(other, trait), getattr(networks[0], trait))
        for other, name in zip(networks[1:], names[1:], strict=False)
        for trait in ALIKE
        if getattr(other, trait) != getattr(networks[0], trait)
    ]
    return [
        Issue(("generator",), f"{name} and {names[0]} cannot be experts of one model: {trait} is {own} and {first}")
        for name, trait, own, first in different
    ]


@INJECTORS.register("gaussian_diffusion_inference")
class GaussianDiffusionInferenceInjector(Injector):
    """Samples one image for every image of `low_res`, of output_scale_factor times its size, and writes `out`.

    Without `low_res` it generates one image for every sample of the batch, of `output_size`. With `canvas: disk` a
    state holds one image, and `out` is a Canvas.
    """

    Options = GaussianDiffusionInferenceOptions

    def __init__(self, options: GaussianDiffusionInferenceOptions) -> None:
        self.options = options

    def __call__(self, state: State, context: StepContext) -> dict[str, Any]:
        return self.many([state], [context])[0]

    def many(self, states: Sequence[State], contexts: Sequence[StepContext]) -> list[dict[str, Any]]:
        """Images of all states are sampled together, so that their tiles share batches."""
        options, engine = self.options, self.engine(contexts[0])
        requests = [self._requests(state, context, engine) for state, context in zip(states, contexts, strict=True)]
        flat = [request for some in requests for request in some]
        networks = (engine.network, *engine.experts)
        modes = [network.training for network in networks]
        try:
            for network in networks:
                network.eval()
            found = engine.restore(flat, self._scale, self._progress(engine, flat, contexts), contexts[0].on_event)
        finally:
            for network, mode in zip(networks, modes, strict=True):
                network.train(mode)
        canvases = iter(found)
        return [{options.out: self._joined([next(canvases) for _ in some])} for some in requests]

    @property
    def _scale(self) -> int:
        return self.options.output_scale_factor if "low_res" in self.options.model_input_keys else 1

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
            height, width = (length * self._scale for length in cond["low_res"].shape[-2:])
        count = len(next(iter(cond.values()))) if cond else len(context.positions[: options.output_batch_size])
        seeds = image_seeds(state, context, count, shared=options.noise_type == "fixed")
        scratch = context.scratch and context.scratch / options.out  # the results of other injectors lie beside it
        return [
            Request(
                {name: value[row : row + 1] for name, value in cond.items()}, height, width, seed,
                scratch / str(row) if scratch and count > 1 else scratch,
            )
            for row, seed in enumerate(seeds)
        ]  # fmt: skip

    def _progress(
        self, engine: Engine, requests: Sequence[Request], contexts: Sequence[StepContext]
    ) -> Callable[[float], None]:
        total = engine.tile_steps(requests, self._scale)
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

    def engine(self, context: StepContext) -> Engine:
        """The network with the process it was trained under, respaced."""
        options, names = self.options, self.options.generators
        known = {**context.networks, **(context.ema_networks if options.use_ema else {})}
        networks = [known[name] for name in names]
        trained = [context.processes.get(name) for name in names]
        if options.beta_schedule is None or options.diffusion_args is None:
            odd = next((name for name, other in zip(names, trained, strict=True) if other != trained[0]), None)
            if odd is not None:
                raise ConfigError(
                    f"{options.out}: {odd} was trained under another process than {names[0]}, so the two cannot share "
                    "one sampling; set beta_schedule and diffusion_args if they belong together all the same"
                )
        process = options.build_process(trained[0], names[0])
        rest, splits = tuple(networks[1:]), options.snr_splits
        suited = options.suited_to(trained[0])
        return Engine(networks[0], process, suited, context.device, context.autocast, rest, splits)


def image_seeds(state: State, context: StepContext, count: int, shared: bool) -> list[int]:
    """A seed per image: of its name, so that the other images change nothing, else of its position."""
    images = state.get("image_name", context.positions)
    return [image_seed(context.seed, None if shared else image, context.sample) for image in images[:count]]


def to_unit_range(image: Tensor, options: InjectorOptions) -> Tensor:
    """What an inference injector wrote, in [0, 1]."""
    assert isinstance(options, GaussianDiffusionInferenceOptions)
    return torch.clamp(image if options.undo_n1_to_1 else (image + 1) / 2, 0, 1)
