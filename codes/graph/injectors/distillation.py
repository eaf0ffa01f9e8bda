"""One call in place of a sampler: a student learns where the deterministic sampler of its teacher ends."""

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from ...config.yaml_source import Issue, KeyPath
from ...models.diffusion.denoiser import NetworkDenoiser, run_network
from ...models.diffusion.mixed_precision import AutocastDenoiser
from ...models.diffusion.networks.backbone import resized
from ...models.diffusion.networks.base import DiffusionNetwork
from ...models.diffusion.process import check_image_range
from ...models.diffusion.process_options import (
    BetaScheduleOptions,
    DiffusionArgs,
    ProcessOptions,
    StudentOptions,
    build_process,
)
from ...models.diffusion.respacing import Karras
from ...models.diffusion.samplers import Ddim, Moment
from ..graph import INJECTORS, Injector, State, StepContext
from ..node_options import InjectorOptions
from .gaussian_diffusion import conditioning_problems

ALIKE = ("in_channels", "out_channels", "cond_names", "low_res_upsampling")


class DistillationOptions(InjectorOptions):
    """Options of `distillation`."""

    like: str = Field("hq", description="State key of images of the size that is restored, (B, C, H, W) in [-1, 1].")
    generator: str = Field(description="Name of the student, the network that is trained.")
    teacher: str = Field(description="Name of the teacher: a network of networks.<name> with trainable: false.")
    beta_schedule: BetaScheduleOptions = Field(BetaScheduleOptions(), description="The schedule of the teacher.")
    diffusion_args: DiffusionArgs = Field(DiffusionArgs(), description="The process of the teacher, as it was trained.")
    steps: int = Field(8, ge=1, description="Steps of the teacher's sampler: karrasN, deterministic ddim.")
    sigma_max: float = Field(1.0, gt=0, description="Noise over signal at the teacher's first step.")
    student_sigma: float | None = Field(
        None,
        gt=0,
        description="Noise over signal at the student's only step; ~ is sigma_max. A network hardly looks at a state "
        "of much noise and takes one of little for true detail; between lies where it begins nearest its teacher.",
    )
    sigma_min: float = Field(0.01, gt=0, description="Noise over signal at the teacher's last step.")
    temperature_max: float = Field(
        0.6,
        ge=0,
        le=2,
        description="Temperatures are drawn evenly from 0 to this; beyond it the student knows nothing.",
    )
    model_input_keys: dict[str, str] = Field(
        {"low_res": "lq", "corruption_factor": "corruption_entropy"}, description="Network argument -> state key."
    )
    out: str = Field(description="State key of the student's images, (B, C, H, W): learn them by a loss.")
    out_target: str = Field(description="State key of the teacher's images, which the student's should equal.")

    def reads(self) -> dict[KeyPath, str]:
        return {
            ("like",): self.like,
            **{("model_input_keys", name): key for name, key in self.model_input_keys.items()},
        }

    def writes(self) -> dict[KeyPath, str]:
        return {("out",): self.out, ("out_target",): self.out_target}

    def same_size(self) -> dict[str, str]:
        return {self.out: self.like, self.out_target: self.like}

    def network_inputs(self) -> dict[str, str]:
        return {self.generator: self.like, self.teacher: self.like}

    def processes(self) -> dict[str, ProcessOptions]:
        schedule, args = self.beta_schedule, self.diffusion_args
        student = StudentOptions(sigma=self.own_sigma, temperature_max=self.temperature_max)
        return {
            self.generator: ProcessOptions(beta_schedule=schedule, diffusion_args=args, student=student),
            self.teacher: ProcessOptions(beta_schedule=schedule, diffusion_args=args),
        }

    def problems(self, networks: Mapping[str, DiffusionNetwork]) -> list[Issue]:
        issues = conditioning_problems(self.generator, self.model_input_keys, networks)
        if "low_res" not in self.model_input_keys:
            issues.append(
                Issue(("model_input_keys", "low_res"), "missing; the noise lies around the upsampled low_res")
            )
        if self.sigma_min >= self.sigma_max:
            message = f"must be below sigma_max of {self.sigma_max:g}, found {self.sigma_min:g}"
            issues.append(Issue(("sigma_min",), message))
        try:
            build_process(self.processes()[self.teacher]).respaced(self.spacing)
        except ValueError as error:
            issues.append(Issue(("steps",), str(error)))
        return issues + self._teacher_issues(networks)

    def _teacher_issues(self, networks: Mapping[str, DiffusionNetwork]) -> list[Issue]:
        if self.teacher == self.generator:
            return [Issue(("teacher",), f"{self.teacher} cannot teach itself; name a second network, trainable: false")]
        if self.teacher not in networks or self.generator not in networks:
            issue = Issue(("teacher",), f"no network {self.teacher!r} (there are: {', '.join(networks)})")
            return [] if self.teacher in networks else [issue]
        student, teacher = networks[self.generator], networks[self.teacher]
        return [
            Issue(("teacher",), f"its {trait} is {getattr(teacher, trait)}, the student's {getattr(student, trait)}")
            for trait in ALIKE
            if getattr(student, trait) != getattr(teacher, trait)
        ]

    @property
    def own_sigma(self) -> float:
        """Where the student is called."""
        return self.sigma_max if self.student_sigma is None else self.student_sigma

    @property
    def spacing(self) -> Karras:
        """The steps of the teacher."""
        return Karras(self.steps, self.sigma_max, self.sigma_min)


