"""YAML files to plain data that remembers, for every key, the file and the line it came from.

`base:` inherits from other recipes (relative to the file that names them), `--set KEY.PATH=VALUE` overrides last.
Values are typed by YAML and never executed. `3e-4` and `5e5` are numbers, as every recipe writer expects (YAML 1.1
would read them as text), and a key that stands twice in one mapping is an error instead of a silent last-one-wins.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from yaml.reader import ReaderError

from ..utils.errors import ConfigError
from ..utils.printable import printable
from .registry import nearest

KeyPath = tuple[str | int, ...]
PLAIN_TAGS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")


@dataclass(frozen=True)
class Location:
    """A place to mend: a file and a 1-based line; line 0 stands for the command line."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


@dataclass(frozen=True)
class Issue:
    """One problem of the options, at a key path. `meant`, for an unknown key: the nearest valid one, or ""."""

    path: KeyPath
    message: str
    meant: str | None = None


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

    def error(self, issues: Sequence[Issue]) -> ConfigError:
        """One ConfigError that lists every issue on a line of its own, in the order of the file."""
        located = sorted(
            ((self.where(issue.path), issue) for issue in issues), key=lambda row: (row[0].file, row[0].line)
        )
        lines = [printable(f"{where}: {format_path(issue.path)}{issue.message}") for where, issue in located]
        return ConfigError("\n".join(dict.fromkeys(lines)), issues)


def format_path(path: KeyPath) -> str:
    """('train', 'paths', 0) -> 'train.paths.0: '; nothing for the root. Always one line, whatever a key holds."""
    keys = (str(key) if str(key).isprintable() else repr(key) for key in path)
    return f"{'.'.join(keys)}: " if path else ""


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's floats."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:float"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^(?:[-+]?(?:\d[\d_]*)?(?:\.\d[\d_]*|\d\.|\d(?=[eE]))(?:[eE][-+]?\d+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes what `_Loader` would read as a number."""


_Dumper.yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


