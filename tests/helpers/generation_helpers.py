"""A class-conditional network of the smallest size, and a recipe that samples it."""

import shutil
from pathlib import Path

import numpy as np
import torch
import yaml
from command_helpers import changed, restore, train
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from codes.scripts import make_shapes

TRAINING = """\
name: tiny
device: cpu
use_tb_logger: false
datasets:
  train:
    mode: labelled
    paths: shapes
    classes: [circle, heart, star]
    n_workers: 0
    batch_size: 2
    target_size: 16
    rgb_n1_to_1: true
networks:
  generator: &network
    which_model_G: patch_diffusion_unet
    args:
      image_size: 16
      in_channels: 3
      out_channels: 6
      patch_size: 4
      num_classes: 3
      model_channels: 32
      channel_mult: [1]
      num_res_blocks: 1
      attention_resolutions: [1]
steps:
  generator:
    training: generator
    injectors:
      diffusion: &diffusion
        type: gaussian_diffusion
        in: hq
        generator: generator
        beta_schedule: {schedule_name: linear, num_diffusion_timesteps: 100}
        diffusion_args: {model_mean_type: start_x, model_var_type: learned_range, variance_convention: patch}
        model_input_keys: {y: y}
        label_dropout: 0.1
        out: mse
        out_key_vb_loss: vb
    losses:
      mse: {type: direct, key: mse}
      vb: {type: direct, key: vb}
train: {niter: 2}
logger: {print_freq: 1}
"""

SAMPLING = """\
name: made
device: cpu
seed: 0
path:
  pretrain_model_generator: auto
  experiment: tiny
generate:
  num_samples: 7
  batch_size: 3
steps:
  sample:
    injectors:
      sample:
        type: gaussian_diffusion_inference
        generator: generator
        model_input_keys: {y: y}
        respaced_timestep_spacing: 2
        out: sample
"""


def draw_shapes(folder, size=16, per_class=2):
    assert make_shapes.main(["--output", str(folder), "--per-class", str(per_class), "--size", str(size)]) == 0


def train_tiny(*overrides):
    """experiments/tiny in the working directory, trained for two iterations."""
    draw_shapes("shapes")
    Path("train.yml").write_text(TRAINING)
    code, said = train("-opt", "train.yml", *(["--set", *overrides] if overrides else []))
    assert code == 0, said
    for file in Path("experiments/tiny/models").glob("2_*.safetensors"):
        shake(file)


def shake(file, seed=0):
    """Random weights in place of those that training starts at zero and hardly moves: the samples would all be gray."""
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    weights, generator = load_file(file), torch.Generator().manual_seed(seed)
    shaken = {key: value + 0.2 * torch.randn(value.shape, generator=generator) for key, value in weights.items()}
    save_file(shaken, file, metadata)


def prepare(folder, experiment):
    """A working directory with a trained experiment and the recipe that samples it."""
    shutil.copytree(experiment, folder / "experiments" / "tiny")
    (folder / "generate.yml").write_text(SAMPLING)


def generate(*overrides, recipe="generate.yml", changes=()):
    """(exit code, log) of sampling; `changes` are those of `changed`, to the recipe itself."""
    if changes:
        Path(recipe).write_text(changed(Path(recipe).read_text(), *changes))
    code, said = restore("-opt", recipe, *(["--set", *overrides] if overrides else []))
    assert "Traceback" not in said, said
    return code, said


def made(folder="results/made"):
    """Sample path below samples/ -> its pixels."""
    root = Path(folder) / "samples"
    return {str(file.relative_to(root)): np.asarray(Image.open(file)) for file in sorted(root.rglob("*.png"))}


def npz(folder="results/made"):
    (file,) = Path(folder).glob("samples_*.npz")
    with np.load(file, allow_pickle=False) as data:
        return file.name, dict(data)


def unlabelled(training):
    """The training recipe without classes."""
    data = yaml.safe_load(training)
    data["datasets"]["train"] = {**data["datasets"]["train"], "mode": "imagefolder", "classes": None}
    del data["datasets"]["train"]["classes"]
    del data["networks"]["generator"]["args"]["num_classes"]
    for key in ("model_input_keys", "label_dropout"):
        del data["steps"]["generator"]["injectors"]["diffusion"][key]
    return yaml.safe_dump(data)
