"""How long a step of sampling takes on this device: all of it, not the network alone."""

import math
import time
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

import torch

from ...images.canvas_store import RamStore
from .engine import Engine
from .request import Request
from .tiling.canvas_sampling import sample_images


class Pace(NamedTuple):
    """A step of an image: seconds a pixel of its tiles, and the device memory that it took (0: unknown)."""

    seconds: float
    device_bytes: int


class _Done(Exception):
    """A step is over."""


class _OneStep(RamStore):
    """Ends the sampling after a step."""

    def commit(self) -> None:
        raise _Done


def timed(engine: Engine) -> Pace:
    """The second of two steps of a blank image of about a batch of tiles: predicted, blended and advanced.

    Where memory runs out, of whatever kind, batches halve and tiles shrink, as they would while sampling. Raises
    TesseraError where the smallest tile does not fit.
    """
    engine = replace(engine, options=engine.options.model_copy(update={"canvas": "ram"}))  # nothing is written
    cuda = engine.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(engine.device)
    seconds = [_seconds_a_pixel(engine) for _ in range(2)][-1]
    return Pace(seconds, torch.cuda.max_memory_allocated(engine.device) if cuda else 0)


def _seconds_a_pixel(engine: Engine) -> float:
    side = engine.options.tile or engine.network.image_size
    one = engine.plan(side, side, 1)
    across = math.isqrt(engine.tiles_at_once(one) - 1) + 1 if engine.options.tile != 0 else 1
    height, width = (length * across for length in one.tile)
    cond = {name: value[:1] for name, value in engine.blank(1, engine.plan(height, width, 1)).cond.items()}
    if "low_res" in cond:
        cond["low_res"] = torch.zeros(1, cond["low_res"].shape[1], height, width)
    images, runner = engine.prepared([Request(cond, height, width, 0)], 1)
    (image,) = images
    state = image.store.state
    image = replace(image, store=_OneStep(state.shape, device=state.device))
    if engine.device.type == "cuda":
        torch.cuda.synchronize(engine.device)
    start = time.monotonic()
    with suppress(_Done):
        sample_images([image], runner, engine.process, engine.options.rule, None, engine.adjustment)
    if engine.device.type == "cuda":
        torch.cuda.synchronize(engine.device)
    tiles = runner.fitted(image.plan)
    return (time.monotonic() - start) / (len(tiles) * tiles.tile[0] * tiles.tile[1])
