"""Checkpoints: ours, which carry their options, and those of guided-diffusion, DL-Art-School and PatchDiffusion."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from ....config.options import Options, normalised
from ....utils.errors import ConfigError, DamagedError
from ....utils.printable import printable
from ....version import __version__
from ..networks.base import NETWORKS, DiffusionNetwork
from ..process_options import ProcessOptions
from .families import Recognised, recognise
from .files import Weights, read_safetensors_header, read_weights, write_weights
from .record import VERSION, first_problem, read_record

M = TypeVar("M", bound=Options)
SHOWN = 3
MOST_SHOWN = 120  # characters of a foreign message
MOST_PARAMETERS = 20_000_000_000
# A network may have more parameters than its file, which then lacks some: load_into says which.
TOLERANCE, MARGIN = 4, 10_000_000
INSPECT = "python codes/scripts/inspect_checkpoint.py"


@dataclass(frozen=True)
class CheckpointMetadata:
    """What our own checkpoints say about themselves, so that no option file is needed to use them."""

    which_model: str
    network: Mapping[str, Any]
    """Options of the network, as plain JSON values."""
    kind: Literal["ema", "raw"]
    iteration: int
    process: Mapping[str, Any] = field(default_factory=dict)
    """Options of the diffusion process, as plain JSON values."""
    tessera_version: str = __version__
    data: Mapping[str, Any] = field(default_factory=dict)
    """What it was trained on, as plain JSON values: `scale`, and the names of its `corruptions` in their order."""
    file: Path | None = field(default=None, compare=False)
    """Where it was read."""
    held: int | None = field(default=None, compare=False)
    """How many numbers the tensors of that file hold."""

    @property
    def process_options(self) -> ProcessOptions | None:
        """The process it was trained under; None where it records none. Raises ConfigError with the file's name."""
        if not self.process:
            return None
        return _typed(ProcessOptions, self.process, f"{self.place}: its record of the process")

    @property
    def scale(self) -> int | None:
        """Pixels of a result per pixel of low_res, in training; None where it records none."""
        return self.data.get("scale")

    @property
    def corruptions(self) -> tuple[str, ...] | None:
        """The names of the strengths in the order of training; None where it records none."""
        names = self.data.get("corruptions")
        return None if names is None else tuple(names)

    @property
    def place(self) -> str:
        """How messages call it."""
        return f"checkpoint {self.file}" if self.file else "this checkpoint"

    @classmethod
    def of(
        cls,
        network: DiffusionNetwork,
        kind: Literal["ema", "raw"],
        iteration: int,
        process: Mapping[str, Any],
        data: Mapping[str, Any] | None = None,
    ) -> Self:
        """Describe a network that is about to be saved."""
        names = [name for name in NETWORKS.names() if NETWORKS.get(name) is type(network)]
        if not names:
            raise ConfigError(
                f"{type(network).__name__} is not registered as a network; decorate it by NETWORKS.register"
            )
        return cls(names[0], network.options.model_dump(mode="json"), kind, iteration, process, data=data or {})

    def to_strings(self) -> dict[str, str]:
        """As safetensors stores it: text to text."""
        network = {"which_model": self.which_model, "args": dict(self.network)}
        return {
            "tessera_version": self.tessera_version,
            "network": json.dumps(network),
            "process": json.dumps(dict(self.process)),
            "data": json.dumps(dict(self.data)),
            "kind": self.kind,
            "iteration": str(self.iteration),
        }

    @classmethod
    def from_strings(cls, text: Mapping[str, str], file: Path | None = None, held: int | None = None) -> Self | None:
        """The inverse of `to_strings`; None when the text is not ours.

        Raises ConfigError with the file's name for a record of ours of which something is missing or of another type.
        """
        if VERSION not in text:
            return None
        record = read_record(text, f"checkpoint {file}" if file else "this checkpoint")
        data = record.data.model_dump(mode="json", exclude_unset=True)
        network, version = record.network, text[VERSION]
        return cls(
            network.which_model, network.args, record.kind, record.iteration, record.process, version, data, file, held
        )


@dataclass(frozen=True)
class LoadReport:
    """What loading did. `mismatched` maps a name to (shape found, shape expected)."""

    path: Path
    loaded: int
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    precision: str = "float32"
    wrapper: str = ""

    @property
    def complete(self) -> bool:
        """Whether every parameter of the network came from the file and nothing was left over."""
        return not (self.missing or self.unexpected or self.mismatched)

    def describe(self) -> str:
        """What did not fit, with counts and the first names; one line."""
        shapes = [f"{name}: found {list(a)}, expected {list(b)}" for name, (a, b) in self.mismatched.items()]
        groups = (("missing", self.missing), ("unexpected", self.unexpected), ("of another shape", shapes))
        return "; ".join(f"{len(names)} {word} ({_first(names)})" for word, names in groups if names)


def save_checkpoint(path: str | Path, state_dict: Mapping[str, Tensor], metadata: CheckpointMetadata) -> None:
    """Write weights atomically. `.safetensors` carries the metadata; `.pth` is a bare state dict for DL-Art-School."""
    write_weights(path, state_dict, metadata.to_strings())


