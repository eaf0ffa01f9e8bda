"""From a trained network to an image of any size: pad, plan tiles, draw the noise, run a sampler."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Self

import torch
from pydantic import AliasChoices, Field, model_validator
from torch import Tensor

from ..models.diffusion.denoiser import Denoiser, NetworkDenoiser, Prediction
from ..models.diffusion.guidance import ClassifierFree, Clipped, DynamicThreshold, EpsilonScaled
from ..models.diffusion.networks import DiffusionNetwork
from ..models.diffusion.noise import CanvasNoise
from ..models.diffusion.process import GaussianDiffusion
from ..models.diffusion.samplers import SAMPLERS, Sampler, Step, ddim
from ..models.diffusion.tile_plan import TilePlan, padded_size
from ..models.diffusion.tiling import TiledDenoiser, reflect_pad
from ..utils.errors import ConfigError
from ..utils.options import Options, nested
from ..utils.yaml_source import Issue
from .process_options import BetaScheduleOptions, DiffusionArgs, ProcessOptions, build_process

SamplerName = Literal["ancestral", "ddim", "dpm_solver_pp"]


class SamplingOptions(Options):
    """How images are sampled: shared by the inference injector and by evaluators (`diffusion_params`)."""

    beta_schedule: BetaScheduleOptions | None = Field(
        None, description="The schedule of training; ~: from the checkpoint."
    )
    diffusion_args: DiffusionArgs | None = Field(None, description="The process of training; ~: from the checkpoint.")
    respaced_timestep_spacing: int | str | tuple[int, ...] | None = Field(
        None,
        description="Sampling steps: a count (section rule), counts per section, 'ddimN', 'leadingN', 'linspaceN' or "
        "'trailingN'; ~ takes every step of training.",
    )
    stop_at_snr: float | None = Field(
        None,
        gt=0,
        description="Stop drawing detail where the signal-to-noise ratio reaches this, and take the mean from there: "
        "about 2 stays close to the input (high PSNR), 100 draws most detail; ~ draws all of it.",
    )
    sampler: SamplerName | None = Field(None, description="ancestral (default), ddim or dpm_solver_pp.")
    use_ddim: bool = Field(False, description="The same as `sampler: ddim`.")
    eta: float = Field(0.0, ge=0, le=1, description="Noise of DDIM: 0 is deterministic, 1 as noisy as ancestral.")
    clip_denoised: bool = Field(True, description="Keep every predicted x_start within [-1, 1].")
    guidance_scale: float = Field(
        1.0, ge=0, description="Classifier-free guidance: 1 is off; larger follows the condition more than was learned."
    )
    guidance_rescale: float = Field(
        0.0, ge=0, le=1, description="Moves the contrast of guided images back to that of unguided ones by this share."
    )
    guidance_low_res: float = Field(
        1.0, ge=0, le=1, description="Strength of low_res in the null pass of guidance; 1 keeps it as it is."
    )
    dynamic_threshold: bool = Field(
        False, description="Instead of clipping, divide each image by its 0.995 quantile where that exceeds 1."
    )
    epsilon_scale: float = Field(1.0, gt=0, description="Divides the predicted noise (about 1.005 is usual); 1 is off.")
    noise_type: Literal["random", "fixed", "zero"] = Field(
        "random",
        description="Start noise: each image's own, one for all, or zero (the steps' noise stays random).",
    )
    use_ema: bool = Field(
        True,
        validation_alias=AliasChoices("use_ema", "use_ema_model"),
        description="Use the averaged weights where there are some.",
    )
    tile: int | None = Field(
        None,
        ge=0,
        description="Tile side in output pixels; ~: the training size (image_size); 0 never tiles.",
    )
    tile_overlap: int | None = Field(
        None, ge=0, description="Overlap of neighbouring tiles in output pixels; ~ is a quarter of the tile."
    )
    tile_batch_size: int = Field(
        4, ge=1, description="Tiles that the device works on at once; halves by itself when memory runs out."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.use_ddim and self.sampler not in (None, "ddim"):
            raise nested([Issue(("use_ddim",), f"use_ddim: true contradicts sampler: {self.sampler}; remove one")])
        if self.eta and self.sampler_name != "ddim":
            raise nested([Issue(("eta",), f"eta belongs to the sampler ddim, found sampler {self.sampler_name}")])
        if self.guidance_scale == 1.0 and (self.guidance_rescale or self.guidance_low_res != 1.0):
            raise nested(
                [Issue(("guidance_scale",), "is 1 (off), so guidance_rescale and guidance_low_res do nothing")]
            )
        if self.tile and self.tile_overlap is not None and self.tile_overlap >= self.tile:
            raise nested(
                [Issue(("tile_overlap",), f"must be smaller than the tile of {self.tile}, found {self.tile_overlap}")]
            )
        return self

    @property
    def sampler_name(self) -> SamplerName:
        return "ddim" if self.use_ddim else self.sampler or "ancestral"

    def build_sampler(self) -> Sampler:
        return partial(ddim, eta=self.eta) if self.sampler_name == "ddim" else SAMPLERS[self.sampler_name]

    def build_process(self, trained: ProcessOptions | None, network: str) -> GaussianDiffusion:
        """The process of these options, else of training, respaced. Raises ConfigError when neither names one."""
        schedule = self.beta_schedule or (trained.beta_schedule if trained else None)
        args = self.diffusion_args or (trained.diffusion_args if trained else None)
        if schedule is None or args is None:
            raise ConfigError(
                f"nothing says under which process {network} was trained (its checkpoint does not record it); "
                f"set {'beta_schedule' if schedule is None else 'diffusion_args'} where it is sampled"
            )
        process = build_process(ProcessOptions(beta_schedule=schedule, diffusion_args=args))
        spacing = self.respaced_timestep_spacing
        if spacing is None:
            if self.stop_at_snr is not None:
                raise ConfigError(f"sampling from {network}: stop_at_snr needs respaced_timestep_spacing, a step count")
            return process
        try:
            return process.respaced(spacing, self.stop_at_snr)
        except ValueError as error:
            raise ConfigError(f"sampling from {network}: {error}") from None


class AutocastDenoiser:
    """Runs a denoiser under mixed precision."""

    def __init__(self, denoiser: Denoiser, autocast: Callable[[], AbstractContextManager[Any]]) -> None:
        self.denoiser = denoiser
        self.autocast = autocast

    def __call__(self, x_t: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Prediction:
        with self.autocast():
            return self.denoiser(x_t, t, cond)


@dataclass(frozen=True)
class Engine:
    """A network ready to sample: on its device, in evaluation mode, under a process that may be respaced."""

    network: DiffusionNetwork
    process: GaussianDiffusion
    options: SamplingOptions
    device: torch.device
    autocast: Callable[[], AbstractContextManager[Any]]

    def denoiser(self) -> Denoiser:
        """The network with epsilon scaling and guidance; x_start is clipped only after what extrapolates."""
        options = self.options
        extrapolates = options.guidance_scale != 1.0 or options.epsilon_scale != 1.0
        clip = options.clip_denoised and not options.dynamic_threshold
        denoiser: Denoiser = NetworkDenoiser(self.network, self.process, clip and not extrapolates)
        if options.epsilon_scale != 1.0:
            denoiser = EpsilonScaled(denoiser, self.process, options.epsilon_scale)
        if options.guidance_scale != 1.0:
            denoiser = ClassifierFree(
                denoiser,
                self.process,
                options.guidance_scale,
                num_classes=self.network.null_label,
                low_res_strength=options.guidance_low_res,
                rescale=options.guidance_rescale,
            )
        return Clipped(denoiser, self.process) if clip and extrapolates else denoiser

    def plan(self, height: int, width: int, scale: int) -> TilePlan:
        """The tiles of an output of (height, width) pixels, which is padded to what network and scale ask for."""
        align = math.lcm(self.network.multiple_of, scale)
        padded = padded_size(height, width, self.network.minimum_size, align)
        chosen = self.options.tile
        tile = max(align, self.network.image_size // align * align) if chosen is None else chosen
        if tile == 0:
            return TilePlan.cover(*padded, tile=max(padded), overlap=0, align=align)
        overlap = tile // 4 if self.options.tile_overlap is None else self.options.tile_overlap
        return TilePlan.cover(*padded, tile=tile, overlap=overlap // align * align, align=align)

    def sample(
        self,
        cond: Mapping[str, Tensor],
        height: int,
        width: int,
        scale: int,
        seeds: Sequence[int],
        on_event: Callable[[str], None] | None = None,
    ) -> Iterator[Step]:
        """Yield the steps of sampling B = len(seeds) images of (height, width); every state is cropped to that size.

        cond: (B, C, h, w) tensors with h = height / scale are spatial, others go by sample; all on the CPU.
        The canvas stays in host memory; only tiles visit the device.
        """
        plan = self.plan(height, width, scale)
        noise = CanvasNoise(tuple(seeds), self.network.in_channels, plan.height, plan.width)
        start = torch.zeros(len(seeds), self.network.in_channels, plan.height, plan.width)
        padded = {name: _pad(value, plan, height, width) for name, value in cond.items()}
        x_T = self.process.prior_sample(start if self.options.noise_type == "zero" else noise.initial(), padded)
        denoiser: Denoiser = TiledDenoiser(
            AutocastDenoiser(self.denoiser(), self.autocast),
            plan,
            self.process.eps_from_x_start,
            tile_batch_size=self.options.tile_batch_size,
            device=self.device,
            low_res_upsampling=self.network.low_res_upsampling,
            smaller_plan=lambda old: old.smaller(self.network.minimum_size),
            on_event=on_event,
        )
        if self.options.dynamic_threshold:
            # Outside the tiles: one quantile for the whole canvas, not one a tile.
            denoiser = DynamicThreshold(denoiser, self.process)
        for step in self.options.build_sampler()(denoiser, self.process, x_T, padded, noise):
            yield step._replace(x_t=step.x_t[..., :height, :width], x_start=step.x_start[..., :height, :width])


def _pad(value: Tensor, plan: TilePlan, height: int, width: int) -> Tensor:
    """A spatial tensor at 1/n of the canvas, padded by reflection to 1/n of the padded canvas."""
    if value.ndim < 4:
        return value
    rows, columns = height // value.shape[-2], width // value.shape[-1]
    return reflect_pad(value, plan.height // rows, plan.width // columns)
