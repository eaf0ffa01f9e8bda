"""Checkpoints of a run: weights, averaged weights and everything else that a resume needs."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import torch

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
    """Write a checkpoint; the state comes last, so that a state is there only with its weights."""
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
    for iteration, state in experiment.states()[recipe.logger.keep_last :]:
        doomed = [
            state,
            *(experiment.saved_weights(name, iteration, ema) for name in recipe.networks for ema in (True, False)),
        ]
        for path in doomed:
            with suppress(FileNotFoundError):
                path.unlink()


def find_state(recipe: Recipe, experiment: Experiment, auto_resume: bool) -> Path | None:
    """The state to continue from: the one that is named, else the newest when asked for, else None."""
    named = recipe.path.resume_state
    if named is not None:
        if not Path(named).is_file():
            raise ConfigError(f"path.resume_state: no such file {named}")
        return Path(named)
    if not auto_resume:
        return None
    for _, path in experiment.states():
        return path
    return None


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
            step.optimizer.load_state_dict(state["optimizers"][step.name])
        except ValueError as error:
            raise ConfigError(f"{path}: the optimiser of step {step.name} does not fit this recipe ({error})") from None
        if step.scaler.is_enabled() and state["scalers"][step.name]:
            step.scaler.load_state_dict(state["scalers"][step.name])
        for key, saved in state["injectors"].get(step.name, {}).items():
            step.graph.injectors[key].load_state_dict(saved)
    logger.info("resumed from %s: iteration %d, %d samples seen", path, iteration, samples)
    return iteration, samples


def _read_state(path: Path) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, UnpicklingError, EOFError) as error:
        raise ConfigError(f"{path}: cannot be read as a training state ({str(error).splitlines()[0]})") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ConfigError(
            f"{path}: is no training state of this trainer; "
            "to start from its weights name them in path.pretrain_model_<network>"
        )
    return state


def _injector_states(step: TrainingStep) -> dict[str, Any]:
    return {key: saved for key, injector in step.graph.injectors.items() if (saved := injector.state_dict())}
