"""Injectors that move state keys about: `direct` copies them, `concatenate` joins them."""

from typing import Any, Self

import torch
from pydantic import Field, model_validator

from ...config.options import nested
from ...config.yaml_source import Issue, KeyPath
from ...utils.errors import ConfigError
from ..graph import INJECTORS, Injector, State, StepContext
from ..node_options import InjectorOptions


def as_tuple(keys: str | tuple[str, ...]) -> tuple[str, ...]:
    """One key or several, as several."""
    return (keys,) if isinstance(keys, str) else keys


def paths_of(option: str, keys: str | tuple[str, ...]) -> dict[KeyPath, str]:
    """Where in the options the keys stand -> the keys."""
    return {(option,): keys} if isinstance(keys, str) else {(option, index): key for index, key in enumerate(keys)}


class DirectOptions(InjectorOptions):
    """Options of `direct`."""

    in_key: str | tuple[str, ...] = Field(validation_alias="in", description="State key, or keys, to copy.")
    out: str | tuple[str, ...] = Field(description="Their names in the state from here on; as many as `in`.")

    @model_validator(mode="after")
    def _as_many(self) -> Self:
        read, written = len(as_tuple(self.in_key)), len(as_tuple(self.out))
        if read != written:
            raise nested([Issue(("out",), f"names {written} keys, but `in` names {read}; give one for each")])
        return self

    def reads(self) -> dict[KeyPath, str]:
        return paths_of("in", self.in_key)

    def writes(self) -> dict[KeyPath, str]:
        return paths_of("out", self.out)

    def same_size(self) -> dict[str, str]:
        return dict(zip(as_tuple(self.out), as_tuple(self.in_key), strict=True))


@INJECTORS.register("direct")
class DirectInjector(Injector):
    """The same values under other keys, whatever they are."""

    Options = DirectOptions
    on_device = False

    def __init__(self, options: DirectOptions) -> None:
        self.options = options

    def __call__(self, state: State, context: StepContext) -> dict[str, Any]:  # noqa: ARG002
        return {out: state[key] for out, key in self.options.same_size().items()}


class ConcatenateOptions(InjectorOptions):
    """Options of `concatenate`."""

    in_keys: tuple[str, ...] = Field(
        validation_alias="in", min_length=2, description="State keys of tensors (B, C, ...) that differ in C alone."
    )
    out: str = Field(description="State key of their channels one after the other.")

    def reads(self) -> dict[KeyPath, str]:
        return paths_of("in", self.in_keys)

    def writes(self) -> dict[KeyPath, str]:
        return {("out",): self.out}

    def same_size(self) -> dict[str, str]:
        return {self.out: self.in_keys[0]}


@INJECTORS.register("concatenate")
class ConcatenateInjector(Injector):
    """Joins tensors along their channels, in the order of the recipe."""

    Options = ConcatenateOptions

    def __init__(self, options: ConcatenateOptions) -> None:
        self.options = options

    def __call__(self, state: State, context: StepContext) -> dict[str, Any]:  # noqa: ARG002
        values = [state[key] for key in self.options.in_keys]
        frames = [value.shape[:1] + value.shape[2:] for value in values]
        if any(frame != frames[0] for frame in frames):
            shapes = ", ".join(f"{k} {tuple(v.shape)}" for k, v in zip(self.options.in_keys, values, strict=True))
            raise ConfigError(
                f"concatenate {self.options.out}: the sizes differ beside the channels ({shapes}); "
                "bring them to one size with `interpolate`, `crop` or `pad`"
            )
        return {self.options.out: torch.cat(values, dim=1)}
