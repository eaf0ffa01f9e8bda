"""One iteration: every step of the graph on one batch, gradients accumulated, checked, and applied."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ..models.diffusion.networks import DiffusionNetwork
from ..utils.console import get_logger
from ..utils.rng import torch_globals_at
from .devices import Ranks, gather_over_ranks, sum_over_ranks, to_device
from .graph import INJECTORS, LOSSES, Graph, StepContext, rows
from .optim import build_optimizer, learning_rate
from .recipe import Recipe
from .step_options import StepOptions

logger = get_logger(__name__)


@dataclass
class StepResult:
    """What one iteration did: means over the global batch, and the state of its first part for the eyes."""

    losses: dict[str, float] = field(default_factory=dict)
    gradient_norm: float = 0.0
    learning_rate: float = 0.0
    skipped: bool = False
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
        injectors = {key: INJECTORS.get(node.type)(node) for key, node in options.injectors.items()}
        losses = {key: (node.weight, LOSSES.get(node.type)(node)) for key, node in options.losses.items()}
        self.graph = Graph(injectors, losses)
        trained = [networks[key] for key in options.trained]
        self.parameters = [p for network in trained for p in network.parameters() if p.requires_grad]
        self.optimizer = build_optimizer(list(trained), options.optimizer_params)
        self.drops = any(
            isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0
            for network in networks.values()
            for module in network.modules()
        )
        scaled = device.type == "cuda" and recipe.arithmetic == "fp16"
        self.scaler = torch.amp.GradScaler(device.type, enabled=scaled)

    def backward(
        self, state: Mapping[str, Any], context: StepContext, global_batch: int
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Add this part's share of the gradient of the mean loss; return its state and its summed losses."""
        with self._dropout_generators(context):
            after = self.graph.inject(state, context)
        total, parts = self.graph.evaluate(after, context)
        self.scaler.scale(total.sum() / global_batch).backward()
        sums = {name: value.sum() / global_batch for name, value in parts.items()}
        sums["total"] = total.detach().sum() / global_batch
        return detached(after), sums

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

    def apply(self, iteration: int, ranks: Ranks) -> StepResult:
        """Exchange, unscale, check, clip and apply the gradient. Nothing is applied when it is not finite."""
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
        finite = bool(torch.isfinite(norm))
        if finite or self.scaler.is_enabled():
            self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return StepResult(gradient_norm=float(norm), learning_rate=rate, skipped=not finite)


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
    for step in steps:
        sums: dict[str, Tensor] = {}
        # An earlier step may have sent gradients through networks that this one trains.
        step.optimizer.zero_grad(set_to_none=True)
        for index, (a, b) in enumerate(spans):
            part = replace(context, positions=context.positions[a:b])
            states[index], losses = step.backward(states[index], part, global_batch)
            for name, value in losses.items():
                sums[name] = sums[name] + value if name in sums else value
        applied = step.apply(iteration, ranks)
        sum_over_ranks(list(sums.values()), ranks)
        prefix = f"{step.name}/" if len(steps) > 1 else ""
        result.losses |= {f"{prefix}{name}": float(value) for name, value in sums.items()}
        result.gradient_norm = max(result.gradient_norm, applied.gradient_norm)
        result.learning_rate = applied.learning_rate
        result.skipped |= applied.skipped
        for injector in step.graph.injectors.values():
            injector.end_iteration(partial(gather_over_ranks, ranks=ranks))
    result.state = states[0]
    return result


def detached(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state without its graph of gradients, which the backward pass has freed."""
    return {key: value.detach() if isinstance(value, Tensor) else value for key, value in state.items()}
