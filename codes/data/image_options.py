"""The options that all datasets of image files share: where the files are and how one becomes a tile."""

from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ..config.fingerprint import CHOICE_ONLY, CONTENT_ONLY, PLACE_ONLY, SPEED_ONLY, TRAINING_ONLY
from ..config.options import FilePart, nested
from ..config.paths import UserPath
from ..config.yaml_source import Issue
from ..images.files import MAX_PIXELS, Alpha
from .datasets import DatasetOptions

Positive = Annotated[int, Field(ge=1)]


class ImageOptions(DatasetOptions):
    """`datasets.<phase>` of image files."""

    name: Annotated[FilePart, PLACE_ONLY] = Field(
        "images", description="Name in messages and of the folder below results/<experiment>/."
    )
    paths: Annotated[UserPath | tuple[UserPath, ...] | None, CONTENT_ONLY] = Field(
        None,
        description="A folder (searched recursively, links are followed), an image file, or a list of them. Nothing: "
        "the sample photographs that come with scikit-image (the held-out one outside of training).",
    )
    weights: Annotated[tuple[Annotated[float, Field(gt=0.0)], ...] | None, TRAINING_ONLY] = Field(
        None, description="With a list of paths: how many times an epoch each is gone through (1.5: half of it twice)."
    )
    tile: Literal["none", "random", "center"] = Field(
        "none",
        description="How a larger image becomes target_size: `none` resizes it by area (DLAS), `random` cuts a random "
        "tile at full resolution (training on large photographs), `center` the middle one.",
    )
    tiles_per_image: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        None,
        description="With `tile: random`: tiles from one decoded image, spread over the following batches, so that a "
        "batch still shows as many images as it has tiles. Nothing: 1 for images of fewer pixels than 32 tiles have, "
        "more for larger ones (16 from about 17 megapixels at 256 px), so that decoding stays cheap.",
    )
    min_tile_std: float = Field(
        0.0,
        ge=0.0,
        le=127.5,
        description="With `tile: random`: draw again (up to 8 times) while the gray values (0..255) of a tile deviate "
        "by less than this, so that skies and walls do not fill the batches; the liveliest one is taken. 0 is off.",
    )
    shrink: tuple[Annotated[float, Field(ge=1.0)], Annotated[float, Field(ge=1.0)]] = Field(
        (1.0, 1.0),
        description="With `tile: random`: every tile is cut from the photograph shrunk by area, by a factor drawn "
        "evenly between these two ([1, 2]: full to half size), so that objects are learned at several sizes and soft "
        "photographs become sharp. An image too small for a factor is shrunk as far as it still holds a tile. "
        "min_tile_std looks at what is cut, before it is shrunk.",
    )
    force_square: bool | None = Field(
        None,
        description="Cut the centre square first. Nothing: only where `tile: none` resizes to target_size; there "
        "`false` squeezes the whole image into the square, as DLAS does.",
    )
    alpha: Alpha = Field(
        "white",
        description="Transparent images: laid over `white` or `black`, or `crop`: cut to the rectangle that holds "
        "everything visible, then laid over white.",
    )
    max_pixels: Annotated[Positive, CHOICE_ONLY] = Field(
        MAX_PIXELS,
        description="Images of more pixels are left out; so is, in any case, what is too large for memory.",
    )
    random_seed: int | None = Field(None, description="Seed of this dataset's draws. Nothing: the run's seed.")
    disable_flip: Annotated[bool, TRAINING_ONLY] = Field(
        False, description="Never mirror images; otherwise half of the training items are."
    )
    cache_megabytes: Annotated[int, SPEED_ONLY] = Field(
        256, ge=0, le=1_000_000, description="Memory a worker may fill with decoded images; changes the speed only."
    )
    index: Annotated[bool, SPEED_ONLY] = Field(
        True,
        description="Remember the sizes of files in the user's cache folder, so that the next start is faster; files "
        "that changed are read again. Nothing is ever written beside the images.",
    )

    @property
    def path_list(self) -> tuple[str, ...]:
        """`paths` as a tuple; empty where the sample photographs are meant."""
        return (self.paths,) if isinstance(self.paths, str) else self.paths or ()

    @property
    def square(self) -> bool:
        """Whether the centre square is cut first."""
        if self.force_square is None:
            return self.tile == "none" and self.target_size is not None
        return self.force_square

    @property
    def most_pixels(self) -> int:
        """Pixels of the largest image that is taken."""
        return self.max_pixels

    @property
    def cuts_tiles(self) -> bool:
        """Whether an item is a tile that was drawn from a larger image."""
        return self.tile == "random"

    @property
    def minimum_side(self) -> int:
        """Pixels that both sides of an image must have."""
        return self.target_size or self.scale

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        issues = [*self.issues()]
        if issues:
            raise nested(issues)
        return self

    def issues(self) -> Iterator[Issue]:
        """Everything about these options that does not fit together."""
        if self.target_size is None and self.tile != "none":
            yield Issue(("tile",), f"{self.tile} needs target_size, the side of the tile in pixels")
        if (self.tiles_per_image or 1) > 1 and self.tile != "random":
            yield Issue(("tiles_per_image",), f"{self.tiles_per_image} tiles of one image need tile: random")
        if self.min_tile_std and self.tile != "random":
            yield Issue(("min_tile_std",), f"{self.min_tile_std:g} needs tile: random, where tiles are drawn")
        if self.shrink != (1.0, 1.0) and self.tile != "random":
            yield Issue(("shrink",), f"{list(self.shrink)} needs tile: random, where tiles are drawn")
        if self.shrink[0] > self.shrink[1]:
            yield Issue(("shrink",), f"the smaller factor comes first, found {list(self.shrink)}")
        if self.paths == ():
            yield Issue(("paths",), "an empty list; name a folder, or remove the key for the sample photographs")
        if self.weights is not None and len(self.weights) != len(self.path_list):
            yield Issue(("weights",), f"{len(self.weights)} weights for {len(self.path_list)} paths; give one for each")
