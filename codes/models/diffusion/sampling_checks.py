"""Sampling options that a network cannot be sampled by: found before anything is sampled."""

import math

from ...config.yaml_source import Issue
from .networks.base import DiffusionNetwork
from .sampling_options import SamplingOptions


def sampling_problems(sampling: SamplingOptions, name: str, network: DiffusionNetwork, scale: int) -> list[Issue]:
    """Tiles that the network cannot take at this scale, and guidance of a network that has nothing to leave out."""
    issues = []
    align = math.lcm(network.multiple_of, scale)
    if sampling.tile and sampling.tile % align:
        near = max(round(sampling.tile / align), 1) * align
        issues.append(Issue(("tile",), f"{name} at scale {scale} needs a multiple of {align}; use {near}"))
    issues += _overlap_problems(sampling, network, align)
    weakened = sampling.guidance_low_res < 1.0 and "low_res" in network.cond_names
    if sampling.guidance_scale != 1.0 and network.null_label is None and not weakened:
        message = (
            f"guidance has nothing to leave out: {name} has no null label (classifier_free), "
            "and guidance_low_res does not weaken low_res"
        )
        issues.append(Issue(("guidance_scale",), message))
    return issues


def _overlap_problems(sampling: SamplingOptions, network: DiffusionNetwork, align: int) -> list[Issue]:
    """An overlap that leaves no room for the next tile; the tile may be the one of training."""
    tile = max(align, network.image_size // align * align) if sampling.tile is None else sampling.tile
    overlap = sampling.tile_overlap or 0
    if not tile or overlap <= tile - align:
        return []
    return [Issue(("tile_overlap",), f"is {overlap} for tiles of {tile} pixels; use 0 to {tile - align}")]
