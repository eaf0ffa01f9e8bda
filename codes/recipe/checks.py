"""The checks of a recipe that need more than one of its sections; all problems are reported together."""

import math
from collections.abc import Iterator, Mapping

from ..config.yaml_source import Issue, KeyPath, Source
from ..data.datasets import DatasetOptions
from ..graph.step_options import StepOptions
from ..models.diffusion.checkpoints.metadata import CheckpointMetadata
from ..models.diffusion.networks.base import DiffusionNetwork
from ..models.diffusion.sampling_checks import step_problems
from .graph_checks import all_nodes, graph_issues
from .log_checks import log_issues
from .networks import describe_networks
from .recipe import PRETRAIN, Recipe
from .record_checks import record_issues, trained_with_issues

NOT_TRAINING = {
    "output": "says how test.py writes its results; a training recipe writes none, so remove this section",
    "generate": "is for test.py; remove this section (training writes grids of `logger.visuals`)",
}


def check_training(recipe: Recipe, source: Source) -> dict[str, DiffusionNetwork]:
    """Raise ConfigError for every contradiction of a training recipe; return its networks on the meta device."""
    issues = []
    if recipe.train is None:
        issues.append(
            Issue(("train",), "missing; a training recipe needs this section (for restoring images run test.py)")
        )
    if "train" not in recipe.datasets:
        issues.append(Issue(("datasets", "train"), "missing; a training recipe needs a dataset of this name"))
    if not recipe.steps:
        issues.append(Issue(("steps",), "missing; a training recipe needs this section"))
    issues += [Issue((key,), message) for key, message in NOT_TRAINING.items() if key in recipe.model_fields_set]
    networks = describe_networks(recipe)
    for name, step in recipe.steps.items():
        issues += _step_issues(("steps", name), step, recipe)
    issues += _untrained_issues(recipe)
    issues += graph_issues(recipe, networks, "train", training=True)
    if "train" in recipe.datasets:
        issues += _size_issues(recipe, networks)
    issues += _evaluator_issues(recipe, networks)
    issues += trained_with_issues(recipe)
    issues += _sampling_step_issues(recipe, networks, {})
    if recipe.eval.evaluators and recipe.train and recipe.train.val_freq is None:
        issues.append(Issue(("train", "val_freq"), "missing; without it eval.evaluators would never run"))
    issues += _pretrain_issues(recipe, recipe.networks)
    issues += _range_issues(recipe)
    issues += log_issues(recipe)
    if issues:
        raise source.error(issues)
    return networks


def check_inference(
    recipe: Recipe,
    source: Source,
    networks: Mapping[str, DiffusionNetwork],
    records: Mapping[str, CheckpointMetadata] | None = None,
) -> None:
    """Raise ConfigError for every contradiction of an inference recipe, given its networks and what they record."""
    issues = [issue for phase in recipe.datasets for issue in graph_issues(recipe, networks, phase, training=False)]
    issues += _evaluator_issues(recipe, networks)
    issues += _sampling_step_issues(recipe, networks, records or {})
    issues += _strength_issues(recipe, networks)
    issues += _pretrain_issues(recipe, networks)
    issues += _range_issues(recipe)
    issues += _output_issues(recipe)
    issues += record_issues(recipe, records or {})
    if issues:
        raise source.error(issues)


def _range_issues(recipe: Recipe) -> Iterator[Issue]:
    """Diffusion on images of a dataset that are not in [-1, 1]: it would run, and learn or restore badly."""
    read = {
        key
        for step in recipe.steps.values()
        for node in step.injectors.values()
        if node.needs_n1_to_1
        for key in node.reads().values()
    }
    for phase, dataset in recipe.datasets.items():
        if read & {"hq", "lq"} & dataset.provides() and not dataset.rgb_n1_to_1:
            message = "must be true: diffusion works on images in [-1, 1], and this dataset gives [0, 1]"
            yield Issue(("datasets", phase, "rgb_n1_to_1"), message)


def _output_issues(recipe: Recipe) -> Iterator[Issue]:
    """Outputs that no sampling injector writes, results that would share a folder, a scale that is not the data's."""
    nodes = {
        ("steps", step, "injectors", name): node.tiled
        for step, options in recipe.steps.items()
        for name, node in options.injectors.items()
        if node.tiled
    }
    written = sorted(node.out for node in nodes.values())
    least = recipe.output.least_pixels
    for phase, dataset in recipe.datasets.items():
        most = dataset.most_pixels
        if most is not None and least > most:
            way = "size" if recipe.output.size else "megapixels"
            message = f"{least / 1e6:.1f} megapixels are more than datasets.{phase}.max_pixels, {most}"
            yield Issue(("output", way), message)
    outputs = recipe.eval.output_state
    for key in (outputs,) if isinstance(outputs, str) else outputs or ():
        if key not in written:
            message = f"no sampling injector writes {key!r} (they write: {', '.join(written) or 'nothing'})"
            yield Issue(("eval", "output_state"), message)
    seen: dict[str, str] = {}
    for phase, dataset in recipe.datasets.items():
        if seen.setdefault(dataset.name, phase) != phase:
            yield Issue(
                ("datasets", phase, "name"), f"{dataset.name!r} is also the name of datasets.{seen[dataset.name]}"
            )
        for path, node in nodes.items():
            if node.model_input_keys.get("low_res") == "lq" and node.output_scale_factor != dataset.scale:
                message = f"is {node.output_scale_factor}, but datasets.{phase} makes lq at scale {dataset.scale}"
                yield Issue((*path, "output_scale_factor"), message)


