"""Restoration as a library: `from tessera import Restorer`, or `from codes import Restorer` in a checkout."""

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar, cast, get_args

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from ..config.options import issues_of
from ..config.yaml_source import Issue
from ..data.corruptions.deviation import tolerance_of
from ..data.corruptions.strength import Estimate
from ..images.canvas import RamCanvas
from ..images.colour_fix import ColourFix, fix_colours
from ..images.enforced import LEAST
from ..images.files import to_tensor
from ..images.objects import ImageObject, take_apart
from ..images.output_size import Framing, SizeOptions
from ..models.diffusion.checkpoints.metadata import CheckpointMetadata, load_into, network_of, read_metadata
from ..models.diffusion.checkpoints.shipped import shipped_names, weights_file
from ..models.diffusion.networks.base import DiffusionNetwork
from ..models.diffusion.process_options import ProcessOptions, build_process
from ..models.diffusion.request import Request
from ..models.diffusion.sampling_checks import sampling_problems
from ..models.diffusion.sampling_options import SamplingOptions
from ..recipe.networks import place
from ..runtime.devices import Precision
from ..utils.console import get_logger
from ..utils.errors import ConfigError
from ..utils.rng import image_seed, torch_globals_at
from .export.hub import pretrained_file, push_to_hub, record_of, save_pretrained
from .restorer_arguments import agreed, device_of, shipped_estimator
from .restorer_sizes import ResultSize
from .restorer_strengths import Strengths, read_strengths, strength_tensor
from .run import Run
from .strength_reader import StrengthReader

logger = get_logger(__name__)
T = TypeVar("T")
Progress = Callable[[int, int], object]
NETWORK = "the network"  # its name in messages
# Those of recipes/diffusion/infer.yml: plausible detail without grain.
DEFAULTS = SamplingOptions(respaced_timestep_spacing="karras8", sampler="ddim", temperature=0.15)


