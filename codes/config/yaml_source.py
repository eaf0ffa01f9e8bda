"""YAML files to plain data that remembers, for every key, the file and the line it came from.

`base:` inherits from other recipes (relative to the file that names them), `--set KEY.PATH=VALUE` overrides last.
Values are typed by YAML (yaml_text.py); what stands after `--set` is one value as it was typed.
"""

import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..utils.errors import ConfigError
from ..utils.printable import printable
from .paths import recipe_file
from .registry import nearest
from .yaml_text import MOST_LENGTH, MOST_TEXT, Mark, YamlProblem, is_text, parse_yaml, shortened, to_yaml

KeyPath = tuple[str | int, ...]
KEYS = re.compile(r"[A-Za-z_]\w*(?:\.[\w-]+)*(?=: )")
EXAMPLE = "--set train.niter=1000"
MOST_SHOWN = 200  # characters of an override in messages
BRACKETS = {"[": "]", "{": "}", "'": "'", '"': '"'}
MOST_BASES = 50  # files that a recipe inherits from, in all


@dataclass(frozen=True)
class Location:
    """A place to correct: a file and a 1-based line; line 0 stands for the command line.

    `text`: how the value was typed, where it is a bare word that YAML reads as a number or a truth value.
    """

    file: str
    line: int
    text: str | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


@dataclass(frozen=True)
class Issue:
    """One problem of the options, at a key path.

    `meant`, for an unknown key: the nearest valid one, or "". `wants_text`: a text would have been taken.
    """

    path: KeyPath
    message: str
    meant: str | None = None
    wants_text: bool = False

    @property
    def words(self) -> str:
        """The key path, if there is one, and the message."""
        return f"{'.'.join(map(str, self.path))}: {self.message}" if self.path else self.message


@dataclass(frozen=True)
class Source:
    """The merged data of a recipe with the location of every key."""

    file: str
    data: Mapping[str, Any]
    locations: Mapping[KeyPath, Location]

    def where(self, path: KeyPath) -> Location:
        """Location of `path`, or of its nearest enclosing key."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.locations:
                return self.locations[path[:length]]
        return Location(self.file, 1)

    def typed(self) -> dict[KeyPath, str]:
        """How the bare words that are no text were typed."""
        return {path: where.text for path, where in self.locations.items() if where.text is not None}

    def to_yaml(self) -> str:
        """The data as the text of one recipe that reads back as the same."""
        return to_yaml(self.data)

    def error(self, issues: Sequence[Issue]) -> ConfigError:
        """One ConfigError that lists every issue on a line of its own, in the order of the file."""
        located = sorted(
            ((self.where(issue.path), issue) for issue in issues), key=lambda row: (row[0].file, row[0].line)
        )
        lines = [printable(f"{where}: {format_path(issue.path)}{issue.message}") for where, issue in located]
        return ConfigError("\n".join(dict.fromkeys(lines)), issues)


@contextmanager
def located(source: Source) -> Iterator[None]:
    """Give errors that only name a key path (`path.results: ...`), as of code that knows no files, its file and line.

    Errors that hold issues have theirs already; so has what names no key of this recipe.
    """
    try:
        yield
    except ConfigError as error:
        named = KEYS.match(str(error))
        path = tuple(named[0].split(".")) if named else ("",)
        if error.issues or path[0] not in source.data:
            raise
        raise ConfigError(f"{source.where(path)}: {error}") from error


def format_path(path: KeyPath) -> str:
    """('train', 'paths', 0) -> 'train.paths.0: '; nothing for the root. Always one line, whatever a key holds."""
    keys = (str(key) if str(key).isprintable() else repr(key) for key in path)
    return f"{'.'.join(keys)}: " if path else ""


def load_source(path: str | Path, overrides: Sequence[str] = ()) -> Source:
    """Read a recipe with its bases and overrides. Raises ConfigError for what cannot be read or parsed."""
    path = recipe_file(Path(path))
    source = _load_with_bases(path, (), {})
    for text in overrides:
        source = _override(source, text)
    return replace(source, file=str(path))


def _load_with_bases(path: Path, children: tuple[Path, ...], known: dict[Path, Source]) -> Source:
    """A file on top of its bases. `known`: those read so far, so that none is read twice."""
    resolved = Path(os.path.realpath(path))
    if resolved in children:
        chain = " -> ".join(child.name for child in (*children, resolved))
        raise ConfigError(f"{path}: base: the files inherit from each other in a circle ({chain})")
    if resolved in known:
        return known[resolved]
    source = _load_file(path)
    bases = source.data.get("base")
    names = [] if bases is None else [bases] if isinstance(bases, str) else bases
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise source.error(
            [Issue(("base",), f"expected a file name or a list of them, found {shortened(repr(bases))}")]
        )
    if len(names) > MOST_BASES or len(known) > MOST_BASES:
        raise source.error([Issue(("base",), f"more than {MOST_BASES} files to inherit from; join some of them")])
    result = replace(source, data={key: value for key, value in source.data.items() if key != "base"})
    merged: Source | None = None
    for name in names:
        parent_path = Path(os.path.normpath(path.parent / os.path.expanduser(name)))
        if os.path.isdir(parent_path):
            raise source.error([Issue(("base",), f"{parent_path} is a folder; name a recipe file")])
        if not os.path.isfile(parent_path):  # unlike Path.is_file, without an error of permissions
            raise source.error([Issue(("base",), f"no such file {parent_path}{_similar_file(parent_path)}")])
        parent = _load_with_bases(parent_path, (*children, resolved), known)
        merged = parent if merged is None else _merge(merged, parent)
    known[resolved] = _merge(merged, result) if merged else result
    return known[resolved]


def _load_file(path: Path) -> Source:
    text = _read_text(path)
    locations: dict[KeyPath, Location] = {}
    data = _parse(text, str(path), locations)
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}:1: expected a mapping of options (key: value), found {type(data).__name__}")
    return Source(str(path), data, locations)


def _read_text(path: Path) -> str:
    try:
        # `open` itself waits for somebody who writes into a pipe; one that nobody writes into is as good as empty.
        with open(path, "rb", opener=_at_once) as file:
            content = file.read(4 * MOST_TEXT + 1)
        return content.decode("utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such recipe file{_similar_file(path)}") from None
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: cannot be read as a recipe (no UTF-8: {error.reason})") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as a recipe ({error})") from None


def _at_once(path: str, flags: int) -> int:
    """A file's handle, without waiting for it to be opened from the other side."""
    handle = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    if hasattr(os, "O_NONBLOCK"):
        os.set_blocking(handle, True)
    return handle


