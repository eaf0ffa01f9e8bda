"""How large a result is to be, whatever the network's scale: a factor, a size or megapixels, as options.

The image is restored at the network's scale, in several passes where one is not enough, and then resampled.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from ..config.effect import OnlyWith
from ..config.options import Options, nested
from ..config.yaml_source import Issue

SizeMode = Literal["fit", "fill", "exact"]
WAYS = ("scale", "size", "megapixels")  # of saying how large; at most one of them
RESIZED = OnlyWith("resized", words=" or ".join(WAYS))
SLACK = 1.1  # up to which a restored image is enlarged by interpolation rather than restored once more
MOST_PASSES = 4
_SIZE = re.compile(r"\s*(\d+)\s*[xX×]\s*(\d+)\s*")


@dataclass(frozen=True)
class Framing:
    """A result of (height, width) pixels that shows a part of the restored image.

    `box`: top, bottom, left, right of that part, as shares of the image's height and width.
    """

    height: int
    width: int
    box: tuple[float, float, float, float] = (0.0, 1.0, 0.0, 1.0)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width

    @property
    def is_whole(self) -> bool:
        """Nothing is cut off."""
        return self.box == (0.0, 1.0, 0.0, 1.0)

    def magnification(self, height: int, width: int) -> float:
        """Pixels of the result per pixel of an image of (height, width), along the axis that has more.

        Half a pixel of a side does not count: it is what rounding adds, and the same factor asks for the same of
        images of all sizes.
        """
        down, across = self.magnifications(height, width)
        return max(down * (1 - 0.5 / self.height), across * (1 - 0.5 / self.width))

    def magnifications(self, height: int, width: int) -> tuple[float, float]:
        """Pixels of the result per pixel of an image of (height, width): down, across."""
        top, bottom, left, right = self.box
        return self.height / ((bottom - top) * height), self.width / ((right - left) * width)

    def interpolates(self, height: int, width: int) -> bool:
        """Whether a restored image of (height, width) is enlarged by interpolation, by more than SLACK."""
        return self.magnification(height, width) > SLACK


class SizeOptions(Options):
    """The size of a result. Without `scale`, `size` or `megapixels` it is that which the network gives."""

    scale: float | None = Field(
        None, gt=0, le=64, description="Pixels of the result per pixel of the input, e.g. 1.5; ~ is the network's."
    )
    size: str | None = Field(None, description="Width x height of the result in pixels, e.g. 3840x2160; see size_mode.")
    size_mode: Annotated[SizeMode, OnlyWith("size")] = Field(
        "fit",
        description="fit: as large as goes into `size`, in the proportions of the input; fill: all of `size`, what "
        "sticks out cut off at both sides; exact: all of it, stretched.",
    )
    megapixels: float | None = Field(
        None, gt=0, le=10_000, description="Size of the result in millions of pixels, in the proportions of the input."
    )
    resampling: Annotated[Literal["lanczos", "area"], RESIZED] = Field(
        "lanczos",
        description="From the restored size to the one asked for: lanczos (three lobes, sharp), or area (the mean of "
        "what a pixel covers; only to make smaller, elsewhere it is lanczos).",
    )
    linear_light: Annotated[bool, RESIZED] = Field(
        False, description="Resample light instead of sRGB's values: fine bright lines keep their brightness."
    )

    @field_validator("size")
    @classmethod
    def _two_numbers(cls, text: str | None) -> str | None:
        if text is None:
            return None
        match = _SIZE.fullmatch(text)
        if match is None:
            raise ValueError(f"expected WIDTHxHEIGHT in pixels, as in 3840x2160, found {text!r}")
        width, height = map(int, match.groups())
        if min(width, height) < 1:
            raise ValueError(f"{text}: each side must be at least 1 pixel")
        return f"{width}x{height}"

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        issues = [*self._size_issues()]
        if issues:
            raise nested(issues)
        return self

    def _size_issues(self) -> Iterator[Issue]:
        given = [name for name in WAYS if getattr(self, name) is not None]
        for name in given[1:]:
            yield Issue((name,), f"says how large a result is, and so does {given[0]}; keep one of them")

    @property
    def resized(self) -> bool:
        """Whether a size is asked for at all."""
        return any(getattr(self, name) is not None for name in WAYS)

    @property
    def least_pixels(self) -> float:
        """Pixels of every result, where they are known without an image; else 0."""
        if self.size is not None and self.size_mode != "fit":
            return math.prod(self._sides)
        return 0.0 if self.megapixels is None else self.megapixels * 1e6

    @property
    def in_words(self) -> str:
        """How large, as the options say it."""
        if self.size is not None:
            return f"size {self.size} ({self.size_mode})"
        return f"scale {self.scale:g}" if self.scale is not None else f"{self.megapixels or 0:g} megapixels"

    @property
    def _sides(self) -> tuple[int, int]:
        """(height, width) of `size`."""
        assert self.size is not None
        width, height = map(int, self.size.split("x"))
        return height, width

    def framing(self, height: int, width: int, scale: int) -> Framing:
        """The result of an input of (height, width) pixels that a network enlarges `scale` times."""
        if not self.resized:
            return Framing(height * scale, width * scale)
        if self.size is not None and self.size_mode == "exact":
            return Framing(*self._sides)
        if self.size is not None and self.size_mode == "fill":
            return _filling(height, width, *self._sides)
        factor = self._factor(height, width)
        return Framing(max(_rounded(height * factor), 1), max(_rounded(width * factor), 1))

    def _factor(self, height: int, width: int) -> float:
        """Of both sides, where the proportions stay."""
        if self.scale is not None:
            return self.scale
        if self.size is not None:
            bottom, right = self._sides
            return min(bottom / height, right / width)
        assert self.megapixels is not None
        return math.sqrt(self.megapixels * 1e6 / (height * width))


def passes_for(magnification: float, scale: int) -> int:
    """How often a network of `scale` is to be applied, so that no more than SLACK is left to interpolation.

    At most MOST_PASSES; once where it enlarges nothing.
    """
    if scale == 1:
        return 1
    return next((n for n in range(1, MOST_PASSES) if scale**n * SLACK >= magnification), MOST_PASSES)


def _filling(height: int, width: int, bottom: int, right: int) -> Framing:
    """The middle of an image of (height, width) that has the proportions of (bottom, right)."""
    factor = max(bottom / height, right / width)
    down, across = (1 - bottom / factor / height) / 2, (1 - right / factor / width) / 2
    return Framing(bottom, right, (down, 1 - down, across, 1 - across))


def _rounded(side: float) -> int:
    """Half a pixel goes up, whatever the parity."""
    return math.floor(side + 0.5)
