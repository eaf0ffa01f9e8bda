"""A test run: every image of the datasets through the injectors, the results as files and as a page to compare."""

import errno
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from ...config.yaml_source import Source
from ...recipe.recipe import Recipe
from ...runtime.devices import Ranks
from ...runtime.interrupt import StopRequest
from ...runtime.rank_messages import RankMessages, held
from ...runtime.run_lock import RunLock
from ...runtime.step_watch import StepWatch
from ...utils.console import StepLine, counted, format_seconds, get_logger, log_to_file, size_text, stop_logging_to
from ...utils.errors import ConfigError, Interrupted, TakenOver, TesseraError, reason_of
from .job import Job, sampled
from .measure import measured, measured_again, metrics_text
from .output import ImageRecord, written
from .report import evaluate, tell, write_report_files
from .results import Order, Planned
from .setup import Setup
from .work import work_of

logger = get_logger(__name__)
# Errors of one image; the rest goes on.
OF_ONE_IMAGE = (TesseraError, OSError, RuntimeError, ValueError, LookupError, MemoryError)
# Errors of the place that results are written to, which every further image would meet as well.
OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS}


@dataclass
class RunOutcome:
    """What a test run did."""

    done: list[ImageRecord] = field(default_factory=list)
    failed: dict[Order | str, str] = field(default_factory=dict)  # image, or file that is none -> its name and why
    seconds: float = 0.0

    @property
    def new(self) -> int:
        """Images that this run restored."""
        return sum(not row.earlier for row in self.done)

    @property
    def settled(self) -> set[Order | str]:
        """The images of which it is known whether they can be restored."""
        return {*self.failed, *(row.order for row in self.done)}


