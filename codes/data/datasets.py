"""The registry of dataset modes and what all their options share."""

import os
from typing import Annotated, Any

from pydantic import Field

from ..config.fingerprint import PLACE_ONLY, SPEED_ONLY, TRAINING_ONLY
from ..config.options import FilePart, Options
from ..config.registry import Registry


class DatasetOptions(Options):
    """Options common to all datasets: `datasets.<phase>`."""

    name: Annotated[FilePart, PLACE_ONLY] = Field(
        "dataset", description="Name of the dataset: a folder of results; default: the phase."
    )
    mode: str = Field("imagefolder", description="Which kind of dataset: its registered name.")
    rgb_n1_to_1: bool = Field(False, description="Images in [-1, 1] instead of [0, 1]; hq and lq alike.")
    target_size: int | None = Field(
        None, ge=1, le=65536, description="Side of the square hq in pixels. Nothing: whole images (not in training)."
    )
    scale: int = Field(1, ge=1, le=1024, description="hq side / lq side.")
    n_workers: Annotated[int, SPEED_ONLY] = Field(
        2, ge=0, le=1024, description="Processes that prepare batches; 0 prepares them in the main process."
    )
    batch_size: Annotated[int, TRAINING_ONLY] = Field(
        1, ge=1, le=1_000_000, description="Items an iteration, over all ranks together."
    )
    loader_timeout: Annotated[float, TRAINING_ONLY] = Field(
        600.0,
        gt=0,
        description="Seconds without a batch after which a training saves and ends: a read that never returns, as of a "
        "network drive that is gone. What is being read is told after a minute.",
    )

    def provides(self) -> frozenset[str]:
        """The keys of the tensors of an item: the first state of the graph."""
        raise NotImplementedError

    @property
    def num_strengths(self) -> int:
        """How many strengths of corruptions an item of training has."""
        return 0

    @property
    def estimator(self) -> str | None:
        """Name of the network that reads the strengths of finished images."""
        return None

    @property
    def corruption_names(self) -> tuple[str, ...]:
        """What the strengths of an item are the strengths of, where that has names."""
        return ()

    @property
    def known_entropy(self) -> tuple[Any, ...] | None:
        """The strengths that are set and not drawn, in their order, or None; a number, `auto` or a StrengthMap each."""
        return None

    @property
    def auto_positions(self) -> tuple[int, ...]:
        """Which of these strengths are read from the images."""
        return ()

    @property
    def path_list(self) -> tuple[str, ...]:
        """The folders and files that are read; empty for data that come from elsewhere."""
        return ()

    @property
    def truth_list(self) -> tuple[str, ...]:
        """Where the images lie that results are compared with, if they are not those of `path_list`."""
        return ()

    @property
    def files_are_lq(self) -> bool:
        """Whether the files are themselves what is restored."""
        return False

    @property
    def square(self) -> bool:
        """Whether the centre square is cut first."""
        return False

    @property
    def most_pixels(self) -> int | None:
        """Pixels of the largest image that is taken; None where any is."""
        return None

    @property
    def cuts_tiles(self) -> bool:
        """Whether an item is a tile that was drawn from a larger image."""
        return False


def how_to_hurry(options: DatasetOptions) -> str:
    """What makes the data of a training come faster, for a message."""
    ways = [f"raise n_workers ({options.n_workers}; this machine has {os.cpu_count()} cores)"]
    if options.cuts_tiles:
        ways.append("raise tiles_per_image, or cut the photographs into tiles once (codes/scripts/extract_tiles.py)")
    return f"{', '.join(ways)}; benchmarks/data.py shows where the time goes"


DATASETS: Registry[Any] = Registry("dataset mode")
