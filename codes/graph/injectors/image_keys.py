"""What injectors that turn images into images have in common: their keys, and errors that name them."""

from typing import Any

from pydantic import Field
from torch import Tensor

from ...config.yaml_source import KeyPath
from ...utils.errors import ConfigError
from ..graph import State
from ..node_options import InjectorOptions


class OneImageOptions(InjectorOptions):
    """Options of an injector that makes one image of one image."""

    in_key: str = Field(validation_alias="in", description="State key of the images that are read, (B, C, H, W).")
    out: str = Field(description="State key of the images that are written.")

    def reads(self) -> dict[KeyPath, str]:
        return {("in",): self.in_key}

    def writes(self) -> dict[KeyPath, str]:
        return {("out",): self.out}


def image_of(state: State, key: str, reader: str) -> Tensor:
    """The images (B, C, H, W) under a key. Raises ConfigError that names the reader when there is something else."""
    value: Any = state[key]
    if not isinstance(value, Tensor) or value.ndim != 4:
        held = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise ConfigError(f"{reader}: the state key {key!r} holds {held}, expected images (B, C, H, W) in memory")
    return value
