"""A run small enough for a test: generated images, a network of 0.2 million parameters, a short recipe."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml

from codes.config.yaml_source import Source, load_source
from codes.images.files import write_image
from codes.recipe.recipe import Recipe, read_recipe
from codes.runtime.devices import Ranks
from codes.trainer.trainer import Trainer

SIZE = 32


def picture(seed: int, height: int, width: int) -> np.ndarray:
    """float32 (H, W, 3): smooth colours with texture."""
    rng = np.random.default_rng(seed)
    coarse = cv2.resize(rng.random((4, 5, 3)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(coarse * 0.8 + rng.random((height, width, 1)).astype(np.float32) * 0.2, 0.0, 1.0)


def fill(folder: Path, count: int = 4) -> Path:
    for number in range(count):
        write_image(folder / f"img{number}.png", picture(number, 40 + number, 48 + 2 * number))
    return folder


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes` laid over it, level by level."""
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        result[key] = merged(old, value) if both else value
    return result


NETWORK = {
    "image_size": SIZE,
    "in_channels": 3,
    "out_channels": 6,
    "patch_size": 4,
    "num_corruptions": 2,
    "model_channels": 16,
    "channel_mult": [1, 2],
    "num_res_blocks": 1,
    "attention_resolutions": [2],
    "num_heads": 2,
    "use_scale_shift_norm": True,
}

DIFFUSION = {
    "type": "gaussian_diffusion",
    "in": "hq",
    "generator": "generator",
    "beta_schedule": {"schedule_name": "linear", "num_diffusion_timesteps": 100},
    "diffusion_args": {"model_mean_type": "epsilon", "model_var_type": "learned_range", "loss_type": "mse"},
    "model_input_keys": {"low_res": "lq", "corruption_factor": "corruption_entropy"},
    "out": "mse",
    "out_key_vb_loss": "vb",
    "out_key_x_start": "x_start",
}


def recipe_data(folder: Path, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A training recipe over the images of a folder: batch 4, 3 iterations, no log but at the end."""
    base: dict[str, Any] = {
        "name": "tiny",
        "scale": 2,
        "device": "cpu",
        "use_tb_logger": False,
        "datasets": {
            "train": {
                "mode": "imagefolder",
                "paths": str(folder),
                "n_workers": 0,
                "batch_size": 4,
                "target_size": SIZE,
                "tile": "random",
                "rgb_n1_to_1": True,
                "fixed_corruptions": ["jpeg", "gaussian_blur"],
            }
        },
        "networks": {"generator": {"which_model_G": "unet_diffusion", "args": NETWORK}},
        "steps": {
            "generator": {
                "training": "generator",
                "optimizer_params": {"lr": 1e-3, "weight_decay": 0.01},
                "injectors": {"diffusion": DIFFUSION},
                "losses": {
                    "mse": {"type": "direct", "weight": 1, "key": "mse"},
                    "vb": {"type": "direct", "weight": 0.5, "key": "vb"},
                },
            }
        },
        "train": {"niter": 3, "manual_seed": 7, "ema_rate": 0.9},
        "logger": {"print_freq": 1000, "save_checkpoint_freq": 1000},
    }
    return merged(base, changes or {})


def write_recipe(path: Path, data: Mapping[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(dict(data), sort_keys=False), encoding="utf-8")
    return path


def read(path: Path, *overrides: str) -> tuple[Recipe, Source]:
    source = load_source(str(path), list(overrides))
    return read_recipe(source), source


def make_trainer(path: Path, *overrides: str, auto_resume: bool = False) -> Trainer:
    recipe, source = read(path, *overrides)
    return Trainer(recipe, source, Ranks(), auto_resume)


def everything(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Every tensor that a resume must bring back, by a readable name."""
    tensors: dict[str, torch.Tensor] = {}
    for name, network in trainer.parts.networks.items():
        tensors |= {f"network/{name}/{key}": value for key, value in network.state_dict().items()}
    for name, average in trainer.parts.averages.items():
        tensors |= {f"ema/{name}/{key}": value for key, value in average.network.state_dict().items()}
    for step in trainer.parts.steps:
        for number, moments in step.optimizer.state_dict()["state"].items():
            tensors |= {f"optimiser/{step.name}/{number}/{key}": value for key, value in moments.items()}
        for name, injector in step.graph.injectors.items():
            tensors |= {f"injector/{name}/{key}": value for key, value in injector.state_dict().items()}
    return {key: value.detach().clone() for key, value in tensors.items()}


def different(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of what is not equal bit for bit."""
    assert first.keys() == second.keys()
    return [key for key in first if not torch.equal(first[key], second[key])]
