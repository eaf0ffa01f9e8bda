"""A network whose weights are in the dtype that it computes in, so that autocast does not cast them on every call."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import nn

from .base import DiffusionNetwork
from .group_norm import GroupNorm


@dataclass(frozen=True)
class _Copy:
    """A copy, and the state of the weights that it was made of."""

    state: tuple[tuple[int, int], ...]
    network: DiffusionNetwork


_copies: WeakKeyDictionary[DiffusionNetwork, dict[torch.dtype, _Copy]] = WeakKeyDictionary()


def cast_once(network: DiffusionNetwork, dtype: torch.dtype) -> DiffusionNetwork:
    """`network` for inference under autocast to `dtype`: the same results, bit for bit, without casts of weights.

    What autocast would cast on each call is cast here: the weights of convolutions and linear maps, and on GPUs those
    of normalisations (see `GroupNorm`). All else is shared. The copy is kept until a weight changes.
    """
    made = _copies.setdefault(network, {})
    state = tuple((parameter.data_ptr(), parameter._version) for parameter in network.parameters())
    if dtype not in made or made[dtype].state != state:
        made[dtype] = _Copy(state, _cast(network, dtype))
    return made[dtype].network.train(network.training)


def _cast(network: DiffusionNetwork, dtype: torch.dtype) -> DiffusionNetwork:
    shared = {id(value): value for value in (*network.parameters(), *network.buffers())}
    cast = {id(value): nn.Parameter(value.detach().to(dtype), False) for value in _cast_by_autocast(network)}
    made = copy.deepcopy(network, {**shared, **cast})
    if network._compiled_call_impl is not None:
        made.compile()
    return made


def _cast_by_autocast(network: nn.Module) -> Iterator[nn.Parameter]:
    for module in network.modules():
        on_gpu = isinstance(module, GroupNorm) and next(network.parameters()).device.type != "cpu"
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear) or on_gpu:
            yield from module.parameters(recurse=False)
