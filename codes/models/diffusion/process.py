"""The Gaussian diffusion process: noising, posterior, what a network's output means, and the training terms.

B batch, C image channels, H, W. x_start is an image in [-1, 1], x_t the noised state, eps the noise in it.
t is int64 (B,) on the process's own schedule. Nothing here draws random numbers.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Literal, NamedTuple, cast, get_args

import torch
from torch import Tensor

from .likelihood import discretized_gaussian_log_likelihood, mean_flat, normal_kl
from .parameterizations import Epsilon, Noised, Parameterization
from .prediction import Prediction
from .respacing import Respacing
from .schedule import DeviceTable, NoiseSchedule
from .weights import WeightSchedule, loss_weights

VarianceType = Literal["fixed_small", "fixed_large", "learned", "learned_range"]
LossType = Literal["mse", "l1", "rescaled_mse", "kl", "rescaled_kl"]
VarianceConvention = Literal["adm", "patch"]
EPSILON = Epsilon()


class TrainingTerms(NamedTuple):
    """Per-sample training losses, each (B,), and the predicted x_start (B, C, H, W), not clipped.

    mse: the main term with its weight (for kl and rescaled_kl the bound, for l1 the absolute error).
    vb: the variance term in bits per dimension, times T / 1000 for rescaled_mse; None unless a variance is learned
    beside an mse or l1 loss.
    loss: what the loss_type minimises: the main term, plus vb.
    """

    loss: Tensor
    mse: Tensor
    vb: Tensor | None
    x_start: Tensor


@dataclass(frozen=True, eq=False)
class GaussianDiffusion:
    """Gaussian diffusion (Ho et al. 2020) over a schedule, with one parameterization, variance and objective.

    model_var_type: fixed_small is the posterior's variance, fixed_large beta; learned and learned_range (Nichol &
    Dhariwal 2021, eq. 15) take a second set of C channels.
    variance_convention: how learned_range reads them. 'adm': (v + 1) / 2 is the weight of the upper bound log beta,
    'patch': v itself, in [0, 1], is the weight of the lower bound.
    weight_schedule: None takes the error in the network's own space; any name weights the error of x_start, whatever
    the network predicts (see `loss_weights`).
    Raises ValueError for an unknown name, or where the parameterization does not go with the schedule.
    """

    schedule: NoiseSchedule
    parameterization: Parameterization = EPSILON
    model_var_type: VarianceType = "fixed_small"
    loss_type: LossType = "mse"
    weight_schedule: WeightSchedule | None = None
    weight_clamp: tuple[float, float] = (0.2, 5.0)
    min_snr_gamma: float = 5.0
    variance_convention: VarianceConvention = "adm"

    def __post_init__(self) -> None:
        _check_choice("model_var_type", self.model_var_type, get_args(VarianceType))
        _check_choice("loss_type", self.loss_type, get_args(LossType))
        _check_choice("variance_convention", self.variance_convention, get_args(VarianceConvention))
        if self.weight_schedule is not None:
            if self.loss_type in ("kl", "rescaled_kl"):
                raise ValueError(f"weight_schedule has no meaning for loss_type {self.loss_type}; leave it out")
            loss_weights(self.weight_schedule, self.schedule, self.weight_clamp, self.min_snr_gamma)
        self.parameterization.check(self.schedule)

    @property
    def num_timesteps(self) -> int:
        """T of the schedule in use."""
        return self.schedule.num_timesteps

    @property
    def learns_variance(self) -> bool:
        """Whether the network returns 2C channels instead of C."""
        return self.model_var_type in ("learned", "learned_range")

    def respaced(self, spec: Respacing, stop_at_snr: float | None = None) -> "GaussianDiffusion":
        """The same process on fewer steps (see `NoiseSchedule.respaced`)."""
        return replace(self, schedule=self.schedule.respaced(spec, stop_at_snr))

    def initial_state(self, noise: Tensor, prior: Tensor | None = None) -> Tensor:
        """x_T, (B, C, H, W), from noise shaped like it, and the best guess of the image that there is before sampling.

        With a prior it is q(x_T | prior), which is right wherever the first step stands; without one it is the noise
        itself, which is right where (nearly) no signal is left.
        """
        if prior is None:
            return noise
        last = torch.full((noise.shape[0],), self.num_timesteps - 1, dtype=torch.int64, device=noise.device)
        return self.q_sample(prior.to(noise.dtype), last, noise)

    def q_sample(self, x_start: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_t ~ q(x_t | x_start), Ho et al. 2020, eq. 4. noise is standard normal, shaped like x_start."""
        signal = self.schedule.gather("sqrt_alphas_cumprod", t, x_start)
        return signal * x_start + self.schedule.gather("sqrt_one_minus_alphas_cumprod", t, x_start) * noise

    def q_posterior(self, x_start: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (B, C, H, W) and clipped log-variance (B, 1, 1, 1) of q(x_{t-1} | x_t, x_start), eq. 7."""
        coef1 = self.schedule.gather("posterior_mean_coef1", t, x_t)
        coef2 = self.schedule.gather("posterior_mean_coef2", t, x_t)
        return coef1 * x_start + coef2 * x_t, self.schedule.gather("posterior_log_variance_clipped", t, x_t)

    def eps_from_x_start(self, x_t: Tensor, t: Tensor, x_start: Tensor) -> Tensor:
        """The eps for which x_start explains x_t."""
        return Noised(self.schedule, x_t, t).eps_of(x_start)

    def x_start_from_eps(self, x_t: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """The x_start for which eps explains x_t."""
        return Noised(self.schedule, x_t, t).x_start_of(eps)

    @property
    def needs_prior(self) -> bool:
        """Whether `predict`, `training_terms` and `network_input` need the upsampled low_res."""
        return self.parameterization.needs_prior

    def network_input(self, x_t: Tensor, t: Tensor, prior: Tensor | None = None) -> Tensor:
        """What the network is shown for x_t, (B, C, H, W)."""
        return self.parameterization.network_input(Noised(self.schedule, x_t, t, prior))

    def predict(
        self, model_output: Tensor, x_t: Tensor, t: Tensor, clip: bool, prior: Tensor | None = None
    ) -> Prediction:
        """What a network's raw output (B, C or 2C, H, W) says; `clip` limits x_start to [-1, 1] and eps follows.

        prior (B, C, H, W): the upsampled low_res, where `needs_prior`. Computed in float32, or float64 where x_t is.
        Raises ValueError when the channels do not fit model_var_type or the prior is missing.
        """
        x_t = x_t.to(torch.promote_types(x_t.dtype, torch.float32))
        output, variance = self._split(model_output.to(x_t.dtype), x_t)
        at = Noised(self.schedule, x_t, t, prior)
        x_start = self.parameterization.x_start(at, output)
        variance_of = partial(self._log_variance, variance, x_t, t)
        if not clip:
            return Prediction(x_start, partial(self.parameterization.eps, at, output, x_start), variance_of)
        clipped = x_start.clamp(-1.0, 1.0)
        return Prediction(clipped, partial(self.eps_from_x_start, x_t, t, clipped), variance_of)

    def posterior_mean(self, prediction: Prediction, x_t: Tensor, t: Tensor) -> Tensor:
        """Mean of p(x_{t-1} | x_t), the posterior's with the predicted x_start."""
        return self.q_posterior(prediction.x_start, x_t, t)[0]

    def _split(self, model_output: Tensor, x_t: Tensor) -> tuple[Tensor, Tensor | None]:
        expected = x_t.shape[1] * (2 if self.learns_variance else 1)
        if model_output.shape[1] != expected:
            raise ValueError(
                f"the network returned {model_output.shape[1]} channels but model_var_type {self.model_var_type} "
                f"on {x_t.shape[1]}-channel images needs {expected}; change out_channels or model_var_type"
            )
        if not self.learns_variance:
            return model_output, None
        output, variance = model_output.chunk(2, dim=1)
        return output, variance

    def _log_variance(self, variance: Tensor | None, x_t: Tensor, t: Tensor) -> Tensor:
        if variance is None:
            fixed_small = self.model_var_type == "fixed_small"
            table = "posterior_log_variance_clipped" if fixed_small else "fixed_large_log_variance"
            return self.schedule.gather(table, t, x_t).expand_as(x_t)
        if self.model_var_type == "learned":
            return variance
        lower = self.schedule.gather("posterior_log_variance_clipped", t, x_t)
        upper = self.schedule.gather("log_betas", t, x_t)
        upper_weight = (variance + 1.0) / 2.0 if self.variance_convention == "adm" else 1.0 - variance
        return lower + upper_weight * (upper - lower)

    def training_terms(
        self,
        model_output: Tensor,
        x_start: Tensor,
        x_t: Tensor,
        t: Tensor,
        noise: Tensor,
        prior: Tensor | None = None,
    ) -> TrainingTerms:
        """Losses of each sample from the network's raw output for x_t = q_sample(x_start, t, noise).

        With input perturbation x_t is still this one, not the noisier one that the network was shown: otherwise a loss
        on x_start would have the network predict the extra noise as well, and the perturbation would be undone.
        A learned variance trains through vb alone, in which the mean is detached (Nichol & Dhariwal 2021, section
        3.1), except under kl, which trains both. Raises ValueError when the channels do not fit.
        """
        prediction = self.predict(model_output, x_t, t, clip=False, prior=prior)
        if self.loss_type in ("kl", "rescaled_kl"):
            kl_scale = self.num_timesteps if self.loss_type == "rescaled_kl" else 1
            bound = kl_scale * self.variational_term(prediction, x_start, x_t, t)
            return TrainingTerms(bound, bound, None, prediction.x_start)
        main = self._main_term(model_output, prediction, x_start, x_t, t, noise, prior)
        if not self.learns_variance:
            return TrainingTerms(main, main, None, prediction.x_start)
        frozen = prediction.at(prediction.x_start.detach(), lambda: prediction.eps)
        # The factor is that of the first implementation, on which published weights of vb rest.
        scale = self.num_timesteps / 1000.0 if self.loss_type == "rescaled_mse" else 1.0
        vb = scale * self.variational_term(frozen, x_start, x_t, t)
        return TrainingTerms(main + vb, main, vb, prediction.x_start)

    def variational_term(self, prediction: Prediction, x_start: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """One step's term of the variational bound, (B,) bits per dimension (Ho et al. 2020, eq. 5).

        The KL divergence of the prediction from the posterior; at t = 0 the negative log-likelihood of x_start as 8-bit
        pixels.
        """
        true_mean, true_log_variance = self.q_posterior(x_start, x_t, t)
        mean = self.posterior_mean(prediction, x_t, t)
        kl = mean_flat(normal_kl(true_mean, true_log_variance, mean, prediction.log_variance))
        likelihood = discretized_gaussian_log_likelihood(x_start, mean, 0.5 * prediction.log_variance)
        return torch.where(t == 0, -mean_flat(likelihood), kl) / math.log(2.0)

    def _main_term(
        self,
        model_output: Tensor,
        prediction: Prediction,
        x_start: Tensor,
        x_t: Tensor,
        t: Tensor,
        noise: Tensor,
        prior: Tensor | None,
    ) -> Tensor:
        if self.weight_schedule is not None:
            error = self._error(prediction.x_start - x_start)
            return mean_flat(self._weights.gather(t, x_t) * error)
        output = self._split(model_output.to(prediction.x_start.dtype), x_t)[0]
        target = self.parameterization.target(Noised(self.schedule, x_t, t, prior), x_start, noise)
        return mean_flat(self._error(output - target))

    def _error(self, difference: Tensor) -> Tensor:
        return difference.abs() if self.loss_type == "l1" else difference.square()

    @cached_property
    def _weights(self) -> DeviceTable:
        name = cast(WeightSchedule, self.weight_schedule)
        return DeviceTable(loss_weights(name, self.schedule, self.weight_clamp, self.min_snr_gamma))


def perturbed_noise(noise: Tensor, extra: Tensor, gamma: float) -> Tensor:
    """Input perturbation (Ning et al. 2023, algorithm 1): the noise in what the network sees, noise + gamma * extra.

    Both are standard normal (B, C, H, W). The loss stays that of `noise`, at its x_t. The paper's gamma is 0.1, 0 is
    off.
    """
    return noise + gamma * extra if gamma else noise


def check_image_range(x_start: Tensor, tolerance: float = 1e-3) -> None:
    """Raise ValueError unless images (B, C, H, W) lie in [-1, 1]. Waits for the device: call it rarely."""
    largest = float(x_start.detach().abs().amax())
    if not largest <= 1.0 + tolerance:  # written so that NaN fails too
        raise ValueError(
            f"training images must lie in [-1, 1], found a value of magnitude {largest:g}; "
            "set rgb_n1_to_1: true in the dataset, or scale them before the diffusion injector"
        )


def _check_choice(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"unknown {option} {value!r}; known are {', '.join(known)}")
