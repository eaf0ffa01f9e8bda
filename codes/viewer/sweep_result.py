"""A finished sweep as its page, its picture and its numbers tell it: plain data, whatever made it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Value = str | int | float | bool | None
AxisKind = Literal["strength", "steps", "other"]


@dataclass(frozen=True)
class SweptAxis:
    """One thing that was varied.

    `texts`: its values as a recipe writes them. `kind`: a strength is a number that a chart may run along; more steps
    take more time. `read`: of a strength, what was read from the image, which pages mark.
    """

    name: str
    values: Sequence[Value]
    texts: Sequence[str]
    kind: AxisKind = "other"
    read: float | None = None

    def label(self, place: int) -> str:
        """`jpeg 0.25`."""
        return f"{self.name} {self.texts[place]}"


@dataclass(frozen=True)
class SweptCell:
    """One combination: the place of its value on every axis, the file of the result, what was measured of it."""

    at: tuple[int, ...]
    file: Path
    seconds: float
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Reference:
    """A picture to compare with: its file and, but for the ground truth, what was measured of it."""

    file: Path
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class SweepResult:
    """`cells`: every combination, the last axis fastest. `references`: label -> picture, the enlarged input first.

    `facts`: what holds for all cells. `options`: the options used, as YAML text.
    """

    title: str
    axes: Sequence[SweptAxis]
    cells: Sequence[SweptCell]
    references: Mapping[str, Reference]
    facts: Mapping[str, str]
    options: str

    def words(self, cell: SweptCell) -> str:
        """`jpeg 0.25, steps 8`."""
        return ", ".join(axis.label(place) for axis, place in zip(self.axes, cell.at, strict=True))
