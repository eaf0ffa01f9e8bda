"""What a resumed run does differently from the run that wrote its checkpoint: what may change, and what may not."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from ...config.fingerprint import all_settings
from ...config.yaml_source import Issue, KeyPath, Source
from ...models.diffusion.process_options import DiffusionArgs
from ...recipe.graph_checks import all_nodes
from ...recipe.recipe import Recipe
from ...recipe.record_checks import STRENGTHS
from ...utils.console import get_logger
from ...utils.errors import DamagedError

logger = get_logger(__name__)
SET_BY_A_RESUME = ("name", "path", "start_step", "force_start_step")  # a resume names or replaces these itself
FIXED_PROCESS = ("model_mean_type", "model_var_type", "variance_convention")
FIXED_CORRUPTIONS = ("datasets", "train", "fixed_corruptions")
MISSING = "nothing"


def to_text(recipe: Recipe) -> str:
    """All options of a recipe as JSON, for the checkpoint."""
    return json.dumps([[list(path), value] for path, value, _ in all_settings(recipe)], default=str)


def _fixed_network(path: KeyPath) -> bool:
    return len(path) >= 3 and path[0] == "networks"


def _fixed_step(path: KeyPath) -> bool:
    return path[0] == "steps" and len(path) == 3 and path[2] in ("training", "optimizer")


def _fixed_process(path: KeyPath) -> bool:
    own = {key for _, key, _ in DiffusionArgs.own_fields()}
    named = "diffusion_args" in path and path[-1] in {*FIXED_PROCESS, *own}
    return path[0] == "steps" and (named or "beta_schedule" in path)


def _fixed_profiles(path: KeyPath) -> bool:
    return path == ("train", "post_hoc_ema", "sigma_rel")


def _fixed_strengths(path: KeyPath) -> bool:
    return path == FIXED_CORRUPTIONS


REFUSED: Mapping[Callable[[KeyPath], bool], str] = {
    _fixed_network: "the weights belong to the network as it was",
    _fixed_step: "the optimiser's state belongs to the optimiser and the networks as they were",
    _fixed_process: "the network has learned this process",
    _fixed_strengths: "the network has learned which strength stands for which corruption",
    _fixed_profiles: "an average of the whole training cannot start in its middle",
}


def take_changes(saved: str, recipe: Recipe, source: Source) -> None:
    """Compare the options of a checkpoint with those of now: log what changes, one line each.

    Raises ConfigError with the key paths of what cannot change on a resume.
    """
    now = {tuple(path): value for path, value in json.loads(to_text(recipe))}
    try:
        before = {tuple(path): value for path, value in json.loads(saved)}
    except (ValueError, TypeError, RecursionError):
        raise DamagedError("the options in the training state are damaged; use an earlier state") from None
    # Of a network: no weight follows from these, and no output in use.
    free = {path for path, _, mark in all_settings(recipe.networks, ("networks",)) if mark and path[2:3] == ("args",)}
    if not any(STRENGTHS in node.conditioning().values() for _, node in all_nodes(recipe)):
        free.add(FIXED_CORRUPTIONS)
    issues, lines = [], []
    for path in {**before, **now}:
        old, new = (_shown(options, path) for options in (before, now))
        if old == new or path[0] in SET_BY_A_RESUME:
            continue
        lines.append(f"resume changes {'.'.join(map(str, path))}: {old} -> {new}")
        reason = None if path in free else next((text for fixed, text in REFUSED.items() if fixed(path)), None)
        if reason and not _one_sided(path, before, now):
            message = f"was {old} and is {new}; it cannot change on a resume, because {reason}"
            issues.append(Issue(path, f"{message}. Set it back, or start a run of another `name`"))
    if issues:
        raise source.error(issues)
    for line in lines:
        logger.info("%s", line)


def _one_sided(path: KeyPath, before: Mapping[KeyPath, Any], now: Mapping[KeyPath, Any]) -> bool:
    """Whether only one side has an option, and that is no contradiction.

    Where both have its section, the other side is another version of Tessera, which does not know the option.
    """
    if path in before and path in now:
        return False
    if _fixed_profiles(path):  # taken up in the middle of a run, or given up
        return path in before
    return all(any(other[: len(path) - 1] == path[:-1] for other in side) for side in (before, now))


def _shown(options: Mapping[KeyPath, Any], path: KeyPath) -> str:
    return json.dumps(options[path]) if path in options else MISSING