class Restoration:
    """Runs the injectors of a recipe on whole images and writes `results/<name>/`.

    Building it loads the networks and reads the headers of the data; it raises ConfigError or DataError when something
    does not fit. Several ranks share the images; each restores and writes its own, and rank 0 the summary.
    """

    def __init__(self, recipe: Recipe, source: Source, ranks: Ranks | None = None) -> None:
        self.ranks = ranks or Ranks()
        self.setup = Setup(recipe, source, self.ranks)
        self.root = self.setup.root
        self.messages = RankMessages(self.ranks)
        self.lock: RunLock | None = None

    def run(self) -> RunOutcome:
        """Restore every image, then write the page. Raises Interrupted after a signal, with all finished work kept.

        Raises ConfigError when another run has the folder, OSError when nothing more can be written. Every rank returns
        what all of them did.
        """
        with held(self.root, self.messages) as self.lock:
            return self._run()

    def _run(self) -> RunOutcome:
        start = time.monotonic()
        handler = log_to_file(self.root / "test.log") if self.ranks.first else None
        try:
            with StopRequest() as stop:
                outcome, trouble = self._run_all(stop)
                outcome.seconds = time.monotonic() - start
                stopped = any(self.messages.gathered(stop.requested))
                if trouble is not None:
                    raise trouble
                if self.ranks.first and self.setup.chain.nodes:
                    write_report_files(self.setup, outcome.done, [*outcome.failed.values()], outcome.seconds)
                if self.ranks.first and not stopped:
                    evaluate(self.setup)
                if stopped or stop.requested:
                    done = counted(outcome.new, "image")
                    raise Interrupted(f"stopped after {done}; what is finished or begun is kept in {self.root}")
                if self.ranks.first:
                    tell(len(outcome.done), outcome.new, outcome.failed)
        finally:
            if handler is not None:
                stop_logging_to(handler)
        return outcome

    def _run_all(self, stop: StopRequest) -> tuple[RunOutcome, OSError | None]:
        """What all ranks did, and what kept one of them from writing."""
        work = work_of(self.setup, self.messages)
        own = RunOutcome()
        trouble = self._restore_all(work.groups, own, stop)
        parts = self.messages.gathered((own.done, own.failed, trouble))
        measures = self.ranks.first and not stop.requested
        earlier = measured_again(self.setup, work) if measures else work.earlier
        done = [*earlier.values(), *(row for part in parts for row in part[0])]
        reports = [inputs.dataset.report() for inputs in self.setup.inputs.values()]
        failed: dict[Order | str, str] = {
            str(failure.path): str(failure) for report in reports for failure in report.failed
        }
        failed |= {order: line for part in parts for order, line in part[1].items()}
        listed = {image.order: number for number, image in enumerate(work.images)}
        outcome = RunOutcome(sorted(done, key=lambda row: listed[row.order]), failed)
        return outcome, next((part[2] for part in parts if part[2] is not None), None)

    def _restore_all(
        self, groups: Sequence[Sequence[Planned]], outcome: RunOutcome, stop: StopRequest
    ) -> OSError | None:
        """Restore the images of this rank; the error that kept it from writing, if one did."""
        count, images = 0, sum(map(len, groups))
        for group in groups:
            if stop.requested:
                return None
            numbers = f"{count + 1}" if len(group) == 1 else f"{count + 1}-{count + len(group)}"
            count += len(group)
            try:
                self._restore_group(group, f"{numbers}/{images}", outcome, stop)
            except Interrupted:
                return None
            except OSError as error:
                return error
        return None

    def _restore_group(self, group: Sequence[Planned], title: str, outcome: RunOutcome, stop: StopRequest) -> None:
        """Restore images together; when that fails, each on its own. Raises Interrupted, and OSError of the disk."""
        left = list(group)
        try:
            if len(group) > 1:
                self._restore(group, title, outcome, stop)
                return
        except OF_ONE_IMAGE as error:
            _raise_if_general(error, stop)
            logger.debug("%s: together: %s; now one by one", title, error)
            left = [image for image in group if image.order not in outcome.settled]
        for image in left:
            with self._noting(image, outcome, stop):
                self._restore([image], title, outcome, stop)

    @contextmanager
    def _noting(self, image: Planned, outcome: RunOutcome, stop: StopRequest) -> Iterator[None]:
        """Note why something failed for an image, and go on."""
        try:
            yield
        except OF_ONE_IMAGE as error:
            _raise_if_general(error, stop)
            reason = reason_of(error, image.source)
            logger.error("%s: not restored: %s", image.source, reason, exc_info=logger.isEnabledFor(10))
            outcome.failed[image.order] = f"{image.source}: {reason}"

    def _restore(self, images: Sequence[Planned], title: str, outcome: RunOutcome, stop: StopRequest) -> None:
        """Read images, sample those together that can be read, then write and measure each."""
        start, jobs, setup = time.monotonic(), list[Job](), self.setup
        for image in images:
            with self._noting(image, outcome, stop):
                jobs.append(Job(image, setup.inputs[image.phase], setup.chain, setup.use))
        if not jobs:
            return
        name = jobs[0].image.source.name if len(jobs) == 1 else f"{len(jobs)} images"
        with StepLine(f"{title} {name}") as line:
            watch = StepWatch(line if self.ranks.first else None, stop, self.lock)
            contexts = [one for job in jobs for one in job.contexts(watch, setup.records.scratch(job.image))]
            states = iter(sampled(setup.steps, [state for job in jobs for state in job.states()], contexts))
        sampling, pixels = time.monotonic() - start, sum(job.image.pixels for job in jobs)
        for job in jobs:
            spent = sampling * job.image.pixels / pixels
            row = self._finish(job, [next(states) for _ in job.units], spent)
            outcome.done.append(row)
            size, target = size_text(row.size), next(iter(row.files.values()))
            said = f"{title} {job.image.source.name} -> {target} ({size}, {format_seconds(row.seconds)})"
            logger.info("%s%s", said, metrics_text(row.metrics))

    def _finish(self, job: Job, states: Sequence[Mapping[str, Any]], spent: float) -> ImageRecord:
        """Write and measure the results of an image that was read and sampled in `spent` seconds, and remember it."""
        begin, records = time.monotonic(), self.setup.records
        records.forget(job.image)
        row = measured(self.setup.inputs[job.image.phase], written(job, states), job.input)
        row = replace(row, seconds=spent + time.monotonic() - begin)
        records.put(row, job.image)
        records.finished(job.image)
        return row


def _raise_if_general(error: BaseException, stop: StopRequest) -> None:
    """Raise again what is not the fault of one image."""
    if stop.requested:
        raise Interrupted("stopped between two batches of tiles") from None
    if isinstance(error, Interrupted | ConfigError | TakenOver) or getattr(error, "errno", None) in OF_THE_DISK:
        raise error
