"""What a test recipe says against what the checkpoints of its networks record of their training."""

from collections.abc import Iterator, Mapping
from typing import Any

from ..config.yaml_source import Issue, KeyPath
from ..evaluation.evaluators.base import EvaluatorOptions
from ..models.diffusion.checkpoints.metadata import CheckpointMetadata
from ..models.diffusion.process_options import BetaScheduleOptions, DiffusionArgs
from .graph_checks import all_nodes
from .recipe import Recipe

STRENGTHS = "corruption_entropy"
# What the objective of training was changes nothing when a trained network is sampled.
OF_THE_OBJECTIVE = {"loss_type", "weight_schedule", "weight_clamp", "min_snr_gamma"}


def record_issues(recipe: Recipe, records: Mapping[str, CheckpointMetadata]) -> Iterator[Issue]:
    """Contradictions to the records of the networks that a recipe uses: another scale, strengths, process.

    A network works on whatever it is given, so each of these would be done without a word, and wrong.
    """
    for path, node in all_nodes(recipe):
        for name in _networks_of(node):
            if name in records:
                yield from _scale_issues(path, node, name, records[name])
                yield from _process_issues(path, node, records[name])
                yield from _strength_issues(recipe, node, records[name])
    yield from held_out_issues(recipe.eval.evaluators, records)


def held_out_issues(
    evaluators: Mapping[str, EvaluatorOptions], records: Mapping[str, CheckpointMetadata]
) -> Iterator[Issue]:
    """Evaluators whose data tell a network other strengths than its checkpoint records, or in another order."""
    trained = {name: (tuple(record.corruptions or ()), record.place) for name, record in records.items()}
    yield from _held_out_issues(evaluators, trained)


def trained_with_issues(recipe: Recipe) -> Iterator[Issue]:
    """Evaluators of a training whose data tell the trained networks other strengths than the training does."""
    data = recipe.datasets.get("train")
    learned = tuple(data.corruption_names) if data else ()
    trained = {name: (learned, "datasets.train") for step in recipe.steps.values() for name in step.trained}
    yield from _held_out_issues(recipe.eval.evaluators, trained)


def _held_out_issues(
    evaluators: Mapping[str, EvaluatorOptions], trained: Mapping[str, tuple[tuple[str, ...], str]]
) -> Iterator[Issue]:
    """`trained`: network -> the names of its strengths, and what says so."""
    for name, evaluator in evaluators.items():
        listed = tuple(getattr(evaluator.held_out, "fixed_corruptions", ()))
        learned, place = trained.get(evaluator.for_network, ((), ""))
        if listed and learned and listed != learned:
            message = (
                f"are [{', '.join(listed)}], but {evaluator.for_network} is told [{', '.join(learned)}] by {place}; "
                "write them so, in this order"
            )
            yield Issue(("eval", "evaluators", name, "dataset", "fixed_corruptions"), message)


def _networks_of(node: Any) -> tuple[str, ...]:
    single = getattr(node, "generator", None)
    return tuple(getattr(node, "generators", None) or ((single,) if isinstance(single, str) else ()))


def _scale_issues(path: KeyPath, node: Any, name: str, record: CheckpointMetadata) -> Iterator[Issue]:
    wanted = getattr(node, "output_scale_factor", None)
    restores = "low_res" in getattr(node, "model_input_keys", {})
    if restores and wanted is not None and record.scale is not None and wanted != record.scale:
        message = (
            f"is {wanted}, but {name} ({record.place}) was trained at scale {record.scale}; set scale and this to it"
        )
        yield Issue((*path, "output_scale_factor"), message)


def _strength_issues(recipe: Recipe, node: Any, record: CheckpointMetadata) -> Iterator[Issue]:
    """Strengths are told by position, so names in another order would reach inputs that mean something else."""
    if STRENGTHS not in getattr(node, "model_input_keys", {}).values() or not record.corruptions:
        return
    for phase, dataset in recipe.datasets.items():
        listed = tuple(getattr(dataset, "fixed_corruptions", ()))
        if listed and listed != record.corruptions:
            message = (
                f"are [{', '.join(listed)}], but {record.place} was trained with [{', '.join(record.corruptions)}]; "
                "write them so, in this order"
            )
            yield Issue(("datasets", phase, "fixed_corruptions"), message)


def _process_issues(path: KeyPath, node: Any, record: CheckpointMetadata) -> Iterator[Issue]:
    trained = record.process_options
    if trained is None:
        return
    schedule, args = getattr(node, "beta_schedule", None), getattr(node, "diffusion_args", None)
    if isinstance(schedule, BetaScheduleOptions):
        yield from _differing((*path, "beta_schedule"), schedule, trained.beta_schedule, record)
    if isinstance(args, DiffusionArgs):
        yield from _differing((*path, "diffusion_args"), args, trained.diffusion_args, record)


def _differing(path: KeyPath, section: Any, trained: Any, record: CheckpointMetadata) -> Iterator[Issue]:
    now, before = section.model_dump(), trained.model_dump()
    for key in now.keys() & before.keys() - OF_THE_OBJECTIVE:
        fixed = key == "model_var_type" and all(str(value).startswith("fixed") for value in (now[key], before[key]))
        if now[key] != before[key] and not fixed:
            message = f"{key} is {now[key]}, but {record.place} was trained with {before[key]}; remove this section"
            yield Issue(path, message)
