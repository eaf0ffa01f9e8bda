"""Gradients of several processes, summed while the backward pass still computes the rest."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..runtime.devices import Ranks

BUCKET_BYTES = 25 * 2**20  # as torch's DistributedDataParallel


class Bucket:
    """Parameters whose gradients are exchanged together."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = list(parameters)
        self.missing = 0
        self._flat: Tensor | None = None
        self._handle: Any = None

    def launch(self) -> None:
        """Begin to sum; a parameter that nothing depended on counts as zero."""
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self._flat = torch.cat([p.grad.reshape(-1) for p in self.parameters if p.grad is not None])
        self._handle = dist.all_reduce(self._flat, async_op=True)

    def finish(self) -> None:
        """Wait (on CUDA the device does, not the host) and put the sums in place."""
        assert self._flat is not None, "a bucket is launched before it is finished"
        self._handle.wait()
        grads = [p.grad for p in self.parameters if p.grad is not None]
        parts = self._flat.split([grad.numel() for grad in grads])
        torch._foreach_copy_(grads, [part.view_as(grad) for part, grad in zip(parts, grads, strict=True)])
        self._flat = self._handle = None


class GradientBuckets:
    """Sums the gradients of parameters over the ranks, a bucket as soon as all of its gradients are there.

    Between `begin`, before the last backward pass of an iteration, and `finish`. The buckets run from the last
    parameters to the first, about as the backward pass does, and are exchanged in this order on every rank whatever
    comes first: exchanges pair up by their order alone. One process alone exchanges nothing.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], bucket_bytes: int = BUCKET_BYTES) -> None:
        self.buckets = [Bucket(some) for some in _cut([*reversed(parameters)], bucket_bytes)]
        self._next = 0
        self._active = False
        self._hooked = False

    def begin(self, ranks: Ranks) -> None:
        """From here on a gradient that is accumulated is final."""
        if ranks.world_size == 1:
            return
        if not self._hooked:
            for bucket in self.buckets:
                for parameter in bucket.parameters:
                    parameter.register_post_accumulate_grad_hook(self._hook_of(bucket))
            self._hooked = True
        self._next, self._active = 0, True
        for bucket in self.buckets:
            bucket.missing = len(bucket.parameters)

    def finish(self) -> None:
        """All gradients are sums over the ranks."""
        if not self._active:
            return
        self._active = False
        for bucket in self.buckets[self._next :]:
            bucket.launch()
        for bucket in self.buckets:
            bucket.finish()

    def _hook_of(self, bucket: Bucket) -> Any:
        def arrived(_: Tensor) -> None:
            if not self._active:
                return
            bucket.missing -= 1
            while self._next < len(self.buckets) and self.buckets[self._next].missing == 0:
                self.buckets[self._next].launch()
                self._next += 1

        return arrived


def _cut(parameters: Sequence[nn.Parameter], bucket_bytes: int) -> list[list[nn.Parameter]]:
    """In order, at most so many bytes together (but one parameter at least) and of one type."""
    buckets: list[list[nn.Parameter]] = []
    size = 0
    for parameter in parameters:
        length = parameter.numel() * parameter.element_size()
        if not buckets or size + length > bucket_bytes or buckets[-1][0].dtype != parameter.dtype:
            buckets.append([])
            size = 0
        buckets[-1].append(parameter)
        size += length
    return buckets
