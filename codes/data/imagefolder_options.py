"""The options of `mode: imagefolder`, in DLAS's words."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from ..utils.options import Options
from ..utils.yaml_source import Issue
from .corruption_options import CorruptionOptions
from .image_options import ImageOptions
from .strength import estimators

Strength = Annotated[float, Field(ge=0.0, le=1.0)]


class FixedParameters(Options):
    """Values that are otherwise drawn for every item."""

    corruption_entropy: tuple[Strength | Literal["auto"], ...] | None = Field(
        None,
        description="Strength of each fixed corruption, in listed order, each in [0, 1]; 1 is the strongest. With "
        "skip_lq, `auto` reads that of a JPEG corruption from the file; fixed_corruptions must then be listed.",
    )
    auto_default: Strength = Field(
        0.2, description="What `auto` takes, in [0, 1], for files without a sure trace of how they were compressed."
    )


class ImageFolderOptions(CorruptionOptions, ImageOptions):
    """`datasets.<phase>` with `mode: imagefolder`."""

    mode: Literal["imagefolder"] = Field("imagefolder", description="Folders of images.")
    fixed_parameters: FixedParameters = Field(FixedParameters(), description="Values that are otherwise drawn.")
    skip_lq: bool = Field(
        False, description="Make no lq: the image itself is hq (restoration, where the file IS the low resolution)."
    )

    def provides(self) -> frozenset[str]:
        """The keys of the tensors of an item: the first state of the graph."""
        return frozenset({"hq", "corruption_entropy"} if self.skip_lq else {"hq", "lq", "corruption_entropy"})

    @property
    def num_strengths(self) -> int:
        """How many strengths an item of training has."""
        return len(self.fixed_corruptions)

    @property
    def known_entropy(self) -> tuple[float | Literal["auto"], ...] | None:
        """The strengths set in `fixed_parameters`, or None."""
        return self.fixed_parameters.corruption_entropy

    @property
    def auto_positions(self) -> tuple[int, ...]:
        """The positions of `auto` in the strengths."""
        return tuple(index for index, value in enumerate(self.known_entropy or ()) if value == "auto")

    def issues(self) -> Iterator[Issue]:
        """Everything about these options that does not fit together."""
        yield from super().issues()
        size = self.target_size
        if size is not None and size % self.scale and not self.skip_lq:
            yield Issue(("target_size",), f"{size} is not divisible by scale {self.scale}")
        yield from self.corruption_issues()
        yield from self._strength_issues()

    def _strength_issues(self) -> Iterator[Issue]:
        known, fixed = self.known_entropy, self.fixed_corruptions
        path = ("fixed_parameters", "corruption_entropy")
        listed = bool(fixed) or not self.skip_lq
        if known is not None and listed and len(known) != len(fixed):
            yield Issue(path, f"{len(known)} strengths for {len(fixed)} fixed_corruptions; give one for each")
            return
        if known is not None and not self.skip_lq and not self.auto_positions:
            yield from self.strength_issues(known)
        for index in self.auto_positions:
            yield from self._auto_issues(index)

    def _auto_issues(self, index: int) -> Iterator[Issue]:
        path = ("fixed_parameters", "corruption_entropy", index)
        if not self.skip_lq:
            yield Issue(
                path, "auto reads the strength of a finished image (skip_lq: true); here give a number in [0, 1]"
            )
        elif not self.fixed_corruptions:
            yield Issue(path, "auto needs to know the corruption; list fixed_corruptions as in the training recipe")
        elif self.fixed_corruptions[index] not in estimators():
            name, known = self.fixed_corruptions[index], ", ".join(estimators())
            yield Issue(path, f"auto cannot be read for {name} (only for: {known}); give a number in [0, 1]")
