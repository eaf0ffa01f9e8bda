"""Waiting for data without being at its mercy: items are taken in a thread, and whoever waits keeps looking around."""

import multiprocessing
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")
LOOK = 0.5  # seconds between two looks around
GRACE = 10.0  # seconds that workers have to end by themselves


class _Answer(NamedTuple, Generic[T]):
    item: T | None
    error: BaseException | None


class Fetcher(Generic[T]):
    """The next items of an iterator that is made, and asked, in a thread of its own.

    A read that never returns blocks that thread alone. torch raises in whatever code the main thread is in when a data
    worker dies, unless its loader is made outside of the main thread. Only one item is asked for at a time.
    """

    def __init__(self, make: Callable[[], Iterator[T]]) -> None:
        self._make = make
        self._asked: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._given: queue.SimpleQueue[_Answer[T]] = queue.SimpleQueue()
        self._workers: list[BaseProcess] = []
        self._waiting = False  # for an item that was asked for
        self.started = False  # whether the iterator could be made
        self._thread = threading.Thread(target=self._run, name="data", daemon=True)
        self._thread.start()

    def next(self, look: Callable[[float], None]) -> T:
        """The next item. `look` is called now and then with the seconds waited so far, and may raise."""
        self._asked.put(True)
        self._waiting = True
        start = time.monotonic()
        while True:
            with suppress(queue.Empty):
                answer = self._given.get(timeout=LOOK)
                self._waiting = False
                if answer.error is not None:
                    raise answer.error
                return answer.item  # type: ignore[return-value]  # there is one where there is no error
            look(time.monotonic() - start)

    def dead(self, expected: bool = False) -> list[BaseProcess]:
        """The worker processes that have ended, though nobody asked them to.

        expected: one has broken off its connection, and the system may take a moment to say that it is gone.
        """
        if expected:
            wait([worker.sentinel for worker in self._workers], timeout=GRACE)
        return [worker for worker in self._workers if worker.exitcode is not None]

    def close(self) -> None:
        """End the thread and its workers, by force those that do not listen: at once while an item is waited for."""
        self._asked.put(False)
        self._thread.join(timeout=0 if self._waiting else GRACE)
        for worker in self._workers:
            if worker.exitcode is None:
                worker.kill()
        for worker in self._workers:
            worker.join(timeout=GRACE)

    def _run(self) -> None:
        before = {child.pid for child in multiprocessing.active_children()}
        try:
            try:
                iterator = self._make()
            finally:  # some may have been started before one could not be; unseen, they would be waited for at the exit
                self._workers += [child for child in multiprocessing.active_children() if child.pid not in before]
            self.started = True
            while self._asked.get():
                self._given.put(_Answer(next(iterator), None))
        except BaseException as error:  # whatever it is, it belongs to whoever waits
            self._given.put(_Answer(None, error))
