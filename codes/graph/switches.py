"""When the parts of the graph run: switches that are functions of the iteration and of what ran before alone."""

from collections.abc import Collection, Iterable, Iterator
from typing import Annotated, Self

import numpy as np
from pydantic import Field, model_validator

from ..config.fingerprint import TRAINING_ONLY
from ..config.options import Options, nested
from ..config.yaml_source import Issue

AT_A_TIME = 2**20  # iterations that are looked at in one go
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

    def spoken(self) -> str:
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
    """The first iteration (1..last) of every different pattern of what runs: checking these checks them all."""
    kinds = {(t.every, t.after, t.before) for t in timings} - {(1, 0, None)}
    found: dict[bytes, int] = {}
    for first in range(1, last + 1, AT_A_TIME):
        iterations = np.arange(first, min(first + AT_A_TIME, last + 1))
        on = [
            (iterations % every == 0) & (iterations >= after) & (iterations <= (last if before is None else before))
            for every, after, before in sorted(kinds, key=str)
        ]
        for index in _first_of_each(on, len(iterations)):
            found.setdefault(bytes(int(row[index]) for row in on), int(iterations[index]))
        if not kinds:
            break
    return sorted(found.values())


def _first_of_each(rows: list[np.ndarray], count: int) -> Iterator[int]:
    """The first column of every different one among the columns of boolean rows."""
    code = np.zeros(count, dtype=np.int64)
    for row in rows:
        # Numbered anew after each row, so that any number of rows fits.
        code = np.unique(2 * code + row, return_inverse=True)[1]
    return (int(index) for index in np.unique(code, return_index=True)[1])
