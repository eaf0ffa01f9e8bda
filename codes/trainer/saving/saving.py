"""Checkpoints of a run: weights, averaged weights and everything else that a resume needs."""

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ...models.diffusion.checkpoints.files import disk_errors
from ...models.diffusion.checkpoints.metadata import CheckpointMetadata, save_checkpoint
from ...models.diffusion.networks.base import DiffusionNetwork
from ...models.diffusion.process_options import ProcessOptions
from ...recipe.recipe import Recipe
from ...runtime.experiment import Experiment
from ...utils.files import atomic_write, remove_temporaries, require_folder
from ...version import __version__
from ..optim import Ema
from ..power_ema import PowerEma
from ..training_step import TrainingStep
from .changes import to_text

FORMAT = 1


@dataclass(frozen=True)
class Parts:
    """What a run consists of, for saving and resuming."""

    networks: Mapping[str, DiffusionNetwork]
    averages: Mapping[str, Ema[DiffusionNetwork]]
    steps: Sequence[TrainingStep]
    profiles: Mapping[str, Mapping[float, PowerEma[DiffusionNetwork]]] = field(default_factory=dict)


def processes_of(recipe: Recipe) -> dict[str, ProcessOptions]:
    """Network -> the process that the recipe trains it under."""
    processes: dict[str, ProcessOptions] = {}
    for step in recipe.steps.values():
        for node in step.injectors.values():
            processes = {**node.processes(), **processes}
    return processes


def data_of(recipe: Recipe) -> dict[str, Any]:
    """What the training data were, for whoever restores with the checkpoint: scale and names of the corruptions."""
    dataset = recipe.datasets.get("train")
    if dataset is None:
        return {"scale": recipe.scale, "corruptions": []}
    return {"scale": dataset.scale, "corruptions": list(dataset.corruption_names)}


def save(experiment: Experiment, recipe: Recipe, parts: Parts, iteration: int, samples: int) -> None:
    """Write a checkpoint. Raises OSError when that failed; what was written until then is removed."""
    try:
        require_folder(experiment.root)
        with disk_errors():
            _write(experiment, recipe, parts, iteration, samples)
    except OSError:
        with suppress(OSError):
            _remove(experiment, recipe.networks, iteration)
        raise


def _write(experiment: Experiment, recipe: Recipe, parts: Parts, iteration: int, samples: int) -> None:
    # The state comes last, so that a state is there only with its weights.
    suffix = f".{recipe.logger.checkpoint_format}"
    for name in parts.networks:
        for ema in (True, False) if name in parts.averages else (False,):
            write_weights_of(experiment.weights(name, iteration, ema, suffix), recipe, parts, name, iteration, ema)
    state = {
        "format": FORMAT,
        "version": __version__,
        "iteration": iteration,
        "samples": samples,
        "optimizers": {step.name: step.optimizer.state_dict() for step in parts.steps},
        "scalers": {step.name: step.scaler.state_dict() for step in parts.steps},
        "injectors": {step.name: _injector_states(step) for step in parts.steps},
        "profiles": {
            name: {sigma: profile.state_dict() for sigma, profile in profiles.items()}
            for name, profiles in parts.profiles.items()
        },
        "recipe": to_text(recipe),
    }
    # Given an open file and not a name, torch lets Python write, whose errors say why a write failed.
    with atomic_write(experiment.state(iteration)) as temporary, temporary.open("wb") as file:
        torch.save(state, file)


def write_weights_of(path: Path, recipe: Recipe, parts: Parts, name: str, iteration: int, ema: bool) -> None:
    """Write the weights of a network, or its averaged ones, atomically."""
    network = parts.averages[name].network if ema else parts.networks[name]
    process = processes_of(recipe).get(name)
    described = process.model_dump(mode="json") if process else {}
    metadata = CheckpointMetadata.of(network, "ema" if ema else "raw", iteration, described, data_of(recipe))
    save_checkpoint(path, network.state_dict(), metadata)


def prune(experiment: Experiment, recipe: Recipe) -> None:
    """Remove all checkpoints but the newest `logger.keep_last` and the multiples of `logger.keep_every`."""
    settings = recipe.logger
    if settings.keep_last is None:
        return
    for iteration, _ in experiment.states()[settings.keep_last :]:
        if not (settings.keep_every and iteration % settings.keep_every == 0):
            _remove(experiment, recipe.networks, iteration)


def _remove(experiment: Experiment, networks: Iterable[str], iteration: int) -> None:
    weights = (experiment.saved_weights(name, iteration, ema) for name in networks for ema in (True, False))
    for path in (experiment.state(iteration), *weights):
        with suppress(FileNotFoundError):
            path.unlink()


def remove_leftovers(experiment: Experiment) -> None:
    """Remove the temporary files of a run that was killed, wherever it was writing. Only under the folder's lock."""
    remove_temporaries(Path(folder) for folder, _, _ in os.walk(experiment.root))


def _injector_states(step: TrainingStep) -> dict[str, Any]:
    return {key: saved for key, injector in step.graph.injectors.items() if (saved := injector.state_dict())}
