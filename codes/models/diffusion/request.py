"""One image to sample: what is asked for, and the image as sampling begins it or goes on with it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...config.fingerprint import fingerprint
from ...images.canvas import Canvas, CanvasWindow, RamCanvas
from ...images.canvas_store import CanvasStore, DiskStore, RamStore
from ...images.enforced import LEAST, Agreement
from ...utils.errors import ConfigError
from ...utils.rng import derive_seed
from .networks.base import DiffusionNetwork
from .noise import NoiseField
from .sampling_options import SamplingOptions
from .tiling.canvas_sampling import SampledImage
from .tiling.conditioning import Spatial, is_spatial, upsampled_region
from .tiling.plan import Tile, TilePlan

KEPT_UPSAMPLED = 2**24  # pixels of a result in host memory whose low_res is upsampled once for all steps


@dataclass(frozen=True)
class Request:
    """One image to sample.

    `cond`: network argument -> tensor (1, ...), or a canvas; canvases and tensors of 4 dimensions are spatial, 1/n of
    the size of the image. The noise follows from `seed`. `scratch`: a folder of this image alone, where an interrupted
    run finds its state again.
    `tolerance`: how far its low frequencies may lie from those of low_res (`images.enforced`), where that is enforced.
    `passes`: how often the image is restored, each time at the scale of the network; height and width are those of the
    first result.
    """

    cond: Mapping[str, Spatial]
    height: int
    width: int
    seed: int
    scratch: Path | None = None
    passes: int = 1
    tolerance: Tensor | float = LEAST

    def again(self, result: Canvas, scale: int) -> "Request":
        """The next pass, from the result of this one, which is clean by now: the strengths are 0."""
        told = self.cond.get("corruption_factor")
        cond: dict[str, Spatial] = {**self.cond, "low_res": result.rows(0, result.height)[None]}
        if isinstance(told, Tensor):
            cond["corruption_factor"] = torch.zeros_like(told.flatten(2).amax(2) if told.ndim == 4 else told)
        left = self.passes - 1
        return Request(
            cond, self.height * scale, self.width * scale, derive_seed(self.seed, "pass", left),
            self.scratch and self.scratch / f"pass_{left}", left,
        )  # fmt: skip


@dataclass(frozen=True)
class Preparation:
    """Makes of a request the image that sampling works on, whose canvases have `canvas_channels` and lie on `device`.

    `steps`: the original timesteps of the sampling; `splits`: those of its experts.
    """

    options: SamplingOptions
    network: DiffusionNetwork
    steps: Sequence[int]
    splits: tuple[float, ...]
    canvas_channels: int
    device: torch.device
    on_event: Callable[[str], None] | None

    def image(self, request: Request, plan: TilePlan) -> SampledImage:
        """The image as it is before sampling, or as an interruption left it."""
        cond, scales = self._conditions(request, plan)
        return SampledImage(
            cond=cond,
            scales=scales,
            plan=plan,
            noise=NoiseField(request.seed, self.network.in_channels),
            store=self._store(request, (self.canvas_channels, plan.height, plan.width)),
            zero_start=self.options.noise_type == "zero",
            temperature=self.options.temperature,
            jitter=self.options.tile_jitter,
            agreement=self._agreement(request),
        )

    def _conditions(self, request: Request, plan: TilePlan) -> tuple[dict[str, Spatial], dict[str, int]]:
        """What tiles are cut from: beside the canvas, and upsampled once where that takes little memory."""
        cond: dict[str, Spatial] = {
            name: value if isinstance(value, Canvas) else value.to(self.device, non_blocking=True)
            for name, value in request.cond.items()
        }
        # Pixels of the image per pixel of each spatial conditioning.
        scales = {
            name: max(request.height // value.shape[-2], 1) for name, value in request.cond.items() if is_spatial(value)
        }
        small = self.device.type != "cpu" or plan.height * plan.width <= KEPT_UPSAMPLED
        scale = scales.get("low_res", 1)
        # Only where positions are exact in binary is a part of the whole what the part alone would be.
        if self.options.canvas == "ram" and small and scale > 1 and not scale & (scale - 1):
            whole, mode = Tile(0, 0, 0, plan.height, 0, plan.width), self.network.low_res_upsampling
            cond["low_res"] = upsampled_region(cond["low_res"], whole, plan, scale, mode, self.device)
            scales["low_res"] = 1
        return cond, scales

    def _store(self, request: Request, shape: tuple[int, int, int]) -> CanvasStore:
        key = self._key(request, shape)
        if self.options.canvas == "ram":
            return RamStore(shape, request.scratch, key, self.options.resume_seconds, self.on_event, self.device)
        if request.scratch is None:
            raise ConfigError("canvas: disk needs a folder for its files, which only test.py has; use canvas: ram here")
        return DiskStore(request.scratch, key, shape)

    def _key(self, request: Request, shape: tuple[int, int, int]) -> str:
        """What an interrupted state must agree in to be continued; the scratch folder answers for the rest."""
        said = {name: tuple(value.shape) for name, value in request.cond.items()}
        return fingerprint(self.options, self.options.canvas, request.seed, shape, self.splits, said, self.steps)

    def _agreement(self, request: Request) -> Agreement | None:
        """What the image must agree with, where that is enforced."""
        if self.options.consistency == "none":
            return None
        if "low_res" not in request.cond:
            raise ConfigError("consistency: there is no low_res to agree with; it is for restoring, so leave it out")
        given = request.cond["low_res"]
        low_res = given.rows(0, given.height) if isinstance(given, Canvas) else given[0].float().cpu()
        return Agreement(low_res, request.tolerance, request.height // low_res.shape[-2], self.options.wrapped)


def result_of(store: CanvasStore, request: Request, channels: int) -> Canvas:
    """The image of a store that has been sampled, (channels, height, width)."""
    if isinstance(store, RamStore):
        whole = store.state.rows(0, store.state.height)[:channels, : request.height, : request.width]
        return RamCanvas(whole.cpu())
    return CanvasWindow(store.state, channels, request.height, request.width)