def _similar_file(path: Path) -> str:
    folder = path.parent
    try:
        names = os.listdir(folder)
    except OSError:
        names = []
    close = nearest(path.name, names)
    return f" (did you mean {folder / close}?)" if close else "" if os.path.isdir(folder) else f" (no folder {folder})"


def _parse(text: str, file: str, locations: dict[KeyPath, Location]) -> Any:
    marks: dict[KeyPath, Mark] = {}
    try:
        data = parse_yaml(text, marks)
    except YamlProblem as problem:
        raise ConfigError(printable(f"{file}:{problem.line}: {problem}")) from None
    locations |= {path: Location(file, mark.line, mark.text) for path, mark in marks.items()}
    return data


def _merge(base: Source, over: Source) -> Source:
    """`over` on top of `base`: mappings merge key by key, everything else is replaced."""
    replaced: set[KeyPath] = set()
    data = _merge_mappings(base.data, over.data, (), replaced)
    kept = {path: where for path, where in base.locations.items() if not _lies_in(path, replaced)}
    new = {path: where for path, where in over.locations.items() if path not in kept}
    return Source(over.file, data, {**kept, **new})


def _merge_mappings(
    base: Mapping[str, Any], over: Mapping[str, Any], path: KeyPath, replaced: set[KeyPath]
) -> dict[str, Any]:
    result = dict(base)
    for key, value in over.items():
        here = (*path, key)
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            result[key] = _merge_mappings(base[key], value, here, replaced)
        else:
            result[key] = value
            replaced.add(here)
    return result


def _lies_in(path: KeyPath, places: Collection[KeyPath]) -> bool:
    """Whether a path is one of `places`, or below one."""
    return any(path[:length] in places for length in range(1, len(path) + 1))


def _override(source: Source, text: str) -> Source:
    keys, equals, value_text = text.partition("=")
    parts = keys.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"--set {shortened(text, MOST_SHOWN)}: expected KEY.PATH=VALUE, for example {EXAMPLE}")
    label = f"--set {shortened(text, MOST_SHOWN)}"
    inner: dict[KeyPath, Location] = {}
    value = _typed(value_text, label, inner)
    data, path = _assign(source.data, parts, value, label)
    where = Location(label, 0)
    locations = {known: at for known, at in source.locations.items() if known[: len(path)] != path}
    for length in range(1, len(path)):
        locations.setdefault(path[:length], where)
    locations[path] = where
    locations.update({(*path, *known): Location(label, 0, at.text) for known, at in inner.items()})
    return Source(source.file, data, locations)


def _typed(text: str, label: str, locations: dict[KeyPath, Location]) -> Any:
    """The value of `--set`: a list, a mapping or a quoted text is YAML; anything else one word, whatever is in it."""
    bare = text.strip()
    if not bare:
        raise ConfigError(
            f"{label}: no value; is a variable of the shell unset? Write ~ for nothing, or '' (in quotes of its own: "
            "\"KEY=''\") for an empty text"
        )
    if len(bare) > MOST_LENGTH and bare[0] not in BRACKETS:
        raise ConfigError(f"{label}: a value of {len(bare)} characters; expected {MOST_LENGTH} at most")
    if len(bare) > 1 and bare[-1] == BRACKETS.get(bare[0]):
        return _parse(text, label, locations)
    if bare[0] in "[{" and not any(sign in bare for sign in "]}"):
        raise ConfigError(f"{label}: {bare[0]} without {BRACKETS[bare[0]]}")
    return text if is_text(bare) else _parse(bare, label, locations)


def _assign(data: Any, parts: Sequence[str], value: Any, label: str) -> tuple[Any, KeyPath]:
    """A copy of `data` with `value` at `parts`, and the typed key path (list positions as numbers)."""
    key: str | int = parts[0]
    if isinstance(data, list):
        if not parts[0].isdigit() or int(parts[0]) >= len(data):
            raise ConfigError(f"{label}: {parts[0]!r} is not a position in a list of {len(data)}")
        key = int(parts[0])
        copy: Any = list(data)
        child = data[key]
    elif isinstance(data, Mapping) or data is None:
        copy = dict(data or {})
        child = copy.get(key)
    else:
        raise ConfigError(f"{label}: {parts[0]!r} lies below {data!r}, which holds no keys")
    if len(parts) == 1:
        copy[key] = value
        return copy, (key,)
    copy[key], rest = _assign(child, parts[1:], value, label)
    return copy, (key, *rest)
