"""A small network with weights that do something, its checkpoint, and pictures to feed it."""

import numpy as np
import torch

from codes.models.diffusion.checkpoints.metadata import CheckpointMetadata, build, save_checkpoint
from codes.models.diffusion.process_options import BetaScheduleOptions, ProcessOptions

NETWORK = {
    "image_size": 32, "in_channels": 3, "out_channels": 6, "patch_size": 4, "num_corruptions": 2, "model_channels": 16,
    "channel_mult": [1, 2], "num_res_blocks": 1, "attention_resolutions": [2], "num_heads": 2,
}  # fmt: skip
PROCESS = ProcessOptions(beta_schedule=BetaScheduleOptions(num_diffusion_timesteps=100))
KNOWN = {"scale": 2, "corruptions": ["jpeg", "gaussian_blur"]}
STRENGTHS = {"jpeg": 0.2, "gaussian_blur": 0.5}


def network(changes=None):
    made = build("unet_diffusion", {**NETWORK, **(changes or {})})
    generator = torch.Generator().manual_seed(0)
    for parameter in made.parameters():  # the head is built as zeros, which would restore nothing
        torch.nn.init.normal_(parameter, std=0.05, generator=generator)
    return made


def write_weights(path, data=None, changes=None):
    made = network(changes)
    process = PROCESS.model_dump(mode="json")
    save_checkpoint(path, made.state_dict(), CheckpointMetadata.of(made, "ema", 5, process, data))
    return path


def picture(height=18, width=27, channels=3, seed=0):
    """uint8 (H, W, C), blocks of colour."""
    rng = np.random.default_rng((seed, height, width))
    shape = (height // 4 + 1, width // 4 + 1, channels)
    blocks = rng.integers(0, 256, shape, dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    return np.ascontiguousarray(blocks[:height, :width])
