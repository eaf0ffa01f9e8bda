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

from ..data.eight_bit import EightBit
from ..graph.graph import Graph, StepContext, rows
from ..graph.step_graph import StepGraph
from ..graph.step_options import StepOptions
from ..models.diffusion.networks.base import DiffusionNetwork
from ..recipe.recipe import Recipe
from ..runtime.devices import Ranks, gather_over_ranks, several_ranks, sum_over_ranks, to_device
from ..runtime.readback import Readback
from ..utils.console import get_logger
from ..utils.errors import ConfigError
from ..utils.rng import torch_globals_at
from .buckets import GradientBuckets
from .optim import build_optimizer, fused_on_device, learning_rate

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


@dataclass
class Applied:
    """What one step did: its losses over the global batch and the norm of its gradient, perhaps still on their way.

    `finite`: whether the update was made: known to the host, or (0-dimensional) to the device alone.
    """

    trained: Sequence[str]  # networks
    names: Sequence[str]  # of the losses
    numbers: Tensor  # the losses, the norm
    rate: float
    finite: Tensor | bool = True
    known: Sequence[float] | None = None  # the numbers, where the host has read them

    def read_now(self) -> bool:
        """Wait for the numbers; whether all that counts is finite."""
        self.known = self.numbers.tolist()
        return self.read()[-1]

    def read(self) -> tuple[dict[str, float], float, bool]:
        """The losses, the norm, and whether all is finite."""
        assert self.known is not None, "the numbers are still on the device"
        *values, norm = self.known
        losses = dict(zip(self.names, values, strict=True))
        return losses, norm, math.isfinite(norm) and math.isfinite(losses["total"])


@dataclass
class Launched:
    """An iteration whose work the device has been given; its numbers may still be on their way."""

    applied: dict[str, Applied] = field(default_factory=dict)  # by step, in the order in which they ran
    prefixed: bool = False  # whether losses carry the names of their steps
    state: Mapping[str, Any] = field(default_factory=dict)
    readback: Readback | None = None  # of all steps that the host need not know of yet, in one copy

    @property
    def late(self) -> bool:
        """Whether reading may wait for the device."""
        return self.readback is not None

    def send(self) -> None:
        """Have the numbers of all steps copied to the host when they are there."""
        unknown = [one.numbers for one in self.applied.values() if one.known is None]
        self.readback = Readback(torch.cat(unknown)) if unknown else None

    def changed(self) -> dict[str, Tensor | bool]:
        """Every network that a step trained -> whether it was changed, as far as the host knows it by now."""
        changes: dict[str, Tensor | bool] = {}
        for one in self.applied.values():
            for name in one.trained:
                before = changes.get(name, False)
                changes[name] = one.finite if isinstance(before, bool) and not before else before | one.finite
        return changes

    def read(self) -> StepResult:
        """The numbers, waiting for those that are not there yet."""
        if self.readback is not None:
            numbers = self.readback.read()
            for one in (one for one in self.applied.values() if one.known is None):
                one.known, numbers = numbers[: len(one.numbers)], numbers[len(one.numbers) :]
        result = StepResult(state=self.state)
        for step, one in self.applied.items():
            losses, norm, finite = one.read()
            prefix = f"{step}/" if self.prefixed else ""
            result.losses |= {f"{prefix}{name}": value for name, value in losses.items()}
            result.gradient_norm = max(result.gradient_norm, norm)
            result.learning_rate = one.rate
            result.learning_rates |= {step: one.rate} if prefix else {}
            result.skipped |= not finite
            result.updated |= set(one.trained) if finite else set()
        return result


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
        self.buckets = GradientBuckets(self.parameters)
        self._applied = False  # until then the optimiser has no moments, and the device cannot leave an update out
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

    def apply(self, iteration: int, sums: Mapping[str, Tensor]) -> Applied:
        """Unscale, check, clip and apply the gradient, summed over the ranks, unless it or a loss is not finite.

        `sums` are the losses over the global batch. The host learns them with the norm of the gradient, by one copy
        that it need not wait for where the device itself leaves the update out.
        """
        assert self.recipe.train is not None
        rate = learning_rate(self.options.optimizer_params.lr, iteration, self.recipe.train)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self.scaler.unscale_(self.optimizer)
        limit = self.options.clip_grad_eps or float("inf")
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, limit).float()
        numbers = torch.stack([*(value.float() for value in sums.values()), norm])
        applied = Applied(self.options.trained, list(sums), numbers, rate)
        applied.finite = self._update(iteration, applied, torch.isfinite(norm) & torch.isfinite(sums["total"]))
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return applied

    def _update(self, iteration: int, applied: Applied, finite: Tensor) -> Tensor | bool:
        """Apply the gradient if it is finite; whether it was, known on the device alone where that can tell by itself.

        Not by the scaler, which would read again what is known, and step where only the norm overflowed.
        """
        if applied.numbers.is_cuda and self._applied and fused_on_device(self.optimizer):
            self.applied_at = iteration  # as far as the host knows
            # torch's fused optimisers leave parameters, moments and counts of steps alone where this is not 0.
            self.optimizer.found_inf = 1.0 - finite.float()  # type: ignore[attr-defined]
            self.optimizer.step()
            return finite
        if not applied.read_now():
            return False
        if hasattr(self.optimizer, "found_inf"):
            del self.optimizer.found_inf
        self.applied_at = iteration
        self.optimizer.step()
        self._applied = True
        return True


