"""What the network tests share: golden files, the formula that fills their parameters, small networks."""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn

from codes.models.diffusion.checkpoints.metadata import build
from codes.models.diffusion.networks.base import DiffusionNetwork

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}
FAMILIES = ("unet_diffusion", "patch_diffusion_unet")
SMALL = {
    "image_size": 32,
    "model_channels": 32,
    "out_channels": 6,
    "num_res_blocks": 1,
    "attention_resolutions": [2],
    "channel_mult": [1, 2],
    "num_heads": 4,
    "use_scale_shift_norm": True,
    "patch_size": 2,
}


def golden_network(name: str) -> tuple[dict[str, Any], dict[str, Tensor], list[tuple[str, list[int], float]]]:
    """Reference arguments, its tensors, and its parameters as (name, shape, offset) in its order."""
    with safe_open(str(GOLDEN / f"unet_{name}.safetensors"), framework="pt") as file:
        config = json.loads(file.metadata()["config"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    parameters = [tuple(entry) for entry in config.pop("state_dict")]
    config.pop("cls", None)
    return config, tensors, parameters


def golden_parameter(name: str, shape: list[int] | tuple[int, ...], offset: float) -> Tensor:
    """The value that the golden files give to a parameter; see tests/golden's origin in the README of the goldens."""
    index = np.arange(int(np.prod(shape)), dtype=np.float64)
    hashed = np.sin(index * 12.9898 + zlib.crc32(name.encode()) % 1000) * 43758.5453
    return torch.from_numpy((offset + 0.2 * ((hashed - np.floor(hashed)) - 0.5)).astype(np.float32).reshape(shape))


def fill(network: nn.Module) -> None:
    """Give every parameter a value that is not its initial one, so that zero-initialised branches count."""
    offsets = {name: float(value.ndim == 1 and name.endswith("weight")) for name, value in network.state_dict().items()}
    network.load_state_dict(
        {name: golden_parameter(name, value.shape, offsets[name]) for name, value in network.state_dict().items()}
    )


def small_network(which_model: str = "unet_diffusion", filled: bool = True, **options: Any) -> DiffusionNetwork:
    """A small network; `options` replace those of SMALL."""
    network = build(which_model, {**SMALL, **options})
    if filled:
        fill(network)
    return network.eval()


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
