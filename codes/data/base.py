"""What every dataset offers to the trainer: items by position, and a report of what was found."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from ..images.canvas import Canvas

Item = dict[str, torch.Tensor | Canvas | str]
MAX_NAMED = 10
NO_IMAGES = ("system", "other")  # kinds of rejected files that never claimed to be images, in the order they are told


@dataclass(frozen=True)
class Rejected:
    """A file that is not used.

    `kind`: "unreadable", "too_small", "too_large", "unmatched" (a pair), "unlabelled" (of no class), or what a search
    leaves out ("other", "system", "unreachable", "format"; as of `images.search.LeftOut`).
    """

    path: Path
    reason: str
    kind: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True)
class DataReport:
    """What a dataset found: sizes are upright (height, width) in pixels, modes are Pillow's."""

    name: str
    usable: int
    smallest: tuple[int, int]
    largest: tuple[int, int]
    modes: Mapping[str, int] = field(default_factory=Counter)
    rejected: tuple[Rejected, ...] = ()

    @property
    def failed(self) -> tuple[Rejected, ...]:
        """Images that could not be used; files that never claimed to be images are not among them."""
        return failures(self.rejected)

    def lines(self) -> list[str]:
        """The report for people, a few lines."""
        (low_h, low_w), (high_h, high_w) = self.smallest, self.largest
        modes = ", ".join(f"{count} {mode}" for mode, count in sorted(self.modes.items()))
        files = self.usable + sum(entry.kind != "system" for entry in self.rejected)
        sizes = f"smallest {low_w}x{low_h}, largest {high_w}x{high_h} (width x height), {modes}"
        head = f"dataset {self.name}: {self.usable} of {files} files usable; {sizes}"
        return [head, *named(self.rejected)]


@dataclass(frozen=True)
class Traits:
    """What the result of a restored file takes over from it, besides what it shows; as of `images.objects.Picture`.

    `alpha`: float32 (h, w) in [0, 1], None where there is none or it is not kept.
    """

    alpha: np.ndarray | None
    gray: bool
    bit_depth: int
    exif: bytes | None
    icc: bytes | None
    dpi: tuple[float, float] | None


def failures(rejected: Sequence[Rejected]) -> tuple[Rejected, ...]:
    """Those of the rejected files that are images."""
    return tuple(entry for entry in rejected if entry.kind not in NO_IMAGES)


def named(rejected: Sequence[Rejected]) -> list[str]:
    """One line a rejected file, the first few; real failures before files that never were images."""
    ordered = sorted(rejected, key=lambda entry: NO_IMAGES.index(entry.kind) if entry.kind in NO_IMAGES else -1)
    rows = [f"  skipped {entry}" for entry in ordered[:MAX_NAMED]]
    return [*rows, f"  skipped {len(ordered) - MAX_NAMED} more"] if len(ordered) > MAX_NAMED else rows


class Dataset(ABC):
    """Items by their position in the endless training order (position = samples seen so far)."""

    state_keys: frozenset[str]
    unreadable: dict[Path, str]
    shuffle: bool = False
    """Whether it goes on for ever, each epoch in another order."""
    classes: tuple[str, ...] = ()
    """The names of its classes, in the order of their numbers, where it has some."""

    @abstractmethod
    def __len__(self) -> int:
        """Items in one epoch."""

    @abstractmethod
    def item(self, position: int) -> Item:
        """The item of a position; a pure function of the options, the seed and the position."""

    @abstractmethod
    def record_unreadable(self, reasons: Mapping[Path, str]) -> None:
        """Name (once) and count files that turned out to be damaged."""

    @abstractmethod
    def report(self) -> DataReport:
        """Counts, sizes and what was left out."""

    def wanted(self, position: int) -> Path | None:  # noqa: ARG002 - data that come from no file
        """The file that the item of a position is made of, where it is made of one."""
        return None
