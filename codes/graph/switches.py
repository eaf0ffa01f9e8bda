"""When the parts of the graph run: switches that are functions of the iteration and of what ran before alone."""

import math
from collections.abc import Collection, Iterable, Iterator
from itertools import chain, combinations
from typing import Annotated, Self

from pydantic import Field, model_validator

from ..config.fingerprint import TRAINING_ONLY
from ..config.options import Options, nested
from ..config.yaml_source import Issue

MOST_RATES = 8
NEAR = 10_000  # iterations
TIMING = ("every", "after", "before")


class Timing(Options):
    """At which iterations of training something runs; iterations count from 1."""

    every: Annotated[int, TRAINING_ONLY] = Field(
        1, ge=1, description="Runs at iterations divisible by this; 1 is every iteration."
    )
    after: Annotated[int, TRAINING_ONLY] = Field(0, ge=0, description="First iteration at which it runs.")
    before: Annotated[int | None, TRAINING_ONLY] = Field(
        None, ge=1, description="Last iteration at which it runs; ~ never ends."
    )

    @model_validator(mode="after")
    def _ever(self) -> Self:
        if self.before is not None and self.before < self.after:
            message = f"is {self.before}, which comes before the first iteration (after: {self.after}); it never runs"
            raise nested([Issue(("before",), message)])
        return self

    def due(self, iteration: int) -> bool:
        """Whether it runs at this iteration of training."""
        last = iteration if self.before is None else self.before
        return iteration % self.every == 0 and self.after <= iteration <= last

    def text(self) -> str:
        """The switches as a recipe would write them, only those that are set."""
        return ", ".join(f"{name}: {getattr(self, name)}" for name in TIMING if name in self.model_fields_set)


class Switches(Timing):
    """A timing, and what must have happened earlier in the same iteration."""

    requires: str | tuple[str, ...] = Field(
        (),
        description="State keys, or names of earlier steps: it runs only where all of these are there, that is where "
        "their writers or these steps have run in the same iteration.",
    )

    @property
    def required(self) -> tuple[str, ...]:
        return (self.requires,) if isinstance(self.requires, str) else self.requires

    def runs(self, iteration: int | None, present: Collection[str]) -> bool:
        """Whether it runs, given the state keys and steps that are there.

        iteration None is an evaluation or a test run, which has no iterations: the timing does not count there.
        """
        return (iteration is None or self.due(iteration)) and all(name in present for name in self.required)


def distinct_iterations(timings: Iterable[Timing], last: int) -> list[int]:
    """The first iteration (1..last) of every different pattern of what runs: checking these checks them all.

    Found without counting: between two borders (after, before) it matters only by which of `every` an iteration is
    divisible. Of more than MOST_RATES rates only the patterns near a border and those of every single one are found.
    """
    kinds = sorted({(t.every, t.after, last if t.before is None else t.before) for t in timings} - {(1, 0, last)})
    borders = sorted({1, *(after for _, after, _ in kinds), *(before + 1 for _, _, before in kinds)})
    first_of_kind: dict[tuple[bool, ...], int] = {}
    for start, end in zip(borders, [*(border - 1 for border in borders[1:]), last], strict=True):
        for iteration in sorted(_first_of_each(kinds, max(start, 1), min(end, last))):
            first_of_kind.setdefault(tuple(_due(kind, iteration) for kind in kinds), iteration)
    return sorted(first_of_kind.values())


def _due(kind: tuple[int, int, int], iteration: int) -> bool:
    every, after, before = kind
    return iteration % every == 0 and after <= iteration <= before


def _first_of_each(kinds: list[tuple[int, int, int]], start: int, end: int) -> Iterator[int]:
    """The first iteration from start to end of every set of rates that divide it; the borders are the same in all."""
    if start > end:
        return
    rates = sorted({every for every, after, before in kinds if every > 1 and after <= start <= before})
    if len(rates) > MOST_RATES:
        near = range(start, min(end, start + NEAR) + 1)
        yield from {tuple(rate for rate in rates if number % rate == 0): number for number in reversed(near)}.values()
        sets: Iterable[tuple[int, ...]] = [(rate,) for rate in rates]
    else:
        sets = chain.from_iterable(combinations(rates, count) for count in range(len(rates) + 1))
    for dividing in sets:
        first = _first_multiple(math.lcm(*dividing), [rate for rate in rates if rate not in dividing], start, end)
        if first is not None:
            yield first


def _first_multiple(step: int, others: list[int], start: int, end: int) -> int | None:
    """The first multiple of `step` from start to end that is divisible by none of `others`."""
    if any(step % other == 0 for other in others):
        return None
    candidates = range(-(-start // step) * step, end + 1, step)
    return next((number for number in candidates if all(number % other for other in others)), None)
