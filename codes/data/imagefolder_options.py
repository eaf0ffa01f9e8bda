"""The options of `mode: imagefolder`, in DLAS's words."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ..utils.options import Options, nested
from ..utils.yaml_source import Issue
from .corruption import CORRUPTIONS
from .datasets import DatasetOptions

Strength = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]


class FixedParameters(Options):
    """Values that are otherwise drawn for every item."""

    corruption_entropy: tuple[Strength, ...] | None = Field(
        None, description="Strength of each fixed corruption, in listed order, each in [0, 1]; 1 is the strongest."
    )


class ImageFolderOptions(DatasetOptions):
    """`datasets.<phase>` with `mode: imagefolder`."""

    mode: Literal["imagefolder"] = Field("imagefolder", description="Folders of images.")
    name: str = Field("images", description="Name in messages and of the folder below results/<experiment>/.")
    paths: str | tuple[str, ...] | None = Field(
        None,
        description="A folder (searched recursively), an image file, or a list of them. Nothing: the sample "
        "photographs that come with scikit-image (the held-out one outside of training).",
    )
    weights: tuple[Annotated[float, Field(gt=0.0)], ...] | None = Field(
        None, description="With a list of paths: how many times an epoch each is gone through (1.5: half of it twice)."
    )
    n_workers: int = Field(2, ge=0, description="Processes that prepare batches; 0 prepares them in the main process.")
    batch_size: Positive = Field(1, description="Items an iteration, over all ranks together.")
    rgb_n1_to_1: bool = Field(False, description="Images in [-1, 1] instead of [0, 1]; hq and lq alike.")
    target_size: Positive | None = Field(
        None, description="Side of the square hq in pixels. Nothing: whole images (not in training)."
    )
    scale: Positive = Field(1, description="hq side / lq side; lq is downsampled by area.")
    tile: Literal["none", "random", "center"] = Field(
        "none",
        description="How a larger image becomes target_size: `none` resizes it by area (DLAS), `random` cuts a random "
        "tile at full resolution (training on large photographs), `center` the middle one.",
    )
    tiles_per_image: Positive = Field(
        1,
        description="With `tile: random`: tiles in a row from one decoded image; more is faster on large photographs.",
    )
    force_square: bool | None = Field(
        None,
        description="Cut the centre square first. Nothing: only where `tile: none` resizes to target_size; there "
        "`false` squeezes the whole image into the square, as DLAS does.",
    )
    fixed_corruptions: tuple[str, ...] = Field((), description="Corruptions of every item, in this order.")
    random_corruptions: tuple[str, ...] = Field(
        (), description="Corruptions to pick from after the fixed ones; their strengths are not told to the network."
    )
    num_corrupts_per_image: int = Field(
        0, ge=0, description="How many random corruptions an item gets, drawn with replacement; 0 switches them off."
    )
    corruption_blur_scale: float = Field(1.0, ge=0.0, description="Multiplies the sigma of blurs (pixels of the lq).")
    corrupt_before_downsize: bool = Field(
        False, description="Corrupt at full size, then downsample; else the small image is corrupted."
    )
    cosine_bias: bool = Field(
        True, description="Draw strengths as 1 - cos(u * pi / 2), more clean ones; else uniformly."
    )
    fixed_parameters: FixedParameters = Field(FixedParameters(), description="Values that are otherwise drawn.")
    random_seed: int | None = Field(None, description="Seed of this dataset's draws. Nothing: the run's seed.")
    skip_lq: bool = Field(
        False, description="Make no lq: the image itself is hq (restoration, where the file IS the low resolution)."
    )
    disable_flip: bool = Field(False, description="Never mirror images; otherwise half of the training items are.")
    cache_megabytes: int = Field(
        256, ge=0, description="Memory a worker may fill with decoded images; changes the speed only."
    )

    def provides(self) -> frozenset[str]:
        """The keys of the tensors of an item: the first state of the graph."""
        return frozenset({"hq", "corruption_entropy"} if self.skip_lq else {"hq", "lq", "corruption_entropy"})

    @property
    def path_list(self) -> tuple[str, ...]:
        """`paths` as a tuple; empty where the sample photographs are meant."""
        return (self.paths,) if isinstance(self.paths, str) else self.paths or ()

    @property
    def known_entropy(self) -> tuple[float, ...] | None:
        """The strengths set in `fixed_parameters`, or None."""
        return self.fixed_parameters.corruption_entropy

    @property
    def square(self) -> bool:
        """Whether the centre square is cut first."""
        if self.force_square is None:
            return self.tile == "none" and self.target_size is not None
        return self.force_square

    @model_validator(mode="after")
    def _consistent(self) -> "ImageFolderOptions":
        issues = [*self._size_issues(), *self._path_issues(), *self._corruption_issues()]
        if issues:
            raise nested(issues)
        return self

    def _size_issues(self) -> Iterator[Issue]:
        size = self.target_size
        if size is not None and size % self.scale and not self.skip_lq:
            yield Issue(("target_size",), f"{size} is not divisible by scale {self.scale}")
        if size is None and self.tile != "none":
            yield Issue(("tile",), f"{self.tile} needs target_size, the side of the tile in pixels")
        if self.tiles_per_image > 1 and self.tile != "random":
            yield Issue(("tiles_per_image",), f"{self.tiles_per_image} tiles of one image need tile: random")

    def _path_issues(self) -> Iterator[Issue]:
        if self.paths == ():
            yield Issue(("paths",), "an empty list; name a folder, or remove the key for the sample photographs")
        if self.weights is not None and len(self.weights) != len(self.path_list):
            yield Issue(("weights",), f"{len(self.weights)} weights for {len(self.path_list)} paths; give one for each")

    def _corruption_issues(self) -> Iterator[Issue]:
        for key, names in (
            ("fixed_corruptions", self.fixed_corruptions),
            ("random_corruptions", self.random_corruptions),
        ):
            for index, name in enumerate(names):
                if name not in CORRUPTIONS:
                    yield Issue((key, index), CORRUPTIONS.unknown(name))
        count = self.num_corrupts_per_image
        if count and not self.random_corruptions:
            yield Issue(("num_corrupts_per_image",), f"{count}, but there are no random_corruptions to pick from")
        if self.random_corruptions and "num_corrupts_per_image" not in self.model_fields_set:
            yield Issue(("random_corruptions",), "num_corrupts_per_image is missing; 0 switches them off")
        known, fixed = self.known_entropy, self.fixed_corruptions
        if known is not None and not self.skip_lq and len(known) != len(fixed):
            path = ("fixed_parameters", "corruption_entropy")
            yield Issue(path, f"{len(known)} strengths for {len(fixed)} fixed_corruptions; give one for each")
