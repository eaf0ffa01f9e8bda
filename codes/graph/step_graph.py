"""A step's injectors and losses, and which of them run at an iteration."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .graph import INJECTORS, LOSSES, Graph, Injector, Loss, State, StepContext
from .loss_weight import weight_at
from .node_options import InjectorOptions
from .step_options import StepOptions


def running_injectors(
    nodes: Mapping[str, InjectorOptions], iteration: int | None, present: Collection[str]
) -> list[str]:
    """The injectors that run, in order, given the state keys and steps that are there at the start.

    iteration None is an evaluation or a test run.
    """
    there = set(present)
    names = []
    for name, node in nodes.items():
        if (node.train if iteration is None else node.eval) or not node.runs(iteration, there):
            continue
        names.append(name)
        there.update(node.writes().values())
    return names


class WithoutGradient(Injector):
    """Another injector whose results carry no gradient."""

    def __init__(self, injector: Injector) -> None:
        self.injector = injector
        self.on_device = injector.on_device  # type: ignore[misc]  # that of the class it stands for

    @torch.no_grad()
    def __call__(self, state: State, context: StepContext) -> dict[str, Any]:
        return self.injector(state, context)

    @torch.no_grad()
    def many(self, states: Sequence[State], contexts: Sequence[StepContext]) -> list[dict[str, Any]]:
        return self.injector.many(states, contexts)

    def end_iteration(self, gather: Callable[[Tensor], Tensor]) -> None:
        self.injector.end_iteration(gather)

    def log_values(self) -> dict[str, Tensor]:
        return self.injector.log_values()

    def log_distributions(self) -> dict[str, Tensor]:
        return self.injector.log_distributions()

    def state_dict(self) -> dict[str, Any]:
        return self.injector.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.injector.load_state_dict(state)


def build_injector(options: InjectorOptions) -> Injector:
    """The injector of these options."""
    injector: Injector = INJECTORS.get(options.type)(options)
    return WithoutGradient(injector) if options.no_grad else injector


class StepGraph:
    """All injectors and losses of one step; `at` picks those that run."""

    def __init__(self, options: StepOptions) -> None:
        self.options = options
        self.injectors = {name: build_injector(node) for name, node in options.injectors.items()}
        self.losses: dict[str, Loss] = {name: LOSSES.get(node.type)(node) for name, node in options.losses.items()}
        self._reads: dict[tuple[str, str], Collection[str]] = {
            **{("injectors", name): node.reads().values() for name, node in options.injectors.items()},
            **{("losses", name): node.reads().values() for name, node in options.losses.items()},
        }

    def at(self, iteration: int | None, present: Collection[str]) -> Graph:
        """The graph of an iteration, with the losses' weights there; of an evaluation or a test run with None.

        present: the keys of the state and the names of the steps that ran before in the same iteration.
        """
        names = running_injectors(self.options.injectors, iteration, present)
        losses = {
            name: (weight_at(node.weight, iteration), self.losses[name])
            for name, node in self.options.losses.items()
            if iteration is not None and node.due(iteration)
        }
        return Graph({name: self.injectors[name] for name in names}, losses, self._reads)
