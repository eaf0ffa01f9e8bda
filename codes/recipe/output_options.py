"""How a test run writes its results: `output`."""

from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from ..config.fingerprint import CHOICE_ONLY
from ..config.options import nested
from ..config.yaml_source import Issue
from ..images.colour_fix import ColourFix
from ..images.output_size import SizeOptions
from ..utils.names import problem_with_part

Written = Literal["samples", "mean", "spread"]


class OutputOptions(SizeOptions):
    """Files, formats and what is done to an image before it is written.

    Depth, transparency, gray and metadata are those of the input where the file is the input (`skip_lq: true`).
    """

    format: Literal["png", "jpg", "webp", "tiff", "same"] = Field(
        "png", description="File format of the results; `same` is that of each input, or PNG where that is not written."
    )
    quality: int = Field(95, ge=1, le=100, description="Quality of JPEG and WebP files, 1..100; WebP 100 is lossless.")
    bit_depth: Literal["same", 8] = Field(
        "same", description="Bits a channel: `same` gives 16 for 16-bit inputs where the format holds them (PNG, TIFF)."
    )
    suffix: str = Field("", description="Text after each name, before the file's extension: _2x makes a_2x.png of a.")
    skip_existing: Annotated[Literal["same", True, False], CHOICE_ONLY] = Field(
        "same",
        description="What is not done again. `same`: results that were made from the same file with the same weights, "
        "options and seed; true: whatever result is there, unless another file is known to be its source; false: "
        "nothing.",
    )
    num_samples: int = Field(
        1,
        ge=1,
        le=1000,
        description="Different results of every image, each of its own noise: name_1.png, name_2.png, ...",
    )
    write: tuple[Written, ...] = Field(
        ("samples",),
        description="What of several samples is written: samples, mean (name_mean: their mean, closest to the truth), "
        "spread (name_spread.png, gray: their standard deviation, 4 gray levels for each of 255 levels).",
    )
    color_fix: ColourFix = Field(
        "none",
        description="Take colours from the input: `mean` its mean, `lowfreq` everything coarser than JPEG's blocks, "
        "`wavelet` the low frequencies of a wavelet decomposition (at scale 2 and less, blocks come back with them).",
    )
    alpha: Literal["restore", "bicubic", "drop"] = Field(
        "restore",
        description="Transparency: restored as a gray image by the same network, enlarged by bicubic interpolation, "
        "or dropped (laid over the dataset's `alpha`). JPEG holds none, so there it is dropped.",
    )

    @field_validator("suffix")
    @classmethod
    def _part_of_a_name(cls, text: str) -> str:
        if text and (problem := problem_with_part(f"a{text}a")):  # it stands between a name and an ending
            raise ValueError(problem)
        return text

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        issues = [*self._issues()]
        if issues:
            raise nested(issues)
        return self

    def _issues(self) -> Iterator[Issue]:
        if not self.write or len(set(self.write)) < len(self.write):
            yield Issue(("write",), "name each of samples, mean, spread at most once, and at least one of them")
        for index, kind in enumerate(self.write):
            if kind != "samples" and self.num_samples == 1:
                yield Issue(("write", index), f"{kind} needs num_samples of 2 or more, found 1")
        if "quality" in self.model_fields_set and self.format in ("png", "tiff"):
            yield Issue(("quality",), f"is for jpg and webp, but format is {self.format}; remove it")

    @property
    def labels(self) -> tuple[str, ...]:
        """What distinguishes the files of one image: "" for a single result, else 1, 2, ..., mean, spread."""
        if self.num_samples == 1:
            return ("",)
        numbers = [str(number + 1) for number in range(self.num_samples)] if "samples" in self.write else []
        return (*numbers, *(kind for kind in ("mean", "spread") if kind in self.write))