def _pretrain_issues(recipe: Recipe, networks: Mapping[str, object]) -> Iterator[Issue]:
    for name in recipe.path.pretrain:
        if name not in networks:
            there = ", ".join(PRETRAIN + known for known in networks) or "none"
            yield Issue(("path", PRETRAIN + name), f"no network {name!r} is used (there are: {there})")


def _evaluator_issues(recipe: Recipe, networks: Mapping[str, DiffusionNetwork]) -> Iterator[Issue]:
    for name, evaluator in recipe.eval.evaluators.items():
        for issue in evaluator.problems(networks):
            yield Issue(("eval", "evaluators", name, *issue.path), issue.message)


def _sampling_step_issues(
    recipe: Recipe, networks: Mapping[str, DiffusionNetwork], records: Mapping[str, CheckpointMetadata]
) -> Iterator[Issue]:
    """Sampling that does not fit the process that a checkpoint records, this recipe trains or its options name."""
    nodes = all_nodes(recipe)
    trained = {name: record.process_options for name, record in records.items() if record.process_options}
    trained |= {name: process for _, node in nodes for name, process in node.processes().items()}
    for path, node in nodes:
        for issue in node.step_problems(networks, trained):
            yield Issue((*path, *issue.path), issue.message)
    for name, evaluator in recipe.eval.evaluators.items():
        params = evaluator.params
        if params is None or evaluator.for_network not in networks:
            continue
        network = evaluator.for_network
        for issue in step_problems(params, network, networks[network], trained.get(network)):
            yield Issue(("eval", "evaluators", name, "diffusion_params", *issue.path), issue.message)


def _strength_issues(recipe: Recipe, networks: Mapping[str, DiffusionNetwork]) -> Iterator[Issue]:
    """Strengths set for whole images, fewer than the network was trained with."""
    for phase, dataset in recipe.datasets.items():
        known = dataset.known_entropy
        for name, network in networks.items():
            wanted = network.strengths_told
            if known and len(known) < wanted:
                message = (
                    f"{name} was trained with {wanted} corruptions, found {len(known)} strengths; give one for each"
                )
                yield Issue(("datasets", phase, "fixed_parameters", "corruption_entropy"), message)


def _step_issues(path: KeyPath, step: StepOptions, recipe: Recipe) -> Iterator[Issue]:
    if not step.trained:
        yield Issue((*path, "training"), "missing; name the network that this step trains")
    if not step.losses:
        yield Issue((*path, "losses"), "missing; a training step needs a loss")
    for name in step.trained:
        if name not in recipe.networks:
            yield Issue((*path, "training"), f"no network {name!r} (there are: {', '.join(recipe.networks) or 'none'})")
        elif not recipe.networks[name].trainable:
            yield Issue((*path, "training"), f"{name} has trainable: false")


def _untrained_issues(recipe: Recipe) -> Iterator[Issue]:
    """Networks that look as if they learned, though no step trains them."""
    trained = {name for step in recipe.steps.values() for name in step.trained}
    for name, section in recipe.networks.items():
        if section.trainable and trained and name not in trained:
            message = "no step trains this network; set trainable: false to use it as it is, or name it in a step"
            yield Issue(("networks", name), message)


def networks_on(recipe: Recipe, key: str) -> set[str]:
    """The networks that are given an image of the size of this key of the data."""
    nodes = [node for _, node in all_nodes(recipe)]
    origin = {written: read for node in reversed(nodes) for written, read in node.same_size().items()}
    names = set()
    for network, image in ((name, given) for node in nodes for name, given in node.network_inputs().items()):
        seen = {image}
        while image in origin and origin[image] not in seen:
            image = origin[image]
            seen.add(image)
        if image == key:
            names.add(network)
    return names


def _size_issues(recipe: Recipe, networks: Mapping[str, DiffusionNetwork]) -> Iterator[Issue]:
    dataset: DatasetOptions = recipe.datasets["train"]
    target, scale = dataset.target_size, dataset.scale
    whole = networks_on(recipe, "hq")
    for name, network in networks.items():
        multiple = math.lcm(network.multiple_of, scale)
        if target and name in whole and (target % multiple or target < network.minimum_size):
            nearest = max(round(target / multiple), 1) * multiple
            message = (
                f"{name} needs a multiple of {multiple} (its patches and levels, and scale) and at least "
                f"{network.minimum_size}, found {target}; use {nearest}"
            )
            yield Issue(("datasets", "train", "target_size"), message)
        corruptions = network.num_strengths
        listed = dataset.num_strengths
        if corruptions is not None and listed != corruptions:
            message = (
                f"is {corruptions}, but datasets.train.fixed_corruptions lists {listed}; "
                "the network is fed one strength per fixed corruption"
            )
            yield Issue(("networks", name, "args", "num_corruptions"), message)
    if recipe.train and recipe.train.mega_batch_factor > dataset.batch_size:
        message = f"cannot split a batch of {dataset.batch_size} into {recipe.train.mega_batch_factor} parts"
        yield Issue(("train", "mega_batch_factor"), message)