@INJECTORS.register("distillation")
class DistillationInjector(Injector):
    """Writes what the student says in one call, and where the teacher's sampler ends from the same state.

    Both start from the upsampled low_res and temperature * noise, the teacher at sigma_max and the student at its own
    sigma, the temperature of each sample drawn evenly from [0, temperature_max]. The teacher's map from there is
    deterministic, so that plain regression on it suffices (Luhman & Luhman 2021); no gradient reaches the teacher.
    """

    Options = DistillationOptions

    def __init__(self, options: DistillationOptions) -> None:
        self.options = options
        process = build_process(options.processes()[options.teacher])
        self.process = process.respaced(options.spacing)
        self.one_step = process.respaced(Karras(1, options.own_sigma, options.own_sigma / 2))
        self._range_checked = False

    def __call__(self, state: State, context: StepContext) -> dict[str, Any]:
        options, like = self.options, state[self.options.like]
        if not self._range_checked:
            check_image_range(like)
            self._range_checked = True
        cond = {name: state[key] for name, key in options.model_input_keys.items()}
        student = context.networks[options.generator]
        noise, prior = self._noise(like, context), resized(cond["low_res"], like, student.low_res_upsampling)
        target = self._taught(noise, prior, cond, context)
        x = self.one_step.initial_state(noise, prior)
        t = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        with context.autocast():
            output, own_prior = run_network(student, self.one_step, x, t, cond, student.low_res_upsampling)
        prediction = self.one_step.predict(output.float(), x, t, False, own_prior)
        return {options.out: prediction.x_start, options.out_target: target}

    def _noise(self, like: Tensor, context: StepContext) -> Tensor:
        """Noise at the temperature of each sample, which follow from its position alone."""
        drawn = context.uniform("temperature") * self.options.temperature_max
        temperature = drawn.to(like.dtype).to(like.device, non_blocking=True)  # some devices have no float64
        return temperature.view(-1, 1, 1, 1) * context.normal("noise", like)

    @torch.no_grad()
    def _taught(self, noise: Tensor, prior: Tensor, cond: Mapping[str, Tensor], context: StepContext) -> Tensor:
        """(B, C, H, W): where the teacher's sampler ends, clipped as in sampling."""
        teacher = context.networks[self.options.teacher]
        teacher.eval()
        denoiser = AutocastDenoiser(
            NetworkDenoiser(teacher, self.process, low_res_upsampling=teacher.low_res_upsampling), context.autocast
        )
        x, rule = self.process.initial_state(noise, prior), Ddim()
        for step in reversed(range(self.process.num_timesteps)):
            t = torch.full((len(x),), step, dtype=torch.int64, device=x.device)
            # ddim with eta 0 draws no noise.
            x = rule(Moment(self.process, step, x, denoiser(x, t, cond), lambda: torch.zeros_like(noise)))
        return x
