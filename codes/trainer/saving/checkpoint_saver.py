"""What is kept of a run while it trains: checkpoints, snapshots, the best weights. Only rank 0 writes."""

import errno
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress

from ...recipe.recipe import Recipe
from ...runtime.devices import Ranks
from ...runtime.experiment import Experiment
from ...utils.console import get_logger
from ...utils.errors import TesseraError
from ..logs.writers import WriterGuard
from ..optim import consolidate
from .best import Best
from .saving import Parts, prune, save
from .snapshots import write_snapshots

logger = get_logger(__name__)
WAITS = (2.0, 8.0, 20.0)  # seconds between the attempts at the last save of a run


class CheckpointSaver:
    """Saves the parts of a run. A disk without room costs what should have been written, not the run."""

    def __init__(self, experiment: Experiment, recipe: Recipe, parts: Parts, ranks: Ranks) -> None:
        self.experiment = experiment
        self.recipe = recipe
        self.parts = parts
        self.ranks = ranks
        self.saved_at = -1  # the iteration that need not be saved again
        self._good: int | None = None  # the newest whole checkpoint of this experiment
        self._whole_at = -1  # the iteration whose sharded optimiser states rank 0 holds
        self._best = Best(experiment, recipe) if recipe.logger.keep_best and ranks.first else None
        self._snapshots = WriterGuard("a snapshot of train.post_hoc_ema")
        self._best_guard = WriterGuard("the best checkpoint")

    def save(self, iteration: int, samples: int, final: bool) -> None:
        """Write a checkpoint; every rank must call it. A failure is fatal only for the last one, which is tried several
        times: a later save may find room, or the drive, again.
        """
        if self._whole_at != iteration:
            for step in self.parts.steps:
                consolidate(step.optimizer)
            self._whole_at = iteration
        if not self.ranks.first or self.saved_at == iteration:
            return
        waits = WAITS if final else ()
        for wait in (*waits, None):
            error = self._attempt(iteration, samples)
            if error is None:
                return
            message = f"could not save iteration {iteration} to {self.experiment.root} ({self._reason(error)})"
            if wait is None:
                break
            logger.error("%s; trying again in %.0f s", message, wait)
            time.sleep(wait)
        if final:
            raise TesseraError(f"{message}; {self.kept()}") from None
        logger.error("%s; training goes on and the next save tries again. %s", message, self.kept().capitalize())

    def resumed(self, iteration: int, own: bool) -> None:
        """The run goes on from a checkpoint of this iteration, perhaps of another experiment (not `own`)."""
        self.saved_at = iteration
        self._good = iteration if own else None

    def _attempt(self, iteration: int, samples: int) -> OSError | None:
        """Save; whatever of the disk or of a drive that is out of reach prevented it."""
        try:
            save(self.experiment, self.recipe, self.parts, iteration, samples)
        except OSError as error:
            return error
        self.saved_at = self._good = iteration
        logger.info("saved %s", self.experiment.state(iteration))
        with suppress(OSError):  # what stays now goes the next time
            prune(self.experiment, self.recipe)
        return None

    def _reason(self, error: OSError) -> str:
        reason = error.strerror or str(error)
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            return reason
        with suppress(OSError):
            return f"{reason}; {shutil.disk_usage(self.experiment.root).free / 1e9:.2f} GB are free there"
        return reason

    def kept(self) -> str:
        """What is there to go on from."""
        return (
            "there is no checkpoint yet"
            if self._good is None
            else f"the last good checkpoint is that of iteration {self._good}"
        )

    def snapshot(self, iteration: int, last: bool) -> None:
        """Write the averages of `train.post_hoc_ema` when it is time."""
        assert self.recipe.train is not None
        options = self.recipe.train.post_hoc_ema
        if options and self.ranks.first and (last or iteration % options.every == 0):
            self._snapshots.attempt(lambda: write_snapshots(self.experiment, self.recipe, self.parts, iteration))

    def consider(self, iteration: int, evaluator: str, metrics: Mapping[str, float]) -> None:
        """Keep the weights when an evaluation says that they are the best so far."""
        best = self._best
        if best is not None:
            self._best_guard.attempt(lambda: best.consider(self.parts, iteration, evaluator, metrics))
