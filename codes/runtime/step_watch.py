"""What happens between two steps of sampling: the console hears of it, the lock is looked at, a stop is obeyed."""

from dataclasses import dataclass

from ..utils.console import StepLine
from ..utils.errors import Interrupted
from .interrupt import StopRequest
from .run_lock import RunLock


@dataclass(frozen=True, eq=False)
class StepWatch:
    """Called with (what is sampled, tiles done, tiles in all) by what samples.

    `line`: where that is shown; None for a process that shows nothing. `part` of `parts`: which share of everything
    that is shown in this line this sampling is. Raises Interrupted with `message` after a signal, TakenOver where
    another run holds the folder by now.
    """

    line: StepLine | None
    stop: StopRequest
    lock: RunLock | None = None
    message: str = "stopped between two steps"
    part: int = 0
    parts: int = 1

    def __call__(self, out: str, done: int, total: int) -> None:
        if self.line is not None:
            self.line.show(out, self.part * total + done, self.parts * total)
        if self.lock is not None:
            self.lock.check()
        if self.stop.requested:
            raise Interrupted(self.message)