def read_metadata(path: str | Path) -> CheckpointMetadata | None:
    """What one of our checkpoints says about itself; None for a file that is not ours. Raises ConfigError."""
    if Path(path).suffix != ".safetensors":
        return None
    metadata, held = read_safetensors_header(path)
    return CheckpointMetadata.from_strings(metadata, Path(path), held)


def network_of(metadata: CheckpointMetadata) -> DiffusionNetwork:
    """A new network, with fresh weights, from the options in a checkpoint's metadata. Raises ConfigError."""
    most = MOST_PARAMETERS if metadata.held is None else min(MOST_PARAMETERS, TOLERANCE * metadata.held + MARGIN)
    try:
        return build(metadata.which_model, metadata.network, most)
    except ConfigError as error:
        raise ConfigError(f"{metadata.place}: {error}") from None


def build(which_model: str, options: Mapping[str, Any], most: int = MOST_PARAMETERS) -> DiffusionNetwork:
    """A registered network from plain JSON options.

    Raises ConfigError on a name or option it does not know, and on sizes of more than `most` parameters.
    """
    network = NETWORKS.get(which_model)
    parsed = _typed(network.Options, options, f"options of {which_model} do not fit")
    check_size(network, parsed, most)
    return network(parsed)


def check_size(network: type[DiffusionNetwork], options: Any, most: int = MOST_PARAMETERS) -> DiffusionNetwork:
    """A network without memory, on the meta device. Raises ConfigError for sizes of which none can be built."""
    try:
        with torch.device("meta"):
            described = network(options)
    except (ValueError, TypeError, RuntimeError, OverflowError, MemoryError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:MOST_SHOWN]
        raise ConfigError(f"a network of these sizes cannot be built ({reason})") from None
    count = sum(parameter.numel() for parameter in described.parameters())
    if count > most:
        raise ConfigError(f"a network of {count:,} parameters, where {most:,} are the most that can be meant")
    return described


def _typed(cls: type[M], values: Mapping[str, Any], what: str) -> M:
    """Typed options of plain JSON values. Raises ConfigError, one line, that begins with `what`."""
    try:
        data = normalised(dict(values))
        return cls.model_validate(data)
    except RecursionError:
        raise ConfigError(f"{what}: nested too deep") from None
    except ValidationError as error:
        raise ConfigError(f"{what}: {first_problem(cls, error, data)}") from None


def load_into(network: nn.Module, path: str | Path, strict: bool = True) -> LoadReport:
    """Copy a file's weights into a network.

    strict: every name and shape must match, else ConfigError says which do not and what the file seems to be.
    Otherwise what matches is loaded and the report names the rest; ConfigError when nothing matches. DamagedError for
    weights that are not finite.
    """
    path = Path(path)
    weights = read_weights(path)
    expected = network.state_dict()
    state = weights.state_dict
    common = [name for name in expected if name in state]
    fitting = [name for name in common if state[name].shape == expected[name].shape]
    mismatched = {
        name: (tuple(state[name].shape), tuple(expected[name].shape)) for name in common if name not in set(fitting)
    }
    report = LoadReport(
        path=path,
        loaded=len(fitting),
        missing=tuple(name for name in expected if name not in state),
        unexpected=tuple(name for name in state if name not in expected),
        mismatched=mismatched,
        precision=weights.precision,
        wrapper=weights.wrapper,
    )
    if not fitting or (strict and not report.complete):
        raise ConfigError(f"{path} does not fit the network: {report.describe()}; {_hint(path, weights)}")
    whole = next((n for n in fitting if expected[n].is_floating_point() and not state[n].is_floating_point()), None)
    if whole is not None:
        kind = str(state[whole].dtype).removeprefix("torch.")
        raise ConfigError(
            f"{path}: the weights {whole} are whole numbers ({kind}), as of a quantised network; use its weights in "
            "floating point"
        )
    broken = next((name for name in fitting if not torch.isfinite(state[name]).all()), None)
    if broken is not None:
        raise DamagedError(
            f"{path}: the weights {broken} are not finite, so nothing would come out; use an earlier one"
        )
    with torch.no_grad():
        for name in fitting:
            expected[name].copy_(state[name])
    return report


def identify(weights: Weights) -> Recognised | None:
    """What network a file's weights belong to: by our metadata, else by names and shapes; None when unknown."""
    metadata = CheckpointMetadata.from_strings(weights.metadata)
    if metadata is None:
        return recognise(weights.state_dict)
    return Recognised(f"Tessera {metadata.tessera_version}", metadata.which_model, dict(metadata.network), {})


def _hint(path: Path, weights: Weights) -> str:
    recognised = identify(weights)
    if recognised is None:
        return "the file holds no network of the ADM or PatchDiffusion families"
    return f"the file holds {recognised.which_model} ({recognised.family}); its options: {INSPECT} {path}"


def _first(names: tuple[str, ...] | list[str]) -> str:
    shown = [printable(name)[:MOST_SHOWN] for name in names[:SHOWN]]
    return ", ".join([*shown, *(["..."] if len(names) > SHOWN else [])])
