"""The same training and restoration on a CUDA device."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from codes import test, train
from codes.images.files import write_image

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    "device=cuda",
    "train.niter=3",
    "train.val_freq=3",
    "datasets.train.batch_size=4",
    "datasets.train.target_size=64",
    "networks.generator.args={image_size: 64, model_channels: 32, channel_mult: [1, 2], num_head_channels: 16, "
    "in_channels: 3, out_channels: 6, num_corruptions: 2, num_res_blocks: 1, attention_resolutions: [2], "
    "patch_size: 4}",
]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_training_and_restoring_on_the_device(precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for number in range(4):
        write_image(tmp_path / "in" / f"{number}.png", rng.random((70, 96, 3), dtype=np.float32))
    shared = [f"precision={precision}", "name=gpu", "datasets.train.paths=in"]
    assert train.main(["-opt", str(ROOT / "recipes/diffusion/train_sr.yml"), "--set", *SMALL, *shared]) == 0
    restore = ["device=cuda", "path.experiment=gpu", "datasets.test.paths=in/0.png", f"precision={precision}"]
    spacing = "steps.restore.injectors.detail.respaced_timestep_spacing=3"
    assert test.main(["-opt", str(ROOT / "recipes/diffusion/infer.yml"), "--set", *restore, spacing]) == 0
    numbers = yaml.safe_load((tmp_path / "results/infer/metrics.json").read_text())
    assert not numbers["failed"]
    assert (tmp_path / "results/infer/test/0.png").exists()
