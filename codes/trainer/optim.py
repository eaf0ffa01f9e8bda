"""Optimisers, weight-decay groups, the learning rate as a function of the iteration, averaged weights."""

import copy
import math
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import nn
from torch.optim import Optimizer

from ..graph.optimizer_options import OPTIMIZERS, OptimizerParams, arguments_of
from ..recipe.train_options import TrainOptions

Network = TypeVar("Network", bound=nn.Module)
FUSED = ("adamw", "adam", "sgd", "adagrad")
NORMS = (nn.GroupNorm, nn.LayerNorm, nn.modules.batchnorm._NormBase)


def decay_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two parameter groups: weight decay for weights, none for biases, norms and embeddings."""
    plain: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            spared = name.endswith("bias") or isinstance(module, (*NORMS, nn.Embedding)) or parameter.ndim < 2
            (plain if spared else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


def build_optimizer(networks: Sequence[nn.Module], name: str, params: OptimizerParams, shard: bool) -> Optimizer:
    """An optimiser of torch over the trainable parameters of the networks.

    With `shard` every process of the group keeps the optimiser's state of its share of the parameters alone (ZeRO stage
    1, Rajbhandari et al. 2020); the state is whole again after `consolidate`.
    """
    groups = [group for network in networks for group in decay_groups(network, params.weight_decay) if group["params"]]
    arguments = arguments_of(name, params)
    if not shard:
        on_card = all(parameter.device.type == "cuda" for group in groups for parameter in group["params"])
        # One kernel for all parameters, where torch has it. ZeRO's copies of its state do not know of it.
        fused: dict[str, Any] = {"fused": True} if on_card and name in FUSED else {}
        return OPTIMIZERS[name](groups, **arguments, **fused)
    # Only here, because this part of torch is slow to import and not built everywhere.
    from torch.distributed.optim import ZeroRedundancyOptimizer

    return ZeroRedundancyOptimizer(groups, OPTIMIZERS[name], **arguments)


def fused_on_device(optimizer: Optimizer) -> bool:
    """Whether the optimiser works on the device in one kernel, which can leave an update out by itself."""
    return all(group.get("fused") for group in optimizer.param_groups)


def consolidate(optimizer: Optimizer) -> None:
    """Bring the shares of a sharded optimiser's state together on rank 0; every rank must call it."""
    if hasattr(optimizer, "consolidate_state_dict"):
        optimizer.consolidate_state_dict(to=0)


def learning_rate(base: float, iteration: int, train: TrainOptions) -> float:
    """The rate of an update (iterations count from 1): a function of the iteration alone, whatever came before.

    A linear rise over `warmup_iter`, times the scheme: `constant`, MultiStepLR, or a half cosine from the end of the
    rise to the last iteration (Loshchilov & Hutter 2017, equation 5, without restarts) that ends at `lr_min_ratio`.
    """
    rise = max(train.warmup_iter, 0)
    warm = min(1.0, iteration / rise) if rise else 1.0
    if train.default_lr_scheme == "constant":
        return base * warm
    if train.default_lr_scheme == "CosineAnnealingLR":
        progress = min(max(iteration - rise, 0) / max(train.niter - rise, 1), 1.0)
        least = train.lr_min_ratio
        return base * warm * (least + (1.0 - least) * 0.5 * (1.0 + math.cos(math.pi * progress)))
    passed = sum(iteration > at for at in train.gen_lr_steps)
    return base * warm * train.lr_gamma**passed


class Ema(Generic[Network]):
    """Exponential moving average of a network's parameters; buffers are copied. Updated once per iteration."""

    def __init__(self, network: Network, rate: float, warmup: bool) -> None:
        self.rate = rate
        self.warmup = warmup
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        # Listed once, because a walk over all modules at every update is slow.
        self._parameters: list[torch.Tensor] = list(self.network.parameters())
        self._buffers = list(self.network.buffers())

    def rate_at(self, updates: int) -> float:
        """The decay of update number `updates` (from 1); with warm-up min(rate, (1 + n) / (10 + n))."""
        return min(self.rate, (1 + updates) / (10 + updates)) if self.warmup else self.rate

    @torch.no_grad()
    def update(self, network: Network, updates: int, changed: torch.Tensor | bool = True) -> None:
        """Take in the parameters after update number `updates`, unless it was left out.

        Where only the device knows that yet (`changed` is a tensor), it decides.
        """
        trained = [parameter.detach() for parameter in network.parameters()]
        weight = 1.0 - self.rate_at(updates)
        if changed is False:
            return
        if isinstance(changed, torch.Tensor) or self._parameters[0].is_cuda:
            # One formula for a device, whether it is the first to know or not, so that a resume is exact.
            steps = torch._foreach_sub(trained, self._parameters)
            torch._foreach_mul_(steps, weight * changed.float() if isinstance(changed, torch.Tensor) else weight)
            torch._foreach_add_(self._parameters, steps)
        else:
            torch._foreach_lerp_(self._parameters, trained, weight)
        for copied, current in zip(self._buffers, network.buffers(), strict=True):
            copied.copy_(torch.where(changed, current, copied) if isinstance(changed, torch.Tensor) else current)