def to_yaml(data: Mapping[str, Any]) -> str:
    """Data as the text of a recipe that reads back as the same data."""
    return yaml.dump(dict(data), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def load_source(path: str | Path, overrides: Sequence[str] = ()) -> Source:
    """Read a recipe with its bases and overrides. Raises ConfigError for what cannot be read or parsed."""
    path = Path(path)
    source = _load_with_bases(path, ())
    for text in overrides:
        source = _override(source, text)
    return replace(source, file=str(path))


def _load_with_bases(path: Path, children: tuple[Path, ...]) -> Source:
    resolved = path.resolve()
    if resolved in children:
        chain = " -> ".join(child.name for child in (*children, resolved))
        raise ConfigError(f"{path}: base: the files inherit from each other in a circle ({chain})")
    source = _load_file(path)
    bases = source.data.get("base")
    if bases is None:
        return replace(source, data={key: value for key, value in source.data.items() if key != "base"})
    names = [bases] if isinstance(bases, str) else bases
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise source.error([Issue(("base",), f"expected a file name or a list of them, found {bases!r}")])
    merged: Source | None = None
    for name in names:
        parent_path = Path(os.path.normpath(path.parent / name))
        if not parent_path.is_file():
            raise source.error([Issue(("base",), f"no such file {parent_path}{_similar_file(parent_path)}")])
        parent = _load_with_bases(parent_path, (*children, resolved))
        merged = parent if merged is None else _merge(merged, parent)
    own = {key: value for key, value in source.data.items() if key != "base"}
    assert merged is not None or not names
    return _merge(merged, replace(source, data=own)) if merged else replace(source, data=own)


def _load_file(path: Path) -> Source:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such recipe file{_similar_file(path)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a recipe ({error})") from None
    locations: dict[KeyPath, Location] = {}
    data = _parse(text, str(path), locations)
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}:1: expected a mapping of options (key: value), found {type(data).__name__}")
    return Source(str(path), data, locations)


def _similar_file(path: Path) -> str:
    folder = path.parent
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    close = nearest(path.name, names)
    return f" (did you mean {folder / close}?)" if close else "" if folder.is_dir() else f" (no folder {folder})"


def _parse(text: str, file: str, locations: dict[KeyPath, Location]) -> Any:
    try:
        loader = _Loader(text)
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(f"{file}:{line}: YAML syntax: unacceptable character #x{error.character:04x}") from None
    try:
        node = loader.get_single_node()
        return None if node is None else _construct(loader, node, (), file, locations)
    except RecursionError:
        raise ConfigError(f"{file}:1: YAML syntax: an alias contains itself, or the nesting is too deep") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise ConfigError(f"{file}:{line}: YAML syntax: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{file}:1: YAML syntax: {' '.join(str(error).split())}") from None
    finally:
        loader.dispose()


def _construct(loader: _Loader, node: yaml.Node, path: KeyPath, file: str, locations: dict[KeyPath, Location]) -> Any:
    if isinstance(node, yaml.CollectionNode) and node.tag not in PLAIN_TAGS:
        line = node.start_mark.line + 1
        raise ConfigError(f"{file}:{line}: {format_path(path)}the tag {node.tag!r} is not read; write a plain value")
    if isinstance(node, yaml.MappingNode):
        return _construct_mapping(loader, node, path, file, locations)
    if isinstance(node, yaml.SequenceNode):
        items = []
        for index, child in enumerate(node.value):
            locations[(*path, index)] = Location(file, child.start_mark.line + 1)
            items.append(_construct(loader, child, (*path, index), file, locations))
        return items
    return loader.construct_object(node, deep=True)


def _construct_mapping(
    loader: _Loader, node: yaml.MappingNode, path: KeyPath, file: str, locations: dict[KeyPath, Location]
) -> dict[str, Any]:
    for key_node, _ in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            line = key_node.start_mark.line + 1
            raise ConfigError(f"{file}:{line}: {format_path(path)}a key must be a word, found a list or a mapping")
    written = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
    repeated = {name for name in written if written.count(name) > 1}
    loader.flatten_mapping(node)
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = str(key_node.value)
        line = key_node.start_mark.line + 1
        if key in repeated and key in result:
            raise ConfigError(f"{file}:{line}: {format_path((*path, key))}this key stands twice; remove one")
        locations[(*path, key)] = Location(file, line)
        result[key] = _construct(loader, value_node, (*path, key), file, locations)
    return result


def _merge(base: Source, over: Source) -> Source:
    """`over` on top of `base`: mappings merge key by key, everything else is replaced."""
    locations = dict(base.locations)
    data = _merge_mappings(base.data, over.data, (), locations, over.locations)
    return Source(over.file, data, locations)


def _merge_mappings(
    base: Mapping[str, Any],
    over: Mapping[str, Any],
    path: KeyPath,
    locations: dict[KeyPath, Location],
    new: Mapping[KeyPath, Location],
) -> dict[str, Any]:
    result = dict(base)
    for key, value in over.items():
        here = (*path, key)
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        if both:
            result[key] = _merge_mappings(base[key], value, here, locations, new)
            locations.setdefault(here, new[here])
            continue
        for stale in [known for known in locations if known[: len(here)] == here]:
            del locations[stale]
        locations.update({known: where for known, where in new.items() if known[: len(here)] == here})
        result[key] = value
    return result


def _override(source: Source, text: str) -> Source:
    keys, equals, value_text = text.partition("=")
    parts = keys.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"--set {text}: expected KEY.PATH=VALUE, for example --set train.niter=1000")
    label = f"--set {text}"
    inner: dict[KeyPath, Location] = {}
    value = _parse(value_text, label, inner)
    data, path = _assign(source.data, parts, value, label)
    where = Location(label, 0)
    locations = {known: at for known, at in source.locations.items() if known[: len(path)] != path}
    for length in range(1, len(path) + 1):
        locations.setdefault(path[:length], where)
    locations.update({(*path, *known): where for known in inner})
    return Source(source.file, data, locations)


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
