"""Parameterizations: what a network is shown of a noised image and what its answer means. One registered class each.

B batch, C image channels, H, W. x_start is an image in [-1, 1], x_t = signal * x_start + sigma * noise, with
signal = sqrt(abar) and sigma = sqrt(1 - abar).
"""

from abc import abstractmethod
from typing import ClassVar, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from ...config.options import Options
from ...config.registry import Registry
from .schedule import NoiseSchedule


class Noised(NamedTuple):
    """A noised image x_t (B, C, H, W) at t, int64 (B,), of a schedule; `prior`: the upsampled low_res, like x_t."""

    schedule: NoiseSchedule
    x_t: Tensor
    t: Tensor
    prior: Tensor | None = None

    def gather(self, table: str) -> Tensor:
        """(B, 1, 1, 1): the schedule's table at t."""
        return self.schedule.gather(table, self.t, self.x_t)

    @property
    def signal(self) -> Tensor:
        return self.gather("sqrt_alphas_cumprod")

    @property
    def sigma(self) -> Tensor:
        return self.gather("sqrt_one_minus_alphas_cumprod")

    def eps_of(self, x_start: Tensor) -> Tensor:
        """The noise for which x_start explains x_t."""
        return (self.x_t - self.signal * x_start) / self.sigma

    def x_start_of(self, eps: Tensor) -> Tensor:
        """The x_start for which eps explains x_t."""
        return (self.x_t - self.sigma * eps) / self.signal


class Parameterization(Options):
    """Base of all parameterizations. The fields of a subclass are its options, beside `model_mean_type:` in a recipe.

    needs_prior: whether `Noised.prior` is read; the network must then be conditioned on low_res. predicts_image:
    whether the output is an image in the range of x_start, to which a network may add low_res itself.
    """

    needs_prior: ClassVar[bool] = False
    predicts_image: ClassVar[bool] = False

    def check(self, schedule: NoiseSchedule) -> None:
        """Raises ValueError for a schedule that this parameterization cannot work on."""

    def network_input(self, at: Noised) -> Tensor:
        """What the network is shown, (B, C, H, W)."""
        return at.x_t

    @abstractmethod
    def target(self, at: Noised, x_start: Tensor, noise: Tensor) -> Tensor:
        """The output, (B, C, H, W), of a network that knows x_start, at x_t = signal * x_start + sigma * noise."""

    @abstractmethod
    def x_start(self, at: Noised, output: Tensor) -> Tensor:
        """The x_start that an output stands for; the inverse of `target`."""

    def eps(self, at: Noised, output: Tensor, x_start: Tensor) -> Tensor:
        """The eps that goes with `x_start(at, output)`."""
        del output
        return at.eps_of(x_start)


PARAMETERIZATIONS: Registry[type[Parameterization]] = Registry("model_mean_type")


@PARAMETERIZATIONS.register("epsilon")
class Epsilon(Parameterization):
    """The noise (Ho et al. 2020)."""

    def check(self, schedule: NoiseSchedule) -> None:
        if not schedule.alphas_cumprod.all():
            raise ValueError(
                "model_mean_type epsilon cannot recover x_start where the schedule has no signal left (beta = 1); "
                "use v or start_x, or more timesteps"
            )

    def target(self, at: Noised, x_start: Tensor, noise: Tensor) -> Tensor:  # noqa: ARG002
        return noise

    def x_start(self, at: Noised, output: Tensor) -> Tensor:
        return at.x_start_of(output)

    def eps(self, at: Noised, output: Tensor, x_start: Tensor) -> Tensor:  # noqa: ARG002
        return output


@PARAMETERIZATIONS.register("start_x")
class StartX(Parameterization):
    """The clean image."""

    predicts_image: ClassVar[bool] = True

    def target(self, at: Noised, x_start: Tensor, noise: Tensor) -> Tensor:  # noqa: ARG002
        return x_start

    def x_start(self, at: Noised, output: Tensor) -> Tensor:  # noqa: ARG002
        return output


@PARAMETERIZATIONS.register("v")
class Velocity(Parameterization):
    """v = signal * eps - sigma * x_start (Salimans & Ho 2022, appendix D)."""

    def target(self, at: Noised, x_start: Tensor, noise: Tensor) -> Tensor:
        return at.signal * noise - at.sigma * x_start

    def x_start(self, at: Noised, output: Tensor) -> Tensor:
        return at.signal * at.x_t - at.sigma * output


@PARAMETERIZATIONS.register("previous_x")
class PreviousX(Parameterization):
    """The mean of q(x_{t-1} | x_t, x_start) (Ho et al. 2020, eq. 7)."""

    def target(self, at: Noised, x_start: Tensor, noise: Tensor) -> Tensor:  # noqa: ARG002
        return at.gather("posterior_mean_coef1") * x_start + at.gather("posterior_mean_coef2") * at.x_t

    def x_start(self, at: Noised, output: Tensor) -> Tensor:
        return (output - at.gather("posterior_mean_coef2") * at.x_t) / at.gather("posterior_mean_coef1")


@PARAMETERIZATIONS.register("residual")
class Residual(Parameterization):
    """For restoration: the error of the best guess that needs no network.

    With the upsampled low_res taken for the mean of x_start and deviation residual_std per pixel, the posterior given
    x_t is normal with precision 1 / residual_std^2 + SNR; x_start = its mean + its deviation * output. The network sees
    (x_t - signal * prior) in unit variance and answers in unit variance at every t. This is the preconditioning of EDM
    (Karras et al. 2022, table 1) with an image as the prior's mean where EDM has zero.
    """

    needs_prior: ClassVar[bool] = True
    residual_std: float = Field(
        0.12, gt=0, description="How far the clean image lies from the upsampled low_res, RMS in [-1, 1]."
    )

    def network_input(self, at: Noised) -> Tensor:
        spread = (at.signal * self.residual_std) ** 2 + at.sigma**2
        return (at.x_t - at.signal * _required(at.prior)) / torch.sqrt(spread)

    def target(self, at: Noised, x_start: Tensor, noise: Tensor) -> Tensor:  # noqa: ARG002
        mean, deviation = self._guess(at)
        return (x_start - mean) / deviation

    def x_start(self, at: Noised, output: Tensor) -> Tensor:
        mean, deviation = self._guess(at)
        return mean + deviation * output

    def _guess(self, at: Noised) -> tuple[Tensor, Tensor]:
        """Mean (B, C, H, W) and deviation (B, 1, 1, 1) of x_start given x_t, for x_start ~ N(prior, residual_std^2)."""
        signal, sigma = at.signal, at.sigma
        # Multiplied through by residual_std^2 (1 - abar), so that no step without signal divides by zero.
        spread, total = self.residual_std**2, sigma**2 + (signal * self.residual_std) ** 2
        mean = (sigma**2 * _required(at.prior).to(at.x_t.dtype) + spread * signal * at.x_t) / total
        return mean, self.residual_std * sigma / torch.sqrt(total)


def _required(prior: Tensor | None) -> Tensor:
    if prior is None:
        raise ValueError("model_mean_type residual needs the upsampled low_res; condition the network on low_res")
    return prior
