"""The options that say how a low-resolution image is made from a high-resolution one."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

from pydantic import Field

from ...config.effect import NotWith
from ...config.options import Options
from ...config.yaml_source import Issue
from .all import CORRUPTIONS
from .base import Subsampling

Kernel = Literal["area", "bilinear", "bicubic", "lanczos"]
CORRUPTS = NotWith("skip_lq", True)  # of a dataset that can leave it be: finished images are not corrupted
Probability = Annotated[float, Field(ge=0.0, le=1.0)]


class CorruptionOptions(Options):
    """Corruption options of a dataset: `datasets.<phase>`."""

    fixed_corruptions: tuple[str, ...] = Field(
        (), description="Corruptions of every item, in this order; the network is told the strength of each."
    )
    random_corruptions: Annotated[tuple[str, ...], CORRUPTS] = Field(
        (), description="Corruptions to pick from, applied before the fixed ones; the network is not told how strong."
    )
    num_corrupts_per_image: Annotated[int, CORRUPTS] = Field(
        0, ge=0, description="How many random corruptions an item gets, drawn with replacement; 0 switches them off."
    )
    random_probabilities: Annotated[tuple[Probability, ...], CORRUPTS] = Field(
        (),
        description="Instead of num_corrupts_per_image: the chance of each of random_corruptions, one number each; "
        "each is drawn by itself, and they are applied in listed order.",
    )
    corruption_order: Annotated[Literal["listed", "physical"], CORRUPTS] = Field(
        "listed",
        description="`listed`: random ones, then the fixed ones as listed (as DLAS does). `physical`: all sorted by "
        "where they happen: optics, sensor, processing, resizing, compression. The strengths stay in listed order.",
    )
    second_order_probability: Annotated[Probability, CORRUPTS] = Field(
        0.0,
        description="Chance of an item to be corrupted, resized (the corruption `resize` at a drawn strength) and "
        "corrupted again with the same fixed strengths and new random corruptions.",
    )
    clean_probability: Annotated[Probability, CORRUPTS] = Field(
        0.0,
        description="Chance of each fixed corruption to be left out of an item, its strength then told as 0, for "
        "networks that must know clean images. Above 0, a strength of exactly 0 means left out; otherwise it is the "
        "weakest (of `jpeg`: quality 30), as in DLAS.",
    )
    corruption_blur_scale: Annotated[float, CORRUPTS] = Field(
        1.0, ge=0.0, description="Multiplies the widths of all blurs (pixels of the image that is corrupted)."
    )
    corruption_jpeg_subsampling: Annotated[Subsampling, CORRUPTS] = Field(
        "4:2:0",
        description="Colour resolution of JPEG corruptions: 4:2:0 (a quarter of the samples), 4:2:2 (half), 4:4:4 "
        "(all), or `random`: one of them for each image.",
    )
    corrupt_before_downsize: Annotated[bool, CORRUPTS] = Field(
        False,
        description="Corrupt at full size, then downsample; else the small image is corrupted. With corruption_order: "
        "physical, resizing and compression still come after the downsampling.",
    )
    downsample_kernels: Annotated[tuple[Kernel, ...], CORRUPTS] = Field(
        ("area",),
        description="Kernels for making lq from hq, all antialiased: area, bilinear, bicubic, lanczos. "
        "Of several, one is drawn for each item.",
    )
    cosine_bias: Annotated[bool, CORRUPTS] = Field(
        True, description="Draw strengths as 1 - cos(u * pi / 2), more clean ones; else uniformly."
    )

    def remarks(self) -> Iterator[Issue]:
        if self.second_order_probability:
            return
        names = (*self.fixed_corruptions, *self.random_corruptions)
        if self.corruption_jpeg_subsampling != "4:2:0" and not any("jpeg" in name for name in names):
            yield Issue(("corruption_jpeg_subsampling",), "has no effect here: no JPEG is among the corruptions")
        if self.corruption_blur_scale != 1 and not any("blur" in name or name == "sinc" for name in names):
            yield Issue(("corruption_blur_scale",), "has no effect here: no blur is among the corruptions")

    def corruption_issues(self) -> Iterator[Issue]:
        """Everything about these options that does not fit together."""
        named = {"fixed_corruptions": self.fixed_corruptions, "random_corruptions": self.random_corruptions}
        for key, names in named.items():
            for index, name in enumerate(names):
                if name not in CORRUPTIONS:
                    yield Issue((key, index), CORRUPTIONS.unknown(name))
        if not self.downsample_kernels:
            yield Issue(("downsample_kernels",), "an empty list; name at least one kernel, or remove the key for area")
        yield from self._random_issues()

    def strength_issues(self, strengths: Sequence[float | str]) -> Iterator[Issue]:
        """Given strengths of corruptions that have only one of their own; words (`auto`) are left alone."""
        for index, (name, given) in enumerate(zip(self.fixed_corruptions, strengths, strict=False)):
            own = CORRUPTIONS.get(name).fixed_strength if name in CORRUPTIONS else None
            if own is not None and not isinstance(given, str) and given != own:
                path = ("fixed_parameters", "corruption_entropy", index)
                yield Issue(path, f"{given:g}, but {name} has one effect, whose strength is {own:g}; write {own:g}")

    def _random_issues(self) -> Iterator[Issue]:
        count, chances, names = self.num_corrupts_per_image, self.random_probabilities, self.random_corruptions
        if count and chances:
            yield Issue(("random_probabilities",), f"stands beside num_corrupts_per_image {count}; remove one of them")
        if chances and len(chances) != len(names):
            text = f"{len(chances)} probabilities for {len(names)} random_corruptions; give one for each"
            yield Issue(("random_probabilities",), text)
        if count and not names:
            yield Issue(("num_corrupts_per_image",), f"{count}, but there are no random_corruptions to pick from")
        if names and not chances and "num_corrupts_per_image" not in self.model_fields_set:
            text = "num_corrupts_per_image (0 switches them off) or random_probabilities is missing"
            yield Issue(("random_corruptions",), text)
