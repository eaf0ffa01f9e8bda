"""One worker for the jobs of many users, in a fair order; knows nothing of photographs or HTTP.

Restorations take minutes, so what takes a second (reading a photograph, a preview) is done between two batches of tiles
of the one that runs, in the same thread. Users take turns, each with one job, so nobody waits for another's hundred.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from ...utils.console import get_logger
from ...utils.errors import TesseraError

logger = get_logger(__name__)
Progress = Callable[[int, int], None]
EXPECTED = (TesseraError, ValueError, TypeError, OSError, MemoryError)  # what a user's photograph or request may cause


class Cancelled(Exception):
    """The job was cancelled while it ran."""


class Kind(IntEnum):
    """What a job does; what comes first is done first."""

    PREVIEW = 0
    READ = 1
    RESTORE = 2


QUICK = (Kind.PREVIEW, Kind.READ)


@dataclass(eq=False)
class QueuedJob:
    """Work of one user. `work` is given a function to call with (done, total), which raises Cancelled to end it.

    `future`: its result, or the exception that it ended by; cancelled where it never began.
    """

    owner: str
    kind: Kind
    work: Callable[[Progress], Any]
    future: "Future[Any]" = field(default_factory=Future)
    stop: threading.Event = field(default_factory=threading.Event)
    started: float | None = None
    share: float = 0.0

    @property
    def remaining(self) -> float | None:
        """Seconds until the end at the pace so far; None where that is not known yet."""
        if self.started is None or self.share <= 0:
            return None
        return (time.monotonic() - self.started) * (1 - self.share) / self.share


class FairQueue:
    """Jobs that wait. Owners take turns; the jobs of one are done in the order in which they came."""

    def __init__(self) -> None:
        self._turns: dict[Kind, dict[str, deque[QueuedJob]]] = {kind: {} for kind in Kind}

    def put(self, job: QueuedJob) -> None:
        self._turns[job.kind].setdefault(job.owner, deque()).append(job)

    def take(self, kinds: Iterable[Kind], present: Callable[[str], bool]) -> QueuedJob | None:
        """The next job of these kinds; those of owners who are not `present` wait for those of all others."""
        for kind in sorted(kinds):
            turns = self._turns[kind]
            owner = next((name for name in turns if present(name)), next(iter(turns), None))
            if owner is not None:
                return self._served(turns, owner)
        return None

    def remove(self, job: QueuedJob) -> bool:
        """Whether the job waited."""
        waiting = self._turns[job.kind].get(job.owner)
        if waiting is None or job not in waiting:
            return False
        waiting.remove(job)
        if not waiting:
            del self._turns[job.kind][job.owner]
        return True

    def upcoming(self, kind: Kind, present: Callable[[str], bool]) -> Iterator[QueuedJob]:
        """The jobs of a kind in the order in which they will be done, if nothing is added."""
        copy = FairQueue()
        copy._turns[kind] = {owner: deque(jobs) for owner, jobs in self._turns[kind].items()}
        while (job := copy.take([kind], present)) is not None:
            yield job

    @staticmethod
    def _served(turns: dict[str, deque[QueuedJob]], owner: str) -> QueuedJob:
        jobs = turns.pop(owner)
        job = jobs.popleft()
        if jobs:
            turns[owner] = jobs  # at the end: the others come first
        return job


class Worker:
    """A thread that does the jobs of a queue one after the other. `present`: whether an owner is still there."""

    def __init__(self, present: Callable[[str], bool]) -> None:
        self.present = present
        self._queue = FairQueue()
        self._change = threading.Condition()
        self._running: QueuedJob | None = None
        self._ends = False
        self._thread = threading.Thread(target=self._work, name="tessera app", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, seconds: float = 10.0) -> None:
        """Cancel everything; wait for the job that runs, which ends at its next batch of tiles."""
        with self._change:
            self._ends = True
            while (job := self._queue.take(Kind, self.present)) is not None:
                job.future.cancel()
            self._change.notify_all()
        if self._thread.is_alive():
            self._thread.join(seconds)

    def submit(self, job: QueuedJob) -> QueuedJob:
        with self._change:
            if self._ends:
                job.future.cancel()
                return job
            self._queue.put(job)
            self._change.notify_all()
        return job

    def cancel(self, job: QueuedJob) -> None:
        """A job that waits never begins, one that runs ends at its next batch of tiles; one that is done stays so."""
        with self._change:
            job.stop.set()
            if self._queue.remove(job):
                job.future.cancel()

    def positions(self) -> dict[QueuedJob, int]:
        """Of every restoration that waits, how many come before it, the running one included."""
        with self._change:
            running = int(self._running is not None and self._running.kind is Kind.RESTORE)
            return {job: place + running for place, job in enumerate(self._queue.upcoming(Kind.RESTORE, self.present))}

    def _work(self) -> None:
        while True:
            with self._change:
                job = None
                while not self._ends and (job := self._queue.take(Kind, self.present)) is None:
                    self._change.wait()
                if job is None:
                    return
                self._running = job
            self._do(job)
            with self._change:
                self._running = None

    def _do(self, job: QueuedJob) -> None:
        """Do one job; its future holds what came of it."""
        if not job.future.set_running_or_notify_cancel():
            return
        job.started = time.monotonic()
        try:
            result = job.work(lambda done, total: self._between(job, done, total))
        except Cancelled as error:
            job.future.set_exception(error)
        except EXPECTED as error:
            job.future.set_exception(error)
        except Exception as error:
            logger.error("a job failed: %s: %s", type(error).__name__, error, exc_info=error)
            job.future.set_exception(error)
        else:
            job.share = 1.0
            job.future.set_result(result)

    def _between(self, job: QueuedJob, done: int, total: int) -> None:
        """Between two batches of tiles: note the progress, end what was cancelled, let one quick job of others pass."""
        if job.stop.is_set() or self._ends:
            raise Cancelled
        job.share = done / max(total, 1)
        if job.kind in QUICK:
            return
        with self._change:
            quick = self._queue.take(QUICK, self.present)
        if quick is not None:
            begin = time.monotonic()
            self._do(quick)
            if job.started is not None:
                job.started += time.monotonic() - begin  # of another's time nothing is to be told
