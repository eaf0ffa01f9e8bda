"""Whole images restored by an ONNX file, compared with what a `Restorer` makes of them: the check of everything around
the network as well, the steps, the noise, the upsampling and the ranges.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...models.diffusion.checkpoints.shipped import weights_file
from ...models.diffusion.noise import INITIAL_STEP, NoiseField
from ...models.diffusion.prediction import Prediction
from ...models.diffusion.samplers import Moment
from ...utils.errors import TesseraError
from ...utils.rng import image_seed
from ..restorer import NETWORK, Restorer
from .graphs import StudentGraph
from .onnx_file import ODD_SIZES, TOLERANCE, OnnxGraph, allowed_size, session_of

STEPS = 4
SIZES = (*ODD_SIZES, (32, 48))  # of low_res
CHANNELS = 3  # what a Restorer takes


def restores(graph: OnnxGraph) -> bool:
    """Whether a `Restorer` can be made of its network."""
    return "low_res" in graph.inputs and "y" not in graph.inputs and graph.network.in_channels == CHANNELS


def restored_error(
    named: str | Path, graph: OnnxGraph, path: Path, sizes: Sequence[tuple[int, int]] = SIZES
) -> list[float]:
    """The largest difference of images in [0, 1], restored by the file and by a `Restorer`, for each size of low_res.

    A student in its step, a denoiser in STEPS steps of DDIM. Where a student pads, without noise: it reflects what it
    is given, and the library draws more. Raises TesseraError for a difference that is no rounding.
    """
    restorer = Restorer.from_checkpoint(weights_file(named), "cpu", scale=graph.scale, tile=0)
    session = session_of(path)
    errors = []
    for height, width in (allowed_size(graph, *size) for size in sizes):
        given = graph.sample(height, width, batch=1)
        told = [_of_restorer(plane) for plane in given["strengths"][0]] if "strengths" in given else None
        pads = any(side * graph.scale % graph.network.multiple_of for side in (height, width))
        heat = 0.0 if pads else restorer.options.temperature
        if isinstance(graph.module, StudentGraph):
            wanted, made = restorer(given["low_res"][0], told, temperature=heat), _by_student(session, given, heat)
        else:
            wanted, made = restorer(given["low_res"][0], told, steps=STEPS), _by_steps(session, given, restorer)
        errors.append(float((made.clamp(0, 1) - wanted).abs().max()))
        if not errors[-1] <= TOLERANCE:
            raise TesseraError(f"{path}: restores {height}x{width} pixels {errors[-1]:.2g} away from the library")
    return errors


def _of_restorer(strength: Tensor) -> float | np.ndarray:
    """A number, or a map (h, w)."""
    return strength.numpy() if strength.ndim else float(strength)


def _noise(height: int, width: int) -> Tensor:
    """(1, 3, H, W): what a restorer draws for an image without a name."""
    return NoiseField(image_seed(0, 0, 0), CHANNELS)(INITIAL_STEP, 0, height, 0, width)[None]


def _by_student(session: Any, given: Mapping[str, Tensor], temperature: float) -> Tensor:
    """(3, H, W) in [0, 1]: the graph does everything."""
    noise = _noise(*given["noise"].shape[-2:])
    told = {**given, "noise": noise, "temperature": torch.tensor([temperature])}
    (image,) = session.run(["image"], {name: value.numpy() for name, value in told.items()})
    return torch.from_numpy(image[0])


def _by_steps(session: Any, given: Mapping[str, Tensor], restorer: Restorer) -> Tensor:
    """(3, H, W) in [0, 1]: the sampler's steps, in which the graph takes the network's place."""
    trained = restorer.run.processes[NETWORK]
    changed = restorer.options.model_copy(update={"respaced_timestep_spacing": f"karras{STEPS}"})
    options = changed.suited_to(trained)
    process = options.build_process(trained, NETWORK)
    low_res = given["low_res"] * 2 - 1
    large = [side * restorer.scale for side in low_res.shape[-2:]]
    mode = restorer.network.low_res_upsampling
    prior = F.interpolate(low_res, size=large, mode=mode, align_corners=False)
    noise = options.temperature * _noise(*large)
    x = process.initial_state(noise, prior)
    told = {"low_res": low_res, **{name: given[name] for name in ("strengths",) if name in given}}
    for t in reversed(range(process.num_timesteps)):
        at = torch.full((1,), t, dtype=torch.int64)
        asked = {"x_t": x, "t": process.schedule.original_timesteps(at), **told}
        (answer,) = session.run(["x_start"], {name: value.numpy() for name, value in asked.items()})
        x_start = torch.from_numpy(answer).clamp(-1, 1)
        prediction = Prediction(x_start, process.eps_from_x_start(x, at, x_start), torch.zeros_like(x))
        x = options.rule(Moment(process, t, x, prediction, lambda: torch.zeros_like(noise)))
    return (x[0] + 1) / 2
