"""Checkpoints of a run: weights, averaged weights and everything else that a resume needs."""

import struct
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import torch
from safetensors import SafetensorError

from ..models.diffusion.checkpoints import CheckpointMetadata, load_into, save_checkpoint
from ..models.diffusion.networks import DiffusionNetwork
from ..utils.console import get_logger
from ..utils.errors import ConfigError
from ..utils.files import atomic_write
from ..version import __version__
from .experiment import Experiment
from .injectors.gaussian_diffusion import GaussianDiffusionOptions
from .optim import Ema
from .process_options import ProcessOptions
from .recipe import Recipe
from .training_step import TrainingStep

logger = get_logger(__name__)
FORMAT = 1
STATE_KEYS = {"iteration", "samples", "optimizers", "scalers", "injectors"}
# What torch.load raises on files that are cut, damaged or of another kind.
UNREADABLE = (
    OSError, RuntimeError, UnpicklingError, EOFError, ValueError, LookupError, AttributeError, TypeError, struct.error,
)  # fmt: skip


@dataclass(frozen=True)
class Parts:
    """What a run consists of, for saving and resuming."""

    networks: Mapping[str, DiffusionNetwork]
    averages: Mapping[str, Ema[DiffusionNetwork]]
    steps: Sequence[TrainingStep]


def processes_of(recipe: Recipe) -> dict[str, ProcessOptions]:
    """Network -> the process that the recipe trains it under."""
    found: dict[str, ProcessOptions] = {}
    for step in recipe.steps.values():
        for node in step.injectors.values():
            if isinstance(node, GaussianDiffusionOptions):
                found.setdefault(node.generator, node.process)
    return found


def save(experiment: Experiment, recipe: Recipe, parts: Parts, iteration: int, samples: int) -> None:
    """Write a checkpoint. Raises OSError when that failed; what was written until then is removed."""
    try:
        _write(experiment, recipe, parts, iteration, samples)
    except (OSError, RuntimeError, SafetensorError) as error:
        # A full disk has three faces: Python's, torch's and that of safetensors.
        _remove(experiment, recipe.networks, iteration)
        if isinstance(error, OSError):
            raise
        raise OSError(_first_line(error)) from error


def _write(experiment: Experiment, recipe: Recipe, parts: Parts, iteration: int, samples: int) -> None:
    # The state comes last, so that a state is there only with its weights.
    processes = processes_of(recipe)
    suffix = f".{recipe.logger.checkpoint_format}"
    for name, network in parts.networks.items():
        process = processes.get(name)
        if name in parts.averages:
            path = experiment.weights(name, iteration, True, suffix)
            _save_weights(path, parts.averages[name].network, "ema", iteration, process)
        _save_weights(experiment.weights(name, iteration, False, suffix), network, "raw", iteration, process)
    state = {
        "format": FORMAT,
        "version": __version__,
        "iteration": iteration,
        "samples": samples,
        "optimizers": {step.name: step.optimizer.state_dict() for step in parts.steps},
        "scalers": {step.name: step.scaler.state_dict() for step in parts.steps},
        "injectors": {step.name: _injector_states(step) for step in parts.steps},
    }
    with atomic_write(experiment.state(iteration)) as temporary:
        torch.save(state, temporary)


def _save_weights(
    path: Path, network: DiffusionNetwork, kind: Literal["ema", "raw"], iteration: int, process: ProcessOptions | None
) -> None:
    described = process.model_dump(mode="json") if process else {}
    save_checkpoint(path, network.state_dict(), CheckpointMetadata.of(network, kind, iteration, described))


def prune(experiment: Experiment, recipe: Recipe) -> None:
    """Remove all but the newest `logger.keep_last` checkpoints."""
    if recipe.logger.keep_last is None:
        return
    for iteration, _ in experiment.states()[recipe.logger.keep_last :]:
        _remove(experiment, recipe.networks, iteration)


