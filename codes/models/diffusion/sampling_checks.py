"""Sampling options that a network cannot be sampled by: found before anything is sampled."""

import math

from ...config.yaml_source import Issue
from ...utils.errors import ConfigError
from .networks.base import DiffusionNetwork
from .process import GaussianDiffusion
from .process_options import ProcessOptions
from .respacing import karras_count
from .sampling_options import NO_MEAN, SamplingOptions, TilingOptions
from .tiling.plan import tile_side

STARTING_SIGNAL = 0.2  # sqrt(abar) up to which pure noise stands for the state: leading3 of a linear schedule has .11


def sampling_problems(sampling: SamplingOptions, name: str, network: DiffusionNetwork, scale: int) -> list[Issue]:
    """Tiles that the network cannot take at this scale, and guidance of a network that has nothing to leave out."""
    issues = tile_problems(sampling, name, network, scale)
    weakened = sampling.guidance_low_res < 1.0 and "low_res" in network.cond_names
    if sampling.guidance_scale != 1.0 and network.null_label is None and not weakened:
        message = (
            f"guidance has nothing to leave out: {name} has no null label (classifier_free), "
            "and guidance_low_res does not weaken low_res"
        )
        issues.append(Issue(("guidance_scale",), message))
    if sampling.blend and "low_res" not in network.cond_names:
        message = (
            f"is {sampling.blend:g}, but {name} restores nothing (no low_res): the mean of all images is gray; use 0"
        )
        issues.append(Issue(("blend",), message))
    return issues


def tile_problems(tiling: TilingOptions, name: str, network: DiffusionNetwork, scale: int) -> list[Issue]:
    """Tiles that the network cannot take at this scale, and an overlap that leaves no room for the next tile."""
    align, issues = math.lcm(network.multiple_of, scale), []
    if tiling.tile and tiling.tile % align:
        near = max(round(tiling.tile / align), 1) * align
        issues.append(Issue(("tile",), f"{name} at scale {scale} needs a multiple of {align}; use {near}"))
    tile, overlap = tile_side(tiling.tile, network.image_size, align), tiling.tile_overlap or 0
    if tile and overlap > tile - align:
        issues.append(Issue(("tile_overlap",), f"is {overlap} for tiles of {tile} pixels; use 0 to {tile - align}"))
    return issues


def step_problems(
    sampling: SamplingOptions, name: str, network: DiffusionNetwork, trained: ProcessOptions | None
) -> list[Issue]:
    """Steps that do not fit the process of training, where it is known, or begin past the noise they start from; and a
    blend with a mean that the network does not know."""
    if sampling.blend and sampling.suited_to(trained) is not sampling:
        return [Issue(("blend",), f"is {sampling.blend:g}, but {NO_MEAN}")]
    if trained is None and (sampling.beta_schedule is None or sampling.diffusion_args is None):
        return []
    try:
        problem = start_problem(sampling.suited_to(trained), sampling.build_process(trained, name), network)
    except ConfigError as error:
        problem = str(error)
    return [Issue(("respaced_timestep_spacing",), problem)] if problem else []


def start_problem(sampling: SamplingOptions, process: GaussianDiffusion, network: DiffusionNetwork) -> str | None:
    """What is wrong with steps that begin where an image would still show, unless sampling begins around one.

    Timesteps that a spacing leaves out at the noisy end are noise that nothing removes.
    """
    schedule, spacing = process.schedule, sampling.respaced_timestep_spacing
    first, signal = int(schedule.timesteps[-1]), math.sqrt(schedule.alphas_cumprod[-1])
    karras = karras_count(spacing) is not None
    if signal <= STARTING_SIGNAL or first == schedule.original_num_timesteps - 1:
        return None
    if karras and "low_res" in network.cond_names:
        return None
    why = (
        "karrasN starts around the upsampled low_res, which this network does not have"
        if karras
        else f"the first step, timestep {first} of {schedule.original_num_timesteps}, lies past most of the noise that "
        "sampling starts from, so noise would be left in the image"
    )
    return f"is {spacing}: {why}; use trailing{schedule.num_timesteps}"