class Restorer:
    """A trained network, ready to restore images of any size; build one with `Restorer.from_checkpoint`.

    Calls keep nothing between them, and a lock lets only one sample at a time, so a restorer may be shared by threads.
    It writes no file, configures no logging and leaves torch's global generators as they are.
    """

    def __init__(
        self,
        network: DiffusionNetwork,
        process: ProcessOptions | None,
        *,
        scale: int,
        corruptions: Sequence[str] | None = None,
        device: str | torch.device = "auto",
        precision: Precision = "fp32",
        options: SamplingOptions = DEFAULTS,
        estimator: StrengthReader | None = None,
        record: CheckpointMetadata | None = None,
    ) -> None:
        """Take over a network: it moves to the device, into evaluation mode.

        process: what it was trained under, or None where `options` say it. scale: output pixels per input pixel.
        corruptions: the names of its strengths in the order of training; None, and strengths have no names. record:
        what its checkpoint says of itself, which `save_pretrained` passes on. Raises ConfigError for what does not fit.
        """
        if type(scale) is not int or scale < 1:
            raise ConfigError(f"scale: expected a whole number of at least 1, found {scale!r}")
        if precision not in get_args(Precision):
            raise ConfigError(f"precision: expected one of {', '.join(get_args(Precision))}, found {precision!r}")
        if "low_res" not in network.cond_names or "y" in network.cond_names:
            takes = ", ".join(sorted(network.cond_names)) or "no condition"
            raise ConfigError(f"the network restores no images: it takes {takes}, expected low_res and no classes")
        self.scale = scale
        self.num_strengths = network.strengths_told
        self.corruptions = None if corruptions is None else tuple(corruptions)
        if self.corruptions is not None and len(self.corruptions) != self.num_strengths:
            raise ConfigError(
                f"corruptions: {len(self.corruptions)} names ({', '.join(self.corruptions) or 'none'}), but the "
                f"network was trained with {self.num_strengths}; name each, in the order of training"
            )
        device = device_of(device)
        self.network = place(network, device).eval().requires_grad_(False)
        self.options = options
        self.run = Run(
            {NETWORK: self.network}, device, precision=precision, processes=_processes(process), records=_named(record)
        )
        self.estimator = estimator
        self._lock = threading.RLock()

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        device: str | torch.device = "auto",
        *,
        precision: Precision = "fp32",
        tile: int | None = None,
        tile_overlap: int | None = None,
        tile_batch_size: int | None = None,
        corruptions: Sequence[str] | None = None,
        scale: int | None = None,
        estimator: str | Path | None = None,
    ) -> Self:
        """Load a .safetensors checkpoint of `tessera-train`, which knows its network and its process.

        `from_pretrained` takes the names of weights that come with the project, too.
        device: auto (CUDA, else MPS, else the CPU), cpu, cuda, cuda:N or mps. precision: fp32, bf16 or fp16.
        tile: side in output pixels; None chooses by cost, 0 never tiles. tile_overlap: None is an eighth of it.
        corruptions, scale: those of training, for older files that do not record them. estimator: a checkpoint of
        train_strengths.yml, or the name of one that comes with the project; it reads strengths that are `auto`. Raises
        ConfigError, one line, for what does not fit or contradicts the record: strengths would mean something else.
        """
        path = Path(path).expanduser()
        metadata = read_metadata(path)
        if metadata is None:
            raise ConfigError(
                f"{path}: does not say what network it holds; use a .safetensors file of tessera-train, or build the "
                "network and pass it to Restorer(network, process, scale=...)"
            )
        scale = agreed("scale", scale, metadata.scale, metadata)
        if scale is None:
            raise ConfigError(f"{path}: does not record its scale, as older checkpoints do not; pass scale=2, say")
        with torch_globals_at("cpu", 0, "network"):
            network = network_of(metadata)
        load_into(network, path, strict=True)
        recorded = metadata.corruptions if len(metadata.corruptions or ()) == network.strengths_told else None
        names = agreed("corruptions", None if corruptions is None else tuple(corruptions), recorded, metadata)
        tiling = {"tile": tile, "tile_overlap": tile_overlap, "tile_batch_size": tile_batch_size}
        return cls(
            network,
            metadata.process_options,
            scale=scale,
            corruptions=names,
            device=device,
            precision=precision,
            options=_changed(DEFAULTS, tiling),
            estimator=_reader(estimator, device),
            record=metadata,
        )

    def estimate(self, image: Any, auto_default: float = 0.2) -> dict[str, float]:
        """Corruption -> strength in [0, 1] that `auto` would take for an image, of the kinds that a call takes.

        Raises ConfigError without an estimator, TypeError or ValueError for an unsuitable image.
        """
        if self.estimator is None:
            raise ConfigError("this Restorer has no estimator; load it with estimator=FILE")
        read = self.read_strengths(image, auto_default)
        return {name: read[name].strength for name in self._read_names}

    def read_strengths(self, image: Any, auto_default: float = 0.2) -> dict[str, Estimate]:
        """As `estimate`, with the reasons; without an estimator of those that can be read without one (JPEG's)."""
        return read_strengths(self.corruptions or (), take_apart(image), auto_default, self.estimator)

    @property
    def _read_names(self) -> list[str]:
        """The corruptions of the network whose strengths the estimator knows."""
        names = () if self.estimator is None else self.estimator.names
        return [name for name in self.corruptions or () if name in names]

    @classmethod
    def from_pretrained(
        cls,
        named: str | Path,
        device: str | torch.device = "auto",
        *,
        precision: Precision = "fp32",
        tile: int | None = None,
        tile_overlap: int | None = None,
        tile_batch_size: int | None = None,
        estimator: str | Path | None = None,
    ) -> Self:
        """Load weights by the name under which they come with the project, "tessera-photo-2x", a file or folder, or the
        "owner/name" of the Hugging Face Hub (extra `hub`).

        estimator: None is the one that comes with the project, for weights that come with it and whose corruptions it
        knows. The other arguments are those of `from_checkpoint`. Raises ConfigError with the names that there are.
        """
        if estimator is None and str(named) in shipped_names():
            estimator = shipped_estimator(weights_file(named))
        return cls.from_checkpoint(
            pretrained_file(named), device, precision=precision, tile=tile, tile_overlap=tile_overlap,
            tile_batch_size=tile_batch_size, estimator=estimator,
        )  # fmt: skip

    @property
    def record(self) -> CheckpointMetadata:
        """What a checkpoint of this restorer says of itself."""
        read, process = self.run.records.get(NETWORK), self.run.processes.get(NETWORK)
        return record_of(self.network, process, read, self.scale, self.corruptions)

    def save_pretrained(self, folder: str | Path, licence: str | None = None) -> Path:
        """Write model.safetensors, config.json and a model card into a folder, which `from_pretrained` takes.

        licence: of the weights, as the Hub writes it ("cc-by-4.0"); None where it is not known. Returns the folder.
        """
        return save_pretrained(self.network, self.record, Path(folder), licence)

    def push_to_hub(self, repo_id: str, licence: str | None = None, private: bool | None = None) -> str:
        """Upload what `save_pretrained` writes to "owner/name" of the Hugging Face Hub; returns the commit's address.

        Needs the extra `hub` and a login (`hf auth login`). Raises TesseraError, one line, where the upload fails.
        """
        return push_to_hub(self.network, self.record, repo_id, licence, private)

    def __call__(
        self,
        image: T,
        strengths: Strengths = None,
        *,
        steps: int | str | Sequence[int] | None = None,
        sampler: str | None = None,
        eta: float | None = None,
        stop_at_snr: float | None = None,
        temperature: float | None = None,
        blend: float | None = None,
        options: SamplingOptions | Mapping[str, Any] | None = None,
        scale: float | None = None,
        size: str | tuple[int, int] | None = None,
        output: SizeOptions | Mapping[str, Any] | None = None,
        color_fix: ColourFix = "none",
        seed: int = 0,
        name: str | None = None,
        sample: int = 0,
        auto_default: float = 0.2,
        progress: Progress | None = None,
    ) -> T:
        """Restore one image; the result is of the same kind, as large as the network makes it or as is asked for.

        image: NumPy (H, W) or (H, W, 1..4), a tensor (1..4, H, W), uint8, uint16 or floats in [0, 1]; any Pillow image;
        or a `Picture` of `read_image`. strengths: see `strength_tensor`; None: auto for those that the estimator knows.
        steps, sampler, eta, stop_at_snr, temperature, blend: None leaves them as in `options`; math.inf as stop_at_snr
        stops nowhere. steps: a spacing of recipes or a count (8: "karras8"; 1, the mean: "trailing1" at temperature 1).
        temperature: 0 is most faithful, 1 a sample. blend: the share of the mean in the result.
        options: keys of the sampling injector that change `self.options`, or SamplingOptions in their place.
        scale: pixels of the result per pixel of the image, any number. size: (height, width), or "WIDTHxHEIGHT".
        output: size_mode, megapixels, resampling, linear_light as in recipes, or SizeOptions. color_fix: `fix_colours`.
        seed, name, sample: the noise depends on them; with the recipe's seed, the file's path below its input folder
        and the number of the sample from 0 it is that of `tessera-test`. progress: called with (tiles done, tiles in
        all); what it raises ends the call and reaches the caller.
        Raises TypeError or ValueError for an unsuitable image or strength, ConfigError for options.
        """
        _check_colour_fix(color_fix)
        taken = take_apart(image)
        wanted = ResultSize.asked(scale, size, output, taken, self.scale)
        short = {"sampler": sampler, "eta": eta, "stop_at_snr": stop_at_snr, "temperature": temperature, "blend": blend}
        sampling = self._sampling(options, steps, {key: value for key, value in short.items() if value is not None})
        given = dict.fromkeys(self._read_names, "auto") if strengths is None and self.estimator else strengths
        factor = strength_tensor(given, self.num_strengths, self.corruptions, taken, auto_default, self.estimator)
        images = [to_tensor(image, True) for image in _colours_and_alpha(taken)]
        which = None if sampling.noise_type == "fixed" else 0 if name is None else name
        restored = self._sample(images, factor, sampling, image_seed(seed, which, sample), wanted.passes, progress)
        fix_colours(RamCanvas(restored[0]), images[0], color_fix)
        rgb, *alpha = wanted.shown(restored, sampling.wrapped)
        return cast(T, taken.rebuild(rgb, _alpha(taken, wanted.framing, alpha)))

    def _sampling(
        self,
        options: SamplingOptions | Mapping[str, Any] | None,
        steps: int | str | Sequence[int] | None,
        short: dict[str, Any],
    ) -> SamplingOptions:
        base = options if isinstance(options, SamplingOptions) else self.options
        changes = dict(options) if isinstance(options, Mapping) else {}
        if steps == 1:  # from less noise than a network is told one step sharpens too much; a student takes its own
            changes = {"temperature": self._full_noise(base), **changes}
        if steps is not None:
            named = "trailing1" if steps == 1 else f"karras{steps}" if isinstance(steps, int) else steps
            changes["respaced_timestep_spacing"] = named
        chosen = _changed(base, {**changes, **short})
        if chosen.canvas != "ram":
            raise ConfigError("options: canvas: disk writes files; a Restorer works in memory, so use ram")
        if not chosen.use_ema:
            raise ConfigError("options: use_ema: a Restorer samples from the weights of its file; load another one")
        if "resume_seconds" in chosen.model_fields_set:
            raise ConfigError("options: resume_seconds is for test.py; a Restorer keeps nothing on disk")
        if issues := sampling_problems(chosen, NETWORK, self.network, self.scale):
            raise ConfigError(_in_one_line(issues))
        return chosen

    def _full_noise(self, base: SamplingOptions) -> float:
        """The temperature of one step: 1, or for a student as it is."""
        trained = self.run.processes.get(NETWORK)
        return base.temperature if trained is not None and trained.student else 1.0

    def _tolerance(self, image: Tensor, factor: Tensor | None, sampling: SamplingOptions) -> Tensor | float:
        if sampling.consistency == "none":
            return LEAST
        told = None if factor is None else factor[0]
        return tolerance_of(image, told, self.corruptions, sampling.consistency_tolerance)

    def _sample(
        self,
        images: Sequence[Tensor],
        factor: Tensor | None,
        sampling: SamplingOptions,
        seed: int,
        passes: int,
        progress: Progress | None,
    ) -> list[Tensor]:
        """Restore images (3, h, w) in [-1, 1] under the same strengths and noise: (3, H, W)."""
        told = {} if factor is None else {"corruption_factor": factor}
        requests = [
            Request(
                {"low_res": image[None], **told},
                image.shape[-2] * self.scale,
                image.shape[-1] * self.scale,
                seed,
                passes=passes,
                tolerance=self._tolerance(image, factor, sampling),
            )
            for image in images
        ]
        engine = self.run.engine(NETWORK, sampling)
        total = engine.tile_steps(requests, self.scale)

        def tell(share: float) -> None:
            if progress is not None:
                progress(round(share * total), total)

        with self._lock:
            canvases = engine.restore(requests, self.scale, tell, logger.warning)
        return [canvas.rows(0, canvas.height) for canvas in canvases]


