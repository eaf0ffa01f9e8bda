"""Checks of what a training run is asked to log and to keep."""

from collections.abc import Iterator

from ...utils.errors import ConfigError
from ...utils.registry import nearest
from ...utils.yaml_source import Issue
from ..recipe import Recipe
from .outlets import import_wandb


def log_issues(recipe: Recipe) -> Iterator[Issue]:
    """An evaluator to choose the best by that is not there; a service whose client is not installed."""
    best, there = recipe.logger.keep_best, list(recipe.eval.evaluators)
    if best and best.evaluator not in there:
        close = nearest(best.evaluator, there)
        hint = f"did you mean {close}?" if close else f"there are: {', '.join(there) or 'none'}"
        yield Issue(
            ("logger", "keep_best", "evaluator"), f"no evaluator {best.evaluator!r} in eval.evaluators ({hint})"
        )
    if recipe.wandb:
        try:
            import_wandb()
        except ConfigError as error:
            yield Issue(("wandb",), str(error))
