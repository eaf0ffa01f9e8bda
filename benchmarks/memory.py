"""Peak memory of a restoration by the size of the result, with the canvas in memory and on disk.

    python benchmarks/memory.py [--megapixels 1 4 16 64] [--canvas ram disk] [--steps 2] [--device cpu]
    python benchmarks/memory.py --megapixels 400 --canvas disk --steps 1 --weights tessera-photo-2x-fast [--read]

Each size is a whole run of test.py in a process of its own: reading the photograph, tiled sampling, writing the PNG and
the page. Without --weights the network is small and has random weights and a learned variance; what grows with the
image does not depend on the network, but on its tiles: a row of them is held. With --read the strengths are read from
the image by the estimator that comes with the project, else they are given. The size 0.07 (one tile) is the base that
every run needs; the last column is what a run needs beyond it, for each pixel of the result. The memory is the largest
that was resident at once in the process or any process it started, pages of mapped files included.
"""

import argparse
import math
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from codes.data.samples import held_out_photograph
from codes.images.files import quantise, read_image, write_image
from codes.models.diffusion.checkpoints.metadata import CheckpointMetadata, build, save_checkpoint

TILE = 128  # as the weights that come with the project
ARGUMENTS = {
    "image_size": TILE,
    "out_channels": 6,
    "patch_size": 8,
    "num_corruptions": 2,
    "model_channels": 32,
    "channel_mult": [1, 1],
    "num_res_blocks": 1,
    "attention_resolutions": [],
}
PROCESS = {
    "beta_schedule": {"schedule_name": "linear", "num_diffusion_timesteps": 1000},
    "diffusion_args": {"model_mean_type": "start_x", "model_var_type": "learned_range"},
}


def network_file(folder: Path) -> Path:
    """A checkpoint with random weights."""
    network = build("unet_diffusion", ARGUMENTS)
    file = folder / "0_generator_ema.safetensors"
    metadata = CheckpointMetadata.of(network, kind="ema", iteration=0, process=PROCESS)
    save_checkpoint(file, network.state_dict(), metadata)
    return file


def photograph(folder: Path, megapixels: float) -> Path:
    """The held-out sample, mirrored until its double size has so many pixels."""
    side = round(math.sqrt(megapixels * 1e6 / 4) / 4) * 4
    source = quantise(read_image(held_out_photograph()).rgb)
    height, width = source.shape[:2]
    rows, columns = (np.abs((np.arange(side) + n) % (2 * n) - n).clip(0, n - 1) for n in (height, width))
    file = folder / f"{megapixels:g}.png"
    write_image(file, source[rows][:, columns])
    return file


def recipe(folder: Path, image: Path, weights: str, canvas: str, arguments: argparse.Namespace) -> Path:
    node = {
        "type": "gaussian_diffusion_inference",
        "generator": "generator",
        "model_input_keys": {"low_res": "hq", "corruption_factor": "corruption_entropy"},
        "output_scale_factor": 2,
        "respaced_timestep_spacing": f"karras{arguments.steps}" if arguments.weights else arguments.steps,
        "canvas": canvas,
        "out": "restored",
    }
    if arguments.weights:
        node |= {"sampler": "ddim", "temperature": 0.15}
    path = {"pretrain_model_generator": weights, "results": str(folder / f"{image.stem}_{canvas}")}
    strengths: dict[str, Any] = {"corruption_entropy": [0.2, 0.5]}
    if arguments.read:
        strengths = {"corruption_entropy": ["auto", "auto"], "estimator": "strengths"}
        path["pretrain_model_strengths"] = "tessera-photo-strengths"
    dataset = {
        "mode": "imagefolder",
        "paths": str(image),
        "skip_lq": True,
        "rgb_n1_to_1": True,
        "fixed_corruptions": ["jpeg", "gaussian_blur"],
        "fixed_parameters": strengths,
    }
    data = {
        "name": "memory",
        "scale": 2,
        "device": arguments.device,
        "datasets": {"test": dataset},
        "path": path,
        "steps": {"restore": {"injectors": {"detail": node}}},
    }
    file = folder / "memory.yml"
    file.write_text(yaml.safe_dump(data))
    return file


def measure(file: Path) -> tuple[float, float, float]:
    """(peak resident bytes, seconds, processor seconds) of test.py, by a process between, which has no other child."""
    program_file = Path(__file__).resolve().parents[1] / "codes" / "test.py"
    program = (
        "import resource, subprocess, sys, time\n"
        "start = time.monotonic()\n"
        "done = subprocess.run([sys.executable, *sys.argv[1:]], capture_output=True, text=True)\n"
        "assert done.returncode == 0, done.stderr\n"
        "usage = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "seconds = time.monotonic() - start\n"
        "sys.stdout.write(f'{usage.ru_maxrss * 1024} {seconds} {usage.ru_utime + usage.ru_stime}')\n"
    )
    # glibc keeps one arena a thread; two are enough here and let freed memory return.
    environment = {**os.environ, "MALLOC_ARENA_MAX": "2"}
    answer = subprocess.run(
        [sys.executable, "-c", program, str(program_file), "-opt", str(file)],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    peak, seconds, processor = map(float, answer.stdout.split())
    return peak, seconds, processor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megapixels", type=float, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--canvas", nargs="+", default=["ram", "disk"], choices=["ram", "disk"])
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--weights", help="a checkpoint, or the name of weights that come with the project")
    parser.add_argument("--read", action="store_true", help="read the strengths from the image")
    parser.add_argument("--folder", help="where inputs and results are written for the time; default: a temporary one")
    arguments = parser.parse_args()
    out = sys.stdout
    out.write(
        f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, {arguments.steps} steps\n"
    )
    out.write(f"{'canvas':>7} {'megapixels':>10} {'peak MiB':>9} {'seconds':>8} {'CPU s':>8} {'bytes/pixel':>12}\n")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        weights = arguments.weights or str(network_file(folder))
        for canvas in arguments.canvas:
            base, *_ = measure(recipe(folder, photograph(folder, TILE**2 / 1e6), weights, canvas, arguments))
            for size in arguments.megapixels:
                image = photograph(folder, size)
                peak, seconds, processor = measure(recipe(folder, image, weights, canvas, arguments))
                each = (peak - base) / (size * 1e6)
                row = f"{canvas:>7} {size:>10g} {peak / 2**20:>9.0f} {seconds:>8.1f} {processor:>8.1f} {each:>12.1f}\n"
                out.write(row)
                out.flush()


if __name__ == "__main__":
    main()
