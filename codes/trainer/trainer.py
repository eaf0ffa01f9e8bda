"""The training loop: step -> average -> look -> evaluate -> save, until the last iteration."""

import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from ..config.yaml_source import Source
from ..data.datasets import DATASETS, how_to_hurry
from ..data.loader import Batch, TrainLoader
from ..evaluation.evaluators.base import Evaluation, Evaluator, build_evaluators
from ..graph.graph import StepContext
from ..recipe.checks import check_training
from ..recipe.class_list import record_classes
from ..recipe.graph_checks import never_running
from ..recipe.networks import build_network, compile_network, load_pretrained
from ..recipe.recipe import Recipe
from ..runtime.devices import (
    Ranks,
    agree_over_ranks,
    any_over_ranks,
    autocast_for,
    choose_device,
    copy_from_first,
    flag_over_ranks,
    precision_in_use,
)
from ..runtime.experiment import Experiment
from ..runtime.interrupt import StopRequest
from ..runtime.readback import Readback
from ..runtime.run_lock import RunLock
from ..utils.console import format_seconds, get_logger, log_to_file, stop_logging_to
from ..utils.errors import ConfigError, Interrupted, TakenOver, TesseraError
from .logs.run_log import RunLog
from .logs.writers import JsonLines, LogWriter, TensorBoard, Wandb
from .optim import Ema
from .power_ema import PowerEma
from .results import Results, Unread, files_in
from .saving.checkpoint_saver import CheckpointSaver
from .saving.resuming import find_states, is_own, resume_first_whole
from .saving.saving import Parts, processes_of, remove_leftovers
from .saving.snapshots import drop_after
from .training_step import Launched, TrainingStep, run_iteration

logger = get_logger(__name__)
WAIT_FOR_OTHERS = 10.0  # seconds


