"""A test run: every image of the datasets through the injectors, the results as files and as a page to compare."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.datasets import DATASETS
from ..utils.console import StepLine, format_seconds, get_logger, log_to_file, stop_logging_to
from ..utils.errors import ConfigError, Interrupted, TesseraError
from ..utils.files import write_text
from ..utils.images import quantise, read_image, resize_bicubic, to_float, to_rgb, write_image
from ..utils.yaml_source import Source, to_yaml
from ..version import __version__
from .checks import check_inference
from .devices import autocast_for, choose_device
from .evaluators.base import EVALUATORS
from .graph import INJECTORS, Graph, StepContext
from .injectors.gaussian_diffusion_inference import GaussianDiffusionInferenceOptions, to_unit_range
from .interrupt import StopRequest
from .metrics import fidelity
from .networks import load_trained
from .recipe import Recipe
from .report import ReportEntry, ReportSummary, mean_metrics, write_report

logger = get_logger(__name__)
BICUBIC = "input (bicubic)"
TRUTH = "ground truth"


@dataclass(frozen=True)
class Restored:
    """One finished image: the files written, by state key, and what was measured, by label of the page."""

    phase: str
    position: int
    source: Path
    files: Mapping[str, Path]
    metrics: Mapping[str, Mapping[str, float]]
    seconds: float


@dataclass
class Outcome:
    """What a test run did."""

    done: list[Restored] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)  # one line each: file and reason
    seconds: float = 0.0


class Tester:
    """Runs the injectors of a recipe on whole images and writes `results/<name>/`.

    Building it loads the networks and reads the data; it raises ConfigError or DataError when something does not fit.
    """

    def __init__(self, recipe: Recipe, source: Source) -> None:
        self.recipe = recipe
        self.source = source
        self.device = choose_device(recipe.device, recipe.gpu_ids)
        self.root = Path(recipe.path.results or Path("results") / recipe.name)
        nodes = [node for step in recipe.steps.values() for node in step.injectors.values()]
        self.nodes = [node for node in nodes if isinstance(node, GaussianDiffusionInferenceOptions)]
        if not self.nodes and not recipe.eval.evaluators:
            raise ConfigError(
                f"{source.file}: neither an injector gaussian_diffusion_inference in steps nor an evaluator in eval, "
                "so there is nothing to do; for training run train.py"
            )
        evaluated = [evaluator.for_network for evaluator in recipe.eval.evaluators.values()]
        names = dict.fromkeys([*(node.generator for node in self.nodes), *evaluated])
        self.trained = {name: load_trained(name, recipe, self.device) for name in names}
        check_inference(recipe, source, {name: trained.network for name, trained in self.trained.items()})
        self.outputs = self._outputs()
        self.graphs = [
            Graph({key: INJECTORS.get(node.type)(node) for key, node in step.injectors.items()}, {})
            for step in recipe.steps.values()
        ]
        self._refuse_own_results()
        self.datasets = {
            phase: DATASETS.get(options.mode)(options, seed=self.seed, shuffle=False)
            for phase, options in recipe.datasets.items()
            if self.nodes
        }
        self.targets = self._plan_files()
        self.evaluators = {
            name: EVALUATORS.get(options.type)(options) for name, options in recipe.eval.evaluators.items()
        }

    @property
    def seed(self) -> int:
        if self.recipe.seed is not None:
            return self.recipe.seed
        return self.recipe.train.manual_seed if self.recipe.train else 0

    def _outputs(self) -> tuple[str, ...]:
        named = self.recipe.eval.output_state
        if named is None:
            return tuple(node.out for node in self.nodes)
        return (named,) if isinstance(named, str) else named

    def _refuse_own_results(self) -> None:
        for phase, options in self.recipe.datasets.items():
            for text in getattr(options, "path_list", ()):
                if self.root.resolve().is_relative_to(Path(text).expanduser().resolve()):
                    raise ConfigError(
                        f"datasets.{phase}.paths: the results ({self.root}) would be written into the input folder "
                        f"{text}; set path.results to a folder outside of it"
                    )

    def _plan_files(self) -> dict[str, list[Path]]:
        """Phase -> the result of every image. Raises ConfigError when one of them is itself an input."""
        targets = {
            phase: output_files(self.root / dataset.options.name, dataset.files, dataset.options.path_list)
            for phase, dataset in self.datasets.items()
        }
        inputs = {file.resolve() for dataset in self.datasets.values() for file in dataset.files}
        for phase, files in targets.items():
            named = [result_file(file, key, index) for file in files for index, key in enumerate(self.outputs)]
            clash = next((file for file in named if file.resolve() in inputs), None)
            if clash is not None:
                raise ConfigError(
                    f"datasets.{phase}.paths: {clash} is an input and would be overwritten by its own result; "
                    "set path.results or another `name`"
                )
        return targets

    def run(self) -> Outcome:
        """Restore every image, then write the page. Raises Interrupted after a signal, with all finished work kept."""
        outcome, start = Outcome(), time.monotonic()
        handler = log_to_file(self.root / "test.log")
        try:
            with StopRequest() as stop:
                self._run_all(outcome, stop)
                outcome.seconds = time.monotonic() - start
                if self.nodes:
                    self._finish(outcome)
                if not stop.requested:
                    self._evaluate()
                if stop.requested:
                    raise Interrupted(f"stopped after {len(outcome.done)} images, which are kept in {self.root}")
        finally:
            stop_logging_to(handler)
        return outcome

    def _run_all(self, outcome: Outcome, stop: StopRequest) -> None:
        for phase, dataset in self.datasets.items():
            outcome.failed += [str(rejected) for rejected in dataset.report().failed]
            targets = self.targets[phase]
            for position in range(len(dataset)):
                if stop.requested:
                    return
                source = dataset.files[position]
                title = f"{position + 1}/{len(dataset)} {source.name}"
                try:
                    outcome.done.append(self._restore(phase, position, targets[position], title, stop))
                except (ConfigError, Interrupted):
                    if stop.requested:
                        return
                    raise
                except (TesseraError, OSError, RuntimeError, ValueError, LookupError) as error:
                    logger.error("%s: not restored: %s", source, error, exc_info=logger.isEnabledFor(10))
                    outcome.failed.append(f"{source}: {error}")

    def _restore(self, phase: str, position: int, target: Path, title: str, stop: StopRequest) -> Restored:
        start = time.monotonic()
        dataset = self.datasets[phase]
        item = dataset.item(position)
        with StepLine(title) as line:
            state = self._sample(item, position, lambda out, done, total: self._progress(line, stop, out, done, total))
        files, results = {}, {}
        for index, key in enumerate(self.outputs):
            file = result_file(target, key, index)
            results[key] = to_float(quantise(to_rgb(to_unit_range(state[key][0], self._node(key)), False)))
            write_image(file, results[key])
            files[key] = file
        n1_to_1, shape = dataset.options.rgb_n1_to_1, results[self.outputs[0]].shape
        shown = {BICUBIC: self._bicubic(item, n1_to_1, shape), **results}
        truth = self._truth(item, n1_to_1)
        metrics = {} if truth is None else {label: fidelity(truth, image) for label, image in shown.items()}
        seconds = time.monotonic() - start
        height, width = shape[:2]
        logger.info("%s -> %s (%dx%d, %s)%s", title, target, width, height, format_seconds(seconds), _spoken(metrics))
        return Restored(phase, position, dataset.files[position], files, metrics, seconds)

    def _sample(
        self, item: Mapping[str, Any], position: int, on_step: Callable[[str, int, int], None]
    ) -> dict[str, Any]:
        state = {key: value[None] if isinstance(value, torch.Tensor) else [value] for key, value in item.items()}
        context = self._context(position, on_step)
        for graph in self.graphs:
            state = graph.inject(state, context)
        return state

    def _context(self, position: int, on_step: Callable[[str, int, int], None] | None = None) -> StepContext:
        return StepContext(
            networks={name: trained.network for name, trained in self.trained.items()},
            device=self.device,
            seed=self.seed,
            positions=(position,),
            autocast=autocast_for(self.device, self.recipe.arithmetic),
            processes={name: trained.process for name, trained in self.trained.items() if trained.process},
            on_step=on_step,
            on_event=logger.warning,
        )

    def _evaluate(self) -> None:
        """Run the evaluators: numbers to the log and to evaluation.json, pictures beside it."""
        found = {name: evaluator.evaluate(self._context(0)) for name, evaluator in self.evaluators.items()}
        for name, evaluation in found.items():
            logger.info("evaluation %s: %s", name, "  ".join(f"{k} {v:.4g}" for k, v in evaluation.metrics.items()))
            for key, image in evaluation.images.items():
                write_image(self.root / f"{name}_{key}.png", image)
        if found:
            numbers = {name: dict(evaluation.metrics) for name, evaluation in found.items()}
            write_text(self.root / "evaluation.json", json.dumps(numbers, indent=2) + "\n")

    @staticmethod
    def _progress(line: StepLine, stop: StopRequest, out: str, done: int, total: int) -> None:
        line.show(out, done, total)
        if stop.requested:
            raise Interrupted("stopped between two sampling steps")

    def _node(self, key: str) -> GaussianDiffusionInferenceOptions:
        return next(node for node in self.nodes if node.out == key)

    def _input_key(self, item: Mapping[str, Any]) -> str:
        """The key of the item that restoration starts from; a later injector may start from an earlier one's result."""
        keys = (node.model_input_keys["low_res"] for node in self.nodes)
        return next(key for key in keys if key in item)

    def _bicubic(self, item: Mapping[str, Any], n1_to_1: bool, shape: Sequence[int]) -> np.ndarray:
        small = to_rgb(item[self._input_key(item)], n1_to_1)
        return to_float(quantise(resize_bicubic(small, shape[0], shape[1])))

    def _truth(self, item: Mapping[str, Any], n1_to_1: bool) -> np.ndarray | None:
        """The image that low_res was made from, where the dataset made it."""
        has_truth = "hq" in item and self._input_key(item) != "hq"
        return to_float(quantise(to_rgb(item["hq"], n1_to_1))) if has_truth else None

    def _finish(self, outcome: Outcome) -> None:
        means = mean_metrics([row.metrics for row in outcome.done])
        rows = [
            {
                "file": str(row.source),
                "seconds": round(row.seconds, 2),
                "results": {k: str(f) for k, f in row.files.items()},
                "metrics": row.metrics,
            }
            for row in outcome.done
        ]
        numbers = {"mean": means, "images": rows, "failed": outcome.failed, "seconds": round(outcome.seconds, 2)}
        write_text(self.root / "metrics.json", json.dumps(numbers, indent=2) + "\n")
        for label, values in means.items():
            logger.info("mean of %d images, %s: %s", len(outcome.done), label, _numbers(values))
        if outcome.done:
            write_report(self.root / "index.html", _Entries(self, outcome.done), self._summary(outcome, means))
            logger.info("compare before and after: %s", self.root / "index.html")

    def _summary(self, outcome: Outcome, means: Mapping[str, Mapping[str, float]]) -> ReportSummary:
        return ReportSummary(
            title=self.recipe.name,
            options=to_yaml(self.source.data),
            weights=[str(trained.file) for trained in self.trained.values()],
            device=f"{self.device} ({self.recipe.arithmetic})",
            seconds=outcome.seconds,
            version=__version__,
            mean_metrics=means,
        )

    def entry(self, row: Restored) -> ReportEntry:
        """The page's entry of a finished image, read again from its files so that a long run holds no pictures."""
        item = self.datasets[row.phase].item(row.position)
        results = {key: read_image(file).rgb for key, file in row.files.items()}
        n1_to_1, shape = self.datasets[row.phase].options.rgb_n1_to_1, results[self.outputs[0]].shape
        layers = {BICUBIC: self._bicubic(item, n1_to_1, shape), **results}
        truth = self._truth(item, n1_to_1)
        if truth is not None:
            layers[TRUTH] = truth
        strengths = ", ".join(f"{value:g}" for value in item["corruption_entropy"].tolist())
        notes = {
            "time": format_seconds(row.seconds),
            "seed": str(self.seed),
            "strengths": strengths or "none",
            **self._steps(),
        }
        pixels = {label: quantise(image) for label, image in layers.items()}
        return ReportEntry(row.source.name, pixels, row.metrics, notes, dict(row.files))

    def _steps(self) -> dict[str, str]:
        rows = {}
        for node in self.nodes:
            spacing = node.respaced_timestep_spacing
            rows[node.out] = f"{node.sampler_name}, {'all' if spacing is None else spacing} steps"
        return rows