def run_iteration(
    steps: Sequence[TrainingStep],
    batch: Mapping[str, Any],
    context: StepContext,
    iteration: int,
    parts: int,
    ranks: Ranks,
) -> Launched:
    """Run all steps on one batch (this rank's share of it), split into `parts` whose gradients add up.

    Every part is weighted by its number of samples, so an uneven split still gives the gradient of the full batch.
    """
    size = len(context.positions)
    global_batch = size * ranks.world_size
    bounds = [round(size * index / parts) for index in range(parts + 1)]
    spans = [(a, b) for a, b in pairwise(bounds) if b > a]
    states = [{key: _placed(value, context.device) for key, value in rows(batch, a, b).items()} for a, b in spans]
    launched = Launched(prefixed=len(steps) > 1)
    ran: set[str] = set()
    for step in steps:
        present = {*states[0], *ran}
        if not step.options.runs(iteration, present):
            continue
        ran.add(step.name)
        step.optimizer.zero_grad(set_to_none=True)
        graph = step.graph.at(iteration, present)
        states, sums = _accumulate(step, graph, states, spans, context, global_batch, ranks)
        step.buckets.finish()  # before any other exchange, since ranks may differ in how many went out by themselves
        sum_over_ranks(list(sums.values()), ranks)
        launched.applied[step.name] = step.apply(iteration, sums)
        for injector in step.graph.injectors.values():
            injector.end_iteration(partial(gather_over_ranks, ranks=ranks))
    launched.state = states[0]
    launched.send()
    return launched


def _placed(value: Any, device: torch.device) -> Any:
    """A part of a batch on the device, where 8-bit images become what they stand for."""
    return value.images(to_device(value.levels, device)) if isinstance(value, EightBit) else to_device(value, device)


def _accumulate(
    step: TrainingStep,
    graph: Graph,
    states: Sequence[Mapping[str, Any]],
    spans: Sequence[tuple[int, int]],
    context: StepContext,
    global_batch: int,
    ranks: Ranks,
) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """Send all parts of the batch through a step, their gradients added up: (their states, the losses over all)."""
    after: list[dict[str, Any]] = []
    sums: dict[str, Tensor] = {}
    for state, (a, b) in zip(states, spans, strict=True):
        part = replace(context, positions=context.positions[a:b])
        if (a, b) == spans[-1]:
            step.buckets.begin(ranks)
        state_after, losses = step.backward(graph, state, part, global_batch)
        after.append(state_after)
        sums = {name: sums[name] + value if name in sums else value for name, value in losses.items()}
    return after, sums


def detached(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state without its graph of gradients, which the backward pass has freed."""
    return {key: value.detach() if isinstance(value, Tensor) else value for key, value in state.items()}
