"""What the tests of the diffusion core share: golden files and a denoiser that is exact in closed form."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from codes.models.diffusion.parameterizations import PARAMETERIZATIONS, Parameterization
from codes.models.diffusion.prediction import Prediction
from codes.models.diffusion.process import GaussianDiffusion
from codes.models.diffusion.schedule import NoiseSchedule

GOLDEN = Path(__file__).parents[1] / "golden"
SHAPE = (2, 3, 6, 10)


def load_golden(name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The configuration and the tensors of a golden file."""
    with safe_open(GOLDEN / name, "pt") as stored:
        return json.loads(stored.metadata()["config"]), {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118


def normal(seed: int, shape: tuple[int, ...] = SHAPE, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal numbers from their own generator."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def parameterized(name: str, **options: float) -> Parameterization:
    """A parameterization by its registered name."""
    return PARAMETERIZATIONS.get(name)(**options)


@dataclass
class ExactGaussian:
    """The ideal denoiser when every pixel of x_start is N(mean, deviation^2), and the law of x_t that follows."""

    schedule: NoiseSchedule
    mean: float = 0.3
    deviation: float = 0.5

    def __call__(self, x_t: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Prediction:  # noqa: ARG002 - a Denoiser
        signal = self.schedule.gather("sqrt_alphas_cumprod", t, x_t)
        sigma = self.schedule.gather("sqrt_one_minus_alphas_cumprod", t, x_t)
        centred = x_t - signal * self.mean
        total = (signal * self.deviation) ** 2 + sigma**2
        x_start = self.mean + self.deviation**2 * signal / total * centred
        # The law of x_{t-1} given x_t: the posterior's variance and what x_start still varies by.
        coef1 = self.schedule.gather("posterior_mean_coef1", t, x_t)
        variance = self.schedule.gather("posterior_variance", t, x_t) + (coef1 * self.deviation * sigma) ** 2 / total
        return Prediction(x_start, sigma / total * centred, variance.log().expand_as(x_t))

    def state(self, z: Tensor, abar: float) -> Tensor:
        """The point of the probability-flow ODE at abar whose standardised value is z."""
        return abar**0.5 * self.mean + (abar * self.deviation**2 + 1.0 - abar) ** 0.5 * z


def linear_process(num_timesteps: int = 1000, spec: str | None = None) -> GaussianDiffusion:
    """An eps process on the linear schedule, respaced by `spec`."""
    process = GaussianDiffusion(NoiseSchedule.named("linear", num_timesteps))
    return process if spec is None else process.respaced(spec)
