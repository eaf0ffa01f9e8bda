"""What must fit together before images are generated, and which class each of them has."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ...config.yaml_source import Issue, KeyPath, Source
from ...graph.node_options import TiledOptions
from ...models.diffusion.checkpoints.metadata import CheckpointMetadata
from ...models.diffusion.networks.base import DiffusionNetwork
from ...recipe.checks import check_inference
from ...recipe.class_list import ClassList, classes_beside, read_class_names
from ...recipe.generation_options import RANDOM, GenerationOptions
from ...recipe.graph_checks import flow_issues
from ...recipe.recipe import Recipe
from ...utils.errors import ConfigError
from ...utils.rng import numpy_generator

SECTIONS = {
    "datasets": "generation starts from nothing; remove this section, or `generate`",
    "output": "is for restored images; generated ones are PNG files. Remove this section",
}


def sampling_nodes(recipe: Recipe) -> dict[KeyPath, TiledOptions]:
    """The injectors that sample in a test run, by key path."""
    return {
        ("steps", name, "injectors", key): node.tiled
        for name, step in recipe.steps.items()
        for key, node in step.injectors.items()
        if node.tiled and not node.train
    }


def check_generation(
    recipe: Recipe,
    source: Source,
    networks: Mapping[str, DiffusionNetwork],
    classes: ClassList | None,
    records: Mapping[str, CheckpointMetadata] | None = None,
) -> None:
    """Raise ConfigError for every contradiction of a recipe with `generate`, given its networks and their classes.

    `records`: what their checkpoints record.
    """
    assert recipe.generate is not None
    try:
        check_inference(recipe, source, networks, records)
        issues: list[Issue] = []
    except ConfigError as error:
        issues = [*error.issues]
    provided = {} if classes is None else {"y": "generate.classes"}
    issues += flow_issues(recipe, networks, provided, training=False)
    issues += [Issue((key,), message) for key, message in SECTIONS.items() if key in recipe.model_fields_set]
    if recipe.eval.evaluators:
        issues.append(Issue(("eval", "evaluators"), "generation measures nothing; remove this section, or `generate`"))
    issues += _output_issues(recipe)
    for path, node in sampling_nodes(recipe).items():
        issues += [Issue((*path, *issue.path), issue.message) for issue in _node_issues(node, networks)]
    issues += _class_issues(recipe.generate, classes)
    if issues:
        raise source.error(issues)


def _output_issues(recipe: Recipe) -> Iterator[Issue]:
    written = [node.out for node in sampling_nodes(recipe).values()]
    named = recipe.eval.output_state
    count = len(written) if named is None else 1 if isinstance(named, str) else len(named)
    if not written:
        message = "no injector gaussian_diffusion_inference samples anything; generation needs one"
        yield Issue(("steps",), message)
    elif count != 1:
        yield Issue(("eval", "output_state"), f"generation writes one result; name one of {', '.join(written)}")


def _node_issues(node: TiledOptions, networks: Mapping[str, DiffusionNetwork]) -> Iterator[Issue]:
    if node.canvas == "disk":
        yield Issue(("canvas",), "disk is for restoring large images; generated ones are held in memory, use ram")
    if node.output_batch_size is not None:
        yield Issue(("output_batch_size",), "would leave samples out; set generate.batch_size instead")
    for name in node.generators:
        if name in networks and "y" in networks[name].cond_names and "y" not in node.model_input_keys:
            yield Issue(("model_input_keys",), f"{name} was trained with classes and needs one; add y: y")
        if name in networks and networks[name].in_channels != 3:
            channels = networks[name].in_channels
            yield Issue(("generator",), f"samples are written as RGB, but {name} makes {channels} channels")


def _class_issues(options: GenerationOptions, classes: ClassList | None) -> Iterator[Issue]:
    if classes is None:
        for name in ("classes", "class_names"):
            if getattr(options, name) is not None:
                message = (
                    "no sampling injector gives the network a class; add model_input_keys: {y: y} to it (for a network "
                    "with num_classes), or remove this key"
                )
                yield Issue(("generate", name), message)
        return
    if len(classes.names) > classes.count:
        message = f"names {len(classes.names)} classes, but the network has {classes.count}"
        yield Issue(("generate", "class_names"), message)
    for index, wanted in enumerate(options.wanted or ()):
        try:
            classes.index(wanted)
        except ValueError as error:
            inner: KeyPath = (index,) if isinstance(options.classes, tuple) else ()
            yield Issue(("generate", "classes", *inner), str(error))


def find_classes(
    recipe: Recipe, networks: Mapping[str, DiffusionNetwork], weights: Mapping[str, Path]
) -> ClassList | None:
    """The classes of the networks that are told one, with the names that are known; None where none is.

    Raises ConfigError for a file of names that cannot be read.
    """
    assert recipe.generate is not None
    told = [
        name
        for node in sampling_nodes(recipe).values()
        for name in node.generators
        if "y" in node.model_input_keys and name in networks
    ]
    counts = [count for name in told if (count := networks[name].num_classes) is not None]
    if not counts:
        return None
    named = recipe.generate.class_names
    if named is not None:
        return ClassList(min(counts), read_class_names(Path(named)))
    beside = (classes_beside(weights[name]) for name in told)
    return ClassList(min(counts), next((names for names in beside if names), ()))


def class_labels(options: GenerationOptions, classes: ClassList, seed: int) -> npt.NDArray[np.int64]:
    """The class of every sample, (M,): the named ones in turn, or drawn from (seed, number of the sample)."""
    known = len(classes.names) or classes.count
    numbers = range(options.num_samples)
    if options.classes == RANDOM:
        drawn = [int(numpy_generator(seed, "class", number).integers(known)) for number in numbers]
        return np.array(drawn, dtype=np.int64)
    wanted = range(known) if options.wanted is None else [classes.index(name) for name in options.wanted]
    return np.array([wanted[number % len(wanted)] for number in numbers], dtype=np.int64)