def _check_colour_fix(kind: str) -> None:
    if kind not in get_args(ColourFix):
        raise ConfigError(f"color_fix: expected one of {', '.join(get_args(ColourFix))}, found {kind!r}")


def _colours_and_alpha(image: ImageObject) -> list[np.ndarray]:
    """What is restored of an image, float32 (H, W, 3): its colours and, where it varies, its transparency as gray."""
    if image.alpha is None or np.ptp(image.alpha) == 0:
        return [image.rgb]
    return [image.rgb, np.repeat(image.alpha[..., None], 3, axis=2)]


def _alpha(image: ImageObject, framing: Framing, restored: Sequence[np.ndarray]) -> np.ndarray | None:
    """float32 (H, W): the restored transparency, (H, W, 3), or that which is the same everywhere."""
    if restored:
        return restored[0].mean(axis=2)
    if image.alpha is None:
        return None
    return np.full(framing.size, image.alpha.flat[0])


def _changed(base: SamplingOptions, changes: Mapping[str, Any]) -> SamplingOptions:
    """Options with some keys set anew. Raises ConfigError, one line."""
    if not changes:
        return base
    listed = {key: tuple(value) if isinstance(value, list) else value for key, value in changes.items()}
    values = base.given_for(listed)
    if values.get("stop_at_snr") == math.inf:
        values["stop_at_snr"] = None
    try:
        return SamplingOptions.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_in_one_line(issues_of(SamplingOptions, error, values))) from None


def _in_one_line(issues: Sequence[Issue]) -> str:
    return "; ".join(f"options: {issue.words}" for issue in issues)


def _reader(estimator: str | Path | None, device: str | torch.device) -> StrengthReader | None:
    return None if estimator is None else StrengthReader.from_checkpoint(weights_file(estimator), device_of(device))


def _named(record: CheckpointMetadata | None) -> dict[str, CheckpointMetadata]:
    return {} if record is None else {NETWORK: record}


def _processes(process: ProcessOptions | None) -> dict[str, ProcessOptions]:
    """By the name of its network. Raises ConfigError for a process that cannot be."""
    if process is None:
        return {}
    try:
        build_process(process)
    except ValueError as error:
        raise ConfigError(f"process: {error}") from None
    return {NETWORK: process}
