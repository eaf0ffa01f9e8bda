"""Restoring with a network that answers at once, without diffusion: on images of any size, tile by tile."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from ...config.options import nested
from ...config.yaml_source import Issue
from ...models.diffusion.denoiser import Denoiser
from ...models.diffusion.engine import Engine
from ...models.diffusion.networks.backbone import resized
from ...models.diffusion.networks.base import DiffusionNetwork
from ...models.diffusion.prediction import Prediction
from ...models.diffusion.process_options import BetaScheduleOptions, DiffusionArgs
from ...models.diffusion.sampling_checks import sampling_problems
from ...models.diffusion.sampling_options import SamplerName
from ...utils.errors import ConfigError
from ..graph import INJECTORS, InjectorOptions, StepContext
from .gaussian_diffusion_inference import GaussianDiffusionInferenceInjector, GaussianDiffusionInferenceOptions
from .generator import plain_network_problems

NO_DIFFUSION = "is for diffusion, and a regression draws nothing; remove this key"
OWN = {
    "generator", "model_input_keys", "timestep", "output_batch_size", "output_scale_factor", "undo_n1_to_1", "out",
    "clip_denoised", "use_ema", "tile", "tile_overlap", "tile_batch_size", "canvas", *InjectorOptions.model_fields,
}  # fmt: skip


class RegressionOptions(GaussianDiffusionInferenceOptions):
    """Options of `regression`: those of sampling that concern tiles and keys. The others have their one value."""

    generator: str = Field(description="Name of the network that restores, as the injector `generator` trained it.")
    timestep: int = Field(0, ge=0, description="The timestep that the network is told: the same as in training.")
    beta_schedule: BetaScheduleOptions | None = Field(BetaScheduleOptions(), description="Fixed; not to be set.")
    diffusion_args: DiffusionArgs | None = Field(
        DiffusionArgs(model_mean_type="start_x", model_var_type="fixed_small"), description="Fixed; not to be set."
    )
    respaced_timestep_spacing: int | str | tuple[int, ...] | None = Field(
        "trailing1", description="Fixed, one step; not to be set."
    )
    sampler: SamplerName | None = Field("ddim", description="Fixed; not to be set.")
    noise_type: Literal["random", "fixed", "zero"] = Field("zero", description="Fixed; not to be set.")

    @model_validator(mode="after")
    def _no_diffusion(self) -> Self:
        wrong = [name for name in self.all_keys() if name in self.model_fields_set and name not in OWN]
        if wrong:
            raise nested([Issue((name,), NO_DIFFUSION) for name in wrong])
        return self

    def problems(self, networks: Mapping[str, DiffusionNetwork]) -> list[Issue]:
        taken = networks[self.generator].cond_names if self.generator in networks else frozenset({"low_res"})
        # A network that takes no low_res is given it as its image alone.
        further = {name: key for name, key in self.model_input_keys.items() if name != "low_res" or name in taken}
        issues = plain_network_problems(self.generator, further, networks)
        if self.generator in networks:
            network = networks[self.generator]
            issues += sampling_problems(self, self.generator, network, self.output_scale_factor)
        if "low_res" not in self.model_input_keys and "low_res" not in taken:
            issues.append(
                Issue(("model_input_keys", "low_res"), "missing; it is what is restored (low_res: lq, or hq)")
            )
        return issues


class RegressionDenoiser:
    """A network that maps the upsampled low_res to the clean image at once, as a denoiser that ignores x_t.

    So a restoration is one step from anywhere, and tiles, canvases and running out of memory are those of sampling.
    """

    def __init__(self, network: DiffusionNetwork, timestep: int, clip: bool) -> None:
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
        return RegressionDenoiser(self.network, self.timestep, self.options.clip_denoised)


@INJECTORS.register("regression")
class RegressionInjector(GaussianDiffusionInferenceInjector):
    """Restores one image for every image of `low_res`, of output_scale_factor times its size, and writes `out`.

    The network is given what it was trained on: low_res upsampled in its own way (low_res_upsampling) as its image,
    and the conditioning of `model_input_keys`.
    """

    Options = RegressionOptions  # type: ignore[assignment]  # constructors are compared, though only read here

    def __init__(self, options: RegressionOptions) -> None:
        super().__init__(options)
        self.timestep = options.timestep

    def engine(self, context: StepContext) -> Engine:
        name = self.options.generators[0]
        if name in context.processes:
            raise ConfigError(
                f"{self.options.out}: {name} was trained to reverse a diffusion; restore with "
                "type: gaussian_diffusion_inference"
            )
        plain = super().engine(context)
        return RegressionEngine(
            plain.network, plain.process, plain.options, plain.device, plain.autocast, timestep=self.timestep
        )
