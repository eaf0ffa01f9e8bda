"""Small objects between the ranks of a test run, which may wait for each other for as long as an image takes."""

from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

from .devices import Ranks

T = TypeVar("T")
PATIENCE = timedelta(days=30)  # one rank may restore for days after another is done


class Exchange:
    """Every rank must make the same calls in the same order. A rank alone gets back what it gives."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self._group = dist.new_group(timeout=PATIENCE, backend="gloo") if ranks.world_size > 1 else None

    def from_first(self, value: T) -> T:
        """What rank 0 gave."""
        if self._group is None:
            return value
        values: list[Any] = [value]
        dist.broadcast_object_list(values, 0, group=self._group)
        return values[0]

    def gathered(self, value: T) -> list[T]:
        """What all ranks gave, in the order of the ranks, on every rank."""
        if self._group is None:
            return [value]
        values: list[Any] = [None] * self.ranks.world_size
        dist.all_gather_object(values, value, group=self._group)
        return values
