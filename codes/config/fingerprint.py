"""What a result depends on, declared where an option is: everything does but what a field itself excepts.

    tile_batch_size: Annotated[int, SPEED_ONLY] = Field(4, ...)

Whoever asks whether two results are the same (a later run, an interrupted one, a sweep) walks the options by
`deciding`. A new option is thus part of every fingerprint without being listed anywhere.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from pydantic.fields import FieldInfo

from .options import Options, field_keys
from .yaml_source import KeyPath


@dataclass(frozen=True)
class ChangesNoResult:
    """Marks a field, `Annotated[type, mark]`, on which no restored or generated image depends, and says why.

    The mark of a section holds for everything in it.
    """

    reason: str


SPEED_ONLY = ChangesNoResult("only the speed, the memory or the device follow from it")
PLACE_ONLY = ChangesNoResult("only where files lie and what they are called follow from it")
REPORT_ONLY = ChangesNoResult("only what is measured, logged or kept beside the images follows from it")
TRAINING_ONLY = ChangesNoResult("it belongs to training, and what was trained is known by its weights")
CONTENT_ONLY = ChangesNoResult("it names files, which are known by their content")
CHOICE_ONLY = ChangesNoResult("only which images there are follows from it, not what one looks like")


class Setting(NamedTuple):
    """One option: its key path as a recipe writes it, its value, and the mark of its field or of a section around."""

    path: KeyPath
    value: Any
    mark: ChangesNoResult | None


def all_settings(value: Any, path: KeyPath = (), mark: ChangesNoResult | None = None) -> Iterator[Setting]:
    """Every option below a value; lists of plain values stay whole."""
    if isinstance(value, Options):
        for name, field in type(value).model_fields.items():
            yield from all_settings(getattr(value, name), (*path, field_keys(name, field)[0]), mark or mark_of(field))
        for name, own in (value.model_extra or {}).items():
            yield from all_settings(own, (*path, name), mark)
    elif isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from all_settings(inner, (*path, str(key)), mark)
    elif isinstance(value, tuple) and any(isinstance(item, Options | Mapping) for item in value):
        for index, item in enumerate(value):
            yield from all_settings(item, (*path, str(index)), mark)
    else:
        yield Setting(path, value, mark)


def mark_of(field: FieldInfo) -> ChangesNoResult | None:
    """The mark of a field, if it has one."""
    return next((entry for entry in field.metadata if isinstance(entry, ChangesNoResult)), None)


def deciding(value: Any) -> dict[str, Any]:
    """The options on which results depend: key path with dots -> value, as JSON gives it back."""
    settings = {".".join(map(str, path)): value for path, value, mark in all_settings(value) if mark is None}
    plain: dict[str, Any] = json.loads(json.dumps(settings, default=str))
    return plain


def fingerprint(*parts: Any) -> str:
    """32 hexadecimal digits that change with anything that decides: of options what `deciding` finds, the rest whole.

    Parts are options, or what JSON holds.
    """
    plain = [deciding(part) if isinstance(part, Options) else part for part in parts]
    text = json.dumps(plain, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
