"""One-step students of Tessera as an architecture of spandrel."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
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
from tessera.models.diffusion.checkpoints.families import Recognised, recognise
from tessera.models.diffusion.checkpoints.metadata import build, read_metadata
from tessera.models.diffusion.checkpoints.shipped import weights_file
from tessera.models.diffusion.process_options import DiffusionArgs, ProcessOptions, StudentOptions
from torch import Tensor, nn

__all__ = ["Student", "TesseraStudentArch", "load", "register"]

SCALE = 2
STRENGTH = 0.2
# As recipes/diffusion/distill_sr.yml trains; a state dict does not say it.
PROCESS = ProcessOptions(
    diffusion_args=DiffusionArgs(model_mean_type="residual", model_var_type="fixed_small"),
    student=StudentOptions(sigma=0.45, temperature_max=0.6),
)
BICUBIC = {"low_res_upsampling": "bicubic"}


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
    """Detects and loads students by the names and shapes of their weights."""

    def __init__(self, scale: int = SCALE, process: ProcessOptions = PROCESS, options: Mapping[str, Any] = BICUBIC):
        super().__init__(id="TesseraStudent", name="Tessera one-step student", detect=_detect)
        self.scale, self.process, self.options = scale, process, options

    def load(self, state_dict: dict[str, Any]) -> ImageModelDescriptor[Student]:
        """Options that shapes do not tell are those of recipes/diffusion/distill_sr.yml."""
        recognised = recognise(state_dict)
        assert recognised is not None, "not detected"
        network = build(recognised.which_model, {**recognised.options, **self.options})
        graph = StudentGraph(network, self.process, self.scale)
        channels = network.in_channels
        return ImageModelDescriptor(
            Student(graph, getattr(network.options, "num_corruptions", None) or 0),
            {f"graph.network.{name}": value for name, value in state_dict.items()},
            architecture=self,
            purpose="SR" if self.scale > 1 else "Restoration",
            tags=["one step", f"{sum(value.numel() for value in network.parameters()) / 1e6:.1f}M"],
            supports_half=True,
            supports_bfloat16=True,
            scale=self.scale,
            input_channels=channels,
            output_channels=channels,
            size_requirements=SizeRequirements(multiple_of=graph.align // self.scale),
            tiling=ModelTiling.SUPPORTED,
        )


def register() -> None:
    """Add the architecture to spandrel's registry, once."""
    MAIN_REGISTRY.add(ArchSupport.from_architecture(TesseraStudentArch()), ignore_duplicates=True)


def load(named: str | Path) -> ImageModelDescriptor[Student]:
    """A student by its file, or by the name of weights that come with Tessera, as its file describes it.

    Raises ConfigError for a file that is no student's.
    """
    file = weights_file(named)
    record = read_metadata(file)
    process = record.process_options if record else None
    if record is None or process is None or process.student is None or record.scale is None:
        raise ConfigError(f"{file}: is no one-step student; distil it by recipes/diffusion/distill_sr.yml")
    arch = TesseraStudentArch(record.scale, process, record.network)
    return arch.load(ModelLoader().load_state_dict_from_file(file))


def _detect(state_dict: Mapping[str, Any]) -> bool:
    """A U-Net of ours or of DL-Art-School that takes a low resolution, answers with an image and knows no classes."""
    if not all(isinstance(value, Tensor) for value in state_dict.values()):
        return False
    recognised = recognise(state_dict)
    return recognised is not None and _is_restorer(recognised)


def _is_restorer(recognised: Recognised) -> bool:
    options = recognised.options
    takes_image = "num_corruptions" in options or options.get("low_res_conditioning", False)
    return takes_image and options["in_channels"] == options["out_channels"] == 3 and "num_classes" not in options
