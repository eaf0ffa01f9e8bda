"""From a trained network to an image of any size: pad, plan tiles, draw the noise, run a sampler."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from ...images.canvas import Canvas
from ...utils.errors import ConfigError
from .denoiser import Denoiser, NetworkDenoiser
from .guidance import ClassifierFree, Clipped, EpsilonScaled, SplitDenoiser
from .mixed_precision import AutocastDenoiser
from .networks.base import DiffusionNetwork
from .networks.cast import cast_once
from .networks.graphed import Graphed
from .process import GaussianDiffusion
from .request import Preparation, Request, result_of
from .sampling_checks import start_problem
from .sampling_options import SamplingOptions
from .tiling.canvas_sampling import Blending, SampledImage, canvas_channels, sample_images
from .tiling.memory import Room, attempted, room_on
from .tiling.plan import TilePlan
from .tiling.runner import TileRunner
from .tiling.whole_image import Adjustment

THRESHOLD_QUANTILE = 0.995  # of |x_start|, as in Saharia et al. 2022
CPU = torch.device("cpu")


class Blank(NamedTuple):
    """What a denoiser is given."""

    x_t: Tensor
    t: Tensor
    cond: dict[str, Tensor]


@dataclass(frozen=True)
class Engine:
    """A network ready to sample: on its device, in evaluation mode, under a process that may be respaced.

    `experts`: further networks, which with `network` as the first share the steps by signal-to-noise ratio, split at
    `snr_splits` (descending): the first serves what lies above the first split. `mean`: the process of one step from
    pure noise, with which `blend` finds the mean; None without a blend.
    """

    network: DiffusionNetwork
    process: GaussianDiffusion
    options: SamplingOptions
    device: torch.device
    autocast: Callable[[], AbstractContextManager[Any]]
    experts: tuple[DiffusionNetwork, ...] = ()
    snr_splits: tuple[float, ...] = ()
    mean: GaussianDiffusion | None = None

    def __post_init__(self) -> None:
        if self.options.cuda_graphs and self.device.type != "cuda":
            raise ConfigError(f"cuda_graphs needs a CUDA device, and this runs on {self.device}; leave it out")
        problem = start_problem(self.options, self.process, self.network)
        if problem:
            raise ConfigError(f"respaced_timestep_spacing {problem}")
        assert (self.mean is not None) == (self.options.blend > 0), "see SamplingOptions.build_mean"

    def denoiser(self) -> Denoiser:
        """The network or networks with epsilon scaling and guidance; x_start is clipped only after what
        extrapolates, and where the whole image is adjusted, only after that."""
        each = [self._denoiser_of(network) for network in (self.network, *self.experts)]
        return SplitDenoiser(each, self.snr_splits, self.process.schedule) if self.experts else each[0]

    def _denoiser_of(self, network: DiffusionNetwork) -> Denoiser:
        options = self.options
        extrapolates = options.guidance_scale != 1.0 or options.epsilon_scale != 1.0
        clip = options.clip_denoised and not self.adjustment.changes_something
        ready, plain = self.ready(network), clip and not extrapolates
        denoiser: Denoiser = NetworkDenoiser(ready, self.process, plain, low_res_upsampling=network.low_res_upsampling)
        if options.epsilon_scale != 1.0:
            denoiser = EpsilonScaled(denoiser, self.process, options.epsilon_scale)
        if options.guidance_scale != 1.0:
            denoiser = ClassifierFree(
                denoiser,
                self.process,
                options.guidance_scale,
                num_classes=self.network.null_label,
                low_res_strength=options.guidance_low_res,
                keep_unguided=options.guidance_rescale > 0.0,
            )
        return Clipped(denoiser, self.process) if clip and extrapolates else denoiser

    @property
    def adjustment(self) -> Adjustment:
        """What is done to the predictions of whole images."""
        options = self.options
        rescale = options.guidance_rescale if options.guidance_scale != 1.0 else 0.0
        quantile = THRESHOLD_QUANTILE if options.dynamic_threshold else None
        return Adjustment(rescale, quantile, options.clip_denoised, options.consistency == "each_step")

    @property
    def canvas_channels(self) -> int:
        """Channels of each of the two canvases that an image is sampled in."""
        return canvas_channels(self.network.in_channels, self.options.rule, self.adjustment)

    @property
    def dtype(self) -> torch.dtype | None:
        """What autocast computes in; None without it."""
        kind = self.device.type
        with self.autocast():
            return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None

    def ready(self, network: DiffusionNetwork) -> DiffusionNetwork | Graphed:
        """A network with weights in the dtype that it computes in, replayed as a graph where that is asked for."""
        dtype = self.dtype
        cast = network if dtype is None else cast_once(network, dtype)
        return Graphed(cast) if self.options.cuda_graphs else cast

    def plan(self, height: int, width: int, scale: int) -> TilePlan:
        """The tiles of an output of (height, width) pixels, which is padded to what network and scale ask for."""
        network, options = self.network, self.options
        return TilePlan.chosen(
            height,
            width,
            tile=options.tile,
            overlap=options.tile_overlap,
            training=network.image_size,
            minimum=network.minimum_size,
            align=math.lcm(network.multiple_of, scale),
            wrap=options.wrapped,
        )

    def tile_steps(self, requests: Sequence[Request], scale: int) -> int:
        """The tiles of all steps of all images: what the work is in proportion to."""
        tiles = sum(
            len(self.plan(request.height * scale**n, request.width * scale**n, scale))
            for request in requests
            for n in range(request.passes)
        )
        return tiles * self.calls

    @property
    def calls(self) -> int:
        """How often the network sees each tile."""
        return self.process.num_timesteps + (self.mean is not None)

    def _blending(self, on_event: Callable[[str], None] | None) -> Blending | None:
        """What the last pass of a blend needs: this engine under the process of the mean."""
        if self.mean is None:
            return None
        runner = replace(self, process=self.mean)._runner(on_event)
        return Blending(runner, self.mean, self.options.blend)

    def restore(
        self,
        requests: Sequence[Request],
        scale: int,
        on_progress: Callable[[float], None] | None = None,
        on_event: Callable[[str], None] | None = None,
    ) -> list[Canvas]:
        """Sample images of any sizes together; each a canvas (C, height, width) in [-1, 1].

        `scale`: pixels of the result per pixel of low_res. `on_progress` is told the share done, in (0, 1]; what it
        raises ends the sampling, and a request with `scratch` goes on there the next time.
        """
        total, done = self.tile_steps(requests, scale), 0
        left, canvas_of = dict(enumerate(requests)), dict[int, Canvas]()
        while left:
            now = [*left.values()]
            share = self.tile_steps([replace(request, passes=1) for request in now], scale)
            canvases = self._one_pass(now, scale, partial(_tell, on_progress, done / total, share / total), on_event)
            done += share
            canvas_of |= dict(zip(left, canvases, strict=True))
            left = {at: one.again(canvas_of[at], scale) for at, one in left.items() if one.passes > 1}
        return [canvas_of[at] for at in range(len(requests))]

    def _one_pass(
        self,
        requests: Sequence[Request],
        scale: int,
        on_progress: Callable[[float], None],
        on_event: Callable[[str], None] | None,
    ) -> list[Canvas]:
        """The results of the first pass of each request."""
        images, runner = self.prepared(requests, scale, on_event)
        try:
            sample_images(
                images, runner, self.process, self.options.rule, on_progress, self.adjustment, self._blending(on_event)
            )
        except BaseException:
            for image in images:
                image.store.keep()
            raise
        for image, request in zip(images, requests, strict=True):
            if request.passes > 1:
                image.store.keep()  # an interruption of the next pass does not repeat this one
        results = [
            result_of(image.store, request, self.network.in_channels)
            for image, request in zip(images, requests, strict=True)
        ]
        if self.options.consistency == "end":
            for result, image in zip(results, images, strict=True):
                assert image.agreement is not None, "checked: low_res is there"
                image.agreement.enforce(result, clip=self.options.clip_denoised)
        return results

    def tiles_at_once(self, plan: TilePlan) -> int:
        """Tiles of a batch, as far as it is known before the device is asked for its memory."""
        if self.options.tile_batch_size is not None:
            return self.options.tile_batch_size
        if self.device.type == "cuda":
            return 16
        return max(4 * self.network.image_size**2 // (plan.tile[0] * plan.tile[1]), 1)  # of memory as 4 of training

    def blank(self, count: int, plan: TilePlan) -> Blank:
        """`count` tiles without anything on them, for measuring."""
        x = torch.zeros(count, self.network.in_channels, *plan.tile, device=self.device)
        cond = {"low_res": x} if "low_res" in self.network.cond_names else {}
        if "y" in self.network.cond_names:
            cond["y"] = torch.zeros(count, dtype=torch.int64, device=self.device)
        return Blank(x, torch.full((count,), self.process.num_timesteps - 1, device=self.device), cond)

    @torch.no_grad()
    def _room(self, plans: Sequence[TilePlan]) -> Room:
        largest = max(plans, key=lambda plan: plan.tile[0] * plan.tile[1])
        if self.device.type != "cuda":
            return Room(CPU, self.tiles_at_once(largest))
        pixels = sum(plan.height * plan.width for plan in plans) * self.canvas_channels // self.network.in_channels
        in_memory = self.options.canvas == "ram"
        warm = AutocastDenoiser(self._plainly(self.autocast).denoiser(), self.autocast, checks=False)
        batch = self.options.tile_batch_size
        return room_on(self.device, pixels, lambda count: warm(*self.blank(count, largest)).x_start, batch, in_memory)

    def prepared(
        self, requests: Sequence[Request], scale: int, on_event: Callable[[str], None] | None = None
    ) -> tuple[list[SampledImage], TileRunner]:
        """The images as they are before sampling, or as an interruption left them, and what predicts their tiles."""
        plans = [self.plan(request.height, request.width, scale) for request in requests]
        runner, room = self._runner(on_event), self._room(plans)
        runner.tile_batch_size = room.batch
        steps, splits = self.process.schedule.timesteps.tolist(), self.snr_splits

        def images(device: torch.device) -> list[SampledImage]:
            preparation = Preparation(self.options, self.network, steps, splits, self.canvas_channels, device, on_event)
            return [preparation.image(request, plan) for request, plan in zip(requests, plans, strict=True)]

        begun = images(CPU) if room.canvas == CPU else attempted(lambda: images(room.canvas), self.device)
        if begun is None and on_event:
            on_event(f"{self.device} ran out of memory with the canvases: they are kept in host memory")
        return images(CPU) if begun is None else begun, runner

    def _plainly(self, autocast: Callable[[], AbstractContextManager[Any]]) -> Self:
        """The same without graphs, which would keep the memory of shapes that are not used again."""
        return replace(self, autocast=autocast, options=self.options.model_copy(update={"cuda_graphs": False}))

    def _runner(self, on_event: Callable[[str], None] | None) -> TileRunner:
        in_float32 = partial(torch.autocast, self.device.type, enabled=False)
        exact = self._plainly(nullcontext).denoiser() if self.dtype is not None else None
        return TileRunner(
            AutocastDenoiser(self.denoiser(), self.autocast, checks=False),
            self.process.eps_from_x_start,
            needs_log_variance=self.options.rule.needs_log_variance,
            device=self.device,
            low_res_upsampling=self.network.low_res_upsampling,
            smaller_plan=lambda old: old.smaller(self.network.minimum_size),
            on_event=on_event,
            exact=None if exact is None else AutocastDenoiser(exact, in_float32, checks=False),
            checks=True,
            pads=self.options.cuda_graphs,
        )


def _tell(on_progress: Callable[[float], None] | None, before: float, share: float, done: float) -> None:
    if on_progress is not None:
        on_progress(min(before + share * done, 1.0))
