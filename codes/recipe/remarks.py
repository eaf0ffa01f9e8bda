"""What in a recipe is not wrong but hardly meant: one located warning each, and the run goes on."""

from collections.abc import Iterator

from ..config.effect import without_effect
from ..config.yaml_source import Issue, Source
from ..runtime.devices import choose_device
from ..utils.console import get_logger
from .checks import networks_on
from .graph_checks import all_nodes
from .recipe import Recipe

logger = get_logger(__name__)


def warn_of(recipe: Recipe, source: Source) -> None:
    """Log a warning, with file and line, of every option without effect and of every odd value."""
    issues = [*remarks_of(recipe)]
    if issues:
        for line in str(source.error(issues)).splitlines():
            logger.warning("%s", line)


def remarks_of(recipe: Recipe) -> Iterator[Issue]:
    """Everything in a recipe that is accepted though it does nothing, or not what it seems to."""
    yield from without_effect(recipe)
    yield from _unused_networks(recipe)
    yield from _sizes(recipe)
    yield from _same_samples(recipe)
    yield from _precision(recipe)
    yield from _seeds(recipe)
    yield from _scales(recipe)
    yield from _data_of_tests(recipe)
    yield from _experiment(recipe)


def _unused_networks(recipe: Recipe) -> Iterator[Issue]:
    nodes = [node for _, node in all_nodes(recipe)]
    used = {name for node in nodes for name in node.networks()}
    used |= {name for step in recipe.steps.values() for name in step.trained}
    used |= {name for evaluator in recipe.eval.evaluators.values() for name in evaluator.network_names()}
    for name in recipe.networks:
        if name not in used and recipe.steps:
            yield Issue(("networks", name), "nothing in steps or eval uses this network")


def _sizes(recipe: Recipe) -> Iterator[Issue]:
    """The size of training, by which tiles are cut later, unlike that of the tiles it is trained on."""
    if recipe.train is None or "train" not in recipe.datasets:
        return
    target = recipe.datasets["train"].target_size
    whole = networks_on(recipe, "hq")
    for name, section in recipe.networks.items():
        size = section.args.image_size
        if target and name in whole and size != target:
            message = f"is {size}, but datasets.train.target_size is {target}: restoring cuts tiles of image_size"
            yield Issue(("networks", name, "args", "image_size"), message)


def _same_samples(recipe: Recipe) -> Iterator[Issue]:
    """Several results of one image from sampling in which nothing is drawn."""
    nodes = [node.tiled for _, node in all_nodes(recipe) if node.tiled]
    nothing_drawn = [not node.draws for node in nodes]
    if recipe.output.num_samples > 1 and nodes and all(nothing_drawn):
        message = "but sampling draws no noise here (eta, temperature, noise_type), so all are the same"
        yield Issue(("output", "num_samples"), f"is {recipe.output.num_samples}, {message}")


def _precision(recipe: Recipe) -> Iterator[Issue]:
    if recipe.arithmetic == "fp16" and choose_device(recipe.device, recipe.gpu_ids).type == "cpu":
        yield Issue(("fp16",) if recipe.fp16 else ("precision",), "fp16 is for GPUs; on a CPU it is slower than fp32")
    if recipe.gpu_ids and recipe.device == "cpu":
        yield Issue(("gpu_ids",), f"is {list(recipe.gpu_ids)}, but device is cpu")


def _seeds(recipe: Recipe) -> Iterator[Issue]:
    own = recipe.train.manual_seed if recipe.train and "manual_seed" in recipe.train.model_fields_set else None
    if own is not None and recipe.seed is not None and own != recipe.seed:
        yield Issue(("train", "manual_seed"), f"is {own}, but seed is {recipe.seed}, and that counts")


def _scales(recipe: Recipe) -> Iterator[Issue]:
    """A scale that is named and not what the results of a test run are enlarged by."""
    nodes = [node.tiled for _, node in all_nodes(recipe) if node.tiled]
    factors = {node.output_scale_factor for node in nodes if node.restores}
    if (
        "scale" in recipe.model_fields_set
        and recipe.train is None
        and len(factors) == 1
        and recipe.scale not in factors
    ):
        yield Issue(("scale",), f"is {recipe.scale}, but output_scale_factor is {factors.pop()}, and that counts")


def _data_of_tests(recipe: Recipe) -> Iterator[Issue]:
    """How batches of training are made, said of data that no training reads."""
    for phase, options in recipe.datasets.items():
        for key in ("batch_size", "n_workers", "loader_timeout"):
            if phase != "train" and key in options.model_fields_set:
                yield Issue(("datasets", phase, key), "has no effect here: it is for datasets.train")


def _experiment(recipe: Recipe) -> Iterator[Issue]:
    if recipe.path.experiment and not {"auto", "best"} & set(recipe.path.pretrain.values()):
        yield Issue(("path", "experiment"), "has no effect here: no weights are `auto` or `best`, which look into it")
