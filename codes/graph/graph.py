"""A training step as a graph over a state.

The batch, a dict of tensors, is the first state; injectors read keys and add keys; losses read keys. State is
write-once. What is read and written follows from the options alone, so a wrong key is found before data is loaded.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..config.registry import Registry, nearest
from ..config.yaml_source import Issue, KeyPath
from ..data.eight_bit import EightBit
from ..models.diffusion.networks.base import DiffusionNetwork
from ..models.diffusion.process_options import ProcessOptions
from ..utils.philox import normal_values
from ..utils.rng import derive_seed, numpy_generator
from .node_options import InjectorOptions, LossOptions, NodeOptions

State = Mapping[str, Any]


@dataclass(frozen=True)
class StepContext:
    """What an injector may use besides the state: networks, position in the run, precision."""

    networks: Mapping[str, DiffusionNetwork]
    device: torch.device
    seed: int
    positions: Sequence[int]  # number of every sample of this batch within the whole run
    autocast: Callable[[], AbstractContextManager[Any]]
    ema_networks: Mapping[str, DiffusionNetwork] = field(default_factory=dict)  # averaged copies, where there are any
    processes: Mapping[str, ProcessOptions] = field(default_factory=dict)  # network -> the process it was trained under
    on_step: Callable[[str, int, int], None] | None = None  # told (what, tiles done, tiles in all) during sampling
    on_event: Callable[[str], None] | None = None  # told of what the user should know, one line each
    sample: int = 0  # which of several samples of the same image this is: another number, another noise
    scratch: Path | None = None  # a folder of this state alone, for canvases on disk and for what an interruption keeps
    corruptions: Mapping[str, Sequence[str]] = field(default_factory=dict)  # network -> what its strengths stand for
    passes: Mapping[str, int] = field(default_factory=dict)  # `out` of a sampling injector -> how often it restores

    def normal(self, purpose: str, like: Tensor) -> Tensor:
        """Standard normal noise of the shape of `like` (B, ...): row b depends on (seed, purpose, sample b) alone.

        So splitting the batch into micro-batches or over ranks leaves every sample's noise as it is.
        """
        shape = tuple(like.shape[1:])
        return normal_values([derive_seed(self.seed, purpose, at) for at in self.positions], shape, self.device)

    def uniform(self, purpose: str) -> Tensor:
        """(B,) float64 in [0, 1) on the CPU, one draw per sample of the batch."""
        draws = [numpy_generator(self.seed, purpose, position).random() for position in self.positions]
        return torch.tensor(draws, dtype=torch.float64)


class Injector(ABC):
    """Reads keys of the state and returns new ones.

    The tensors that it reads lie on the run's device, wherever they were written; what it writes may lie anywhere. A
    Canvas is no tensor and stays where it is.
    """

    Options: ClassVar[type[InjectorOptions]]
    on_device: ClassVar[bool] = True  # False: takes tensors from anywhere, and places what it needs itself

    @abstractmethod
    def __call__(self, state: State, context: StepContext) -> dict[str, Any]:
        """The keys to add to the state."""

    def many(self, states: Sequence[State], contexts: Sequence[StepContext]) -> list[dict[str, Any]]:
        """What `__call__` gives for each state with its context; one that can share work between states does."""
        return [self(state, context) for state, context in zip(states, contexts, strict=True)]

    def end_iteration(self, gather: Callable[[Tensor], Tensor]) -> None:  # noqa: B027 - a hook, not a duty
        """Called after every training iteration; `gather` joins a tensor (N, ...) of all ranks. Nothing by default."""

    def log_values(self) -> dict[str, Tensor]:
        """For the log: name -> (2,), sum and count of what this rank saw since the last call; always the same names."""
        return {}

    def log_distributions(self) -> dict[str, Tensor]:
        """For the log: name -> weights (N,) of a distribution over N bins, as it stands."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What must survive a resume; nothing by default."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        assert not state, f"{type(self).__name__} keeps no state, but a checkpoint holds {sorted(state)}"


