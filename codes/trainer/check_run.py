"""`train.py --check`: everything that can be known before a run starts, in a few lines."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch

from ..config.yaml_source import Source
from ..data.datasets import DATASETS
from ..evaluation.evaluators.base import build_evaluators
from ..models.diffusion.networks.base import DiffusionNetwork
from ..recipe.checks import check_training
from ..recipe.graph_checks import never_running
from ..recipe.networks import find_weights
from ..recipe.recipe import Recipe
from ..runtime.devices import choose_device
from ..runtime.experiment import Experiment
from ..utils.console import get_logger
from ..utils.errors import EXIT_OK, DataError
from .saving.resuming import find_states

logger = get_logger(__name__)
SAMPLE_ITEMS = 4
STATES_OF_ADAM = 2


def check_run(recipe: Recipe, source: Source) -> int:
    """Check recipe, graph and data; log network sizes, steps and disk needed. Raises ConfigError or DataError."""
    networks = check_training(recipe, source)
    assert recipe.train is not None
    logger.info("recipe %s: every option is known and the graph fits together", source.file)
    for name, network in networks.items():
        _show_network(name, network)
    for name in recipe.path.pretrain:
        logger.info("network %s: would start from %s", name, find_weights(name, recipe))
    find_states(recipe, Experiment.named(recipe.name), auto_resume=False)
    for phase, options in recipe.datasets.items():
        _read_some(
            f"datasets.{phase}",
            DATASETS.get(options.mode)(options, seed=recipe.seed_in_use, shuffle=phase == "train"),
        )
    for name, evaluator in recipe.eval.evaluators.items():
        held_out = evaluator.held_out
        if held_out is not None:
            _read_some(f"eval.evaluators.{name}.dataset", DATASETS.get(held_out.mode)(held_out, seed=0, shuffle=False))
    build_evaluators(recipe.eval.evaluators, source)
    for line in never_running(recipe):
        logger.warning("%s", line)
    batch = recipe.datasets["train"].batch_size
    logger.info(
        "steps: %d iterations of %d images, in %d parts of %d; device %s, %s",
        recipe.train.niter, batch, recipe.train.mega_batch_factor, -(-batch // recipe.train.mega_batch_factor),
        choose_device(recipe.device, recipe.gpu_ids), recipe.arithmetic,
    )  # fmt: skip
    _show_disk(recipe, networks)
    return EXIT_OK


def _show_network(name: str, network: DiffusionNetwork) -> None:
    count = sum(parameter.numel() for parameter in network.parameters())
    logger.info(
        "network %s: %.1f M parameters, images in multiples of %d pixels, takes %s",
        name, count / 1e6, network.multiple_of, ", ".join(sorted(network.cond_names)) or "no conditioning",
    )  # fmt: skip


def _read_some(place: str, dataset: object) -> None:
    """Report the dataset and read a few of its items, shapes and ranges included."""
    for line in dataset.report().lines():  # type: ignore[attr-defined]
        logger.info("%s", line)
    count = min(SAMPLE_ITEMS, len(dataset))  # type: ignore[arg-type]
    for position in range(count):
        item = dataset.item(position)  # type: ignore[attr-defined]
        if position == 0:
            shown = [
                f"{key} {tuple(value.shape)} in [{value.min():.2f}, {value.max():.2f}]"
                for key, value in item.items()
                if isinstance(value, torch.Tensor) and value.numel()
            ]
            logger.info("%s: the first item has %s", place, ", ".join(shown))
        for key, value in item.items():
            if isinstance(value, torch.Tensor) and not torch.isfinite(value).all():
                raise DataError(f"{place}: {item['HQ_path']}: {key} holds values that are not finite")


def _show_disk(recipe: Recipe, networks: dict[str, DiffusionNetwork]) -> None:
    """Weights, averaged weights and two moments of Adam, 4 bytes a parameter, for every checkpoint that is kept."""
    assert recipe.train is not None
    trained = {name for step in recipe.steps.values() for name in step.trained}
    numbers = 0
    for name, network in networks.items():
        count = sum(parameter.numel() for parameter in network.parameters())
        numbers += count * (2 + STATES_OF_ADAM if name in trained else 1)
    kept = -(-recipe.train.niter // recipe.logger.save_checkpoint_freq)
    if recipe.logger.keep_last is not None:
        # One more than is kept, because the old one goes only after the new one is written.
        for_ever = recipe.train.niter // recipe.logger.keep_every if recipe.logger.keep_every else 0
        kept = min(kept, recipe.logger.keep_last + 1 + for_ever)
    needed = 4 * numbers * kept + _snapshot_bytes(recipe, {name: networks[name] for name in trained})
    root = Experiment.named(recipe.name).root
    place = next(parent for parent in (root, *root.parents, Path()) if parent.exists())
    free = shutil.disk_usage(place).free
    say = logger.info if needed < free else logger.warning
    say(
        "disk: %d checkpoints of %.2f GB%s need %.2f GB, %.2f GB are free%s",
        kept, 4 * numbers / 1e9, " and the snapshots" if recipe.train.post_hoc_ema else "", needed / 1e9, free / 1e9,
        "" if needed < free else "; set logger.keep_last or a larger save_checkpoint_freq",
    )  # fmt: skip


def _snapshot_bytes(recipe: Recipe, trained: Mapping[str, DiffusionNetwork]) -> int:
    """What the snapshots of `train.post_hoc_ema` take up at the end of the run."""
    assert recipe.train is not None
    options = recipe.train.post_hoc_ema
    if options is None:
        return 0
    count = sum(parameter.numel() for network in trained.values() for parameter in network.parameters())
    snapshots = -(-recipe.train.niter // options.every) * len(options.sigma_rel)
    return count * snapshots * (2 if options.dtype == "fp16" else 4)
