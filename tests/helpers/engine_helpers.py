"""Sampling a batch of images of one size with an engine."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from codes.models.diffusion.engine import Engine
from codes.models.diffusion.request import Request


def images(
    engine: Engine,
    cond: Mapping[str, Tensor],
    height: int,
    width: int,
    scale: int,
    seeds: Sequence[int],
    on_event: Callable[[str], None] | None = None,
) -> Tensor:
    """float32 (B, C, height, width) in [-1, 1] for B = len(seeds) images; cond holds (B, ...)."""
    requests = [
        Request({name: value[row : row + 1] for name, value in cond.items()}, height, width, seed)
        for row, seed in enumerate(seeds)
    ]
    return torch.stack([canvas.rows(0, height) for canvas in engine.restore(requests, scale, on_event=on_event)])
