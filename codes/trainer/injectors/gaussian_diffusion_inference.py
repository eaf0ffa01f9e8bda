"""Sampling as an injector: restore or generate the images of a state."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from ...models.diffusion.networks import DiffusionNetwork
from ...utils.console import get_logger, warn_once
from ...utils.rng import derive_seed
from ...utils.yaml_source import Issue, KeyPath
from ..graph import INJECTORS, Injector, InjectorOptions, State, StepContext
from ..sampling import Engine, SamplingOptions
from .gaussian_diffusion import conditioning_problems, sampling_problems

logger = get_logger(__name__)
PATH_KEYS = ("LQ_path", "HQ_path")


class GaussianDiffusionInferenceOptions(SamplingOptions, InjectorOptions):
    """Options of `gaussian_diffusion_inference`."""

    generator: str = Field(description="Name of the network that is sampled from.")
    output_batch_size: int | None = Field(
        None, ge=1, description="At most this many images of a batch are sampled; ~ samples all."
    )
    output_scale_factor: int = Field(1, ge=1, description="Output pixels per pixel of low_res.")
    model_input_keys: dict[str, str] = Field({}, description="Network argument -> state key, e.g. low_res: hq.")
    undo_n1_to_1: bool = Field(False, description="Write the result in [0, 1] instead of [-1, 1].")
    out: str = Field(description="State key of the sampled images, (B, C, H, W).")

    def reads(self) -> dict[KeyPath, str]:
        return {("model_input_keys", name): key for name, key in self.model_input_keys.items()}

    def writes(self) -> dict[KeyPath, str]:
        return {("out",): self.out}

    def problems(self, networks: Mapping[str, DiffusionNetwork]) -> list[Issue]:
        issues = conditioning_problems(self.generator, self.model_input_keys, networks)
        issues += sampling_problems(self, self.generator, networks, self.output_scale_factor)
        if "low_res" not in self.model_input_keys:
            message = (
                "missing; restoration needs it (low_res: lq, or low_res: hq with skip_lq); "
                "sampling without an image is not available yet"
            )
            issues.append(Issue(("model_input_keys", "low_res"), message))
        return issues


@INJECTORS.register("gaussian_diffusion_inference")
class GaussianDiffusionInferenceInjector(Injector):
    """Samples one image for every image of `low_res`, of output_scale_factor times its size, and writes `out`."""

    Options = GaussianDiffusionInferenceOptions

    def __init__(self, options: GaussianDiffusionInferenceOptions) -> None:
        self.options = options

    def __call__(self, state: State, context: StepContext) -> dict[str, Any]:
        options = self.options
        engine = self.engine(context)
        cond = {name: state[key][: options.output_batch_size].cpu() for name, key in options.model_input_keys.items()}
        if "corruption_factor" in cond and cond["corruption_factor"].shape[1] == 0:
            warn_once(
                logger, options.out, f"{options.out}: no strengths are set (fixed_parameters), so 0 (clean) is assumed"
            )
            del cond["corruption_factor"]
        low_res, scale = cond["low_res"], options.output_scale_factor
        height, width = low_res.shape[-2] * scale, low_res.shape[-1] * scale
        seeds = image_seeds(state, context, len(low_res), shared=options.noise_type == "fixed")
        total = engine.process.num_timesteps
        result: Tensor | None = None
        was_training = engine.network.training
        engine.network.eval()
        try:
            for step in engine.sample(cond, height, width, scale, seeds, context.on_event):
                result = step.x_t
                if context.on_step:
                    context.on_step(options.out, step.index + 1, total)
        finally:
            engine.network.train(was_training)
        assert result is not None
        return {options.out: (result + 1) / 2 if options.undo_n1_to_1 else result}

    def engine(self, context: StepContext) -> Engine:
        """The network with the process it was trained under, respaced."""
        options, name = self.options, self.options.generator
        networks = {**context.networks, **(context.ema_networks if options.use_ema else {})}
        process = options.build_process(context.processes.get(name), name)
        return Engine(networks[name], process, options, context.device, context.autocast)


def image_seeds(state: State, context: StepContext, count: int, shared: bool) -> list[int]:
    """A seed per image: of its file name, so that the other files of a folder change nothing, else of its position."""
    if shared:
        return [derive_seed(context.seed, "sample")] * count
    paths = next((state[key] for key in PATH_KEYS if key in state), None)
    names = [Path(path).name for path in paths] if paths else list(context.positions)
    return [derive_seed(context.seed, "sample", name) for name in names[:count]]


def to_unit_range(image: Tensor, options: InjectorOptions) -> Tensor:
    """What an inference injector wrote, in [0, 1]."""
    assert isinstance(options, GaussianDiffusionInferenceOptions)
    return torch.clamp(image if options.undo_n1_to_1 else (image + 1) / 2, 0, 1)
