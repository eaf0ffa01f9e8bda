"""What an evaluation needs, small: feature networks as TorchScript files, a diffusion network, a context."""

import copy
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from codes.config.plugins import import_submodules
from codes.evaluation.evaluators.base import EVALUATORS, Evaluator
from codes.graph.graph import StepContext
from codes.images.files import write_image
from codes.models.diffusion.checkpoints.metadata import CheckpointMetadata, save_checkpoint
from codes.models.diffusion.networks.base import NETWORKS, DiffusionNetwork
from codes.models.diffusion.process_options import ProcessOptions
from codes.utils.rng import torch_globals_at

import_submodules("codes.models.diffusion", str(Path(__file__).parents[2] / "codes/models/diffusion"))
import_submodules("codes.data", str(Path(__file__).parents[2] / "codes/data"))
import_submodules("codes.graph.injectors", str(Path(__file__).parents[2] / "codes/graph/injectors"))
import_submodules("codes.evaluation.evaluators", str(Path(__file__).parents[2] / "codes/evaluation/evaluators"))

NETWORK = {
    "image_size": 16,
    "in_channels": 3,
    "out_channels": 6,
    "patch_size": 2,
    "num_corruptions": 2,
    "model_channels": 16,
    "channel_mult": [1, 2],
    "num_res_blocks": 1,
    "attention_resolutions": [],
    "num_heads": 2,
    "dropout": 0.5,
}
PROCESS = {
    "beta_schedule": {"schedule_name": "linear", "num_diffusion_timesteps": 100},
    "diffusion_args": {"model_mean_type": "start_x", "model_var_type": "learned_range", "loss_type": "mse"},
}


class ForFeatures(nn.Module):
    """As NVIDIA's Inception is called; six features: means and deviations of the colours in 0..255."""

    def forward(self, img: Tensor, return_features: bool = False) -> Tensor:
        assert return_features
        assert img.dtype == torch.uint8
        values = img.to(torch.float32)
        return torch.cat([values.mean([2, 3]), values.std([2, 3])], dim=1)


class ForLpips(nn.Module):
    """As NVIDIA's VGG16 is called."""

    def forward(self, img: Tensor, resize_images: bool = True, return_lpips: bool = False) -> Tensor:
        assert return_lpips
        assert not resize_images
        return img.mean([2, 3]) / 255


class Plain(nn.Module):
    """One image in, features out."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean([2, 3])


class ForDistance(nn.Module):
    """Two images in, a distance out."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return (a - b).abs().mean([1, 2, 3], keepdim=True)


def scripted(file: Path, module: nn.Module) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(module).save(str(file))
    return file


def diffusion_network(seed: int = 0, **changes: Any) -> DiffusionNetwork:
    """A network whose output is not zero, in training mode, with a part that is frozen in evaluation mode."""
    kind = NETWORKS.get("unet_diffusion")
    with torch_globals_at("cpu", seed, "test"):
        network = kind(kind.Options.model_validate(_tuples({**NETWORK, **changes})))
        for parameter in network.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.05)
    network.train()
    next(network.children()).eval()
    return network


def context(**changes: Any) -> StepContext:
    """Training as an evaluator meets it: a network in training and its average, which differs."""
    network = diffusion_network()
    average = copy.deepcopy(network).eval()
    with torch.no_grad():
        for parameter in average.parameters():
            parameter.mul_(0.9)
    base = StepContext(
        networks={"generator": network},
        device=torch.device("cpu"),
        seed=3,
        positions=(0,),
        autocast=nullcontext,
        ema_networks={"generator": average},
        processes={"generator": ProcessOptions.model_validate(PROCESS)},
    )
    return replace(base, **changes)


def photographs(folder: Path, sizes: list[tuple[int, int]]) -> Path:
    """PNG files of smooth colours with texture, (height, width) each."""
    for number, (height, width) in enumerate(sizes):
        rng = np.random.default_rng(number)
        ramp = np.linspace(0, 0.7, width)[None, :, None] * rng.random(3) + 0.3 * rng.random((height, 1, 3))
        write_image(folder / f"p{number}.png", np.clip(ramp, 0, 1).astype(np.float32))
    return folder


def dataset(folder: Path, **changes: Any) -> dict[str, Any]:
    base = {"mode": "imagefolder", "paths": str(folder), "rgb_n1_to_1": True, "scale": 2}
    fixed = {"fixed_corruptions": ("jpeg", "gaussian_blur"), "fixed_parameters": {"corruption_entropy": (0.2, 0.5)}}
    return {**base, **fixed, **changes}


def evaluator(kind: str, **options: Any) -> Evaluator:
    """The evaluator with these options, `for` the generator."""
    registered = EVALUATORS.get(kind)
    return registered(registered.Options.model_validate(_tuples({"type": kind, "for": "generator", **options})))


def _tuples(value: Any) -> Any:
    """Lists as tuples, as the parser of recipes gives them."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value


def save_trained(
    experiment: str, *, averaged: bool = True, iteration: int = 5, data: Mapping[str, Any] | None = None
) -> Path:
    """A checkpoint as a training run on this data leaves it, below the working directory."""
    network, kind = diffusion_network(), "ema" if averaged else "raw"
    file = (
        Path("experiments") / experiment / "models" / f"{iteration}_generator{'_ema' if averaged else ''}.safetensors"
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(file, network.state_dict(), CheckpointMetadata.of(network, kind, iteration, PROCESS, data))  # type: ignore[arg-type]
    return file
