"""The training loop: step -> average -> look -> evaluate -> save, until the last iteration."""

import time
from collections.abc import Generator
from contextlib import closing
from pathlib import Path

from ..data.datasets import DATASETS
from ..data.loader import Batch, TrainLoader
from ..utils.console import format_seconds, get_logger, log_to_file, stop_logging_to
from ..utils.errors import Interrupted, TesseraError
from ..utils.yaml_source import Source
from .checks import check_training
from .class_list import record_classes
from .devices import Ranks, any_over_ranks, autocast_for, choose_device
from .evaluators.base import EVALUATORS
from .experiment import Experiment
from .graph import StepContext
from .interrupt import StopRequest
from .networks import build_network, load_pretrained
from .optim import Ema
from .recipe import Recipe
from .run_log import RunLog
from .saving import Parts, find_state, is_own, processes_of, prune, remove_leftovers, resume, save
from .training_step import StepResult, TrainingStep, run_iteration

logger = get_logger(__name__)
MOST_SKIPPED_IN_A_ROW = 50  # updates without a finite gradient after which a run is taken for broken


class Trainer:
    """A run: networks, data, optimisers and the folder they are saved to.

    Building it reads the data and the checkpoint to continue from; it raises ConfigError or DataError when something
    does not fit. Only rank 0 writes files.
    """

    def __init__(self, recipe: Recipe, source: Source, ranks: Ranks, auto_resume: bool) -> None:
        check_training(recipe, source)
        assert recipe.train is not None
        self.recipe = recipe
        self.train = recipe.train
        self.ranks = ranks
        local = ranks.local_rank if ranks.world_size > 1 else None
        self.device = choose_device(recipe.device, recipe.gpu_ids, local)
        self.autocast = autocast_for(self.device, recipe.arithmetic)
        self.experiment = Experiment.named(recipe.name)
        self.options = recipe.datasets["train"]
        self.dataset = DATASETS.get(self.options.mode)(self.options, seed=self.train.manual_seed, shuffle=True)
        self.parts = self._build()
        self.evaluators = {
            name: EVALUATORS.get(options.type)(options) for name, options in recipe.eval.evaluators.items()
        }
        self.iteration, self.samples = recipe.first_iteration, recipe.first_iteration * self.options.batch_size
        state = find_state(recipe, self.experiment, auto_resume)
        if state is not None:
            self.iteration, self.samples = resume(state, self.parts)
        if ranks.first:
            self._prepare_folder(state)
        self.saved_at = self.iteration if state else -1
        self.skipped_in_a_row = 0
        if ranks.first:
            self.experiment.record(source)
        record_classes(self.experiment.root, self.dataset, self.parts.networks, write=ranks.first)

    def _build(self) -> Parts:
        seed = self.train.manual_seed
        networks = {name: build_network(name, self.recipe, seed, self.device) for name in self.recipe.networks}
        steps = [
            TrainingStep(name, options, self.recipe, networks, self.device)
            for name, options in self.recipe.steps.items()
        ]
        trained = [name for options in self.recipe.steps.values() for name in options.trained]
        for name, network in networks.items():
            load_pretrained(name, network, self.recipe)
        averages = {
            name: Ema(networks[name], self.train.ema_rate, self.train.ema_warmup) for name in dict.fromkeys(trained)
        }
        if self.recipe.compile:
            for network in networks.values():
                network.compile()
        return Parts(networks, averages, steps)

    def _prepare_folder(self, state: Path | None) -> None:
        """Clear up what a killed save left; put the folder of a run aside that is not continued."""
        if state is not None and is_own(self.experiment, state):
            remove_leftovers(self.experiment)
        else:
            self.experiment.archive()

    def run(self) -> None:
        """Train to the last iteration. Raises Interrupted after a signal, TesseraError when the run is broken."""
        if self.iteration >= self.train.niter:
            logger.info(
                "iteration %d of %d: nothing left to do; raise train.niter to go on", self.iteration, self.train.niter
            )
            return
        handler = log_to_file(self.experiment.root / "train.log") if self.ranks.first else None
        log = self._open_log()
        try:
            with StopRequest() as stop:
                self._loop(log, stop)
        finally:
            log.close()
            if handler:
                stop_logging_to(handler)

    def _open_log(self) -> RunLog:
        sizes = ", ".join(
            f"{n} {sum(p.numel() for p in net.parameters()) / 1e6:.1f} M" for n, net in self.parts.networks.items()
        )
        logger.info(
            "training %s on %s (%s), %s parameters, %d images, batch %d, iterations %d to %d",
            self.recipe.name, self.device, self.recipe.arithmetic, sizes, len(self.dataset.files),
            self.options.batch_size, self.iteration + 1, self.train.niter,
        )  # fmt: skip
        freq = self.recipe.logger.print_freq
        return RunLog(
            self.experiment.root, self.iteration, self.train.niter, freq, self.options.batch_size,
            self.recipe.use_tb_logger, self.ranks.first,
        )  # fmt: skip

    def _loop(self, log: RunLog, stop: StopRequest) -> None:
        begin = time.monotonic()
        # Closing ends the workers, which ignore the signals that a job manager sends to every process.
        with closing(self._batches()) as batches:
            while self.iteration < self.train.niter:
                start = time.monotonic()
                batch = next(batches)
                waited = time.monotonic() - start
                result = self._iterate(batch)
                log.record(self.iteration, result, time.monotonic() - start, waited)
                pause = time.monotonic()
                self._after(log, result)
                log.exclude(time.monotonic() - pause)
                self._leave_if_asked(stop)
        duration = format_seconds(time.monotonic() - begin)
        logger.info("done: %d iterations in %s, saved in %s", self.iteration, duration, self.experiment.root)

    def _leave_if_asked(self, stop: StopRequest) -> None:
        """Save and raise Interrupted after a signal to any rank.

        All ranks stop after the same iteration, or those that go on would wait for the others for ever.
        """
        if any_over_ranks(stop.requested, self.device, self.ranks) and self.iteration < self.train.niter:
            self._save(final=True)
            any_over_ranks(True, self.device, self.ranks)  # none leaves before rank 0 has saved
            raise Interrupted(
                f"stopped at iteration {self.iteration} of {self.train.niter}; saved, continue with --auto_resume"
            )

    def _batches(self) -> Generator[Batch, None, None]:
        options, ranks = self.options, self.ranks
        loader = TrainLoader(
            self.dataset,
            options.batch_size,
            options.n_workers,
            self.samples,
            ranks.rank,
            ranks.world_size,
            pin_memory=self.device.type == "cuda",
        )
        return loader.__iter__()

    def context(self) -> StepContext:
        """What injectors see; the positions are those of this rank's share of the next batch."""
        share = self.options.batch_size // self.ranks.world_size
        first = self.samples + self.ranks.rank * share
        return StepContext(
            networks=self.parts.networks,
            device=self.device,
            seed=self.train.manual_seed,
            positions=range(first, first + share),
            autocast=self.autocast,
            ema_networks={name: average.network for name, average in self.parts.averages.items()},
            processes=processes_of(self.recipe),
        )

    def _iterate(self, batch: Batch) -> StepResult:
        iteration = self.iteration + 1
        result = run_iteration(
            self.parts.steps, batch, self.context(), iteration, self.train.mega_batch_factor, self.ranks
        )
        self.iteration = iteration
        self.samples += self.options.batch_size
        if result.skipped:
            self._skip(batch)
            return result
        self.skipped_in_a_row = 0
        for name, average in self.parts.averages.items():
            average.update(self.parts.networks[name], iteration - self.recipe.first_iteration)
        return result

    def _skip(self, batch: Batch) -> None:
        self.skipped_in_a_row += 1
        names = ", ".join(str(path) for path in batch.get("HQ_path", [])[:4])
        logger.warning(
            "iteration %d: gradient or loss not finite, update skipped (batch: %s ...)", self.iteration, names
        )
        if self.skipped_in_a_row >= MOST_SKIPPED_IN_A_ROW:
            self._save(final=True)
            raise TesseraError(
                f"{MOST_SKIPPED_IN_A_ROW} updates in a row were not finite; everything is saved. "
                "Lower the learning rate, set clip_grad_eps, or use precision: fp32 or bf16"
            )

    def _after(self, log: RunLog, result: StepResult) -> None:
        """What happens between iterations, on rank 0: checkpoints first, since nothing after them can lose them."""
        settings, last = self.recipe.logger, self.iteration == self.train.niter
        if self.iteration % settings.save_checkpoint_freq == 0 or last:
            self._save(final=last)
        if self.ranks.first and settings.visuals and (self.iteration % settings.visual_debug_rate == 0 or last):
            log.visuals(self.iteration, result.state, settings.visuals, settings.reverse_n1_to_1)
        due = self.train.val_freq and (self.iteration % self.train.val_freq == 0 or last)
        if due and self.ranks.first:
            self._evaluate(log)

    def _evaluate(self, log: RunLog) -> None:
        for name, evaluator in self.evaluators.items():
            found = evaluator.evaluate(self.context())
            log.scalars(self.iteration, {f"{name}/{key}": value for key, value in found.metrics.items()})
            numbers = "  ".join(f"{key} {value:.4g}" for key, value in found.metrics.items())
            logger.info("evaluation %s at %d: %s", name, self.iteration, numbers)
            for key, image in found.images.items():
                path = self.experiment.root / "samples" / f"{self.iteration}_{name}_{key}.png"
                log.picture(self.iteration, f"{name}/{key}", path, image)

    def _save(self, final: bool) -> None:
        """Write a checkpoint. A failure is fatal only for the last one: a later save may find room again."""
        if not self.ranks.first or self.saved_at == self.iteration:
            return
        try:
            save(self.experiment, self.recipe, self.parts, self.iteration, self.samples)
        except OSError as error:
            message = f"could not save iteration {self.iteration} to {self.experiment.root} ({error.strerror or error})"
            if final:
                kept = f"the last good checkpoint is that of iteration {self.saved_at}"
                raise TesseraError(
                    f"{message}; {kept if self.saved_at >= 0 else 'there is no checkpoint yet'}"
                ) from None
            logger.error("%s; training goes on, the last good checkpoint is kept", message)
            return
        self.saved_at = self.iteration
        prune(self.experiment, self.recipe)
        logger.info("saved %s", self.experiment.state(self.iteration))
