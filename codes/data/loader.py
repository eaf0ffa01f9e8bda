"""Endless training batches, the same for every number of workers and from every starting position."""

import math
import multiprocessing
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, get_worker_info

from ..utils.console import get_logger, warn_once
from ..utils.errors import ConfigError, DataError, TesseraError
from .base import Dataset, Item
from .eight_bit import EightBit
from .fetcher import Fetcher
from .worker_advice import Advice

logger = get_logger(__name__)
Batch = dict[str, torch.Tensor | EightBit | list[str]]
WORTH_TELLING = 60.0  # seconds without a batch
MOST_NAMED = 8  # files in a message


class TrainLoader:
    """Batches of a dataset from `start_position` (samples seen so far, all ranks together), without an end.

    The batch after n others holds positions start + n * batch_size up to batch_size more; rank r of world_size takes
    its contiguous share, so `batch_size` (over all ranks) must be divisible by world_size, else ConfigError. Tensors
    are stacked to (B / world_size, ...), paths become lists. A DataError of the dataset is raised as it is.

    eight_bit: images that 8 bits hold exactly come as `EightBit`, which is for a device that is far away: whether they
    are in [-1, 1] (else in [0, 1]); None sends all as they are.

    While a batch is waited for, `while_waiting` is called now and then with the seconds so far, and may raise.
    TesseraError is raised when a worker dies, and when no batch comes for `patience` seconds.
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
        patience: float = math.inf,
        while_waiting: Callable[[float], None] = lambda _: None,
        eight_bit: bool | None = None,
    ) -> None:
        if batch_size % world_size:
            raise ConfigError(f"batch_size {batch_size} cannot be shared by {world_size} processes; use a multiple")
        self.dataset = dataset
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.position = start_position  # of the first sample that was not handed out yet
        self.pin_memory = pin_memory
        self.patience = patience
        self.while_waiting = while_waiting
        self.start_method = start_method or _default_start_method()
        fewer = f"lower datasets.train.n_workers ({num_workers}) or cache_megabytes"
        self.advice = Advice("a data worker", "data workers", fewer, "set datasets.train.n_workers: 0")
        self._share = _Share(dataset, rank * (batch_size // world_size), batch_size // world_size, eight_bit)

    def __iter__(self) -> Generator[Batch, None, None]:
        fetcher: Fetcher[_Delivery] = Fetcher(lambda: iter(self._loader()))
        try:
            while True:
                delivery = self._next(fetcher)
                if delivery.unreadable:
                    self.dataset.record_unreadable(delivery.unreadable)
                if delivery.piped:
                    slower = f"batches of data workers come through pipes, which is slower: {self.advice.more_shared()}"
                    warn_once(logger, "shared memory", slower)
                if isinstance(delivery.batch, DataError):
                    raise delivery.batch
                self.position += self.batch_size
                yield _as_tensors(delivery.batch)
        finally:
            fetcher.close()

    def _next(self, fetcher: Fetcher["_Delivery"]) -> "_Delivery":
        told = False

        def look(seconds: float) -> None:
            nonlocal told
            self.while_waiting(seconds)
            if dead := fetcher.dead():
                raise TesseraError(self.advice.obituary(dead[0].pid, dead[0].exitcode))
            if seconds > self.patience:
                raise TesseraError(f"no batch for {seconds:.0f} s (limit: loader_timeout); {self._wanted()}")
            if seconds > WORTH_TELLING and not told:
                told = True
                logger.warning("no batch for %.0f s; %s", seconds, self._wanted())

        try:
            return fetcher.next(look)
        except (TesseraError, MemoryError):
            raise
        except (RuntimeError, OSError, EOFError) as error:
            if dead := fetcher.dead(expected=isinstance(error, ConnectionError | EOFError)):
                raise TesseraError(self.advice.obituary(dead[0].pid, dead[0].exitcode)) from error
            if not fetcher.started and isinstance(error, OSError) and self.num_workers:
                raise TesseraError(self.advice.not_started(error)) from error
            raise

    def _wanted(self) -> str:
        """What is being read, for a message."""
        share = self._share
        first = self.position + share.offset
        wanted = dict.fromkeys(map(self.dataset.wanted, range(first, first + share.count)))
        files = [str(file) for file in wanted if file is not None]
        shown = f" ({', '.join(files[:MOST_NAMED])}{', ...' if len(files) > MOST_NAMED else ''})" if files else ""
        return f"being read or made: the {share.count} images from position {first} on{shown}; is a drive out of reach?"

    def _loader(self) -> DataLoader[Any]:
        workers = self.num_workers > 0
        return DataLoader(
            self._share,  # type: ignore[arg-type]
            batch_size=None,
            sampler=_Starts(self.position, self.batch_size),
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
            collate_fn=_as_it_is,  # the loader's own would make tensors of arrays again
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


class _Delivery(NamedTuple):
    """A batch, the files found to be damaged so far, and whether it came through a pipe, as arrays."""

    batch: Batch | DataError
    unreadable: dict[Path, str]
    piped: bool = False


class _Share:
    """One rank's part of the batch that starts at a position."""

    def __init__(self, dataset: Dataset, offset: int, count: int, eight_bit: bool | None) -> None:
        self.dataset = dataset
        self.offset = offset
        self.count = count
        self.eight_bit = eight_bit

    def __getitem__(self, start: int) -> _Delivery:
        positions = range(start + self.offset, start + self.offset + self.count)
        try:
            batch = self._light(collate([self.dataset.item(position) for position in positions]))
        except DataError as error:
            # Returned, not raised: torch would wrap it in the text of a worker's traceback.
            return _Delivery(error, dict(self.dataset.unreadable))
        unreadable = dict(self.dataset.unreadable)
        if get_worker_info() is None or _moved_to_shared_memory(batch):
            return _Delivery(batch, unreadable)
        return _Delivery(_as_arrays(batch), unreadable, piped=True)

    def _light(self, batch: Batch) -> Batch:
        """With a quarter of the bytes for images that they hold."""
        if self.eight_bit is None:
            return batch
        packed = {
            key: EightBit.of(value, self.eight_bit) for key, value in batch.items() if isinstance(value, torch.Tensor)
        }
        return {**batch, **{key: value for key, value in packed.items() if value is not None}}


def _as_it_is(delivery: Any) -> Any:
    return delivery


def _moved_to_shared_memory(batch: Batch) -> bool:
    """False where there is no room for it, as in a container that was given little.

    torch would do this in a thread of the worker, where it fails without anybody hearing of it.
    """
    try:
        for value in batch.values():
            if isinstance(value, torch.Tensor | EightBit):
                (value.levels if isinstance(value, EightBit) else value).share_memory_()
    except (RuntimeError, OSError):
        return False
    return True


def _as_arrays(batch: Batch) -> Batch:
    """With arrays for tensors, which are sent as they are."""
    whole = {key: value.images() if isinstance(value, EightBit) else value for key, value in batch.items()}
    return {key: value.numpy() if isinstance(value, torch.Tensor) else value for key, value in whole.items()}  # type: ignore[misc]


def _as_tensors(batch: Batch) -> Batch:
    return {key: torch.from_numpy(value) if isinstance(value, np.ndarray) else value for key, value in batch.items()}


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
    # Ctrl-C, and what a job manager or a closing terminal sends to every process, are for the trainer: it saves, then
    # stops its workers itself.
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
