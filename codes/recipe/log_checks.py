"""Checks of what a training run is asked to log and to keep."""

import importlib
from collections.abc import Iterator
from types import ModuleType

from ..config.registry import nearest
from ..config.yaml_source import Issue
from ..utils.errors import ConfigError
from .recipe import Recipe

INSTALL_WANDB = "pip install wandb"


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


def import_wandb() -> ModuleType:
    """The client of Weights & Biases. Raises ConfigError when it is not installed."""
    try:
        return importlib.import_module("wandb")
    except ImportError:
        raise ConfigError(f"wandb: true needs the package wandb; `{INSTALL_WANDB}`, or set wandb: false") from None
