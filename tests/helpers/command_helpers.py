"""A recipe of the smallest network, pictures to feed it, and the two commands as functions."""

import contextlib
import copy
import io
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from codes import test as test_command
from codes import train as train_command

TRAINING = """\
name: tiny
model: extensibletrainer
scale: 2
device: cpu
use_tb_logger: false
datasets:
  train:
    mode: imagefolder
    paths: photos
    n_workers: 0
    batch_size: 2
    target_size: 32
    tile: random
    rgb_n1_to_1: true
    fixed_corruptions: [jpeg, gaussian_blur]
networks:
  generator:
    which_model_G: unet_diffusion
    args:
      image_size: 32
      in_channels: 3
      out_channels: 6
      patch_size: 4
      num_corruptions: 2
      model_channels: 16
      channel_mult: [1, 2]
      num_res_blocks: 1
      attention_resolutions: [2]
      num_heads: 2
steps:
  generator:
    training: generator
    injectors:
      diffusion:
        type: gaussian_diffusion
        in: hq
        generator: generator
        beta_schedule: {schedule_name: linear, num_diffusion_timesteps: 100}
        diffusion_args: {model_mean_type: epsilon, model_var_type: learned_range}
        model_input_keys: {low_res: lq, corruption_factor: corruption_entropy}
        out: mse
        out_key_vb_loss: vb
    losses:
      mse: {type: direct, weight: 1, key: mse}
      vb: {type: direct, weight: 0.01, key: vb}
train:
  niter: 2
logger: {print_freq: 1}
"""

RESTORING = """\
name: restored
scale: 2
device: cpu
seed: 0
datasets:
  test:
    mode: imagefolder
    paths: small
    skip_lq: true
    rgb_n1_to_1: true
    fixed_parameters: {corruption_entropy: [0.2, 0.5]}
path:
  pretrain_model_generator: auto
  experiment: tiny
steps:
  restore:
    injectors:
      detail:
        type: gaussian_diffusion_inference
        generator: generator
        model_input_keys: {low_res: hq, corruption_factor: corruption_entropy}
        output_scale_factor: 2
        respaced_timestep_spacing: 2
        out: restored
"""


def command(main, *arguments):
    """(exit code, everything on stderr) of a command called in this process."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        code = main([str(argument) for argument in arguments])
    return code, said.getvalue()


def train(*arguments):
    return command(train_command.main, *arguments)


def restore(*arguments):
    return command(test_command.main, *arguments)


def restore_small(*overrides, options=()):
    """(exit code, what was said) of RESTORING in the working directory; never with a traceback."""
    code, said = restore("-opt", "infer.yml", *options, *(["--set", *overrides] if overrides else []))
    assert "Traceback" not in said
    return code, said


def restored_files():
    """The images below results/restored/test, sorted."""
    place = Path("results/restored/test")
    return sorted(str(path.relative_to(place)) for path in place.rglob("*") if path.is_file())


def picture(height, width, seed=0):
    """Blocks of random colour, so that a JPEG of it has something to hold."""
    rng = np.random.default_rng((seed, height, width))
    blocks = rng.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    return Image.fromarray(np.ascontiguousarray(blocks.repeat(4, 0).repeat(4, 1)[:height, :width]))


def save_picture(path, height, width, seed=0):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(height, width, seed).save(path)
    return path


def truncated_jpeg(path, height, width):
    """A photograph whose header is fine and whose second half is missing."""
    whole = save_picture(Path(path).with_name("whole.jpg"), height, width).read_bytes()
    Path(path).with_name("whole.jpg").unlink()
    Path(path).write_bytes(whole[: len(whole) // 2])


def changed(text, *changes):
    """A recipe's text with (key path, value) set, or removed where the value is ...; lines stay readable YAML."""
    data = copy.deepcopy(yaml.safe_load(text))
    for path, value in changes:
        *parents, last = path.split(".")
        place = data
        for key in parents:
            place = place[key]
        if value is ...:
            del place[last]
        else:
            place[last] = value
    return yaml.safe_dump(data, sort_keys=False)
