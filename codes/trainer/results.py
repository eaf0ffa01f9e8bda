"""What iterations did, read from the device when that need not be waited for, and told in their order."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..data.loader import Batch
from ..runtime.devices import Ranks, sum_over_ranks
from ..utils.console import get_logger
from ..utils.errors import TesseraError
from .logs.run_log import RunLog
from .training_step import Launched, TrainingStep

logger = get_logger(__name__)
MOST_NAMES = 8  # of a batch's files in one line


@dataclass(frozen=True)
class Unread:
    """An iteration whose numbers nobody has asked for yet."""

    iteration: int
    launched: Launched
    files: tuple[str, ...]  # of its batch
    seconds: float
    waited: float  # for data


class Results:
    """Tells the log of iterations, and ends a run whose updates are not finite any more.

    A GPU works on while the host prepares the next iteration, so an iteration is read after the next one was launched;
    whoever must know everything (a line of the log, a checkpoint, an evaluation) asks for it with `read`. On a CPU
    nothing is late. `save` saves everything.
    """

    def __init__(
        self, log: RunLog, steps: Sequence[TrainingStep], ranks: Ranks, most_skipped: int, save: Callable[[], None]
    ) -> None:
        self.log = log
        self.steps = steps
        self.ranks = ranks
        self.most_skipped = most_skipped
        self.save = save
        self.skipped_in_a_row = 0
        self._unread: deque[Unread] = deque()
        self._ending = False

    def add(self, one: Unread, wanted_now: bool) -> None:
        """Take in an iteration that was launched; `wanted_now`: what follows needs to know all about it."""
        self._unread.append(one)
        self.read(keep=1 if one.launched.late and not wanted_now else 0)

    def read(self, keep: int = 0) -> None:
        """Tell of all iterations but the last `keep`. Raises TesseraError, with everything saved, after too many
        skipped ones in a row.
        """
        while len(self._unread) > keep:
            one = self._unread.popleft()
            result = one.launched.read()
            self.skipped_in_a_row = self.skipped_in_a_row + 1 if result.skipped else 0
            self.log.record(one.iteration, result, one.seconds, one.waited, self._seen_by_injectors(one.iteration))
            if result.skipped:
                self._skip(one)

    def _skip(self, one: Unread) -> None:
        more = f" and {len(one.files) - MOST_NAMES} more" if len(one.files) > MOST_NAMES else ""
        logger.warning(
            "iteration %d: gradient or loss not finite, update skipped (batch: %s%s)",
            one.iteration, ", ".join(one.files[:MOST_NAMES]) or "without file names", more,
        )  # fmt: skip
        self.log.note(one.iteration, {"skipped_files": list(one.files)})
        if self.skipped_in_a_row >= self.most_skipped and not self._ending:
            in_a_row, self._ending = self.skipped_in_a_row, True  # what is left to be read only tells
            self.save()
            raise TesseraError(
                f"{in_a_row} updates in a row were not finite; everything is saved. "
                "Lower the learning rate, set clip_grad_eps, or use precision: fp32 or bf16"
            )

    def _seen_by_injectors(self, iteration: int) -> dict[str, float]:
        """At the end of a window of the log: what injectors counted in it on all ranks, as means."""
        if not self.log.due(iteration):
            return {}
        means: dict[str, float] = {}
        for injector in (one for step in self.steps for one in step.graph.injectors.values()):
            sums = injector.log_values()
            sum_over_ranks(list(sums.values()), self.ranks)
            for name, (total, count) in ((name, pair.tolist()) for name, pair in sums.items()):
                if count:
                    means[name] = total / count
            for name, weights in injector.log_distributions().items():
                self.log.distribution(iteration, name, weights)
        return means


def files_in(batch: Batch) -> tuple[str, ...]:
    """The files that a batch was made of, each once."""
    lists = [batch.get(key) for key in ("HQ_path", "LQ_path")]
    return tuple(dict.fromkeys(path for paths in lists if isinstance(paths, list) for path in paths))
