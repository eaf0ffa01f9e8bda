"""The weight of a loss: a number, or a function of the iteration alone."""

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from ..config.options import Options, nested
from ..config.yaml_source import Issue


class WeightSchedule(Options):
    """A weight that moves from one value to another: `weight: {start, end, from, to, shape}`."""

    start: float = Field(description="Weight up to iteration `from`.")
    end: float = Field(description="Weight from iteration `to` on.")
    from_iteration: int = Field(0, ge=0, validation_alias="from", description="Iteration at which it begins to change.")
    to: int | None = Field(None, ge=1, description="Iteration at which it has arrived; not for step.")
    shape: Literal["linear", "cosine", "step"] = Field(
        "linear", description="A straight line, half a cosine, or a jump at the iteration after `from`."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.shape == "step" and self.to is not None:
            raise nested([Issue(("to",), "a step jumps after `from` and has no `to`; remove one of shape and to")])
        if self.shape != "step" and self.to is None:
            raise nested([Issue(("to",), f"missing; a {self.shape} change needs the iteration at which it ends")])
        if self.to is not None and self.to <= self.from_iteration:
            raise nested([Issue(("to",), f"must come after from ({self.from_iteration}), found {self.to}")])
        return self

    def at(self, iteration: int) -> float:
        """The weight at an iteration."""
        if self.to is None:
            return self.end if iteration > self.from_iteration else self.start
        share = min(max((iteration - self.from_iteration) / (self.to - self.from_iteration), 0.0), 1.0)
        if self.shape == "cosine":
            share = 0.5 - 0.5 * math.cos(math.pi * share)
        return self.start + share * (self.end - self.start)


def _ascending(weight: float | WeightSchedule | tuple[tuple[int, float], ...]) -> object:
    if isinstance(weight, tuple) and not weight:
        raise ValueError("an empty list; expected points [iteration, weight]")
    if isinstance(weight, tuple) and any(a[0] >= b[0] for a, b in pairwise(weight)):
        raise ValueError(f"the iterations must ascend, found {[point[0] for point in weight]}")
    return weight


def _form(value: Any) -> str:
    """Which of its forms a weight has, so that only the mistakes of that form are told."""
    if isinstance(value, Mapping | WeightSchedule):
        return "schedule"
    return "points" if isinstance(value, list | tuple) else "number"


Points = tuple[tuple[int, float], ...]
Weight = Annotated[
    Annotated[float, Tag("number")] | Annotated[WeightSchedule, Tag("schedule")] | Annotated[Points, Tag("points")],
    Discriminator(_form),
    AfterValidator(_ascending),
]


def weight_at(weight: float | WeightSchedule | Points, iteration: int) -> float:
    """The weight at an iteration (from 1); between points it is interpolated, outside them it stays."""
    if isinstance(weight, WeightSchedule):
        return weight.at(iteration)
    if not isinstance(weight, tuple):
        return weight
    before = [point for point in weight if point[0] <= iteration]
    after = [point for point in weight if point[0] > iteration]
    if not before or not after:
        return after[0][1] if after else before[-1][1]
    (x0, y0), (x1, y1) = before[-1], after[0]
    return y0 + (y1 - y0) * (iteration - x0) / (x1 - x0)
