"""What a fingerprint changes with: every option but those whose own field says that no result depends on them."""

from typing import Annotated, Any

import pytest
from pydantic import Field

from codes.config.fingerprint import SPEED_ONLY, TRAINING_ONLY, all_settings, deciding, fingerprint, mark_of
from codes.config.options import Options
from codes.recipe.recipe import import_registered

OTHER = "something else"  # no option has it; `model_copy` does not validate


class Inner(Options):
    """Options inside others."""

    deciding: int = Field(1, description="Decides.")
    fast: Annotated[int, SPEED_ONLY] = Field(1, description="Does not.")


class Outer(Options):
    """Options with a section, a mapping and a list of others."""

    section: Inner = Field(Inner(), description="A section.")
    trained: Annotated[Inner | None, TRAINING_ONLY] = Field(Inner(), description="A section that does not count.")
    named: dict[str, Inner] = Field({"a": Inner()}, description="By name.")
    listed: tuple[Inner, ...] = Field((Inner(),), description="A list.")


def every_class() -> list[type[Options]]:
    import_registered()
    classes: list[type[Options]] = []
    waiting: list[type[Options]] = [Options]
    while waiting:
        cls = waiting.pop()
        waiting += cls.__subclasses__()
        classes.append(cls)
    return sorted(
        {cls for cls in classes if cls.__module__.startswith("codes.")}, key=lambda cls: (cls.__module__, cls.__name__)
    )


FIELDS = [(cls, name) for cls in every_class() for name in cls.model_fields]


@pytest.mark.parametrize(("cls", "name"), FIELDS, ids=lambda part: part if isinstance(part, str) else part.__name__)
def test_every_option_is_marked_or_changes_the_fingerprint(cls: type[Options], name: str) -> None:
    some = cls.model_construct(**dict.fromkeys(cls.model_fields, 1))
    other = some.model_copy(update={name: OTHER})
    assert (fingerprint(some) != fingerprint(other)) == (mark_of(cls.model_fields[name]) is None)


def test_there_are_options_of_both_kinds() -> None:
    marked = {name for cls, name in FIELDS if mark_of(cls.model_fields[name]) is not None}
    assert len(FIELDS) > 200
    assert {"tile_batch_size", "canvas", "n_workers", "cache_megabytes", "skip_existing", "train"} <= marked
    assert not {"respaced_timestep_spacing", "tile", "tile_overlap", "precision", "color_fix", "noise_type"} & marked


@pytest.mark.parametrize(
    ("change", "counts"),
    [
        ({"section": Inner(deciding=2)}, True),
        ({"section": Inner(fast=2)}, False),
        ({"trained": Inner(deciding=2)}, False),
        ({"trained": None}, False),
        ({"named": {"a": Inner(deciding=2)}}, True),
        ({"named": {"b": Inner()}}, True),
        ({"named": {"a": Inner(fast=2)}}, False),
        ({"named": {}}, True),
        ({"listed": (Inner(), Inner())}, True),
        ({"listed": (Inner(fast=7),)}, False),
    ],
)
def test_a_mark_holds_for_a_whole_section_and_sections_are_walked(change: dict[str, Any], counts: bool) -> None:
    assert (fingerprint(Outer().model_copy(update=change)) != fingerprint(Outer())) == counts


def test_settings_are_told_by_key_path() -> None:
    outer = Outer(section=Inner(deciding=5))
    assert deciding(outer) == {"section.deciding": 5, "named.a.deciding": 1, "listed.0.deciding": 1}
    marks = {".".join(map(str, path)): mark for path, _, mark in all_settings(outer)}
    assert marks["section.deciding"] is None
    assert marks["section.fast"] is SPEED_ONLY
    assert marks["trained.deciding"] is TRAINING_ONLY


def test_the_order_of_keys_and_the_kind_of_list_do_not_matter_but_the_order_of_parts_does() -> None:
    assert fingerprint({"a": 1, "b": (1, 2)}) == fingerprint({"b": [1, 2], "a": 1})
    assert fingerprint("a", "b") != fingerprint("b", "a")
    assert len(fingerprint("name\udcff.png")) == 32  # a file name that is no UTF-8
