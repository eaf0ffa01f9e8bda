"""What a test recipe says against what the checkpoints of its networks record of their training."""

from collections.abc import Iterator, Mapping

from ..config.options import Options
from ..config.yaml_source import Issue, KeyPath
from ..evaluation.evaluators.base import EvaluatorOptions
from ..graph.node_options import NodeOptions
from ..models.diffusion.checkpoints.metadata import CheckpointMetadata
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
        for name in node.networks():
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
        listed = evaluator.held_out.corruption_names if evaluator.held_out else ()
        learned, place = trained.get(evaluator.for_network, ((), ""))
        if listed and learned and listed != learned:
            message = (
                f"are [{', '.join(listed)}], but {evaluator.for_network} is told [{', '.join(learned)}] by {place}; "
                "write them so, in this order"
            )
            yield Issue(("eval", "evaluators", name, "dataset", "fixed_corruptions"), message)


def _scale_issues(path: KeyPath, node: NodeOptions, name: str, record: CheckpointMetadata) -> Iterator[Issue]:
    tiled = node.tiled
    if tiled and tiled.restores and record.scale is not None and tiled.scale != record.scale:
        message = (
            f"is {tiled.scale}, but {name} ({record.place}) was trained at scale {record.scale}; set scale and this to "
            "it"
        )
        yield Issue((*path, "output_scale_factor"), message)


def _strength_issues(recipe: Recipe, node: NodeOptions, record: CheckpointMetadata) -> Iterator[Issue]:
    """Strengths are told by position, so names in another order would reach inputs that mean something else."""
    if STRENGTHS not in node.conditioning().values() or not record.corruptions:
        return
    for phase, dataset in recipe.datasets.items():
        listed, told = dataset.corruption_names, len(dataset.known_entropy or ())
        if told > len(record.corruptions):
            message = f"are {told} strengths, but {record.place} was trained with {', '.join(record.corruptions)} alone"
            yield Issue(("datasets", phase, "fixed_parameters", STRENGTHS), message)
        if listed and listed != record.corruptions:
            message = (
                f"are [{', '.join(listed)}], but {record.place} was trained with [{', '.join(record.corruptions)}]; "
                "write them so, in this order"
            )
            yield Issue(("datasets", phase, "fixed_corruptions"), message)


def _process_issues(path: KeyPath, node: NodeOptions, record: CheckpointMetadata) -> Iterator[Issue]:
    trained = record.process_options
    if trained is None:
        return
    of_training = dict(trained)
    for key, section in node.process_sections().items():
        yield from _differing((*path, key), section, of_training[key], record)


def _differing(path: KeyPath, section: Options, trained: Options, record: CheckpointMetadata) -> Iterator[Issue]:
    now, before = section.model_dump(), trained.model_dump()
    for key in now.keys() & before.keys() - OF_THE_OBJECTIVE:
        fixed = key == "model_var_type" and all(str(value).startswith("fixed") for value in (now[key], before[key]))
        if now[key] != before[key] and not fixed:
            message = f"{key} is {now[key]}, but {record.place} was trained with {before[key]}; remove this section"
            yield Issue(path, message)
