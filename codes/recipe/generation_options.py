"""The options of a run that makes images from nothing: `generate`."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ..config.fingerprint import CHOICE_ONLY, REPORT_ONLY, SPEED_ONLY
from ..config.options import Options, nested
from ..config.paths import UserPath
from ..config.yaml_source import Issue

RANDOM = "random"


class GenerationOptions(Options):
    """How many images are sampled, of which classes, and what is written beside them: `generate`."""

    num_samples: Annotated[int, CHOICE_ONLY] = Field(
        100, ge=1, le=10_000_000, description="Images in all; those that exist from an earlier run count."
    )
    batch_size: Annotated[int, SPEED_ONLY] = Field(
        16, ge=1, le=65_536, description="Images a network call works on at once, on each process."
    )
    classes: int | str | tuple[int | str, ...] | None = Field(
        None,
        description="Classes by name or by number from 0 (a name, where all are called by numbers), taken in turn; "
        "`random` draws one for each image; ~ takes "
        "all in turn (of a network without classes: none).",
    )
    class_names: UserPath | None = Field(
        None,
        description="File of the names of the classes: one a line, or JSON (a list, or numbers to names); ~: "
        "classes.json beside the weights, which training writes.",
    )
    on_change: Annotated[Literal["refuse", "restart"], CHOICE_ONLY] = Field(
        "refuse",
        description="The samples that exist were made with other weights, seed or options: `refuse` says with which, "
        "`restart` moves them aside and begins anew.",
    )
    npz: Annotated[bool, REPORT_ONLY] = Field(
        True, description="Also write all samples as one file, arr_0 uint8 (M, H, W, 3) and the labels as arr_1."
    )
    grid_rows: Annotated[int, REPORT_ONLY] = Field(
        10, ge=0, description="Rows of grid.png at most, one a class; 0 writes no grid."
    )
    grid_columns: Annotated[int, REPORT_ONLY] = Field(10, ge=1, description="Columns of grid.png at most.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.classes == ():
            raise nested([Issue(("classes",), "an empty list; name a class, or remove the key to take all in turn")])
        return self

    @property
    def wanted(self) -> tuple[int | str, ...] | None:
        """The classes that are named; None for all, and for random ones."""
        if self.classes is None or self.classes == RANDOM:
            return None
        return (self.classes,) if isinstance(self.classes, int | str) else self.classes