class Loss(ABC):
    """Reads keys of the state, on the run's device, and returns one number a sample."""

    Options: ClassVar[type[LossOptions]]

    @abstractmethod
    def __call__(self, state: State, context: StepContext) -> Tensor:
        """(B,) float32; the trainer alone weights and reduces."""


INJECTORS: Registry[Any] = Registry("injector")
LOSSES: Registry[Any] = Registry("loss")


class Graph:
    """The injectors and losses of one step, in the order of the recipe.

    `reads`: ("injectors" or "losses", name) -> the state keys that it reads; one that is not named reads any.
    """

    def __init__(
        self,
        injectors: Mapping[str, Injector],
        losses: Mapping[str, tuple[float, Loss]],
        reads: Mapping[tuple[str, str], Collection[str]] | None = None,
    ) -> None:
        self.injectors = dict(injectors)
        self.losses = dict(losses)
        self.reads = dict(reads or {})

    def inject(self, state: State, context: StepContext) -> dict[str, Any]:
        """The state after all injectors."""
        return self.inject_many([state], [context])[0]

    def inject_many(self, states: Sequence[State], contexts: Sequence[StepContext]) -> list[dict[str, Any]]:
        """The states after all injectors, each with its own context; they may share work, but no result."""
        results = [dict(state) for state in states]
        for name, injector in self.injectors.items():
            if injector.on_device:
                for result, context in zip(results, contexts, strict=True):
                    result.update(self._moved(result, ("injectors", name), context.device))
            for result, added in zip(results, injector.many(results, contexts), strict=True):
                for key, value in added.items():
                    if key in result:
                        raise AssertionError(f"injector {name} writes {key!r}, which the state holds already")
                    result[key] = value
        return results

    def evaluate(self, state: State, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum of all losses, (B,), and each loss by name, (B,), detached."""
        total: Tensor | None = None
        parts: dict[str, Tensor] = {}
        for name, (weight, loss) in self.losses.items():
            state = {**state, **self._moved(state, ("losses", name), context.device)}
            value = loss(state, context)
            assert value.ndim == 1, f"loss {name} must return one number a sample, found shape {tuple(value.shape)}"
            parts[name] = value.detach()
            total = weight * value if total is None else total + weight * value
        assert total is not None, "a training step needs a loss"
        return total, parts

    def _moved(self, state: State, reader: tuple[str, str], device: torch.device) -> dict[str, Tensor]:
        """The tensors that a part of the graph reads and that lie elsewhere, on the device."""
        read = ((key, state.get(key)) for key in self.reads.get(reader, state))
        return {key: v.to(device) for key, v in read if isinstance(v, Tensor) and v.device.type != device.type}


def check_keys(
    nodes: Iterable[tuple[KeyPath, NodeOptions]], provided: Mapping[str, str], absent: Mapping[str, str] | None = None
) -> tuple[list[Issue], dict[str, str]]:
    """Follow the keys through the nodes in order: (what is read but not there, or written twice; all keys at the end).

    `provided` maps each key of the first state to where it comes from, for the message; `absent` maps keys that are
    written at other times to what should be said of them.
    """
    known = dict(provided)
    issues: list[Issue] = []
    for path, node in nodes:
        for inner, key in node.reads().items():
            if key not in known and absent and key in absent:
                issues.append(Issue((*path, *inner), absent[key]))
            elif key not in known:
                close = nearest(key, list(known))
                hint = f"did you mean {close}? " if close else ""
                issues.append(
                    Issue(
                        (*path, *inner),
                        f"nothing writes the state key {key!r} before this ({hint}there are: {', '.join(known)})",
                    )
                )
        for inner, key in node.writes().items():
            if key in known:
                issues.append(
                    Issue((*path, *inner), f"state key {key!r} is already written by {known[key]}; choose another name")
                )
            known[key] = ".".join(map(str, path))
    return issues, known


def rows(state: State, start: int, stop: int) -> dict[str, Any]:
    """Rows start..stop of every tensor and list of a batch."""
    return {
        key: value[start:stop] if isinstance(value, Tensor | EightBit | list | tuple) else value
        for key, value in state.items()
    }
