"""Sampling a whole image at once, step by step: what band by band sampling is compared with."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from codes.models.diffusion.denoiser import Denoiser
from codes.models.diffusion.process import GaussianDiffusion
from codes.models.diffusion.samplers import Moment, Sampler


class Step(NamedTuple):
    """One finished step: its index, the t it worked at, the state x_t after it and the x_start predicted in it."""

    index: int  # type: ignore[assignment] # hides tuple.index, which nobody asks of a step
    t: int
    x_t: Tensor
    x_start: Tensor


@torch.no_grad()
def steps_of(
    rule: Sampler,
    denoiser: Denoiser,
    process: GaussianDiffusion,
    x_T: Tensor,
    cond: Mapping[str, Tensor],
    noise: Callable[[int], Tensor],
    start: int = 0,
    previous_x_start: Tensor | None = None,
) -> Iterator[Step]:
    """All steps from `start` on, whose state before it is x_T (B, C, H, W); `noise` draws a step's field."""
    x, previous, count = x_T, previous_x_start, process.num_timesteps
    for index in range(start, count):
        t = count - 1 - index
        prediction = denoiser(x, torch.full((len(x),), t, dtype=torch.int64), cond)
        x = rule(Moment(process, t, x, prediction, partial(noise, index), previous))
        previous = prediction.x_start if rule.remembers_x_start else None
        yield Step(index, t, x, prediction.x_start)
