"""Say what a checkpoint is: family, network options as YAML to paste, size, precision, number of parameters.

python codes/scripts/inspect_checkpoint.py FILE
"""

import argparse
import json
import sys
from pathlib import Path

if not __package__:
    from as_module import run_as_module

    run_as_module(__file__)

from ..models.diffusion.checkpoints.families import Recognised
from ..models.diffusion.checkpoints.files import Weights, read_weights
from ..models.diffusion.checkpoints.metadata import CheckpointMetadata, identify
from ..runtime.command_line import path_argument
from ..utils.errors import EXIT_OK, TesseraError

MEBIBYTE = 2**20


def main(arguments: list[str] | None = None) -> int:
    """Describe the file named on the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Say what a checkpoint is and which network options it implies.")
    parser.add_argument("file", type=path_argument, help="a .safetensors, .pth, .pt, .ckpt or .bin file")
    path = parser.parse_args(arguments).file
    try:
        weights = read_weights(path)
    except TesseraError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    recognised = identify(weights)
    sys.stdout.write(describe(path, weights, recognised))
    return EXIT_OK


def describe(path: Path, weights: Weights, recognised: Recognised | None) -> str:
    """The report on one file, ending in a newline."""
    count = sum(value.numel() for value in weights.state_dict.values())
    size = path.stat().st_size / MEBIBYTE
    lines = [
        f"file: {path}",
        f"family: {recognised.family if recognised else 'unknown (not ADM, DL-Art-School or PatchDiffusion)'}",
        f"size: {size:.1f} MiB, {weights.precision}, {count:,} parameters in {len(weights.state_dict)} tensors",
    ]
    if weights.wrapper:
        lines.append(f"weights under: {weights.wrapper}")
    metadata = CheckpointMetadata.from_strings(weights.metadata)
    if metadata is not None:
        lines += [f"kind: {metadata.kind}, iteration {metadata.iteration}", f"process: {json.dumps(metadata.process)}"]
    if recognised is not None:
        lines += ["", *yaml_block(recognised)]
    return "\n".join(lines) + "\n"


def yaml_block(recognised: Recognised) -> list[str]:
    """The network's entry of an option file; options that weights cannot tell carry a comment."""
    lines = [
        "networks:",
        "  generator:",
        "    type: generator",
        f"    which_model_G: {recognised.which_model}",
        "    args:",
    ]
    for name, value in recognised.options.items():
        guess = recognised.guesses.get(name)
        text = "~" if value is None else json.dumps(value)
        lines.append(f"      {name}: {text}" + (f"  # check: {guess}" if guess else ""))
    return lines


if __name__ == "__main__":
    sys.exit(main())
