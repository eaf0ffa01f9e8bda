"""What a `Restorer` is built with, checked and completed from what a checkpoint records."""

from pathlib import Path
from typing import TypeVar

import torch

from ..models.diffusion.checkpoints.metadata import CheckpointMetadata, read_metadata
from ..models.diffusion.checkpoints.shipped import shipped_names, weights_file
from ..runtime.devices import choose_device
from ..utils.errors import ConfigError

V = TypeVar("V", int, tuple[str, ...])


def shipped_estimator(weights: Path) -> Path | None:
    """The estimator among the weights that come with the project that knows the corruptions of a restorer."""
    restorer = read_metadata(weights)
    wanted = frozenset(() if restorer is None else restorer.corruptions or ())
    for name in shipped_names():
        record = read_metadata(weights_file(name))
        estimates = record is not None and record.which_model == "strength_estimator"
        if record is not None and estimates and wanted and wanted <= frozenset(record.corruptions or ()):
            return weights_file(name)
    return None


def device_of(device: str | torch.device) -> torch.device:
    """The device of a name. Raises ConfigError for a name of none."""
    kind, colon, index = str(device).partition(":")
    if kind not in ("auto", "cpu", "cuda", "mps") or (colon and not index.isdecimal()):
        raise ConfigError(f"device: expected auto, cpu, cuda, cuda:N or mps, found {str(device)!r}")
    return choose_device(kind, [int(index)] if colon else None)


def agreed(what: str, given: V | None, recorded: V | None, metadata: CheckpointMetadata) -> V | None:
    """What the caller or the checkpoint says. Raises ConfigError where both do, and not the same."""
    if given is not None and recorded is not None and given != recorded:
        raise ConfigError(
            f"{what}: {metadata.place} was trained with {_shown(recorded)}, found {_shown(given)}; leave {what} out"
        )
    return recorded if given is None else given


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
