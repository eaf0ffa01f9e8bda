"""What the scenarios share: small photographs and a network of seconds."""

from pathlib import Path

import numpy as np

from codes.images.files import write_image

ROOT = Path(__file__).resolve().parents[3]
NETWORK = (
    "{image_size: 64, in_channels: 3, out_channels: 6, patch_size: 4, num_corruptions: 2, model_channels: 32, "
    "channel_mult: [1, 2], num_res_blocks: 1, attention_resolutions: [2], num_head_channels: 32, "
    "use_scale_shift_norm: true, low_res_upsampling: bicubic}"
)


def pictures(folder: Path, count: int = 4) -> None:
    """Random pictures of 80x96 pixels, where there are none yet."""
    rng = np.random.default_rng(0)
    for number in range(count):
        if not (folder / f"{number}.png").exists():
            write_image(folder / f"{number}.png", rng.random((80, 96, 3), dtype=np.float32))