class Trainer:
    """A run: networks, data, optimisers and the folder they are saved to.

    Building it reads the data and the checkpoint to continue from; it raises ConfigError or DataError when something
    does not fit. Only rank 0 writes files, in the folder that `lock` holds.
    """

    def __init__(
        self, recipe: Recipe, source: Source, ranks: Ranks, auto_resume: bool, lock: RunLock | None = None
    ) -> None:
        check_training(recipe, source)
        assert recipe.train is not None
        self.recipe = recipe
        self.source = source
        self.train = recipe.train
        self.ranks = ranks
        self.lock = lock
        local = ranks.local_rank if ranks.world_size > 1 else None
        self.device = choose_device(recipe.device, recipe.gpu_ids, local)
        self.precision = precision_in_use(self.device, recipe.arithmetic)
        self.autocast = autocast_for(self.device, self.precision)
        torch.backends.cudnn.benchmark = True  # tiles of one size: the fastest convolution is looked for once
        self.experiment = Experiment.named(recipe.name)
        self.options = recipe.datasets["train"]
        self.dataset = DATASETS.get(self.options.mode)(self.options, seed=recipe.seed_in_use, shuffle=True)
        self.parts = self._build()
        self.evaluators = build_evaluators(recipe.eval.evaluators, source)
        self.iteration, self.samples = recipe.first_iteration, recipe.first_iteration * self.options.batch_size
        state: Path | None = None
        if states := find_states(recipe, self.experiment, auto_resume):
            state, self.iteration, self.samples = resume_first_whole(states, self.parts, recipe, source)
        if not agree_over_ranks(self.iteration, self.device, ranks):
            raise ConfigError(
                f"the processes do not see the same checkpoint (this one: iteration {self.iteration}); "
                f"{self.experiment.root} must lie on a disk that all machines share"
            )
        if ranks.first:
            self._prepare_folder(state)
        self.saver = CheckpointSaver(self.experiment, recipe, self.parts, ranks)
        if state is not None:
            self.saver.resumed(self.iteration, own=is_own(self.experiment, state))
        self._began_at = self.iteration
        self._results: Results | None = None  # of the iterations, while it runs
        self._asked: Readback | None = None  # whether a rank was asked to stop
        self._measured: set[str] = set()  # the evaluators that have worked in this process
        if ranks.first and self.iteration < self.train.niter:
            self.experiment.record(source)
        record_classes(self.experiment.root, self.dataset, self.parts.networks, write=ranks.first)

    def _build(self) -> Parts:
        seed = self.recipe.seed_in_use
        networks = {name: build_network(name, self.recipe, seed, self.device) for name in self.recipe.networks}
        steps = [
            TrainingStep(name, options, self.recipe, networks, self.device)
            for name, options in self.recipe.steps.items()
        ]
        trained = [name for options in self.recipe.steps.values() for name in options.trained]
        for name, network in networks.items():
            load_pretrained(name, network, self.recipe)
            copy_from_first([*network.parameters(), *network.buffers()], self.ranks)
        averages, profiles = {}, {}
        for name in dict.fromkeys(trained):
            averages[name] = Ema(networks[name], self.train.ema_rate, self.train.ema_warmup)
            if self.train.post_hoc_ema:
                lengths = self.train.post_hoc_ema.sigma_rel
                profiles[name] = {sigma: PowerEma(networks[name], sigma) for sigma in lengths}
        if self.recipe.compile:
            for network in networks.values():
                compile_network(network, self.device)
        return Parts(networks, averages, steps, profiles)

    def _prepare_folder(self, state: Path | None) -> None:
        """Clear up what a killed save left; put the folder of a run aside that is not continued."""
        remove_leftovers(self.experiment)
        if state is not None and is_own(self.experiment, state):
            drop_after(self.experiment, self.iteration)
        else:
            self.experiment.archive(self.lock)

    def run(self) -> None:
        """Train to the last iteration. Raises Interrupted after a signal, TesseraError when the run is broken."""
        if self.iteration >= self.train.niter:
            logger.info(
                "iteration %d of %d: nothing left to do; raise train.niter to go on", self.iteration, self.train.niter
            )
            return
        handler = log_to_file(self.experiment.root / "train.log") if self.ranks.first else None
        log = self._open_log()
        self._results = Results(
            log, self.parts.steps, self.ranks, self.train.max_skipped_in_a_row, lambda: self._save(final=True)
        )
        try:
            with StopRequest() as stop:
                self._loop(log, self._results, stop)
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
            self.recipe.name, self.device, self.precision, sizes, len(self.dataset.files),
            self.options.batch_size, self.iteration + 1, self.train.niter,
        )  # fmt: skip
        for line in never_running(self.recipe):
            logger.warning("%s", line)
        if self.train.shard_optimizer and self.ranks.world_size == 1:
            logger.info("train.shard_optimizer: one process alone has nothing to share out")
        return RunLog(
            self.experiment.root, self.iteration, self.train.niter, self.recipe.logger.print_freq,
            self.options.batch_size, self._writers(), self.device, how_to_hurry(self.options),
        )  # fmt: skip

    def _writers(self) -> list[LogWriter]:
        if not self.ranks.first:
            return []
        root, recipe = self.experiment.root, self.recipe
        writers: list[LogWriter] = [JsonLines(root / "log.jsonl", self.iteration)]
        if recipe.wandb:  # first, because it may refuse to start
            writers.append(Wandb(root, recipe.logger.wandb_project, recipe.name, self.source.data))
        if recipe.use_tb_logger:
            writers.append(TensorBoard(root / "tb_logger", self.iteration, self.source.to_yaml()))
        return writers

    def _loop(self, log: RunLog, results: Results, stop: StopRequest) -> None:
        begin = time.monotonic()
        # Closing ends the workers, which ignore the signals that a job manager sends to every process.
        with closing(self._batches(stop)) as batches:
            while self.iteration < self.train.niter:
                start = time.monotonic()
                self._still_ours()
                with self._nothing_lost():
                    batch = next(batches)
                waited = time.monotonic() - start
                launched = self._iterate(batch)
                seconds = time.monotonic() - start
                pause = time.monotonic()
                unread = Unread(self.iteration, replace(launched, state={}), files_in(batch), seconds, waited)
                results.add(unread, self._must_know(log))
                self._after(log, launched)
                log.exclude(time.monotonic() - pause)
                self._leave_if_asked(stop)
        duration = format_seconds(time.monotonic() - begin)
        logger.info("done: %d iterations in %s, saved in %s", self.iteration, duration, self.experiment.root)

    def _leave_if_asked(self, stop: StopRequest) -> None:
        """Save and raise Interrupted after a signal to any rank.

        All ranks stop after the same iteration, or those that go on would wait for the others for ever.
        """
        if self._any_asked(stop.requested) and self.iteration < self.train.niter:
            self._save(final=True)
            any_over_ranks(True, self.device, self.ranks)  # none leaves before rank 0 has saved
            raise Interrupted(self._stopped())

    def _any_asked(self, here: bool) -> bool:
        """Whether any rank was asked to stop; several on GPUs say so of the iteration before, which is there by now."""
        if self.ranks.world_size == 1:
            return here
        before, self._asked = self._asked, Readback(flag_over_ranks(here, self.device, self.ranks))
        told = before if self._asked.late else self._asked
        return told is not None and told.read()[0] > 0

    def _stopped(self) -> str:
        return f"stopped at iteration {self.iteration} of {self.train.niter}; saved, continue with --auto_resume"

    def _batches(self, stop: StopRequest | None = None) -> Generator[Batch, None, None]:
        options, ranks = self.options, self.ranks

        def while_waiting(seconds: float) -> None:
            # Other ranks leave after an iteration, all after the same one; without a batch there may never be one.
            if stop is not None and stop.requested and (ranks.world_size == 1 or seconds > WAIT_FOR_OTHERS):
                self._save_what_is_done(final=True)
                raise Interrupted(self._stopped())

        loader = TrainLoader(
            self.dataset,
            options.batch_size,
            options.n_workers,
            self.samples,
            ranks.rank,
            ranks.world_size,
            pin_memory=self.device.type == "cuda",
            eight_bit=options.rgb_n1_to_1 if self.device.type == "cuda" else None,
            patience=options.loader_timeout,
            while_waiting=while_waiting,
        )
        return loader.__iter__()

    def context(self) -> StepContext:
        """What injectors see; the positions are those of this rank's share of the next batch."""
        share = self.options.batch_size // self.ranks.world_size
        first = self.samples + self.ranks.rank * share
        return StepContext(
            networks=self.parts.networks,
            device=self.device,
            seed=self.recipe.seed_in_use,
            positions=range(first, first + share),
            autocast=self.autocast,
            ema_networks={name: average.network for name, average in self.parts.averages.items()},
            processes=processes_of(self.recipe),
        )

    def _iterate(self, batch: Batch) -> Launched:
        iteration = self.iteration + 1
        with self._nothing_lost():
            launched = run_iteration(
                self.parts.steps, batch, self.context(), iteration, self.train.mega_batch_factor, self.ranks
            )
        self.iteration = iteration
        self.samples += self.options.batch_size
        changed = launched.changed()
        for name, average in self.parts.averages.items():
            if name in changed:
                average.update(self.parts.networks[name], iteration - self.recipe.first_iteration, changed[name])
        for name, profiles in self.parts.profiles.items():
            for profile in profiles.values():  # of every iteration: their weights follow from its number alone
                profile.update(self.parts.networks[name], iteration - self.recipe.first_iteration)
        return launched

    def _must_know(self, log: RunLog) -> bool:
        """Whether what follows this iteration needs its numbers: a line of the log, a checkpoint, an evaluation."""
        settings, at = self.recipe.logger, self.iteration
        often = (settings.save_checkpoint_freq, self.train.val_freq)
        return log.due(at) or at == self.train.niter or any(every and at % every == 0 for every in often)

    def _after(self, log: RunLog, launched: Launched) -> None:
        """What happens between iterations, on rank 0: checkpoints first, since nothing after them can lose them."""
        settings, last = self.recipe.logger, self.iteration == self.train.niter
        if self.iteration % settings.save_checkpoint_freq == 0 or last:
            self._save(final=last)
        self.saver.snapshot(self.iteration, last)
        if self.ranks.first and settings.visuals and (self.iteration % settings.visual_debug_rate == 0 or last):
            log.visuals(self.iteration, launched.state, settings.visuals, settings.reverse_n1_to_1)
        due = self.train.val_freq and (self.iteration % self.train.val_freq == 0 or last)
        if due and self.ranks.first:
            self._evaluate(log)

    def _evaluate(self, log: RunLog) -> None:
        for name, evaluator in self.evaluators.items():
            evaluation = self._measure(name, evaluator)
            if evaluation is None:
                continue
            log.scalars(self.iteration, {f"{name}/{key}": value for key, value in evaluation.metrics.items()})
            numbers = "  ".join(f"{key} {value:.4g}" for key, value in evaluation.metrics.items())
            logger.info("evaluation %s at %d: %s", name, self.iteration, numbers)
            for key, image in evaluation.images.items():
                path = self.experiment.root / "samples" / f"{self.iteration}_{name}_{key}.png"
                log.picture(self.iteration, f"{name}/{key}", path, image)
            self.saver.consider(self.iteration, name, evaluation.metrics)

    def _measure(self, name: str, evaluator: Evaluator) -> Evaluation | None:
        """None for an evaluator that worked before and fails now: a folder out of reach or memory that is short for a
        while must not end the run. One that never worked has something wrong with it, and raises.
        """
        try:
            with self._nothing_lost():
                evaluation = evaluator.evaluate(self.context())
        except (TesseraError, OSError, RuntimeError) as error:
            if name not in self._measured:
                raise
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            logger.error("evaluation %s at %d failed (%s); training goes on", name, self.iteration, reason)
            return None
        self._measured.add(name)
        return evaluation

    @contextmanager
    def _nothing_lost(self) -> Iterator[None]:
        """Saves the last whole iteration when what is done after it fails, in whatever way.

        Raises TesseraError for what would be the user's mistake before a run: by now it is a run that failed.
        """
        try:
            yield
        except (Interrupted, TakenOver):
            raise
        except Exception as error:
            if self.iteration == self._began_at:
                raise
            if any(step.applied_at > self.iteration for step in self.parts.steps):
                logger.error(
                    "iteration %d failed after some of its steps were applied, so it cannot be saved; %s",
                    self.iteration + 1,
                    self.saver.kept(),
                )
            else:
                self._save_what_is_done(final=False)
            if isinstance(error, TesseraError):
                raise TesseraError(str(error)) from error
            raise

    def _save_what_is_done(self, final: bool) -> None:
        """Save without the other ranks, which a shared-out optimiser does not allow."""
        if self.ranks.world_size == 1 or not self.train.shard_optimizer:
            self._save(final)

    def _save(self, final: bool) -> None:
        self._still_ours()
        if self._results is not None:
            self._results.read()
        self.saver.save(self.iteration, self.samples, final)

    def _still_ours(self) -> None:
        """Raise TakenOver when another run has the folder by now."""
        if self.lock is not None:
            self.lock.check()
