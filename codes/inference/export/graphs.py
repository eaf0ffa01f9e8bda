"""A trained network as one plain function of tensors, which other systems run or trace: no tiles, no options, no loop.

B batch, C channels, K corruptions, h x w pixels of the input, H x W = scale * (h x w) of the result.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...models.diffusion.denoiser import NetworkDenoiser
from ...models.diffusion.networks.base import DiffusionNetwork
from ...models.diffusion.process_options import ProcessOptions, build_process
from ...models.diffusion.sampling_options import SamplingOptions
from ...utils.errors import ConfigError


class StudentGraph(nn.Module):
    """A one-step student from image to image, both in [0, 1]; what a `Restorer` with tile 0 computes.

    Raises ConfigError for a network that is no student of restoration.
    """

    def __init__(self, network: DiffusionNetwork, process: ProcessOptions, scale: int) -> None:
        super().__init__()
        if process.student is None or "low_res" not in network.cond_names or "y" in network.cond_names:
            raise ConfigError(
                "only a one-step student is an image-to-image graph, and this network is none; train one by "
                "recipes/diffusion/distill_sr.yml, or take its denoiser"
            )
        self.network = network
        self.scale = scale
        self.align = math.lcm(network.multiple_of, scale)
        self.temperature_max = process.student.temperature_max
        self.process = SamplingOptions(respaced_timestep_spacing="karras1").build_process(process, "the student")
        self.denoiser = NetworkDenoiser(network, self.process, low_res_upsampling=network.low_res_upsampling)

    def forward(self, low_res: Tensor, strengths: Tensor | None, noise: Tensor, temperature: Tensor) -> Tensor:
        """(B, C, h, w) in [0, 1], of any size -> (B, C, H, W) in [0, 1].

        strengths: (B, K) in [0, 1], or maps (B, K, h, w) of them; None for a network that is told none. noise:
        (B, C, H, W), standard normal. temperature: (1,), its factor, at most that which the student has learned.
        """
        height, width = low_res.shape[-2:]
        image = reflected_to(low_res * 2.0 - 1.0, self.align // self.scale)
        size = (image.shape[-2] * self.scale, image.shape[-1] * self.scale)
        prior = F.interpolate(image, size=size, mode=self.network.low_res_upsampling, align_corners=False)
        factor = torch.clamp(temperature, 0.0, self.temperature_max)
        x_t = self.process.initial_state(factor * reflected_to(noise, self.align), prior)
        cond = {"low_res": image}
        if strengths is not None:
            spatial = strengths.ndim == 4
            cond["corruption_factor"] = reflected_to(strengths, self.align // self.scale) if spatial else strengths
        t = torch.zeros(low_res.shape[0], dtype=torch.int64, device=low_res.device)
        x_start = self.denoiser(x_t, t, cond).x_start
        return (x_start[:, :, : height * self.scale, : width * self.scale] + 1.0) / 2.0


class DenoiserGraph(nn.Module):
    """A network under its process: what samplers of other systems call at every step. Images in [-1, 1]."""

    def __init__(self, network: DiffusionNetwork, process: ProcessOptions) -> None:
        super().__init__()
        self.network = network
        self.process = build_process(process)
        self.denoiser = NetworkDenoiser(
            network, self.process, clip_denoised=False, low_res_upsampling=network.low_res_upsampling
        )
        if self.process.needs_prior and "low_res" not in network.cond_names:
            raise ConfigError("the process needs a low resolution, which this network does not take")

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of what `forward` returns, in order."""
        return ("x_start", "eps", "log_variance") if self.process.learns_variance else ("x_start", "eps")

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        low_res: Tensor | None = None,
        strengths: Tensor | None = None,
        y: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """x_t (B, C, H, W), sides multiples of the network's; t int64 (B,) on the schedule of training.

        low_res: (B, C, h, w). strengths: (B, K), or (B, K, h, w). y: int64 (B,), classes. Returns `outputs`, each
        like x_t; x_start is not clipped.
        """
        given = {"low_res": low_res, "corruption_factor": strengths, "y": y}
        prediction = self.denoiser(x_t, t, {name: value for name, value in given.items() if value is not None})
        point = (prediction.x_start, prediction.eps)
        return (*point, prediction.log_variance) if self.process.learns_variance else point


def reflected_to(image: Tensor, multiple: int) -> Tensor:
    """(B, C, H, W) continued to the right and below, by repeated reflection, until its sides are multiples.

    `images/reflection.py` in operations of tensors, so that a traced graph does it at every size.
    """
    for axis in (-2, -1):
        length = image.shape[axis]
        period = 2 * (length - 1) + (length == 1) if isinstance(length, int) else _at_least_one(2 * (length - 1))
        folded = torch.arange((length + multiple - 1) // multiple * multiple, device=image.device) % period
        image = image.index_select(axis, torch.where(folded < length, folded, period - folded))
    return image


def _at_least_one(period: Tensor) -> Tensor:
    """While a graph is traced, sizes are tensors."""
    return torch.clamp(period, min=1)
