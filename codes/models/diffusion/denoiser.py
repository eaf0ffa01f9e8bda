"""The interface in the middle: samplers see only denoisers, and networks are wrapped into one here."""

from collections.abc import Callable, Mapping
from typing import Protocol

from torch import Tensor

from .networks.backbone import resized
from .prediction import Prediction
from .process import GaussianDiffusion

__all__ = ["Denoiser", "NetworkDenoiser", "Prediction", "run_network"]


class Denoiser(Protocol):
    """Reads a noised image: (x_t (B, C, H, W), t int64 (B,) on the schedule in use, cond) -> Prediction.

    cond maps names to tensors that begin with B: 4-D ones are spatial, others one vector or label per sample.
    """

    def __call__(self, x_t: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Prediction: ...


class NetworkDenoiser:
    """A network under a process: the one place that knows what its output means.

    The network is called as network(x, original_t, **cond) and returns (B, C or 2C, H, W). It is told the timestep
    of the original schedule, so `process` may be respaced. clip_denoised limits x_start to [-1, 1]; switch it off
    below guidance, which must combine unclipped predictions, and clip outside of it. low_res_upsampling is the
    network's own way of bringing `low_res` to the size of x_t: bilinear or bicubic.
    """

    def __init__(
        self,
        network: Callable[..., Tensor],
        process: GaussianDiffusion,
        clip_denoised: bool = True,
        *,
        low_res_upsampling: str,
    ) -> None:
        self.network = network
        self.process = process
        self.clip_denoised = clip_denoised
        self.low_res_upsampling = low_res_upsampling

    def __call__(self, x_t: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Prediction:
        output, prior = run_network(self.network, self.process, x_t, t, cond, self.low_res_upsampling)
        return self.process.predict(output, x_t, t, self.clip_denoised, prior)


def run_network(
    network: Callable[..., Tensor],
    process: GaussianDiffusion,
    x_t: Tensor,
    t: Tensor,
    cond: Mapping[str, Tensor],
    low_res_upsampling: str,
) -> tuple[Tensor, Tensor | None]:
    """The network's raw output at x_t, and the prior that goes with it where the process needs one.

    The prior is `low_res` brought to the size of x_t in the network's own way (`low_res_upsampling`).
    """
    prior = None
    if process.needs_prior and "low_res" in cond:
        prior = resized(cond["low_res"].to(x_t.dtype), x_t, low_res_upsampling)
    return network(process.network_input(x_t, t, prior), process.schedule.original_timesteps(t), **cond), prior
