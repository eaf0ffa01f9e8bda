"""Continuing a run: which checkpoint, and everything that it brings back."""

import struct
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from ...config.yaml_source import Source
from ...models.diffusion.checkpoints.files import is_cut_short
from ...models.diffusion.checkpoints.metadata import load_into
from ...recipe.recipe import Recipe
from ...runtime.experiment import Experiment
from ...utils.console import get_logger
from ...utils.errors import ConfigError, DamagedError
from ..training_step import TrainingStep
from .changes import take_changes
from .saving import FORMAT, Parts

logger = get_logger(__name__)
DEEPEST = 8  # mappings and lists around a tensor of a state
STATE_KEYS = {"iteration", "samples", "optimizers", "scalers", "injectors"}
# What torch.load raises on files that are cut, damaged or of another kind.
UNREADABLE = (
    OSError, RuntimeError, UnpicklingError, EOFError, ValueError, LookupError, AttributeError, TypeError, struct.error,
)  # fmt: skip


def find_states(recipe: Recipe, experiment: Experiment, auto_resume: bool) -> list[Path]:
    """The states to continue from, the best first: with auto_resume the whole ones of this experiment from the newest
    on, else the one that is named.

    Empty for a run that starts at the beginning. Raises ConfigError for a named state that is not there, or that newer
    ones of the same experiment follow.
    """
    states = experiment.states()
    if auto_resume and states:
        whole = [path for iteration, path in states if _is_whole(recipe, experiment, iteration)]
        for path in (path for _, path in states if path not in whole and whole and path != whole[0]):
            if int(path.stem) > int(whole[0].stem):
                logger.warning("%s is cut off or lacks its weights; %s is the newest whole one", path, whole[0])
        return whole or [states[0][1]]
    if recipe.path.resume_state is None:
        return []
    named = Path(recipe.path.resume_state)
    if not named.is_file():
        raise ConfigError(f"path.resume_state: no such file {named}")
    if is_own(experiment, named) and states and not states[0][1].samefile(named):
        raise ConfigError(
            f"path.resume_state: {named} is not the newest of this experiment ({states[0][1].name} follows); "
            "set another `name` to branch off, or use --auto_resume to continue the newest"
        )
    return [named]


def _is_whole(recipe: Recipe, experiment: Experiment, iteration: int) -> bool:
    """Whether a checkpoint has all its files in their full length; what is in them shows when they are read."""
    trained = {name for step in recipe.steps.values() for name in step.trained}
    weights = [
        experiment.saved_weights(name, iteration, ema)
        for name in recipe.networks
        for ema in ((False, True) if name in trained else (False,))
    ]
    return zipfile.is_zipfile(experiment.state(iteration)) and not any(map(is_cut_short, weights))


def is_own(experiment: Experiment, state: Path) -> bool:
    """Whether a state lies in the folder of this experiment."""
    return state.resolve().parent.parent == experiment.root.resolve()


def resume_first_whole(paths: Sequence[Path], parts: Parts, recipe: Recipe, source: Source) -> tuple[Path, int, int]:
    """Load the first of the states that is not damaged into the parts: (state, iteration, samples seen).

    Raises ConfigError if it does not fit, and DamagedError, that of the first, if all are damaged.
    """
    first: DamagedError | None = None
    for path in paths:
        try:
            iteration, samples = resume(path, parts, recipe, source)
        except DamagedError as error:
            first = first or error
            logger.warning("%s cannot be continued: %s", path, error)
            continue
        return path, iteration, samples
    assert first is not None, "there is a state"
    raise first


def resume(path: Path, parts: Parts, recipe: Recipe, source: Source) -> tuple[int, int]:
    """Load a state and its weights into the parts: (iteration, samples seen). Raises ConfigError if they do not fit,
    DamagedError if they are cut short, damaged or not finite.
    """
    state = _read_state(path)
    iteration, samples = state["iteration"], state["samples"]
    if "recipe" in state:
        take_changes(state["recipe"], recipe, source)
    experiment = Experiment(path.parent.parent)
    for name, network in parts.networks.items():
        load_into(network, experiment.saved_weights(name, iteration, ema=False), strict=True)
        if name in parts.averages:
            load_into(parts.averages[name].network, experiment.saved_weights(name, iteration, ema=True), strict=True)
    try:
        _load_profiles(path, parts, state.get("profiles", {}))
        for step in parts.steps:
            _load_step(path, step, state)
    except (KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        raise DamagedError(
            f"{path}: holds something else than a state of this trainer ({_first_line(error)})"
        ) from None
    logger.info("resumed from %s: iteration %d, %d samples seen", path, iteration, samples)
    return iteration, samples


def _load_profiles(path: Path, parts: Parts, saved: Mapping[str, Mapping[float, Any]]) -> None:
    for name, profiles in parts.profiles.items():
        for sigma, profile in profiles.items():
            if sigma not in saved.get(name, {}):
                message = f"{path}: holds no average of {name} for train.post_hoc_ema.sigma_rel {sigma}"
                raise ConfigError(f"{message}; it cannot start in the middle of a run")
            profile.load_state_dict(saved[name][sigma])


def _load_step(path: Path, step: TrainingStep, state: Mapping[str, Any]) -> None:
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


def _load_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Take the moments from the checkpoint and everything that an option sets from the recipe as it is now."""
    options = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(saved)
    for group, wanted in zip(optimizer.param_groups, options, strict=True):
        group.update(wanted)


def _read_state(path: Path) -> dict[str, Any]:
    """Raises ConfigError for a file that is none of ours or may not be read, DamagedError for a damaged one."""
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read as a training state ({error.strerror or error})") from None
    try:
        with warnings.catch_warnings():
            # torch warns of pickle protocols it does not know; what it cannot read it refuses anyway.
            warnings.simplefilter("ignore", UserWarning)
            state = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise DamagedError(f"{path}: cannot be read as a training state ({_first_line(error)})") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT or not state.keys() >= STATE_KEYS:
        raise ConfigError(
            f"{path}: is no training state of this trainer; "
            "to start from its weights name them in path.pretrain_model_<network>"
        )
    _refuse_odd_types(path, state)
    for kind in ("optimizers", "profiles"):
        if not all(torch.isfinite(value).all() for value in _tensors(state.get(kind), DEEPEST)):
            raise DamagedError(f"{path}: holds numbers that are not finite ({kind}), so training would not go on")
    return state


def _refuse_odd_types(path: Path, state: Mapping[str, Any]) -> None:
    """Raise DamagedError for a state whose parts are not of the types that they were written with."""
    odd = [key for key in ("iteration", "samples") if type(state[key]) is not int or state[key] < 0]
    for key in ("optimizers", "scalers", "injectors", "profiles"):
        section = state.get(key, {})
        if not isinstance(section, dict) or not all(isinstance(value, dict) for value in section.values()):
            odd.append(key)
    if not isinstance(state.get("recipe", ""), str):
        odd.append("recipe")
    if odd:
        raise DamagedError(f"{path}: {', '.join(odd)}: of another type than this trainer writes; use an earlier state")


def _tensors(value: Any, depth: int) -> Iterator[torch.Tensor]:
    """The tensors of floating-point numbers in nested mappings and lists."""
    if isinstance(value, torch.Tensor):
        yield from [value] if value.is_floating_point() else []
    elif isinstance(value, dict | list | tuple) and depth:
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _tensors(inner, depth - 1)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