class _Entries(Sequence[ReportEntry]):
    """Entries of the page, made one at a time."""

    def __init__(self, tester: Tester, rows: Sequence[Restored]) -> None:
        self.tester = tester
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return self.tester.entry(self.rows[index])

    def __iter__(self) -> Iterator[ReportEntry]:
        return (self.tester.entry(row) for row in self.rows)


def result_file(target: Path, key: str, index: int) -> Path:
    """The first output takes the image's own name, the others add their key."""
    return target if index == 0 else target.with_name(f"{target.stem}_{key}{target.suffix}")


def output_files(folder: Path, files: Sequence[Path], roots: Sequence[str]) -> list[Path]:
    """A PNG for every input, below `folder` as the input lies below its root; no two inputs share one."""
    taken: set[Path] = set()
    result = []
    for file in files:
        root = next((root for root in map(_expanded, roots) if file.is_relative_to(root) and file != root), file.parent)
        below = file.relative_to(root).parent
        target = folder / below / f"{file.stem}.png"
        if target in taken:
            target = folder / below / f"{file.stem}_{file.suffix.lstrip('.')}.png"
        number = 2
        while target in taken:
            target = folder / below / f"{file.stem}_{number}.png"
            number += 1
        taken.add(target)
        result.append(target)
    return result


def _expanded(text: str) -> Path:
    return Path(text).expanduser()


def _numbers(values: Mapping[str, float]) -> str:
    units = {"psnr": "PSNR {:.2f} dB", "ssim": "SSIM {:.4f}"}
    return ", ".join(units.get(name, name + " {:.4g}").format(value) for name, value in values.items())


def _spoken(metrics: Mapping[str, Mapping[str, float]]) -> str:
    return "".join(f"; {label}: {_numbers(values)}" for label, values in metrics.items())
