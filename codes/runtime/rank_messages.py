"""Small objects between the ranks of a test run, which may wait for each other for as long as an image takes."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist

from ..utils.errors import TesseraError
from .devices import Ranks
from .run_lock import RunLock

T = TypeVar("T")
PATIENCE = timedelta(days=30)  # one rank may restore for days after another is done


class RankMessages:
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


@contextmanager
def held(root: Path, messages: RankMessages) -> Iterator[RunLock | None]:
    """Hold a folder for all ranks; rank 0 gets the lock itself. Every rank must enter.

    Every rank raises what rank 0 does: ConfigError where another run has the folder, OSError where it cannot be made.
    """
    refused: TesseraError | OSError | None = None
    lock = RunLock(root) if messages.ranks.first else None
    with ExitStack() as stack:
        try:
            if lock is not None:
                stack.enter_context(lock)
        except (TesseraError, OSError) as error:
            refused = error
        refused = messages.from_first(refused)
        if refused is not None:
            raise refused
        yield lock
