"""What is kept of a run while it trains: checkpoints, snapshots, the best weights. Only rank 0 writes."""

import shutil
from collections.abc import Mapping

from ...recipe.recipe import Recipe
from ...runtime.devices import Ranks
from ...runtime.experiment import Experiment
from ...utils.console import get_logger
from ...utils.errors import TesseraError
from ..logs.writers import Guard
from ..optim import consolidate
from .best import Best
from .saving import Parts, prune, save
from .snapshots import write_snapshots

logger = get_logger(__name__)


class Keeper:
    """Saves the parts of a run. A disk without room costs what should have been written, not the run."""

    def __init__(self, experiment: Experiment, recipe: Recipe, parts: Parts, ranks: Ranks) -> None:
        self.experiment = experiment
        self.recipe = recipe
        self.parts = parts
        self.ranks = ranks
        self.saved_at = -1
        self._whole_at = -1  # the iteration whose sharded optimiser states rank 0 holds
        self._best = Best(experiment, recipe) if recipe.logger.keep_best and ranks.first else None
        self._snapshots = Guard("a snapshot of train.post_hoc_ema")
        self._best_guard = Guard("the best checkpoint")

    def save(self, iteration: int, samples: int, final: bool) -> None:
        """Write a checkpoint; every rank must call it. A failure is fatal only for the last one: a later save may find
        room again.
        """
        if self._whole_at != iteration:
            for step in self.parts.steps:
                consolidate(step.optimizer)
            self._whole_at = iteration
        if not self.ranks.first or self.saved_at == iteration:
            return
        try:
            save(self.experiment, self.recipe, self.parts, iteration, samples)
        except OSError as error:
            free = shutil.disk_usage(self.experiment.root).free / 1e9
            reason = f"{error.strerror or error}; {free:.2f} GB are free there"
            message = f"could not save iteration {iteration} to {self.experiment.root} ({reason})"
            if final:
                kept = f"the last good checkpoint is that of iteration {self.saved_at}"
                raise TesseraError(
                    f"{message}; {kept if self.saved_at >= 0 else 'there is no checkpoint yet'}"
                ) from None
            logger.error("%s; training goes on, the last good checkpoint is kept", message)
            return
        self.saved_at = iteration
        prune(self.experiment, self.recipe)
        logger.info("saved %s", self.experiment.state(iteration))

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
