"""Turn averaged weights of a training run into a file that comes with the project: half precision, found by its name.

    python codes/scripts/package_weights.py experiments/mine/models/200000_generator_ema.safetensors my-photo-2x

writes codes/weights/my-photo-2x.safetensors. `pretrain_model_generator: my-photo-2x` and
Restorer.from_pretrained("my-photo-2x") then find it. What the checkpoint says of itself is kept; it loads as float32.
"""

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

if not __package__:
    from as_module import run_as_module

    run_as_module(__file__)

from ..models.diffusion.checkpoints.files import read_weights, write_weights
from ..models.diffusion.checkpoints.metadata import CheckpointMetadata
from ..models.diffusion.checkpoints.shipped import FOLDER
from ..models.diffusion.networks.base import NETWORKS
from ..models.diffusion.networks.strength_estimator import StrengthEstimator
from ..runtime.command_line import main_with, path_argument
from ..utils.console import get_logger
from ..utils.errors import EXIT_OK, ConfigError

logger = get_logger("package_weights")
MOST_BYTES = 15 * 2**20  # of a file that comes with the project


def run(arguments: argparse.Namespace) -> int:
    """Write the file; raises ConfigError for a checkpoint that does not describe itself or does not fit."""
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", arguments.name):
        raise ConfigError(f"{arguments.name}: expected small letters, digits and single dashes, as in tessera-photo-2x")
    weights = read_weights(arguments.checkpoint)
    _check(arguments.checkpoint, CheckpointMetadata.from_strings(weights.metadata))
    halved = half_precision(weights.state_dict, arguments.checkpoint)
    size = sum(value.numel() * value.element_size() for value in halved.values())
    if size > MOST_BYTES:
        raise ConfigError(
            f"{arguments.checkpoint}: {size / 2**20:.1f} MB in half precision, at most {MOST_BYTES / 2**20:.0f} come "
            "with the project; give it as a file"
        )
    target = (arguments.folder or FOLDER) / f"{arguments.name}.safetensors"
    write_weights(target, halved, weights.metadata)
    target.chmod(0o644)  # safetensors writes for the owner alone
    logger.info("written: %s, %.1f MB", target, target.stat().st_size / 2**20)
    return EXIT_OK


def half_precision(state_dict: Mapping[str, Tensor], source: Path) -> dict[str, Tensor]:
    """Floating-point values as float16. Raises ConfigError where one is not finite in it (above 65504)."""
    halved = {name: value.half() if value.is_floating_point() else value for name, value in state_dict.items()}
    wrong = [name for name, value in halved.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    if wrong:
        raise ConfigError(f"{source}: not finite in half precision: {', '.join(wrong[:3])}")
    return halved


def _check(file: Path, metadata: CheckpointMetadata | None) -> None:
    if metadata is None:
        raise ConfigError(f"{file}: does not say what network it holds; expected a .safetensors file of tessera-train")
    if metadata.kind != "ema":
        raise ConfigError(f"{file}: weights that are not averaged; take the file of the same iteration with _ema")
    missing = [name for name in ("scale", "corruptions") if not metadata.data.get(name)]
    diffuses = not issubclass(NETWORKS.get(metadata.which_model), StrengthEstimator)
    if missing or (diffuses and not metadata.process):
        raise ConfigError(f"{file}: does not record its {', '.join(missing) or 'process'}; train it with this version")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Turn averaged weights into a file that comes with the project.")
    parser.add_argument("checkpoint", type=path_argument, help="an EMA .safetensors file of a training run")
    parser.add_argument("name", help="the name under which it is found, as in tessera-photo-2x")
    parser.add_argument("--folder", type=path_argument, help=f"default: {FOLDER.parent.name}/{FOLDER.name}")
    parser.add_argument("--debug", action="store_true", help="show debug messages and the traceback of an error")
    return main_with(parser, run, argv)


if __name__ == "__main__":
    sys.exit(main())
