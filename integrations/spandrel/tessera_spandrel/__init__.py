"""One-step students of Tessera as an architecture of spandrel.

spandrel hands over a state dict and nothing of what the file says of itself, and the shapes of a student are those of
its teacher, whose one step overshoots. So a student carries its record among its weights, as a tensor of the bytes of
its JSON (`export` writes such a file); those that come with Tessera are known by their weights.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from spandrel import (
    MAIN_REGISTRY,
    Architecture,
    ArchSupport,
    ImageModelDescriptor,
    ModelLoader,
    ModelTiling,
    SizeRequirements,
)
from tessera import ConfigError
from tessera.inference.export.graphs import StudentGraph
from tessera.models.diffusion.checkpoints.families import recognise
from tessera.models.diffusion.checkpoints.files import read_weights, write_weights
from tessera.models.diffusion.checkpoints.metadata import CheckpointMetadata, network_of, read_metadata
from tessera.models.diffusion.checkpoints.shipped import shipped_names, weights_file
from tessera.models.diffusion.process_options import ProcessOptions
from torch import Tensor, nn

__all__ = ["Student", "TesseraStudentArch", "export", "load", "register"]

RECORD = "tessera.record"  # uint8: the text of what the checkpoint records of itself
FINGERPRINT = "out.2.weight"  # by which the students that come with Tessera are told
STRENGTH = 0.2


class Student(nn.Module):
    """A student that takes an image and nothing else: (B, 3, h, w) in [0, 1] -> (B, 3, H, W).

    strengths: (K,), told for every image; assign another tensor to change them. The noise is none (temperature 0).
    """

    strengths: Tensor

    def __init__(self, graph: StudentGraph, count: int) -> None:
        super().__init__()
        self.graph = graph
        self.register_buffer("strengths", torch.full((count,), STRENGTH), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """In the precision of the image; x_t and the schedule are float32."""
        large = [side * self.graph.scale for side in image.shape[-2:]]
        noise = torch.zeros(*image.shape[:2], *large, device=image.device)
        told = self.strengths.float().expand(len(image), -1) if len(self.strengths) else None
        restored = self.graph(image.float(), told, noise, torch.zeros(1, device=image.device))
        return restored.to(image.dtype)


class TesseraStudentArch(Architecture[Student]):
    """Detects and loads students by the record among their weights, or by weights that come with Tessera."""

    def __init__(self) -> None:
        super().__init__(id="TesseraStudent", name="Tessera one-step student", detect=_detect)

    def load(self, state_dict: dict[str, Any]) -> ImageModelDescriptor[Student]:
        """A student as its record says: network, process, scale. Raises ConfigError for weights without one."""
        record = _record_of(state_dict)
        if record is None:
            raise ConfigError(f"these weights record no one-step student; {EXPORT}")
        return self.described(state_dict, record)

    def described(self, state_dict: Mapping[str, Tensor], record: CheckpointMetadata) -> ImageModelDescriptor[Student]:
        """The same with what is known of it. Raises ConfigError for a network that is no student."""
        process = _checked(record)
        network, scale = network_of(record), record.scale or 1
        graph = StudentGraph(network, process, scale)
        return ImageModelDescriptor(
            Student(graph, network.strengths_told),
            {f"graph.network.{name}": value for name, value in state_dict.items() if name != RECORD},
            architecture=self,
            purpose="SR" if scale > 1 else "Restoration",
            tags=["one step", f"{sum(value.numel() for value in network.parameters()) / 1e6:.1f}M"],
            supports_half=True,
            supports_bfloat16=True,
            scale=scale,
            input_channels=network.in_channels,
            output_channels=network.in_channels,
            size_requirements=SizeRequirements(multiple_of=graph.align // scale),
            tiling=ModelTiling.SUPPORTED,
        )


EXPORT = "a student's file is written by tessera_spandrel.export, and distilled by recipes/diffusion/distill_sr.yml"


def register() -> None:
    """Add the architecture to spandrel's registry, once."""
    MAIN_REGISTRY.add(ArchSupport.from_architecture(TesseraStudentArch()), ignore_duplicates=True)


def export(named: str | Path, target: str | Path) -> Path:
    """Write a student, by its file or by the name of weights that come with Tessera, as a file that spandrel detects.

    The weights with their record as one more tensor. Raises ConfigError for a file that is no student's.
    """
    file, target = weights_file(named), Path(target)
    if target.suffix != ".safetensors":
        raise ConfigError(f"{target}: expected a name that ends in .safetensors")
    record = read_metadata(file)
    if record is None:
        raise ConfigError(f"{file}: does not say what it holds; {EXPORT}")
    _checked(record)
    text = json.dumps(record.to_strings()).encode()
    tensor = torch.from_numpy(np.frombuffer(text, np.uint8).copy())
    write_weights(target, {**read_weights(file).state_dict, RECORD: tensor}, {})
    return target


def load(named: str | Path) -> ImageModelDescriptor[Student]:
    """A student by its file, or by the name of weights that come with Tessera, as its file describes it.

    Raises ConfigError for a file that is no student's.
    """
    file = weights_file(named)
    state_dict = ModelLoader().load_state_dict_from_file(file)
    record = read_metadata(file) or _record_of(state_dict)
    if record is None:
        raise ConfigError(f"{file}: does not say what it holds; {EXPORT}")
    return TesseraStudentArch().described(state_dict, record)


def _checked(record: CheckpointMetadata) -> ProcessOptions:
    """The process of a student. Raises ConfigError for another network."""
    process = record.process_options
    if process is None or process.student is None or record.scale is None:
        raise ConfigError(f"{record.place}: is no one-step student; {EXPORT}")
    return process


def _detect(state_dict: Mapping[str, Any]) -> bool:
    """A student, not its teacher, nor another network of the same shapes."""
    if not all(isinstance(value, Tensor) for value in state_dict.values()):
        return False
    try:
        record = _record_of(state_dict)
        return record is not None and bool(_checked(record))
    except ConfigError:
        return False


def _record_of(state_dict: Mapping[str, Tensor]) -> CheckpointMetadata | None:
    """What a state dict says of itself, or the file that comes with Tessera and holds these weights."""
    if RECORD in state_dict:
        return _decoded(state_dict[RECORD])
    if recognise(state_dict) is None:
        return None
    return next((read_metadata(file) for file in map(weights_file, shipped_names()) if _same(state_dict, file)), None)


def _decoded(tensor: Tensor) -> CheckpointMetadata:
    """Raises ConfigError for a record that is damaged."""
    try:
        text = json.loads(bytes(tensor.to(torch.uint8).tolist()))
    except ValueError as error:
        raise ConfigError(f"{RECORD} is damaged ({error}); export the student again") from None
    record = CheckpointMetadata.from_strings(text) if isinstance(text, dict) else None
    if record is None:
        raise ConfigError(f"{RECORD} is no record of a checkpoint; export the student again")
    return record


def _same(state_dict: Mapping[str, Tensor], file: Path) -> bool:
    """Whether these are the weights of a file: by their names, and the values of the last layer."""
    try:
        with safe_open(file, "pt") as stored:
            if set(stored.keys()) != set(state_dict):
                return False
            own = state_dict[FINGERPRINT]
            theirs = stored.get_tensor(FINGERPRINT)
    except (SafetensorError, OSError):
        return False
    return own.shape == theirs.shape and torch.equal(own.float().cpu(), theirs.float())
