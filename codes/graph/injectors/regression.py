"""Restoring with a network that answers at once, without diffusion: on images of any size, tile by tile."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor

from ...config.yaml_source import Issue
from ...models.diffusion.denoiser import Denoiser
from ...models.diffusion.engine import Engine
from ...models.diffusion.networks.backbone import resized
from ...models.diffusion.networks.base import DiffusionNetwork
from ...models.diffusion.networks.graphed import Graphed
from ...models.diffusion.prediction import Prediction
from ...models.diffusion.process_options import DiffusionArgs, ProcessOptions
from ...models.diffusion.sampling_checks import tile_problems
from ...models.diffusion.sampling_options import SamplingOptions, TilingOptions
from ...utils.errors import ConfigError
from ..graph import INJECTORS, StepContext
from ..node_options import TiledOptions
from .generator import plain_network_problems
from .tiled import TiledInjector

# The one step of an engine whose denoiser knows the clean image: from anywhere to its answer, without noise.
PROCESS = ProcessOptions(diffusion_args=DiffusionArgs(model_mean_type="start_x", model_var_type="fixed_small"))
ONE_STEP = SamplingOptions(respaced_timestep_spacing="trailing1", sampler="ddim", noise_type="zero")


class RegressionOptions(TiledOptions):
    """Options of `regression`."""

    generator: str = Field(description="Name of the network that restores, as the injector `generator` trained it.")
    timestep: int = Field(0, ge=0, description="The timestep that the network is told: the same as in training.")

    @property
    def method(self) -> str:
        return "one pass"

    def problems(self, networks: Mapping[str, DiffusionNetwork]) -> list[Issue]:
        taken = networks[self.generator].cond_names if self.generator in networks else frozenset({"low_res"})
        # A network that takes no low_res is given it as its image alone.
        further = {name: key for name, key in self.model_input_keys.items() if name != "low_res" or name in taken}
        issues = plain_network_problems(self.generator, further, networks)
        if self.generator in networks:
            network = networks[self.generator]
            issues += tile_problems(self, self.generator, network, self.output_scale_factor)
        if not self.restores and "low_res" not in taken:
            issues.append(
                Issue(("model_input_keys", "low_res"), "missing; it is what is restored (low_res: lq, or hq)")
            )
        return issues


class RegressionDenoiser:
    """A network that maps the upsampled low_res to the clean image at once, as a denoiser that ignores x_t.

    So a restoration is one step from anywhere, and tiles, canvases and running out of memory are those of sampling.
    """

    def __init__(self, network: DiffusionNetwork | Graphed, timestep: int, clip: bool) -> None:
        self.network = network
        self.timestep = timestep
        self.clip = clip

    def __call__(self, x_t: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Prediction:  # noqa: ARG002
        image = resized(cond["low_res"].to(x_t.dtype), x_t, self.network.low_res_upsampling)
        timesteps = torch.full((len(x_t),), self.timestep, dtype=torch.int64, device=x_t.device)
        taken = {name: value for name, value in cond.items() if name in self.network.cond_names}
        output = self.network(image, timesteps, **taken).float()
        x_start = output.clamp(-1, 1) if self.clip else output
        return Prediction(x_start, torch.zeros_like(x_start), torch.zeros_like(x_start))


@dataclass(frozen=True)
class RegressionEngine(Engine):
    """An engine whose one step is the network's answer."""

    timestep: int = 0

    def denoiser(self) -> Denoiser:
        return RegressionDenoiser(self.ready(self.network), self.timestep, self.options.clip_denoised)


@INJECTORS.register("regression")
class RegressionInjector(TiledInjector):
    """Restores one image for every image of `low_res`, of output_scale_factor times its size, and writes `out`.

    The network is given what it was trained on: low_res upsampled in its own way (low_res_upsampling) as its image,
    and the conditioning of `model_input_keys`.
    """

    Options = RegressionOptions

    def __init__(self, options: RegressionOptions) -> None:
        self.options: RegressionOptions = options

    def engine(self, context: StepContext) -> Engine:
        options, name = self.options, self.options.generator
        if name in context.processes:
            raise ConfigError(
                f"{options.out}: {name} was trained to reverse a diffusion; restore with "
                "type: gaussian_diffusion_inference"
            )
        tiling = {key: getattr(options, key) for key in TilingOptions.model_fields}
        sampling = ONE_STEP.model_copy(update=tiling)
        process = sampling.build_process(PROCESS, name)
        return RegressionEngine(
            self.network(name, context), process, sampling, context.device, context.autocast, timestep=options.timestep
        )
