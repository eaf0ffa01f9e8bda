"""Networks of a recipe: as facts for the checks, as modules on a device, with weights from a file."""

import importlib.util
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..models.diffusion.checkpoints.metadata import (
    CheckpointMetadata,
    check_size,
    load_into,
    network_of,
    read_metadata,
)
from ..models.diffusion.checkpoints.shipped import shipped_names, weights_file
from ..models.diffusion.networks.base import NETWORKS, DiffusionNetwork
from ..models.diffusion.process_options import ProcessOptions
from ..runtime.experiment import Experiment
from ..utils.console import get_logger
from ..utils.errors import ConfigError
from ..utils.rng import torch_globals_at
from .recipe import NetworkSection, PathOptions, Recipe

logger = get_logger(__name__)


def network_options(section: NetworkSection, checkpointing: bool) -> Any:
    """The options of the architecture, with the recipe's `checkpointing_enabled`."""
    return section.args.model_copy(update={"use_checkpoint": True}) if checkpointing else section.args


def describe_networks(recipe: Recipe) -> dict[str, DiffusionNetwork]:
    """The networks on the meta device: their needs and sizes, no memory and no weights.

    Raises ConfigError for sizes of which no network can be built.
    """
    return {name: _described(name, recipe) for name in recipe.networks}


def _described(name: str, recipe: Recipe) -> DiffusionNetwork:
    section = recipe.networks[name]
    try:
        options = network_options(section, recipe.checkpointing_enabled)
        return check_size(NETWORKS.get(section.which_model_G), options)
    except ConfigError as error:
        raise ConfigError(f"networks.{name}.args: {error}") from None


def build_network(name: str, recipe: Recipe, seed: int, device: torch.device) -> DiffusionNetwork:
    """A network with fresh weights that depend on (seed, name) alone; a frozen one stays in evaluation mode."""
    section = recipe.networks[name]
    _described(name, recipe)  # before any memory is asked for
    with torch_globals_at("cpu", seed, "network", name):
        network = NETWORKS.get(section.which_model_G)(network_options(section, recipe.checkpointing_enabled))
    network.requires_grad_(section.trainable)
    return place(network, device).train(section.trainable)


def place(network: DiffusionNetwork, device: torch.device) -> DiffusionNetwork:
    """On the device, convolutions in channels_last where that is the fast layout."""
    network = network.to(device)
    if device.type != "mps":
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack this form
    return network


@dataclass(frozen=True)
class Trained:
    """A network with trained weights, and what its checkpoint says of the process."""

    network: DiffusionNetwork
    process: ProcessOptions | None
    file: Path
    metadata: CheckpointMetadata | None = None


def find_weights(name: str, recipe: Recipe) -> Path:
    """The checkpoint that `path` names for a network. Raises ConfigError when it names none."""
    path: PathOptions = recipe.path
    named = path.pretrain.get(name)
    if named is None:
        raise ConfigError(
            f"path.pretrain_model_{name}: missing; name a checkpoint file, weights that come "
            f"with the project ({', '.join(shipped_names())}), or `auto` for the newest of path.experiment"
        )
    if named == "auto":
        return Experiment.find(path.experiment or recipe.name).newest_weights(name)
    if named == "best":
        return Experiment.find(path.experiment or recipe.name).best_weights(name)
    try:
        return weights_file(named)
    except ConfigError as error:
        raise ConfigError(f"path.pretrain_model_{name}: {error}") from None


def load_trained(name: str, recipe: Recipe, device: torch.device) -> Trained:
    """A network for a test run: built from the recipe's `networks`, else from what its checkpoint records."""
    file = find_weights(name, recipe)
    metadata = read_metadata(file)
    if name in recipe.networks:
        network = build_network(name, recipe, 0, torch.device("cpu"))
    elif metadata is not None:
        network = network_of(metadata)
    else:
        raise ConfigError(
            f"{file}: does not say what network it holds; add networks.{name} to the recipe "
            f"(`python codes/scripts/inspect_checkpoint.py {file}` writes that block)"
        )
    load_into(network, file, strict=recipe.path.strict_load)
    kind = "EMA weights" if holds_averages(file, metadata) else "weights (not averaged)"
    size = sum(parameter.numel() for parameter in network.parameters())
    process = metadata.process_options if metadata else None
    student = process.student if process else None
    nature = "" if student is None else f", distilled: one step at sigma {student.sigma:g}, whatever steps are set"
    logger.info("%s: %s from %s, %.1f M parameters%s", name, kind, file, size / 1e6, nature)
    place(network, device).eval().requires_grad_(False)
    if recipe.compile:
        compile_network(network, device)
    return Trained(network, process, file, metadata)


def compile_network(network: DiffusionNetwork, device: torch.device) -> None:
    """Have a network compiled on its first call, forward and backward; the names of its weights stay.

    Raises ConfigError where what torch.compile needs for the device is missing, before anything is started.
    """
    if device.type == "cpu":
        names = {"darwin": "clang++", "win32": "cl"}
        compiler = os.environ.get("CXX") or names.get(sys.platform, "g++")
        if shutil.which(compiler) is None:
            raise ConfigError(
                f"compile: true needs a C++ compiler on a CPU, and {compiler} is not there; "
                "install one, name it in the environment variable CXX, or leave compile out"
            )
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise ConfigError("compile: true needs the package triton on CUDA; install it, or leave compile out")
    network.compile()


def holds_averages(file: Path, metadata: CheckpointMetadata | None) -> bool:
    """Whether a file holds averaged weights: its metadata say it, else its name."""
    return metadata.kind == "ema" if metadata else "ema" in file.stem


def load_pretrained(name: str, network: DiffusionNetwork, recipe: Recipe) -> None:
    """Start a training run from the weights that `path` names, if it names some."""
    if name in recipe.path.pretrain:
        file = find_weights(name, recipe)
        load_into(network, file, strict=recipe.path.strict_load)
        logger.info("%s: starts from %s", name, file)
