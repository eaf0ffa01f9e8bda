"""Resizing images of the state."""

from typing import Any, Literal, Self

import torch.nn.functional as F
from pydantic import Field, model_validator

from ...config.options import nested
from ...config.yaml_source import Issue, KeyPath
from ..graph import INJECTORS, Injector, State, StepContext
from .image_keys import OneImageOptions, image_of

SMOOTH = ("bilinear", "bicubic")


class InterpolateOptions(OneImageOptions):
    """Options of `interpolate`; exactly one of factor, size and like."""

    factor: float | None = Field(None, gt=0, description="Output pixels per input pixel; the size is rounded.")
    size: int | tuple[int, int] | None = Field(None, description="Side, or [height, width], in pixels.")
    like: str | None = Field(None, description="State key of images whose height and width are taken.")
    mode: Literal["bilinear", "bicubic", "area", "nearest"] = Field(
        "bicubic", description="How pixels are computed; bicubic may leave the range of its input."
    )
    antialias: bool = Field(False, description="bilinear, bicubic: average over all pixels when making smaller.")

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        issues = one_of(self, ("factor", "size", "like"))
        if self.size is not None and min(sides(self.size)) < 1:
            issues.append(Issue(("size",), f"must be at least 1 pixel, found {self.size}"))
        if self.antialias and self.mode not in SMOOTH:
            issues.append(Issue(("antialias",), f"is for {' and '.join(SMOOTH)}, found mode {self.mode}"))
        if issues:
            raise nested(issues)
        return self

    def reads(self) -> dict[KeyPath, str]:
        return {**super().reads(), **({("like",): self.like} if self.like else {})}

    def same_size(self) -> dict[str, str]:
        return {self.out: self.like} if self.like else {}


def one_of(options: Any, names: tuple[str, ...]) -> list[Issue]:
    """An issue unless exactly one of the options of these names is set."""
    given = [name for name in names if getattr(options, name) is not None]
    if len(given) == 1:
        return []
    named = " and ".join(given) or "none"
    return [Issue((given[1],) if given else (), f"exactly one of {', '.join(names)} is needed, found {named}")]


def sides(size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a size option."""
    return (size, size) if isinstance(size, int) else size


@INJECTORS.register("interpolate")
class InterpolateInjector(Injector):
    """Images at another size; pixels keep their centres (align_corners is false)."""

    Options = InterpolateOptions

    def __init__(self, options: InterpolateOptions) -> None:
        self.options = options

    def __call__(self, state: State, context: StepContext) -> dict[str, Any]:  # noqa: ARG002
        options = self.options
        image = image_of(state, options.in_key, f"interpolate {options.out}")
        height, width = self._size(state, image.shape[-2], image.shape[-1])
        smooth = options.mode in SMOOTH
        resized = F.interpolate(
            image, (height, width), mode=options.mode,
            align_corners=False if smooth else None, antialias=options.antialias,
        )  # fmt: skip
        return {options.out: resized}

    def _size(self, state: State, height: int, width: int) -> tuple[int, int]:
        options = self.options
        if options.like is not None:
            target = image_of(state, options.like, f"interpolate {options.out}")
            return target.shape[-2], target.shape[-1]
        if options.size is not None:
            return sides(options.size)
        assert options.factor is not None
        return max(round(height * options.factor), 1), max(round(width * options.factor), 1)
