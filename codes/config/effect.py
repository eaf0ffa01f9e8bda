"""When an option has an effect, declared where the option is: outside of that a recipe that sets it gets a warning.

    min_snr_gamma: Annotated[float, OnlyWith("weight_schedule", "min_snr")] = Field(5.0, ...)

What cannot be said in such a mark, because it compares numbers, a class of options says in `remarks`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic.fields import FieldInfo

from .options import Options, field_keys
from .yaml_source import Issue, KeyPath


class OnlyWith:
    """Marks a field that has an effect only where another option has one of `values`, or, without values, is set.

    `key`: a key of the same section, or, from the top of the recipe, a path with a slash: "/eval.evaluators". `words`:
    what a recipe would have to say, where `key` is a property that follows from several keys.
    """

    def __init__(self, key: str, *values: Any, words: str = "") -> None:
        self.key = key
        self.values = values
        self.words = words

    def holds(self, section: Options, root: Options) -> bool:
        value = self._value(section, root)
        return value in self.values if self.values else bool(value)

    def needed(self) -> str:
        """What a recipe would have to say."""
        wanted = " or ".join(_word(value) for value in self.values)
        return self.words or f"{self.key.lstrip('/')}{f': {wanted}' if wanted else ''}"

    def _value(self, section: Options, root: Options) -> Any:
        value: Any = root if self.key.startswith("/") else section
        for part in self.key.lstrip("/").split("."):
            value = getattr(value, part, None)
        return value


@dataclass(frozen=True)
class NotWith:
    """Marks a field that has no effect where another option of the same section has this value."""

    key: str
    value: Any

    def holds(self, section: Options, root: Options) -> bool:  # noqa: ARG002
        return bool(getattr(section, self.key, None) != self.value)

    def needed(self) -> str:
        return f"another {self.key} than {_word(self.value)}"


def without_effect(root: Options) -> Iterator[Issue]:
    """Every option that a recipe sets to something else than its default, though nothing follows from it."""
    yield from _below(root, (), root)


def _below(value: Any, path: KeyPath, root: Options) -> Iterator[Issue]:
    if isinstance(value, Options):
        for name, field in type(value).model_fields.items():
            here = (*path, field_keys(name, field)[0])
            if name in value.model_fields_set and getattr(value, name) != field.get_default(call_default_factory=True):
                yield from _idle(value, field, here, root)
            yield from _below(getattr(value, name), here, root)
        for issue in value.remarks():
            yield Issue((*path, *issue.path), issue.message)
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _below(inner, (*path, key), root)
    elif isinstance(value, tuple):
        for index, inner in enumerate(value):
            yield from _below(inner, (*path, index), root)


def _idle(section: Options, field: FieldInfo, path: KeyPath, root: Options) -> Iterator[Issue]:
    for mark in field.metadata:
        if isinstance(mark, OnlyWith | NotWith) and not mark.holds(section, root):
            yield Issue(path, f"has no effect here: it needs {mark.needed()}")


def _word(value: Any) -> str:
    return "~" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
