"""Names to classes or functions: what a recipe may ask for by `type`, `mode` or `which_model_G`."""

import difflib
from collections.abc import Callable
from typing import Generic, TypeVar

from ..utils.errors import ConfigError

T = TypeVar("T")
MOST_SHOWN = 80  # characters of a name in messages
Entry = TypeVar("Entry")


def nearest(name: str, known: list[str]) -> str | None:
    """The known name that `name` was probably meant to be, or None."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return close[0] if close else None


class Registry(Generic[T]):
    """A named collection of one kind of thing; each entry is added by a decorator beside its definition."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, *names: str) -> Callable[[Entry], Entry]:
        """Decorator: enter a class or function under one or more names. A name may be taken once."""

        def enter(entry: Entry) -> Entry:
            for name in names:
                if name in self._entries:
                    raise ConfigError(f"{self.kind} {name!r} is registered twice; choose another name")
                self._entries[name] = entry  # type: ignore[assignment]
            return entry

        return enter

    def get(self, name: str) -> T:
        """The entry of that name. Raises ConfigError with the nearest and all known names."""
        if name not in self._entries:
            raise ConfigError(self.unknown(name))
        return self._entries[name]

    def unknown(self, name: object) -> str:
        """The sentence that tells a user that `name` is not one of these, and what is."""
        close = nearest(str(name), self.names())
        hint = f"did you mean {close}? " if close else ""
        shown = repr(name) if len(repr(name)) <= MOST_SHOWN else f"{repr(name)[:MOST_SHOWN]}..."
        return f"unknown {self.kind} {shown} ({hint}known: {', '.join(self.names())})"

    def names(self) -> list[str]:
        return sorted(self._entries)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._entries
