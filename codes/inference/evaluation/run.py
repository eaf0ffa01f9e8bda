"""Evaluating apart from training: trained weights, the evaluators of a recipe, a table and a file of numbers."""

from collections.abc import Mapping, Sequence

from ...config.yaml_source import Issue, Source
from ...evaluation.evaluators.base import Evaluation, EvaluatorOptions, build_evaluators
from ...images.files import write_image
from ...models.diffusion.checkpoints.metadata import read_metadata
from ...recipe.networks import holds_averages
from ...recipe.recipe import Recipe
from ...recipe.record_checks import held_out_issues
from ...runtime.run_lock import RunLock
from ...utils.console import get_logger
from ...utils.errors import ConfigError
from ...utils.files import write_json
from ..run import Run

logger = get_logger(__name__)
DIGITS = 5  # significant ones of a number in a table


class RecipeEvaluation:
    """The evaluators of a recipe with the weights that `path` names; without any, those of the experiment `name`.

    Building it loads networks and data; it raises ConfigError or DataError when something does not fit.
    """

    def __init__(self, recipe: Recipe, source: Source) -> None:
        options = recipe.eval.evaluators
        if not options:
            raise ConfigError(f"{source.file}: eval.evaluators is missing; there is nothing to evaluate")
        names = list(dict.fromkeys(name for section in options.values() for name in section.network_names()))
        self.use = Run.of_recipe(_with_weights(recipe, names), names)
        self.root = self.use.folder
        _check(options, self.use, source)
        self.evaluators = build_evaluators(options, source)

    def run(self) -> dict[str, Evaluation]:
        """Run every evaluator; numbers go to evaluation.json, pictures beside it. Returns them by name.

        Raises ConfigError when another run has the folder.
        """
        with RunLock(self.root) as lock:
            return self._run(lock)

    def _run(self, lock: RunLock) -> dict[str, Evaluation]:
        evaluations: dict[str, Evaluation] = {}
        for name, evaluator in self.evaluators.items():
            evaluations[name] = evaluator.evaluate(self.use.context())
            lock.check()
            for key, image in evaluations[name].images.items():
                write_image(self.root / f"{name}_{key}.png", image)
            # After each, so that what comes later cannot lose it.
            numbers = {done: dict(evaluation.metrics) for done, evaluation in evaluations.items()}
            write_json(self.root / "evaluation.json", numbers)
        logger.info("written: %s", self.root / "evaluation.json")
        return evaluations


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns, the first to the left, with a line under the header; ends with a newline."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    lines = [
        "  ".join(text.ljust(width) if column == 0 else text.rjust(width)
                  for column, (text, width) in enumerate(zip(row, widths, strict=True)))
        for row in (header, ["-" * width for width in widths], *rows)
    ]  # fmt: skip
    return "\n".join(line.rstrip() for line in lines) + "\n"


def evaluation_table(evaluations: Mapping[str, Evaluation]) -> str:
    """One line for each number of each evaluator."""
    rows = [
        (name, key, f"{value:.{DIGITS}g}")
        for name, evaluation in evaluations.items()
        for key, value in evaluation.metrics.items()
    ]
    return table(("evaluator", "number", "value"), rows)


def _with_weights(recipe: Recipe, names: Sequence[str]) -> Recipe:
    """The recipe with `auto` for every network whose weights it does not name."""
    pretrain = {**dict.fromkeys(names, "auto"), **recipe.path.pretrain}
    return recipe.model_copy(update={"path": recipe.path.model_copy(update={"pretrain": pretrain})})


def _check(options: Mapping[str, EvaluatorOptions], use: Run, source: Source) -> None:
    """Raise ConfigError for evaluators that do not fit the networks, or want weights that were not loaded."""
    issues = [
        Issue(("eval", "evaluators", name, *issue.path), issue.message)
        for name, section in options.items()
        for issue in section.problems(use.networks)
    ]
    issues += held_out_issues(options, use.records)
    for name, section in options.items():
        file = use.weights[section.for_network]
        if holds_averages(file, read_metadata(file)) and not section.measures_ema:
            message = (
                f"use_ema: false, but {file} holds averaged weights; "
                f"name the file without _ema in path.pretrain_model_{section.for_network}"
            )
            issues.append(Issue(("eval", "evaluators", name), message))
    if issues:
        raise source.error(issues)
