"""The options that describe a diffusion process, shared by training, inference and the metadata of checkpoints."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from ...config.choice import ChoiceOptions, NameIn
from ...config.effect import OnlyWith
from ...config.options import Options
from ...config.registry import Registry
from .parameterizations import PARAMETERIZATIONS, Parameterization
from .process import GaussianDiffusion
from .schedule import NoiseSchedule


class BetaScheduleOptions(Options):
    """Which noise schedule, and how many steps it has."""

    schedule_name: str = Field(
        "linear", description="linear, linearX (last beta X at 1000 steps, e.g. linear0.025) or cosine."
    )
    num_diffusion_timesteps: int = Field(
        4000, ge=1, le=100_000, description="Length T of the schedule the network is trained on."
    )

    @model_validator(mode="after")
    def _buildable(self) -> Self:
        # A ValueError here becomes an error of the option.
        NoiseSchedule.named(self.schedule_name, self.num_diffusion_timesteps)
        return self


class DiffusionArgs(ChoiceOptions):
    """What the network predicts and how its error is weighted; the options of `model_mean_type` stand among these."""

    choice_key: ClassVar[str] = "model_mean_type"
    choices: ClassVar[Registry[Any]] = PARAMETERIZATIONS

    model_mean_type: Annotated[str, NameIn(PARAMETERIZATIONS)] = Field(
        "epsilon",
        description="What the network predicts: the noise, the clean image, v, the previous state, or for restoration "
        "the error of the best guess that low_res and x_t give without it (residual).",
    )
    model_var_type: Literal["fixed_small", "fixed_large", "learned", "learned_range"] = Field(
        "learned_range",
        description="Variance of a reverse step; the learned kinds need out_channels = 2 * in_channels.",
    )
    loss_type: Literal["mse", "l1", "rescaled_mse", "kl", "rescaled_kl"] = Field(
        "mse", description="Training objective."
    )
    weight_schedule: (
        Literal["uniform", "sqrt_snr", "snr", "snr+1", "truncated_snr", "p2", "min_snr", "clamped_snr"] | None
    ) = Field(
        None,
        description="Weight of the error of x_start by signal-to-noise ratio; ~: the plain error of what is predicted.",
    )
    weight_clamp: Annotated[tuple[float, float], OnlyWith("weight_schedule", "clamped_snr")] = Field(
        (0.2, 5.0), description="Lowest and highest weight of clamped_snr."
    )
    min_snr_gamma: Annotated[float, OnlyWith("weight_schedule", "min_snr")] = Field(
        5.0, gt=0, description="gamma of min_snr."
    )
    variance_convention: Annotated[Literal["adm", "patch"], OnlyWith("model_var_type", "learned_range")] = Field(
        "adm", description="How a learned range is read: guided-diffusion's (and DLAS's) way, or PatchDiffusion's."
    )

    @property
    def parameterization(self) -> Parameterization:
        """What `model_mean_type` names, with its options."""
        chosen: Parameterization = self.choice()
        return chosen


class StudentOptions(Options):
    """What a network that was distilled to answer in one step can do (injector `distillation`)."""

    sigma: float = Field(gt=0, description="The only noise level that it knows: noise over signal.")
    temperature_max: float = Field(ge=0, description="The highest temperature of the noise that it has learned.")


class ProcessOptions(Options):
    """A whole process: what a checkpoint records so that sampling needs no options of training."""

    beta_schedule: BetaScheduleOptions = Field(BetaScheduleOptions(), description="The noise schedule.")
    diffusion_args: DiffusionArgs = Field(DiffusionArgs(), description="What the network predicts and the objective.")
    student: StudentOptions | None = Field(
        None, description="Set for a network that restores in one step, whatever steps are asked for."
    )


def build_process(options: ProcessOptions) -> GaussianDiffusion:
    """The process on its full schedule."""
    schedule, args = options.beta_schedule, options.diffusion_args
    return GaussianDiffusion(
        NoiseSchedule.named(schedule.schedule_name, schedule.num_diffusion_timesteps),
        parameterization=args.parameterization,
        model_var_type=args.model_var_type,
        loss_type=args.loss_type,
        weight_schedule=args.weight_schedule,
        weight_clamp=args.weight_clamp,
        min_snr_gamma=args.min_snr_gamma,
        variance_convention=args.variance_convention,
    )
