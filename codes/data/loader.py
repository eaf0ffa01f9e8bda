"""Endless training batches, the same for every number of workers and from every starting position."""

import multiprocessing
import signal
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader

from ..utils.errors import ConfigError, DataError
from .base import Dataset, Item

Batch = dict[str, torch.Tensor | list[str]]


class TrainLoader:
    """Batches of a dataset from `start_position` (samples seen so far, all ranks together), without an end.

    The batch after n others holds positions start + n * batch_size up to batch_size more; rank r of world_size takes
    its contiguous share, so `batch_size` (over all ranks) must be divisible by world_size, else ConfigError. Tensors
    are stacked to (B / world_size, ...), paths become lists. A DataError of the dataset is raised as it is.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        num_workers: int = 0,
        start_position: int = 0,
        rank: int = 0,
        world_size: int = 1,
        pin_memory: bool = False,
        start_method: str | None = None,
    ) -> None:
        if batch_size % world_size:
            raise ConfigError(f"batch_size {batch_size} cannot be shared by {world_size} processes; use a multiple")
        self.dataset = dataset
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.position = start_position  # of the first sample that was not handed out yet
        self.pin_memory = pin_memory
        self.start_method = start_method or _default_start_method()
        self._share = _Share(dataset, rank * (batch_size // world_size), batch_size // world_size)

    def __iter__(self) -> Generator[Batch, None, None]:
        for batch, unreadable in self._loader():
            if unreadable:
                self.dataset.record_unreadable(unreadable)
            if isinstance(batch, DataError):
                raise batch
            self.position += self.batch_size
            yield batch

    def _loader(self) -> DataLoader[Any]:
        workers = self.num_workers > 0
        return DataLoader(
            self._share,  # type: ignore[arg-type]
            batch_size=None,
            sampler=_Starts(self.position, self.batch_size),
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
            worker_init_fn=_prepare_worker if workers else None,
            multiprocessing_context=self.start_method if workers else None,
            prefetch_factor=2 if workers else None,
            # Ours, because the loader would otherwise draw a seed from torch's global generator.
            generator=torch.Generator(),
        )


class _Starts:
    """Where each batch starts, without an end."""

    def __init__(self, start: int, step: int) -> None:
        self.start = start
        self.step = step

    def __iter__(self) -> Iterator[int]:
        position = self.start
        while True:
            yield position
            position += self.step


class _Share:
    """One rank's part of the batch that starts at a position, and the files found to be damaged so far."""

    def __init__(self, dataset: Dataset, offset: int, count: int) -> None:
        self.dataset = dataset
        self.offset = offset
        self.count = count

    def __getitem__(self, start: int) -> tuple[Batch | DataError, dict[Path, str]]:
        positions = range(start + self.offset, start + self.offset + self.count)
        try:
            batch: Batch | DataError = collate([self.dataset.item(position) for position in positions])
        except DataError as error:
            # Returned, not raised: torch would wrap it in the text of a worker's traceback.
            batch = error
        return batch, dict(self.dataset.unreadable)


def collate(items: Sequence[Item]) -> Batch:
    """Stack the tensors of items to (B, ...) and list their texts."""
    batch: Batch = {}
    for key in items[0]:
        values = [item[key] for item in items]
        tensors = [value for value in values if isinstance(value, torch.Tensor)]
        batch[key] = torch.stack(tensors) if tensors else [str(value) for value in values]
    return batch


def _default_start_method() -> str:
    # A forked worker starts at once and shares the list of files; it touches neither CUDA nor OpenCV's threads.
    return "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"


def _prepare_worker(_: int) -> None:
    # The threads of OpenCV do not survive a fork, and one process a core is what `n_workers` asks for.
    cv2.setNumThreads(0)
    # Ctrl-C, and the SIGTERM that a job manager sends to every process, are for the trainer: it saves, then stops its
    # workers itself.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
