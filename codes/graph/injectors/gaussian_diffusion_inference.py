"""Sampling as an injector: restore or generate the images of a state."""

from collections.abc import Mapping, Sequence
from typing import Self

from pydantic import Field, model_validator
from torch import Tensor

from ...config.options import nested
from ...config.yaml_source import Issue
from ...data.corruptions.deviation import tolerance_of
from ...models.diffusion.engine import Engine
from ...models.diffusion.networks.base import DiffusionNetwork
from ...models.diffusion.process_options import ProcessOptions
from ...models.diffusion.sampling_checks import sampling_problems, step_problems
from ...models.diffusion.sampling_options import SamplingOptions
from ...utils.errors import ConfigError
from ..graph import INJECTORS, StepContext
from ..node_options import TiledOptions
from .gaussian_diffusion import conditioning_problems
from .tiled import TiledInjector

ALIKE = ("in_channels", "out_channels", "image_size", "multiple_of", "minimum_size", "null_label", "cond_names")


class GaussianDiffusionInferenceOptions(TiledOptions, SamplingOptions):
    """Options of `gaussian_diffusion_inference`."""

    generator: str | tuple[str, ...] = Field(
        description="Name of the network that is sampled from; a list of experts with `snr_splits`, that for the "
        "cleanest images first."
    )
    snr_splits: tuple[float, ...] = Field(
        (), description="Signal-to-noise ratios, descending, at which the next expert takes over; one fewer than them."
    )
    output_size: int | tuple[int, int] | None = Field(
        None,
        description="Without low_res: side, or [height, width], of the generated images in pixels; ~ is the size the "
        "network was trained at.",
    )

    @model_validator(mode="after")
    def _experts_and_sizes(self) -> Self:
        issues = []
        if len(self.snr_splits) != len(self.generators) - 1:
            counts = f"{len(self.snr_splits)} for {len(self.generators)} networks"
            issues.append(Issue(("snr_splits",), f"{counts}; give one fewer than the networks that `generator` lists"))
        if self.output_size is not None and "low_res" in self.model_input_keys:
            issues.append(Issue(("output_size",), "is for generation; with low_res the size follows from the image"))
        if self.output_size is not None and min(self.size or (1,)) < 1:
            issues.append(Issue(("output_size",), f"must be at least 1 pixel, found {self.output_size}"))
        if issues:
            raise nested(issues)
        return self

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of generated images, None for the network's own."""
        size = self.output_size
        return (size, size) if isinstance(size, int) else size

    @property
    def one_noise(self) -> bool:
        return self.noise_type == "fixed"

    @property
    def draws(self) -> bool:
        return self.temperature > 0 and (self.noise_type != "zero" or self.rule.draws)

    @property
    def method(self) -> str:
        spacing = self.respaced_timestep_spacing
        return f"{self.sampler_name}, {'all' if spacing is None else spacing} steps"

    def method_under(self, processes: Mapping[str, ProcessOptions]) -> str:
        distilled = self.suited_to(processes.get(self.generators[0])) is not self
        return "one step of a distilled network" if distilled else self.method

    def check_processes(self, processes: Mapping[str, ProcessOptions]) -> None:
        self.build_process(processes.get(self.generators[0]), self.generators[0])

    def step_problems(
        self, networks: Mapping[str, DiffusionNetwork], trained: Mapping[str, ProcessOptions]
    ) -> list[Issue]:
        name = self.generators[0]
        return step_problems(self, name, networks[name], trained.get(name)) if name in networks else []

    def in_one_step(self) -> Self:
        return self.model_copy(update={"respaced_timestep_spacing": 1, "stop_at_snr": None, "blend": 0.0})

    def problems(self, networks: Mapping[str, DiffusionNetwork]) -> list[Issue]:
        issues: dict[Issue, None] = {}
        for name in self.generators:
            issues |= dict.fromkeys(conditioning_problems(name, self.model_input_keys, networks))
            if name in networks:
                issues |= dict.fromkeys(sampling_problems(self, name, networks[name], self.output_scale_factor))
        experts = [networks[name] for name in self.generators if name in networks]
        issues |= dict.fromkeys(_differences(experts, self.generators))
        for network in experts[:1]:
            if "low_res" in network.cond_names and not self.restores:
                message = "missing; this network restores images (low_res: lq, or low_res: hq with skip_lq)"
                issues[Issue(("model_input_keys", "low_res"), message)] = None
        if self.consistency != "none" and not self.restores:
            issues[Issue(("consistency",), "keeps a result to its low_res, and there is none; remove it")] = None
        if self.guidance_scale != 1.0 and not {"y", "low_res"} & set(self.model_input_keys):
            message = "guidance has nothing to leave out: the network is told no class; set model_input_keys: {y: y}"
            issues[Issue(("guidance_scale",), message)] = None
        return list(issues)


def _differences(networks: Sequence[DiffusionNetwork], names: Sequence[str]) -> list[Issue]:
    """Experts that cannot stand in for each other."""
    different = [
        (name, trait, getattr(other, trait), getattr(networks[0], trait))
        for other, name in zip(networks[1:], names[1:], strict=False)
        for trait in ALIKE
        if getattr(other, trait) != getattr(networks[0], trait)
    ]
    return [
        Issue(("generator",), f"{name} and {names[0]} cannot be experts of one model: {trait} is {own} and {first}")
        for name, trait, own, first in different
    ]


@INJECTORS.register("gaussian_diffusion_inference")
class GaussianDiffusionInferenceInjector(TiledInjector):
    """Samples one image for every image of `low_res`, of output_scale_factor times its size, and writes `out`.

    Without `low_res` it generates one image for every sample of the batch, of `output_size`. With `canvas: disk` a
    state holds one image, and `out` is a Canvas.
    """

    Options = GaussianDiffusionInferenceOptions

    def __init__(self, options: GaussianDiffusionInferenceOptions) -> None:
        self.options: GaussianDiffusionInferenceOptions = options

    def tolerance(self, cond: Mapping[str, Tensor], context: StepContext) -> Tensor | float:
        if self.options.consistency == "none" or "low_res" not in cond:
            return super().tolerance(cond, context)
        names = context.corruptions.get(self.options.generators[0])
        told = cond.get("corruption_factor")
        return tolerance_of(cond["low_res"].float(), told, names, self.options.consistency_tolerance)

    def engine(self, context: StepContext) -> Engine:
        """The network with the process it was trained under, respaced."""
        options, names = self.options, self.options.generators
        networks = [self.network(name, context) for name in names]
        trained = [context.processes.get(name) for name in names]
        if options.beta_schedule is None or options.diffusion_args is None:
            odd = next((name for name, other in zip(names, trained, strict=True) if other != trained[0]), None)
            if odd is not None:
                raise ConfigError(
                    f"{options.out}: {odd} was trained under another process than {names[0]}, so the two cannot share "
                    "one sampling; set beta_schedule and diffusion_args if they belong together all the same"
                )
        process, mean = options.build_process(trained[0], names[0]), options.build_mean(trained[0], names[0])
        rest, splits = tuple(networks[1:]), options.snr_splits
        suited = options.suited_to(trained[0])
        return Engine(networks[0], process, suited, context.device, context.autocast, rest, splits, mean)
