"""The training step of a Gaussian diffusion model as an injector."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from ...config.yaml_source import Issue, KeyPath
from ...models.diffusion.denoiser import run_network
from ...models.diffusion.networks.base import DiffusionNetwork
from ...models.diffusion.process import check_image_range, perturbed_noise
from ...models.diffusion.process_options import BetaScheduleOptions, DiffusionArgs, ProcessOptions, build_process
from ...models.diffusion.timestep_sampling import TIMESTEP_SAMPLERS, LossSecondMoment, TimestepSampler
from ..graph import INJECTORS, Injector, State, StepContext
from ..node_options import InjectorOptions

QUARTILES = 4  # of the timesteps, whose losses the log shows apart


def conditioning_problems(
    generator: str, model_input_keys: Mapping[str, str], networks: Mapping[str, DiffusionNetwork]
) -> list[Issue]:
    """A generator that is not there, or network arguments that it does not take."""
    if generator not in networks:
        return [Issue(("generator",), f"no network {generator!r} (there are: {', '.join(networks) or 'none'})")]
    accepted = networks[generator].cond_names
    return [
        Issue(
            ("model_input_keys", name),
            f"{generator} takes no input {name!r} (it takes: {', '.join(sorted(accepted)) or 'none'})",
        )
        for name in model_input_keys
        if name not in accepted
    ]


class GaussianDiffusionOptions(InjectorOptions):
    """Options of `gaussian_diffusion`."""

    needs_n1_to_1: ClassVar[bool] = True
    in_key: str = Field(validation_alias="in", description="State key of the clean images, (B, C, H, W) in [-1, 1].")
    generator: str = Field(description="Name of the network that is trained.")
    beta_schedule: BetaScheduleOptions = Field(BetaScheduleOptions(), description="The noise schedule.")
    diffusion_args: DiffusionArgs = Field(DiffusionArgs(), description="What the network predicts and the objective.")
    sampler_type: str = Field("uniform", description="How timesteps are drawn in training.")
    label_dropout: float = Field(
        0.0, ge=0, le=1, description="Share of samples whose class becomes the null label, for guidance (0.1 is usual)."
    )
    input_perturbation: float = Field(
        0.0, ge=0, description="Extra noise of this amplitude in the network's input, not in its target; 0.1 is usual."
    )
    snr_splits: tuple[float, ...] = Field((), description="SNR borders between experts, for uniform_split_k.")
    model_input_keys: dict[str, str] = Field({}, description="Network argument -> state key, e.g. low_res: lq.")
    out: str = Field(description="State key of the main term of the loss, (B,).")
    out_key_vb_loss: str | None = Field(
        None, description="State key of the variational bound term, (B,), for learned variances."
    )
    out_key_x_start: str | None = Field(None, description="State key of the predicted clean images, (B, C, H, W).")

    @property
    def process(self) -> ProcessOptions:
        return ProcessOptions(beta_schedule=self.beta_schedule, diffusion_args=self.diffusion_args)

    def processes(self) -> dict[str, ProcessOptions]:
        return {self.generator: self.process}

    def reads(self) -> dict[KeyPath, str]:
        return {
            ("in",): self.in_key,
            **{("model_input_keys", name): key for name, key in self.model_input_keys.items()},
        }

    def writes(self) -> dict[KeyPath, str]:
        named = {
            ("out",): self.out,
            ("out_key_vb_loss",): self.out_key_vb_loss,
            ("out_key_x_start",): self.out_key_x_start,
        }
        return {path: key for path, key in named.items() if key}

    def same_size(self) -> dict[str, str]:
        return {self.out_key_x_start: self.in_key} if self.out_key_x_start else {}

    def network_inputs(self) -> dict[str, str]:
        return {self.generator: self.in_key}

    def problems(self, networks: Mapping[str, DiffusionNetwork]) -> list[Issue]:
        issues = conditioning_problems(self.generator, self.model_input_keys, networks)
        args = self.diffusion_args
        learned = args.model_var_type.startswith("learned")
        if learned and self.out_key_vb_loss is None and not args.loss_type.endswith("kl"):
            issues.append(
                Issue(
                    ("out_key_vb_loss",),
                    f"{args.model_var_type} needs this key and a loss on it, or the variance is never trained",
                )
            )
        if self.out_key_vb_loss and (not learned or args.loss_type.endswith("kl")):
            kind = args.loss_type if learned else args.model_var_type
            issues.append(Issue(("out_key_vb_loss",), f"{kind} has no variational term of its own; remove this key"))
        issues += self._process_problems()
        if self.generator in networks:
            issues += _network_problems(networks[self.generator], self)
        return issues

    def _process_problems(self) -> list[Issue]:
        """A process, or timesteps to train it on, that cannot be built."""
        if self.sampler_type not in TIMESTEP_SAMPLERS:
            return [Issue(("sampler_type",), TIMESTEP_SAMPLERS.unknown(self.sampler_type))]
        try:
            process = build_process(self.process)
        except ValueError as error:
            return [Issue(("diffusion_args",), str(error))]
        try:
            TIMESTEP_SAMPLERS.get(self.sampler_type)(process.schedule, self.snr_splits)
        except ValueError as error:
            return [Issue(("sampler_type",), str(error))]
        return []


def _network_problems(network: DiffusionNetwork, options: GaussianDiffusionOptions) -> list[Issue]:
    issues, args, name = [], options.diffusion_args, options.generator
    expected = network.in_channels * (2 if args.model_var_type.startswith("learned") else 1)
    if network.out_channels != expected:
        message = f"needs {name} with out_channels {expected}, found {network.out_channels}"
        issues.append(Issue(("diffusion_args", "model_var_type"), f"{args.model_var_type} {message}"))
    if options.label_dropout and network.null_label is None:
        message = f"needs a null label to learn; set num_classes and classifier_free: true in {name}"
        issues.append(Issue(("label_dropout",), message))
    if args.parameterization.needs_prior and "low_res" not in network.cond_names:
        message = f"{args.model_mean_type} needs {name} to take low_res (set num_corruptions or low_res_conditioning)"
        issues.append(Issue(("diffusion_args", "model_mean_type"), message))
    if network.adds_low_res and not args.parameterization.predicts_image:
        message = (
            f"{args.model_mean_type} contradicts residual_from_low_res of {name}: "
            "only a network that predicts the image (start_x) can add low_res to its output"
        )
        issues.append(Issue(("diffusion_args", "model_mean_type"), message))
    return issues


@INJECTORS.register("gaussian_diffusion")
class GaussianDiffusionInjector(Injector):
    """Noise the clean images, let the network predict, and write the terms of the loss.

    Writes `out` (B,): the weighted main term; `out_key_vb_loss` (B,): the variational term, which
    `rescaled_mse` multiplies by T / 1000;
    `out_key_x_start` (B, C, H, W): the predicted clean image, detached.
    """

    Options = GaussianDiffusionOptions

    def __init__(self, options: GaussianDiffusionOptions) -> None:
        self.options = options
        self.process = build_process(options.process)
        self.timesteps: TimestepSampler = TIMESTEP_SAMPLERS.get(options.sampler_type)(
            self.process.schedule, options.snr_splits
        )
        self._range_checked = False
        self._seen: list[tuple[Tensor, Tensor, Tensor]] = []  # timesteps, losses and main terms of this iteration
        self._by_time = torch.zeros(QUARTILES, 2)  # sum and count of the main term, for the log

    def __call__(self, state: State, context: StepContext) -> dict[str, Any]:
        options, x_start = self.options, state[self.options.in_key]
        if not self._range_checked:
            check_image_range(x_start)
            self._range_checked = True
        network = context.networks[options.generator]
        drawn = self.timesteps.sample(context.uniform("timestep"))
        t, importance = (value.to(x_start.device, non_blocking=True) for value in drawn)
        noise = context.normal("noise", x_start)
        x_t = self.process.q_sample(x_start, t, noise)
        seen = self._perturbed(x_start, t, noise, x_t, context)
        cond = self._drop_labels({name: state[key] for name, key in options.model_input_keys.items()}, context)
        with context.autocast():
            output, prior = run_network(network, self.process, seen, t, cond, network.low_res_upsampling)
        terms = self.process.training_terms(output.float(), x_start, x_t, t, noise, prior)
        self._seen.append((t, terms.loss.detach(), terms.mse.detach()))
        written = {options.out: terms.mse * importance}
        if options.out_key_vb_loss:
            assert terms.vb is not None, "the checks allow this key only for a learned variance"
            written[options.out_key_vb_loss] = terms.vb * importance
        if options.out_key_x_start:
            written[options.out_key_x_start] = terms.x_start.detach()
        return written

    def _perturbed(self, x_start: Tensor, t: Tensor, noise: Tensor, x_t: Tensor, context: StepContext) -> Tensor:
        """What the network is shown in place of x_t."""
        gamma = self.options.input_perturbation
        if not gamma:
            return x_t
        return self.process.q_sample(
            x_start, t, perturbed_noise(noise, context.normal("input_perturbation", noise), gamma)
        )

    def _drop_labels(self, cond: dict[str, Any], context: StepContext) -> dict[str, Any]:
        """Some samples learn the null label instead of their class."""
        if not self.options.label_dropout or "y" not in cond:
            return cond
        null = context.networks[self.options.generator].null_label
        dropped = (context.uniform("label_dropout") < self.options.label_dropout).to(cond["y"].device)
        return {**cond, "y": cond["y"].masked_fill(dropped, null)}

    def end_iteration(self, gather: Callable[[Tensor], Tensor]) -> None:
        if not self._seen:
            return
        t, losses, main = (torch.cat(values) for values in zip(*self._seen, strict=True))
        self._seen.clear()
        self._count_by_time(t, main)
        # Only now, so that the parts of a split batch draw from the same distribution as the whole would.
        if isinstance(self.timesteps, LossSecondMoment):
            both = gather(torch.stack([t.float(), losses.float()], dim=1)).cpu()  # one read; t is exact in float32
            self.timesteps.update(both[:, 0].long(), both[:, 1])

    def _count_by_time(self, t: Tensor, main: Tensor) -> None:
        """Add the main terms (B,) that are finite to the sums of their quartiles of t (B,)."""
        finite = torch.isfinite(main)
        rows = torch.stack([main.where(finite, 0.0).float(), finite.float()], dim=1)
        quartile = t * QUARTILES // self.process.schedule.num_timesteps
        self._by_time = self._by_time.to(t.device).index_add(0, quartile, rows)

    def log_values(self) -> dict[str, Tensor]:
        sums, self._by_time = self._by_time, torch.zeros_like(self._by_time)
        return {f"loss_by_t/{self.options.out}_q{number}": sums[number] for number in range(QUARTILES)}

    def log_distributions(self) -> dict[str, Tensor]:
        if not isinstance(self.timesteps, LossSecondMoment):
            return {}
        return {f"timesteps/{self.options.out}": self.timesteps.probabilities}

    def state_dict(self) -> dict[str, Any]:
        return self.timesteps.state_dict() if isinstance(self.timesteps, LossSecondMoment) else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if isinstance(self.timesteps, LossSecondMoment):
            self.timesteps.load_state_dict(state)