def _remove(experiment: Experiment, networks: Iterable[str], iteration: int) -> None:
    weights = (experiment.saved_weights(name, iteration, ema) for name in networks for ema in (True, False))
    for path in (experiment.state(iteration), *weights):
        with suppress(FileNotFoundError):
            path.unlink()


def remove_leftovers(experiment: Experiment) -> None:
    """Remove the temporary files of a save that was killed."""
    for folder in ("models", "training_state"):
        for path in (experiment.root / folder).glob(".*.tmp.*"):
            with suppress(FileNotFoundError):
                path.unlink()


def find_state(recipe: Recipe, experiment: Experiment, auto_resume: bool) -> Path | None:
    """The state to continue from: with auto_resume the newest of this experiment, else the one that is named, or None.

    Raises ConfigError for a named state that is not there, or that newer ones of the same experiment follow.
    """
    states = experiment.states()
    if auto_resume and states:
        return states[0][1]
    if recipe.path.resume_state is None:
        return None
    named = Path(recipe.path.resume_state)
    if not named.is_file():
        raise ConfigError(f"path.resume_state: no such file {named}")
    if is_own(experiment, named) and states and not states[0][1].samefile(named):
        raise ConfigError(
            f"path.resume_state: {named} is not the newest of this experiment ({states[0][1].name} follows); "
            "set another `name` to branch off, or use --auto_resume to continue the newest"
        )
    return named


def is_own(experiment: Experiment, state: Path) -> bool:
    """Whether a state lies in the folder of this experiment."""
    return state.resolve().parent.parent == experiment.root.resolve()


def resume(path: Path, parts: Parts) -> tuple[int, int]:
    """Load a state and its weights into the parts: (iteration, samples seen). Raises ConfigError if they do not fit."""
    state = _read_state(path)
    iteration, samples = int(state["iteration"]), int(state["samples"])
    experiment = Experiment(path.parent.parent)
    for name, network in parts.networks.items():
        load_into(network, experiment.saved_weights(name, iteration, ema=False), strict=True)
        if name in parts.averages:
            load_into(parts.averages[name].network, experiment.saved_weights(name, iteration, ema=True), strict=True)
    for step in parts.steps:
        if step.name not in state["optimizers"]:
            raise ConfigError(f"{path}: holds no step {step.name!r} (it holds: {', '.join(state['optimizers'])})")
        try:
            _load_optimizer(step.optimizer, state["optimizers"][step.name])
        except ValueError as error:
            raise ConfigError(f"{path}: the optimiser of step {step.name} does not fit this recipe ({error})") from None
        if step.scaler.is_enabled() and state["scalers"][step.name]:
            step.scaler.load_state_dict(state["scalers"][step.name])
        for key, saved in state["injectors"].get(step.name, {}).items():
            if key not in step.graph.injectors:
                raise ConfigError(f"{path}: holds the state of an injector {key!r}, which step {step.name} lacks")
            try:
                step.graph.injectors[key].load_state_dict(saved)
            except ValueError as error:
                raise ConfigError(f"{path}: the state of injector {key} does not fit ({error})") from None
    logger.info("resumed from %s: iteration %d, %d samples seen", path, iteration, samples)
    return iteration, samples


def _load_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Take the moments from the checkpoint and everything that an option sets from the recipe as it is now."""
    options = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(saved)
    for group, wanted in zip(optimizer.param_groups, options, strict=True):
        group.update(wanted)


def _read_state(path: Path) -> dict[str, Any]:
    try:
        with warnings.catch_warnings():
            # torch warns of pickle protocols it does not know; what it cannot read it refuses anyway.
            warnings.simplefilter("ignore", UserWarning)
            state = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise ConfigError(f"{path}: cannot be read as a training state ({_first_line(error)})") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT or not state.keys() >= STATE_KEYS:
        raise ConfigError(
            f"{path}: is no training state of this trainer; "
            "to start from its weights name them in path.pretrain_model_<network>"
        )
    return state


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _injector_states(step: TrainingStep) -> dict[str, Any]:
    return {key: saved for key, injector in step.graph.injectors.items() if (saved := injector.state_dict())}
