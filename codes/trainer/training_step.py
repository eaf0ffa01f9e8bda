"""One iteration: every step of the graph on one batch, gradients accumulated, checked, and applied."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ..graph.graph import Graph, StepContext, rows
from ..graph.step_graph import StepGraph
from ..graph.step_options import StepOptions
from ..models.diffusion.networks.base import DiffusionNetwork
from ..recipe.recipe import Recipe
from ..runtime.devices import Ranks, gather_over_ranks, several_ranks, sum_over_ranks, to_device
from ..utils.console import get_logger
from ..utils.errors import ConfigError
from ..utils.rng import torch_globals_at
from .optim import build_optimizer, learning_rate

logger = get_logger(__name__)


@dataclass
class StepResult:
    """What one iteration did: means over the global batch, and the state of its first part for the eyes."""

    losses: dict[str, float] = field(default_factory=dict)
    gradient_norm: float = 0.0
    learning_rate: float = 0.0  # of the step that ran last
    learning_rates: dict[str, float] = field(default_factory=dict)  # by step, where there are several
    skipped: bool = False
    updated: set[str] = field(default_factory=set)  # the networks that were changed
    state: Mapping[str, Any] = field(default_factory=dict)


class TrainingStep:
    """A step of the graph with the networks it trains, its optimiser and its gradient scaler."""

    def __init__(
        self,
        name: str,
        options: StepOptions,
        recipe: Recipe,
        networks: Mapping[str, DiffusionNetwork],
        device: torch.device,
    ) -> None:
        self.name = name
        self.options = options
        self.recipe = recipe
        self.graph = StepGraph(options)
        trained = [networks[key] for key in options.trained]
        self.parameters = [p for network in trained for p in network.parameters() if p.requires_grad]
        used = [network for key, network in networks.items() if key not in options.trained]
        self.others = [p for network in used for p in network.parameters() if p.requires_grad]
        self.frozen = [network for key, network in networks.items() if not recipe.networks[key].trainable]
        shard = recipe.train is not None and recipe.train.shard_optimizer and several_ranks()
        self.optimizer = build_optimizer(trained, options.optimizer, options.optimizer_params, shard)
        self.drops = any(
            isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0
            for network in networks.values()
            for module in network.modules()
        )
        scaled = device.type == "cuda" and recipe.arithmetic == "fp16"
        self.scaler = torch.amp.GradScaler(device.type, enabled=scaled)
        self.applied_at = -1  # the last iteration that changed what it trains

    def backward(
        self, graph: Graph, state: Mapping[str, Any], context: StepContext, global_batch: int
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Add this part's share of the gradient of the mean loss; return its state and its summed losses."""
        with self._alone():
            with self._dropout_generators(context):
                after = graph.inject(state, context)
            total, parts = graph.evaluate(after, context)
            if not total.requires_grad:
                names = ", ".join(self.options.trained)
                raise ConfigError(f"steps.{self.name}: none of its losses depends on what it trains ({names})")
            self.scaler.scale(total.sum() / global_batch).backward()
        sums = {name: value.sum() / global_batch for name, value in parts.items()}
        sums["total"] = total.detach().sum() / global_batch
        return detached(after), sums

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Inside, only this step's networks learn; gradients pass through the others, and frozen ones evaluate."""
        for network in self.frozen:
            if network.training:
                network.eval()
        for parameter in self.others:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in self.others:
                parameter.requires_grad_(True)

    @contextmanager
    def _dropout_generators(self, context: StepContext) -> Iterator[None]:
        """Dropout draws from torch's own generators alone: inside they stand at this part of the batch, then as before.

        On one device the masks follow from the seed and the position; a batch that is split otherwise draws others.
        """
        if not self.drops:
            yield
            return
        with torch_globals_at(context.device, context.seed, "dropout", self.name, context.positions[0]):
            yield

    def apply(self, iteration: int, ranks: Ranks, sums: Mapping[str, Tensor]) -> StepResult:
        """Sum over the ranks, unscale, check, clip and apply the gradient, unless it or a loss is not finite.

        `sums` are the losses over the global batch. They are read from the device with the norm of the gradient, at
        once: each read waits for everything that the device still has to do.
        """
        assert self.recipe.train is not None
        rate = learning_rate(self.options.optimizer_params.lr, iteration, self.recipe.train)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        sum_over_ranks([p.grad for p in self.parameters if p.grad is not None], ranks)
        self.scaler.unscale_(self.optimizer)
        limit = self.options.clip_grad_eps or float("inf")
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, limit)
        *values, length = torch.stack([*(value.float() for value in sums.values()), norm.float()]).tolist()
        losses = dict(zip(sums, values, strict=True))
        finite = math.isfinite(length) and math.isfinite(losses["total"])
        if finite:  # not by the scaler, which would read again what is known, and step where only the norm overflowed
            self.applied_at = iteration
            self.optimizer.step()
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return StepResult(losses=losses, gradient_norm=length, learning_rate=rate, skipped=not finite)


def run_iteration(
    steps: Sequence[TrainingStep],
    batch: Mapping[str, Any],
    context: StepContext,
    iteration: int,
    parts: int,
    ranks: Ranks,
) -> StepResult:
    """Run all steps on one batch (this rank's share of it), split into `parts` whose gradients add up.

    Every part is weighted by its number of samples, so an uneven split still gives the gradient of the full batch.
    """
    size = len(context.positions)
    global_batch = size * ranks.world_size
    bounds = [round(size * index / parts) for index in range(parts + 1)]
    spans = [(a, b) for a, b in pairwise(bounds) if b > a]
    states = [{key: to_device(value, context.device) for key, value in rows(batch, a, b).items()} for a, b in spans]
    result = StepResult()
    ran: set[str] = set()
    for step in steps:
        present = {*states[0], *ran}
        if not step.options.runs(iteration, present):
            continue
        ran.add(step.name)
        step.optimizer.zero_grad(set_to_none=True)
        graph = step.graph.at(iteration, present)
        states, sums = _accumulate(step, graph, states, spans, context, global_batch)
        sum_over_ranks(list(sums.values()), ranks)
        applied = step.apply(iteration, ranks, sums)
        prefix = f"{step.name}/" if len(steps) > 1 else ""
        result.losses |= {f"{prefix}{name}": value for name, value in applied.losses.items()}
        result.gradient_norm = max(result.gradient_norm, applied.gradient_norm)
        result.learning_rate = applied.learning_rate
        result.learning_rates |= {step.name: applied.learning_rate} if prefix else {}
        result.skipped |= applied.skipped
        result.updated |= set() if applied.skipped else set(step.options.trained)
        for injector in step.graph.injectors.values():
            injector.end_iteration(partial(gather_over_ranks, ranks=ranks))
    result.state = states[0]
    return result


def _accumulate(
    step: TrainingStep,
    graph: Graph,
    states: Sequence[Mapping[str, Any]],
    spans: Sequence[tuple[int, int]],
    context: StepContext,
    global_batch: int,
) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """Send all parts of the batch through a step, their gradients added up: (their states, the losses over all)."""
    after: list[dict[str, Any]] = []
    sums: dict[str, Tensor] = {}
    for state, (a, b) in zip(states, spans, strict=True):
        part = replace(context, positions=context.positions[a:b])
        state_after, losses = step.backward(graph, state, part, global_batch)
        after.append(state_after)
        sums = {name: sums[name] + value if name in sums else value for name, value in losses.items()}
    return after, sums


def detached(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state without its graph of gradients, which the backward pass has freed."""
    return {key: value.detach() if isinstance(value, Tensor) else value for key, value in state.items()}
