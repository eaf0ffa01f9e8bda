"""Make averaged weights of any length from the snapshots of a training run with `train.post_hoc_ema`.

    python codes/scripts/post_hoc_ema.py EXPERIMENT --sigma_rel 0.03 0.08 0.15

EXPERIMENT is a name under experiments/ or a folder. sigma_rel is the length of the average as a share of the training:
at 0.1 nine tenths of its weight lie in the last quarter. Try several and keep the one that an evaluation likes best.
"""

import argparse
import sys
from collections.abc import Sequence

if not __package__:
    from as_module import run_as_module

    run_as_module(__file__)

from ..models.diffusion.checkpoints.metadata import save_checkpoint
from ..runtime.command_line import main_with, path_argument
from ..runtime.experiment import SNAPSHOTS, Experiment
from ..trainer.saving.snapshots import Snapshot, find_snapshots, reconstruct
from ..utils.console import get_logger
from ..utils.errors import EXIT_OK, ConfigError

logger = get_logger("post_hoc_ema")
MOST_AMPLIFIED = 20.0


def run(arguments: argparse.Namespace) -> int:
    """Reconstruct every length that is asked for, and write it."""
    experiment = Experiment.find(arguments.experiment)
    snapshots = _of_network(find_snapshots(experiment), arguments.network, experiment)
    iteration = snapshots[-1].iteration if arguments.iteration is None else arguments.iteration
    if arguments.output and len(arguments.sigma_rel) > 1:
        raise ConfigError("--output names one file; give one --sigma_rel")
    for sigma_rel in arguments.sigma_rel:
        weights, metadata, amplified = reconstruct(experiment, snapshots, sigma_rel, iteration)
        name = f"{iteration}_{snapshots[0].network}_ema{sigma_rel:.3f}.safetensors"
        path = arguments.output or experiment.root / "models" / name
        if amplified > MOST_AMPLIFIED:
            logger.warning(
                "sigma_rel %g lies far from the snapshots: their rounding is amplified %.0f times", sigma_rel, amplified
            )
        save_checkpoint(path, weights, metadata)
        logger.info("sigma_rel %g at iteration %d: %s", sigma_rel, iteration, path)
    return EXIT_OK


def _of_network(snapshots: list[Snapshot], network: str | None, experiment: Experiment) -> list[Snapshot]:
    names = sorted({snapshot.network for snapshot in snapshots})
    if not names:
        raise ConfigError(f"{experiment.root / SNAPSHOTS} holds no snapshots; train with train.post_hoc_ema")
    if network is None and len(names) == 1:
        return snapshots
    if network not in names:
        wrong = f"no snapshots of {network!r}" if network else "several networks"
        raise ConfigError(f"--network: {wrong} (there are: {', '.join(names)})")
    return [snapshot for snapshot in snapshots if snapshot.network == network]


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Make averaged weights of any length after training.")
    parser.add_argument("experiment", help="a name under experiments/, or a folder")
    parser.add_argument(
        "--sigma_rel", type=float, nargs="+", required=True, metavar="LENGTH", help="0 to 0.288, of the training so far"
    )
    parser.add_argument("--network", help="its name in the recipe, where there are several")
    parser.add_argument("--iteration", type=int, help="a snapshot's iteration; default: the last one")
    parser.add_argument(
        "--output", type=path_argument, help="default: experiments/<name>/models/<iteration>_<network>_ema<LENGTH>"
    )
    parser.add_argument("--debug", action="store_true", help="show debug messages and the traceback of an error")
    return main_with(parser, run, argv)


if __name__ == "__main__":
    sys.exit(main())
