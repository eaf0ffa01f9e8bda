"""Optimisers, weight-decay groups, the learning rate as a function of the iteration, averaged weights."""

import copy
import math
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from .step_options import OptimizerParams
from .train_options import TrainOptions

Network = TypeVar("Network", bound=nn.Module)
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


def build_optimizer(networks: list[nn.Module], params: OptimizerParams) -> torch.optim.Optimizer:
    """AdamW over the trainable parameters of the networks."""
    groups = [group for network in networks for group in decay_groups(network, params.weight_decay) if group["params"]]
    return torch.optim.AdamW(groups, lr=params.lr, betas=(params.beta1, params.beta2))


def learning_rate(base: float, iteration: int, train: TrainOptions) -> float:
    """The rate of an update (iterations count from 1): a function of the iteration alone, whatever came before."""
    rise = max(train.warmup_iter, 0)
    warm = min(1.0, iteration / rise) if rise else 1.0
    if train.default_lr_scheme == "CosineAnnealingLR":
        span = max(train.niter - rise, 1)
        progress = min(max(iteration - rise, 0) / span, 1.0)
        return base * warm * 0.5 * (1.0 + math.cos(math.pi * progress))
    passed = sum(iteration > at for at in train.gen_lr_steps)
    return base * warm * train.lr_gamma**passed


class Ema(Generic[Network]):
    """Exponential moving average of a network's parameters; buffers are copied. Updated once per iteration."""

    def __init__(self, network: Network, rate: float, warmup: bool) -> None:
        self.rate = rate
        self.warmup = warmup
        self.network = copy.deepcopy(network).eval().requires_grad_(False)

    def rate_at(self, updates: int) -> float:
        """The decay of update number `updates` (from 1); with warm-up min(rate, (1 + n) / (10 + n))."""
        return min(self.rate, (1 + updates) / (10 + updates)) if self.warmup else self.rate

    @torch.no_grad()
    def update(self, network: Network, updates: int) -> None:
        weight = 1.0 - self.rate_at(updates)
        for average, trained in zip(self.network.parameters(), network.parameters(), strict=True):
            average.lerp_(trained, weight)
        for copied, current in zip(self.network.buffers(), network.buffers(), strict=True):
            copied.copy_(current)
