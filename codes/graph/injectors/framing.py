"""Cutting and extending images of the state: `crop` and `pad`."""

from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from ...config.options import nested
from ...config.yaml_source import Issue, KeyPath
from ...images.reflection import reflected
from ...utils.errors import ConfigError
from ..graph import INJECTORS, Injector, State, StepContext
from ..node_options import InjectorOptions
from .image_keys import OneImageOptions, image_of
from .interpolate import one_of, sides
from .keys import as_tuple, paths_of


class CropOptions(InjectorOptions):
    """Options of `crop`; exactly one of size and like."""

    in_key: str | tuple[str, ...] = Field(
        validation_alias="in",
        description="State key, or keys, of images that are cut at the same place; their sizes must be whole multiples "
        "of the smallest (e.g. hq and lq).",
    )
    out: str | tuple[str, ...] = Field(description="State keys of what is cut out; as many as `in`.")
    size: int | tuple[int, int] | None = Field(
        None, description="Side, or [height, width], of the cut in pixels of the first of `in`."
    )
    like: str | None = Field(None, description="State key of images whose height and width the first of `in` gets.")
    at: Literal["center", "top_left", "random"] = Field(
        "center", description="Where; random draws a place for each sample. top_left undoes `pad` to a multiple."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        issues = one_of(self, ("size", "like"))
        read, written = len(as_tuple(self.in_key)), len(as_tuple(self.out))
        if read != written:
            issues.append(Issue(("out",), f"names {written} keys, but `in` names {read}; give one for each"))
        if self.size is not None and min(sides(self.size)) < 1:
            issues.append(Issue(("size",), f"must be at least 1 pixel, found {self.size}"))
        if issues:
            raise nested(issues)
        return self

    def reads(self) -> dict[KeyPath, str]:
        return {**paths_of("in", self.in_key), **({("like",): self.like} if self.like else {})}

    def writes(self) -> dict[KeyPath, str]:
        return paths_of("out", self.out)

    def same_size(self) -> dict[str, str]:
        return {as_tuple(self.out)[0]: self.like} if self.like else {}


@INJECTORS.register("crop")
class CropInjector(Injector):
    """Cuts the same region out of one or several images; random places follow from (seed, `out`, position) alone."""

    Options = CropOptions

    def __init__(self, options: CropOptions) -> None:
        self.options = options
        self.keys, self.outs = as_tuple(options.in_key), as_tuple(options.out)
        self.reader = f"crop {self.outs[0]}"

    def __call__(self, state: State, context: StepContext) -> dict[str, Any]:
        images = [image_of(state, key, self.reader) for key in self.keys]
        rows = self._windows(state, images, context, -2)
        columns = self._windows(state, images, context, -1)
        return {
            out: torch.stack([one[:, y0:y1, x0:x1] for one, (y0, y1), (x0, x1) in zip(image, ys, xs, strict=True)])
            for out, image, ys, xs in zip(self.outs, images, rows, columns, strict=True)
        }

    def _windows(
        self, state: State, images: list[Tensor], context: StepContext, dim: int
    ) -> list[list[tuple[int, int]]]:
        """For each image key, (start, stop) along a dimension for each sample."""
        lengths = [image.shape[dim] for image in images]
        cell = min(lengths)
        wanted = self._wanted(state, dim)
        ratio = lengths[0] // cell
        if any(length % cell for length in lengths) or wanted % ratio:
            sizes = ", ".join(f"{key} {length}" for key, length in zip(self.keys, lengths, strict=True))
            raise ConfigError(
                f"{self.reader}: a cut of {wanted} pixels needs sizes that are multiples of the smallest ({sizes})"
            )
        if wanted > lengths[0]:
            raise ConfigError(
                f"{self.reader}: cannot cut {wanted} pixels out of {lengths[0]} of {self.keys[0]}; `pad` it"
            )
        cells = wanted // ratio
        starts = self._starts(cell - cells, len(images[0]), context, dim)
        return [
            [(start * (length // cell), (start + cells) * (length // cell)) for start in starts] for length in lengths
        ]

    def _wanted(self, state: State, dim: int) -> int:
        if self.options.like is not None:
            return image_of(state, self.options.like, self.reader).shape[dim]
        assert self.options.size is not None
        return sides(self.options.size)[dim]

    def _starts(self, free: int, count: int, context: StepContext, dim: int) -> list[int]:
        if self.options.at != "random":
            return [free // 2 if self.options.at == "center" else 0] * count
        name = "row" if dim == -2 else "column"
        return [int(draw * (free + 1)) for draw in context.uniform(f"{name} of {self.outs[0]}").tolist()[:count]]


class PadOptions(OneImageOptions):
    """Options of `pad`; exactly one of multiple_of, size and border."""

    multiple_of: int | None = Field(None, ge=1, description="Continue to the right and below to multiples of this.")
    size: int | tuple[int, int] | None = Field(
        None, description="Continue to the right and below to this side, or [height, width], in pixels."
    )
    border: int | None = Field(None, ge=1, description="Continue by this many pixels on every side.")

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if issues := one_of(self, ("multiple_of", "size", "border")):
            raise nested(issues)
        return self


@INJECTORS.register("pad")
class PadInjector(Injector):
    """Continues images by repeated reflection (the edge pixel is not doubled)."""

    Options = PadOptions

    def __init__(self, options: PadOptions) -> None:
        self.options = options

    def __call__(self, state: State, context: StepContext) -> dict[str, Any]:  # noqa: ARG002
        image = image_of(state, self.options.in_key, f"pad {self.options.out}")
        for dim in (-2, -1):
            before, after = self._amounts(image.shape[dim], dim)
            positions = reflected(-before, image.shape[dim] + after, image.shape[dim])
            image = image.index_select(dim, torch.from_numpy(positions).to(image.device, non_blocking=True))
        return {self.options.out: image}

    def _amounts(self, length: int, dim: int) -> tuple[int, int]:
        """Pixels before and after."""
        options = self.options
        if options.border is not None:
            return options.border, options.border
        if options.multiple_of is not None:
            return 0, -length % options.multiple_of
        assert options.size is not None
        wanted = sides(options.size)[dim]
        if wanted < length:
            raise ConfigError(f"pad {options.out}: {options.in_key} has {length} pixels, more than {wanted}; `crop` it")
        return 0, wanted - length
