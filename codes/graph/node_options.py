"""Options of the parts of the graph: what each reads, writes and runs follows from them alone."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from ..config.fingerprint import TRAINING_ONLY
from ..config.options import FilePart, Options, nested
from ..config.yaml_source import Issue, KeyPath
from ..models.diffusion.networks.base import DiffusionNetwork
from ..models.diffusion.process_options import BetaScheduleOptions, DiffusionArgs, ProcessOptions
from ..models.diffusion.sampling_options import TilingOptions
from .loss_weight import Weight
from .switches import Switches, Timing


class NodeOptions(Options):
    """Options of a part of the graph: it knows from its options alone which keys it reads and writes."""

    def reads(self) -> dict[KeyPath, str]:
        """Where in these options a state key is named -> the key that is read."""
        return {}

    def writes(self) -> dict[KeyPath, str]:
        """Where in these options a state key is named -> the key that is written."""
        return {}

    def problems(self, networks: Mapping[str, DiffusionNetwork]) -> list[Issue]:  # noqa: ARG002
        """Contradictions between these options and the networks (on the meta device, no memory behind them)."""
        return []

    def step_problems(
        self,
        networks: Mapping[str, DiffusionNetwork],  # noqa: ARG002
        trained: Mapping[str, ProcessOptions],  # noqa: ARG002
    ) -> list[Issue]:
        """Steps of sampling that do not fit the processes that networks were trained under, by their names."""
        return []

    def same_size(self) -> dict[str, str]:
        """State keys of images that are written -> a key that is read, of the same height and width."""
        return {}

    def network_inputs(self) -> dict[str, str]:
        """Names of networks that it runs -> state key of an image of the size that the network is given."""
        return {}

    def networks(self) -> tuple[str, ...]:
        """Names of all networks that it runs."""
        return tuple(self.network_inputs())

    def conditioning(self) -> dict[str, str]:
        """Network argument -> state key that it is given: what `model_input_keys` says, where there is such a key."""
        return {str(path[-1]): key for path, key in self.reads().items() if path[-2:-1] == ("model_input_keys",)}

    def processes(self) -> dict[str, ProcessOptions]:
        """Names of networks -> the process that they are trained under; what their checkpoints record."""
        return {}

    def process_sections(self) -> dict[str, Options]:
        """The sections of a process that are written here, by their keys; others come from the checkpoint."""
        return {key: value for key, value in self if isinstance(value, BetaScheduleOptions | DiffusionArgs)}

    @property
    def tiled(self) -> "TiledOptions | None":
        """These options as those of an injector that makes images of any size, tile by tile, if it is one."""
        return None


class InjectorOptions(Switches, NodeOptions):
    """Options common to all injectors."""

    needs_n1_to_1: ClassVar[bool] = False  # whether the images that it reads must be in [-1, 1]
    type: str = Field(description="Which injector: its registered name.")
    train: bool = Field(False, description="Runs only in training, not in an evaluation or a test run.")
    eval: bool = Field(False, description="Runs only in an evaluation or a test run, not in training.")
    no_grad: Annotated[bool, TRAINING_ONLY] = Field(
        False, description="What it writes carries no gradient: nothing is learned through it."
    )

    @model_validator(mode="after")
    def _runs_somewhere(self) -> Self:
        if self.train and self.eval:
            raise nested([Issue(("eval",), "train: true and eval: true together never run; remove both to run always")])
        return self


class TiledOptions(InjectorOptions, TilingOptions):
    """Options of an injector that makes images of any size."""

    needs_n1_to_1: ClassVar[bool] = True

    generator: str | tuple[str, ...] = Field(description="Name of the network that makes the images.")
    output_batch_size: int | None = Field(
        None, ge=1, description="At most this many images of a batch are made; ~ makes all."
    )
    output_scale_factor: int = Field(1, ge=1, le=1024, description="Output pixels per pixel of low_res.")
    model_input_keys: dict[str, str] = Field({}, description="Network argument -> state key, e.g. low_res: hq.")
    undo_n1_to_1: bool = Field(False, description="Write the result in [0, 1] instead of [-1, 1].")
    out: FilePart = Field(description="State key of the images that are made, (B, C, H, W).")

    @property
    def tiled(self) -> Self:
        return self

    @property
    def generators(self) -> tuple[str, ...]:
        """The networks, in the order of the experts."""
        return (self.generator,) if isinstance(self.generator, str) else self.generator

    @property
    def restores(self) -> bool:
        """Whether the images are made from others."""
        return "low_res" in self.model_input_keys

    @property
    def scale(self) -> int:
        """Pixels of the result per pixel of what it is made from."""
        return self.output_scale_factor if self.restores else 1

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of images that are made from nothing, None for the network's own."""
        return None

    @property
    def one_noise(self) -> bool:
        """Whether all images start from the same noise."""
        return False

    @property
    def draws(self) -> bool:
        """Whether another sample of an image is another image."""
        return False

    @property
    def method(self) -> str:
        """How an image is made, in a few words."""
        raise NotImplementedError

    def method_under(self, processes: Mapping[str, Any]) -> str:  # noqa: ARG002 - some change with what was trained
        """The same of networks that were trained under these processes."""
        return self.method

    def reads(self) -> dict[KeyPath, str]:
        return {("model_input_keys", name): key for name, key in self.model_input_keys.items()}

    def writes(self) -> dict[KeyPath, str]:
        return {("out",): self.out}

    def networks(self) -> tuple[str, ...]:
        return self.generators

    def check_processes(self, processes: Mapping[str, Any]) -> None:
        """Raise ConfigError where these options do not go with the processes that the networks were trained under."""

    def in_one_step(self) -> Self:
        """The same in as little time as possible."""
        return self

    def to_unit_range(self, image: Tensor) -> Tensor:
        """What was written, in [0, 1]."""
        return torch.clamp(image if self.undo_n1_to_1 else (image + 1) / 2, 0, 1)


class LossOptions(Timing, NodeOptions):
    """Options common to all losses."""

    type: str = Field(description="Which loss: its registered name.")
    weight: Weight = Field(
        1.0,
        description="Factor of this loss in the sum that is minimised: a number, {start, end, from, to, shape}, or a "
        "list of [iteration, weight] between which it is interpolated.",
    )

    def remarks(self) -> Iterator[Issue]:
        if isinstance(self.weight, float | int) and self.weight <= 0:
            what = "the loss is made as large as it can be" if self.weight < 0 else "the loss changes nothing"
            yield Issue(("weight",), f"is {self.weight:g}: {what}")
