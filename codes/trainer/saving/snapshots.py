"""Snapshots of averages with power-function profiles, written during training and joined into one afterwards."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ...models.diffusion.checkpoints.files import read_weights
from ...models.diffusion.checkpoints.metadata import CheckpointMetadata, read_metadata, save_checkpoint
from ...recipe.recipe import Recipe
from ...runtime.experiment import SNAPSHOTS, Experiment
from ...utils.errors import ConfigError
from ...utils.files import require_folder, write_json
from ..power_ema import coefficients, exponent_of
from .saving import Parts, data_of, processes_of

BUFFERS = "buffers.json"  # network -> its buffers, which are copied and not averaged
NAME = re.compile(r"^(\d+)_(.+)_(0\.\d{3})\.safetensors$")


@dataclass(frozen=True, order=True)
class Snapshot:
    """An average of a network at an iteration, in a file."""

    iteration: int
    sigma_rel: float
    network: str
    file: Path


def write_snapshots(experiment: Experiment, recipe: Recipe, parts: Parts, iteration: int) -> None:
    """Write the averages as they stand. Raises OSError."""
    assert recipe.train is not None
    assert recipe.train.post_hoc_ema is not None
    require_folder(experiment.root)
    half = recipe.train.post_hoc_ema.dtype == "fp16"
    processes, data = processes_of(recipe), data_of(recipe)
    for name, profiles in parts.profiles.items():
        process = processes[name].model_dump(mode="json") if name in processes else {}
        metadata = CheckpointMetadata.of(parts.networks[name], "ema", iteration, process, data)
        for sigma, profile in profiles.items():
            weights = profile.state_dict()
            if half:
                weights = {key: value.half() if value.is_floating_point() else value for key, value in weights.items()}
            file = f"{iteration}_{name}_{sigma:.3f}.safetensors"
            save_checkpoint(experiment.root / SNAPSHOTS / file, weights, metadata)
    buffers = {name: [key for key, _ in parts.networks[name].named_buffers()] for name in parts.profiles}
    write_json(experiment.root / SNAPSHOTS / BUFFERS, buffers)


def find_snapshots(experiment: Experiment) -> list[Snapshot]:
    """All snapshots of an experiment, in the order of their iterations."""
    folder = experiment.root / SNAPSHOTS
    names = [(NAME.match(path.name), path) for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(Snapshot(int(match[1]), float(match[3]), match[2], path) for match, path in names if match)


def drop_after(experiment: Experiment, iteration: int) -> None:
    """Remove the snapshots of iterations that a resumed run goes through again."""
    for snapshot in find_snapshots(experiment):
        if snapshot.iteration > iteration:
            with suppress(FileNotFoundError):
                snapshot.file.unlink()


def reconstruct(
    experiment: Experiment, snapshots: list[Snapshot], sigma_rel: float, iteration: int
) -> tuple[dict[str, Tensor], CheckpointMetadata, float]:
    """The average of length `sigma_rel` at an iteration from the snapshots of one network up to it.

    Returns its weights (float32), what the file is to say of itself, and the sum of the absolute coefficients: by so
    much the rounding of the snapshots is amplified. Parameters are joined, buffers come from the newest snapshot.
    Raises ConfigError for a length that no profile has, and for snapshots that are not ours.
    """
    try:
        gamma = exponent_of(sigma_rel)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    used = [snapshot for snapshot in snapshots if snapshot.iteration <= iteration]
    if not used or used[-1].iteration != iteration:
        there = ", ".join(str(at) for at in dict.fromkeys(snapshot.iteration for snapshot in snapshots))
        raise ConfigError(f"no snapshot of iteration {iteration} (there are: {there or 'none'})")
    metadata = read_metadata(used[-1].file)
    if metadata is None:
        raise ConfigError(f"{used[-1].file}: is no snapshot of this trainer")
    weights = coefficients([(row.iteration, exponent_of(row.sigma_rel)) for row in used], iteration, gamma)
    buffers = json.loads((experiment.root / SNAPSHOTS / BUFFERS).read_text(encoding="utf-8"))[used[-1].network]
    joined = _weighted_sum(zip(used, weights.tolist(), strict=True), buffers)
    return joined, metadata, float(abs(weights).sum())


def _weighted_sum(rows: Iterator[tuple[Snapshot, float]], buffers: Sequence[str]) -> dict[str, Tensor]:
    """One file at a time, summed in float64; buffers as they are in the last one."""
    sums: dict[str, Tensor] = {}
    newest: Mapping[str, Tensor] = {}
    for snapshot, weight in rows:
        newest = read_weights(snapshot.file).state_dict
        for name in newest.keys() - set(buffers):
            value = newest[name].double() * weight
            sums[name] = sums[name] + value if name in sums else value
    joined = {**newest, **sums}
    return {name: value.float() if value.is_floating_point() else value for name, value in joined.items()}
