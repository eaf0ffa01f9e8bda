"""Images from nothing: the injectors of a recipe with `generate` over numbered samples, with or without classes."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from ...config.yaml_source import Source
from ...graph.node_options import TiledOptions
from ...graph.step_graph import StepGraph
from ...graph.step_options import StepOptions
from ...images.files import to_rgb
from ...recipe.recipe import Recipe
from ...runtime.devices import Ranks
from ...runtime.interrupt import StopRequest
from ...runtime.rank_messages import RankMessages, held
from ...runtime.run_lock import RunLock
from ...runtime.step_watch import StepWatch
from ...utils.console import StepLine, format_seconds, get_logger, log_to_file, stop_logging_to
from ...utils.errors import Interrupted, TesseraError
from ...utils.files import remove_temporaries
from ...version import __version__
from ..run import OnStep, Run
from .checks import check_generation, class_labels, find_classes, sampling_nodes
from .record import record, take_up
from .sample_files import FOLDER, SampleFiles

logger = get_logger(__name__)


@dataclass(frozen=True)
class Generated:
    """What a run did: how many samples were there before it, how many it made, and what lies beside them."""

    before: int
    made: int
    seconds: float
    grid: Path | None
    npz: Path | None


class Generation:
    """Samples the images that `generate` asks for and writes `results/<name>/`.

    A sample follows from the seed and its number alone: not from what else is in its batch, nor from the ranks, which
    share the batches. Building it loads the networks; it raises ConfigError when something does not fit.
    """

    def __init__(self, recipe: Recipe, source: Source, ranks: Ranks) -> None:
        assert recipe.generate is not None
        self.recipe = recipe
        self.source = source
        self.ranks = ranks
        self.options = recipe.generate
        nodes = sampling_nodes(recipe).values()
        named = dict.fromkeys(name for node in nodes for name in node.generators)
        self.use = Run.of_recipe(recipe, named, ranks)
        self.root = self.use.folder
        networks = self.use.networks
        self.classes = find_classes(recipe, networks, self.use.weights)
        check_generation(recipe, source, networks, self.classes, self.use.records)
        self.node = _written_node(recipe, list(nodes))
        labels = None if self.classes is None else class_labels(self.options, self.classes, self.use.seed)
        folders = () if self.classes is None else self.classes.folders
        self.files = SampleFiles(self.root, self.options.num_samples, labels, folders)
        self.steps = {
            name: StepGraph(_with_batch(step, self.options.batch_size)) for name, step in recipe.steps.items()
        }
        self.messages = RankMessages(ranks)
        self.lock: RunLock | None = None

    def run(self) -> Generated:
        """Sample what is missing, then write grid and npz. Raises Interrupted after a signal, with all samples kept.

        Raises ConfigError when another run has the folder.
        """
        with held(self.root, self.messages) as self.lock:
            return self._run()

    def _run(self) -> Generated:
        start = time.monotonic()
        handler = log_to_file(self.root / "test.log") if self.ranks.first else None
        try:
            before = self._prepare()
            with StopRequest() as stop:
                made = sum(self.messages.gathered(self._sample_all(stop)))
            return self._finish(before, made, start)
        finally:
            if handler:
                stop_logging_to(handler)

    def _prepare(self) -> int:
        """On rank 0: settle what the samples that exist are; on every rank: how many of them count."""
        before = 0
        if self.ranks.first:
            folders = self.files.folders or ("",)
            remove_temporaries([self.root, *(self.root / FOLDER / name for name in folders)])
            take_up(self.root, self.settings, restart=self.options.on_change == "restart")
            record(self.root, self.settings, self._described())
            before = self.options.num_samples - len(self.files.missing(range(self.options.num_samples)))
            if before:
                logger.info("%d of %d samples exist and are kept", before, self.options.num_samples)
        return self.messages.from_first(before)

    @cached_property
    def settings(self) -> dict[str, object]:
        """What a sample follows from besides its number."""
        chosen: object = None
        if self.classes is not None:
            wanted = self.options.wanted
            chosen = tuple(self.classes.index(name) for name in wanted) if wanted else self.options.classes or "all"
        in_use = self.options.model_copy(update={"classes": chosen, "class_names": None})
        # The names of the classes too, because the files are named by them.
        names = list(self.classes.names) if self.classes else []
        return {**self.use.settings(self.recipe.model_copy(update={"generate": in_use})), "class_names": names}

    def _described(self) -> dict[str, object]:
        """What generation.json says besides the settings."""
        return {
            "num_samples": self.options.num_samples,
            "weights": {name: str(file) for name, file in self.use.weights.items()},
            "recipe": self.source.data,
            "version": __version__,
        }

    def _sample_all(self, stop: StopRequest) -> int:
        """Sample what is missing of this rank's share; how many that was."""
        size = self.options.batch_size
        # By number, not by what is missing, so that the ranks need not agree on what they find.
        mine = [p for p in range(self.options.num_samples) if p // size % self.ranks.world_size == self.ranks.rank]
        missing = self.files.missing(mine)
        batches = [missing[start : start + size] for start in range(0, len(missing), size)]
        stopped = f"stopped; the samples that were finished are kept in {self.root}"
        with StepLine(f"{len(missing)} samples in {len(batches)} batches,") as line:
            for number, positions in enumerate(batches):
                if stop.requested:
                    raise Interrupted(stopped)
                shown = line if self.ranks.first else None
                self._sample(positions, StepWatch(shown, stop, self.lock, stopped, number, len(batches)))
        return len(missing)

    def _sample(self, positions: Sequence[int], on_step: OnStep) -> None:
        """One batch, written as soon as it is done."""
        labels = self.files.labels
        state: dict[str, object] = {} if labels is None else {"y": torch.from_numpy(labels[list(positions)])}
        context, ran = self.use.context(tuple(positions), on_step), set[str]()
        for name, step in self.steps.items():
            if step.options.runs(None, {*state, *ran}):
                state = step.at(None, {*state, *ran}).inject(state, context)
                ran.add(name)
        images = state[self.node.out]
        assert isinstance(images, Tensor), "canvas: disk was refused"
        assert len(images) == len(positions)
        for position, image in zip(positions, self.node.to_unit_range(images), strict=True):
            self.files.write(position, to_rgb(image, n1_to_1=False))

    def _finish(self, before: int, made: int, start: float) -> Generated:
        """On rank 0: grid and npz from the files, whoever wrote them."""
        if not self.ranks.first:
            return Generated(before, made, time.monotonic() - start, None, None)
        lost = self.files.missing(range(self.options.num_samples))
        if lost:
            raise TesseraError(
                f"{self.files.path(lost[0])} and {len(lost) - 1} more are missing after all batches were sampled; "
                "several machines must share the folder of the results"
            )
        rows = self.files.grid_rows(self.options.grid_rows, self.options.grid_columns)
        grid = self.files.write_grid(rows) if rows else None
        npz = self.files.write_npz() if self.options.npz else None
        seconds = time.monotonic() - start
        outcome = {"made": made, "seconds": round(seconds, 2), "grid_rows": self._named(rows)}
        record(self.root, self.settings, {**self._described(), **outcome})
        for file in (grid, npz):
            if file:
                logger.info("written: %s", file)
        logger.info("%d samples made in %s, in %s", made, format_seconds(seconds), self.root / FOLDER)
        return Generated(before, made, seconds, grid, npz)

    def _named(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """The class of each row of the grid, where there are classes."""
        labels = self.files.labels
        return [] if labels is None or self.classes is None else [self.classes.name(labels[row[0]]) for row in rows]


def _written_node(recipe: Recipe, nodes: Sequence[TiledOptions]) -> TiledOptions:
    """The injector whose result is written; the checks have made sure that it is one."""
    named = recipe.eval.output_state
    if named is None:
        return nodes[0]
    key = named if isinstance(named, str) else named[0]
    return next(node for node in nodes if node.out == key)


def _with_batch(step: StepOptions, batch_size: int) -> StepOptions:
    """A step whose sampling takes a whole batch to the device at once, where the recipe does not say otherwise."""
    injectors = {
        name: node.model_copy(update={"tile_batch_size": batch_size})
        if node.tiled and "tile_batch_size" not in node.model_fields_set
        else node
        for name, node in step.injectors.items()
    }
    return step.model_copy(update={"injectors": injectors})
