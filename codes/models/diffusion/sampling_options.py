"""How images are sampled, as options: shared by the inference injector and by evaluators (`diffusion_params`)."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AliasChoices, ConfigDict, Field, field_validator, model_validator

from ...config.choice import ChoiceOptions, NameIn
from ...config.effect import NotWith, OnlyWith
from ...config.fingerprint import SPEED_ONLY
from ...config.options import Options, nested
from ...config.registry import Registry
from ...config.yaml_source import Issue
from ...utils.errors import ConfigError
from .process import GaussianDiffusion
from .process_options import BetaScheduleOptions, DiffusionArgs, ProcessOptions, build_process
from .respacing import Karras, Respacing, check_spacing, karras_count, single_step
from .samplers import SAMPLERS, Sampler

SIGMAS = ("sigma_max", "sigma_min")  # of karrasN alone
NO_MEAN = "a network that was distilled to one step knows no mean; use blend: 0, or the network that taught it"
Wrap = Literal["none", "x", "y", "xy"]
Consistency = Literal["none", "end", "each_step"]
SamplerName = Annotated[str, NameIn(SAMPLERS)]


class TilingOptions(Options):
    """How an image of any size is made tile by tile, whatever the network does with a tile."""

    clip_denoised: bool = Field(True, description="Keep every predicted x_start within [-1, 1].")
    use_ema: bool = Field(
        True,
        validation_alias=AliasChoices("use_ema", "use_ema_model"),
        description="Use the averaged weights where there are some.",
    )
    tile: int | None = Field(
        None,
        ge=0,
        le=1_000_000,
        description="Tile side in output pixels; ~: as few tiles as sides of at most 2.25 times the training size "
        "(image_size) allow; 0 never tiles.",
    )
    tile_overlap: Annotated[int | None, NotWith("tile", 0)] = Field(
        None,
        ge=0,
        le=1_000_000,
        description="Overlap of neighbouring tiles in output pixels; ~ is an eighth of the tile, or of image_size.",
    )
    tile_batch_size: Annotated[int | None, SPEED_ONLY] = Field(
        None,
        ge=1,
        le=65536,
        description="Tiles that the device works on at once; ~: on CPUs as many pixels as in 4 tiles of image_size, on "
        "GPUs what memory holds, up to 64. Halves by itself when memory runs out.",
    )
    cuda_graphs: Annotated[bool, SPEED_ONLY] = Field(
        False, description="Replay the network as one CUDA graph for each shape of batches; for many tiles of one size."
    )
    wrap: Wrap = Field(
        "none",
        description="Seamless textures: the image goes on with its beginning behind its right edge (x), its bottom (y) "
        "or both, for tiles, their blending, noise and upsampling alike.",
    )
    canvas: Annotated[Literal["ram", "disk"], SPEED_ONLY] = Field(
        "ram",
        description="Where the image lies while it is sampled: in memory (about 30 bytes a pixel of the output, 40 up "
        "to 16 megapixels; on the GPU while that is less than half of what is free), or in files beside the results "
        "(about 24 bytes a pixel), with memory for a row of tiles only.",
    )

    @property
    def wrapped(self) -> tuple[bool, bool]:
        """Whether (height, width) wrap."""
        return "y" in self.wrap, "x" in self.wrap

    @model_validator(mode="after")
    def _tiles_overlap_in_part(self) -> Self:
        if self.tile and self.tile_overlap is not None and self.tile_overlap >= self.tile:
            raise nested(
                [Issue(("tile_overlap",), f"must be smaller than the tile of {self.tile}, found {self.tile_overlap}")]
            )
        return self


class SamplingOptions(TilingOptions, ChoiceOptions):
    """How images are sampled: shared by the inference injector and by evaluators (`diffusion_params`).

    The options of the sampler stand among these.
    """

    model_config = ConfigDict(extra="allow")  # of ChoiceOptions; the other base forbids
    choice_key: ClassVar[str] = "sampler"
    choices: ClassVar[Registry[Any]] = SAMPLERS

    beta_schedule: BetaScheduleOptions | None = Field(
        None, description="The schedule of training; ~: from the checkpoint."
    )
    diffusion_args: DiffusionArgs | None = Field(None, description="The process of training; ~: from the checkpoint.")
    respaced_timestep_spacing: int | str | tuple[int, ...] | None = Field(
        None,
        description="Sampling steps: a count (section rule; 1 is trailing1), counts per section, 'ddimN', 'leadingN', "
        "'linspaceN', 'trailingN', or for restoration 'karrasN'; ~ takes every step of training.",
    )
    sigma_max: float = Field(
        1.0,
        gt=0,
        description="karrasN: noise over signal at the first step, which starts around the upsampled low_res.",
    )
    sigma_min: float = Field(0.01, gt=0, description="karrasN: noise over signal at the last step.")
    stop_at_snr: float | None = Field(
        None,
        gt=0,
        description="Stop drawing detail where the signal-to-noise ratio reaches this, and take the mean from there: "
        "about 2 stays close to the input (high PSNR), 100 draws most detail; ~ draws all of it.",
    )
    sampler: SamplerName | None = Field(None, description="The rule of a step, by name; ~ is ancestral.")
    use_ddim: bool = Field(False, description="The same as `sampler: ddim`.")
    temperature: float = Field(
        1.0,
        ge=0,
        le=2,
        description="Factor of all noise, of the start and of the steps: 0 is the most faithful, 1 a sample of what "
        "the network has learned; between them lies less detail with less grain.",
    )
    blend: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of the mean in the result, for restoration; the rest is what the sampler gives. The mean is "
        "told in one more call, from pure noise at the last timestep of training. 0 is the sample alone, 1 the mean.",
    )
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
    consistency: Consistency = Field(
        "none",
        description="Keep the result to its input: where, made small again by area, it differs from it in the low "
        "frequencies by more than the corruptions explain, it is corrected, at the end or in every step's prediction.",
    )
    consistency_tolerance: Annotated[float, OnlyWith("consistency", "end", "each_step")] = Field(
        1.0,
        ge=0,
        le=100,
        description="Factor of what the corruptions explain; 0 takes the low frequencies of the input as they are.",
    )
    tile_jitter: Annotated[bool, NotWith("tile", 0)] = Field(
        False, description="Move the grid of tiles from step to step, so that no border stays in one place."
    )
    resume_seconds: Annotated[float, SPEED_ONLY, OnlyWith("canvas", "ram")] = Field(
        10.0,
        ge=0,
        description="canvas ram: how often the state of an image under way is written to disk (0: after every step), "
        "from where an interrupted run goes on. (A canvas on disk goes on at the step where it stopped.)",
    )

    @field_validator("respaced_timestep_spacing")
    @classmethod
    def _spacing_is_one(cls, spacing: Respacing | None) -> Respacing | None:
        if spacing is not None:
            check_spacing(spacing)
        return spacing

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.use_ddim and self.sampler not in (None, "ddim"):
            raise nested([Issue(("use_ddim",), f"use_ddim: true contradicts sampler: {self.sampler}; remove one")])
        if self.noise_type == "zero" and self.temperature != 1.0:
            message = f"is {self.temperature:g}, but noise_type: zero starts without noise already; remove one of them"
            raise nested([Issue(("temperature",), message)])
        if self.consistency == "each_step" and (self.dynamic_threshold or self.guidance_rescale):
            message = "each_step corrects what dynamic_threshold and guidance_rescale move again; use end"
            raise nested([Issue(("consistency",), message)])
        for issue in self._sigma_issues():
            raise nested([issue])
        if self.guidance_scale == 1.0 and (self.guidance_rescale or self.guidance_low_res != 1.0):
            raise nested(
                [Issue(("guidance_scale",), "is 1 (off), so guidance_rescale and guidance_low_res do nothing")]
            )
        return self

    def _sigma_issues(self) -> Iterator[Issue]:
        named = karras_count(self.respaced_timestep_spacing) is not None
        for name in SIGMAS:
            if not named and getattr(self, name) != type(self).model_fields[name].default:
                yield Issue((name,), f"belongs to karrasN, found steps {self.respaced_timestep_spacing}")
        if self.sigma_min >= self.sigma_max:
            yield Issue(("sigma_min",), f"must be below sigma_max of {self.sigma_max:g}, found {self.sigma_min:g}")

    @classmethod
    def chosen_name(cls, data: Mapping[str, Any]) -> Any:
        return super().chosen_name(data) or ("ddim" if data.get("use_ddim") is True else "ancestral")

    def given_for(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        given = super().given_for(changes)
        if "sampler" in changes and "use_ddim" not in changes:
            given.pop("use_ddim", None)  # it gives way to the name
        if karras_count(given.get("respaced_timestep_spacing")) is None:
            given = {key: value for key, value in given.items() if key not in SIGMAS or key in changes}
        return given

    @property
    def sampler_name(self) -> str:
        return str(self.chosen_name(vars(self)))

    @property
    def rule(self) -> Sampler:
        """The sampler with its options."""
        rule: Sampler = self.choice()
        return rule

    def _steps(self, spacing: Respacing) -> Respacing:
        """The spacing as sampling means it: karrasN with its sigmas, and one step alone where noise is."""
        count = karras_count(spacing)
        if count is not None:
            return Karras(count, self.sigma_max, self.sigma_min)
        return "trailing1" if single_step(spacing) else spacing

    def suited_to(self, trained: ProcessOptions | None) -> Self:
        """These options as a network takes them: a student's one step and no more than its temperature.

        Other networks take them as they are, and so does a student whose process is set anew here.
        """
        student = trained.student if trained and self.diffusion_args is None else None
        if student is None:
            return self
        low = min(self.sigma_min, student.sigma / 2)
        steps = {"respaced_timestep_spacing": "karras1", "sigma_max": student.sigma, "sigma_min": low}
        hottest = min(self.temperature, student.temperature_max)
        return self.model_copy(update={**steps, "stop_at_snr": None, "temperature": hottest})

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
        return self.suited_to(trained)._respaced(process, network)

    def build_mean(self, trained: ProcessOptions | None, network: str) -> GaussianDiffusion | None:
        """The process of the one step to the mean, None without a `blend`; ConfigError where there is no mean."""
        if self.blend == 0:
            return None
        if self.suited_to(trained) is not self:
            raise ConfigError(f"sampling from {network}: blend {self.blend:g}: {NO_MEAN}")
        last = {"respaced_timestep_spacing": "trailing1", "stop_at_snr": None}
        return self.model_copy(update=last).build_process(trained, network)

    def _respaced(self, process: GaussianDiffusion, network: str) -> GaussianDiffusion:
        spacing = self.respaced_timestep_spacing
        if spacing is None:
            if self.stop_at_snr is not None:
                raise ConfigError(f"sampling from {network}: stop_at_snr needs respaced_timestep_spacing, a step count")
            return process
        try:
            return process.respaced(self._steps(spacing), self.stop_at_snr)
        except ValueError as error:
            raise ConfigError(f"sampling from {network}: {error}") from None
