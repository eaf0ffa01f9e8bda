"""Write a trained network as ONNX files that other systems run, and check them against PyTorch.

    python codes/scripts/export_onnx.py tessera-photo-2x-fast
    python codes/scripts/export_onnx.py experiments/mine/models/200000_generator_ema.safetensors --kind denoiser

A one-step student becomes an image-to-image graph of any size (NAME-student.onnx); every diffusion network can be
written as the denoiser that a sampler calls at each step (NAME-denoiser.onnx). docs/ecosystem.md has both in use.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:
    from as_module import run_as_module

    run_as_module(__file__)

from ..inference.export.onnx_file import ODD_SIZES, graphs_of, max_error, write_onnx
from ..inference.export.restored import restored_error, restores
from ..models.diffusion.checkpoints.shipped import weights_file
from ..runtime.command_line import main_with, path_argument
from ..utils.console import get_logger
from ..utils.errors import EXIT_OK, ConfigError

logger = get_logger("export_onnx")
KINDS = ("student", "denoiser")


def run(arguments: argparse.Namespace) -> int:
    """Write and check the files. Raises ConfigError for a checkpoint that is not of the kind that is asked for."""
    graphs = graphs_of(arguments.checkpoint, arguments.strength_maps)
    kind = arguments.kind or ("student" if "student" in graphs else "denoiser")
    wanted = KINDS if kind == "all" else (kind,)
    missing = [name for name in wanted if name not in graphs]
    if missing:
        raise ConfigError(
            f"{arguments.checkpoint}: is no one-step student, so it is no image-to-image graph; use --kind denoiser, "
            "or distil it by recipes/diffusion/distill_sr.yml"
        )
    stem = weights_file(arguments.checkpoint).stem
    for name in wanted:
        target = arguments.output / f"{stem}-{name}.onnx"
        write_onnx(graphs[name], target)
        logger.info(
            "written: %s, %.1f MB; inputs %s", target, target.stat().st_size / 1e6, ", ".join(graphs[name].inputs)
        )
        if not arguments.no_check:
            errors = max_error(graphs[name], target)
            told = ", ".join(f"{h}x{w} {error:.1e}" for (h, w), error in zip(ODD_SIZES, errors, strict=True))
            logger.info("largest difference from PyTorch by size of the input: %s", told)
            if restores(graphs[name]):
                worst = max(restored_error(arguments.checkpoint, graphs[name], target))
                logger.info("whole images are restored as by the library, within %.1e of [0, 1]", worst)
    return EXIT_OK


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Write a trained network as ONNX files.")
    parser.add_argument(
        "checkpoint", help="a name of weights that come with the project, a .safetensors file or folder"
    )
    parser.add_argument(
        "--kind", choices=[*KINDS, "all"], help="default: the student where it is one, else the denoiser"
    )
    parser.add_argument(
        "--strength_maps", action="store_true", help="strengths for every pixel, (B, K, h, w), instead of (B, K)"
    )
    parser.add_argument(
        "--output", type=path_argument, default=Path("results/onnx"), help="folder; default: results/onnx"
    )
    parser.add_argument("--no_check", action="store_true", help="do not compare with PyTorch by onnxruntime")
    parser.add_argument("--debug", action="store_true", help="show debug messages and the traceback of an error")
    return main_with(parser, run, argv)


if __name__ == "__main__":
    sys.exit(main())
