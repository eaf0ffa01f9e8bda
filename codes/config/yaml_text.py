"""YAML text to plain data with the line of every value, within limits that no recipe comes near.

Values are those of YAML 1.2 (core schema), never executed: `0123` is 123, and `1:30` and `2024-01-01` are text, where
YAML 1.1 reads 83, 90 and a date. Kept from YAML 1.1, because recipes use them: yes, no, on and off as truth values,
`_` between digits, and merge keys (`<<`). `3e-4` and `5e5` are numbers, as every recipe writer expects. A key that
stands twice in one mapping is an error instead of a silent last-one-wins.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import yaml
from yaml.reader import ReaderError

KeyPath = tuple[str | int, ...]

MOST_TEXT = 2**17  # characters of a file
MOST_LENGTH = 4096  # characters of a value or key; a path has no more
MOST_DEPTH = 30
MOST_VALUES = 10_000  # with those that aliases and merge keys repeat
LARGEST = 2**63 - 1
MOST_DIGITS = 40

_TAG = "tag:yaml.org,2002:"
_MERGE = f"{_TAG}merge"
_SCALARS = {f"{_TAG}{kind}" for kind in ("str", "int", "float", "bool", "null", "merge")}
_RESOLVERS = (
    ("bool", r"true|True|TRUE|false|False|FALSE|yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF", "tTfFyYnNoO"),
    ("int", r"[-+]?\d+(?:_\d+)*|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:\d[\d_]*)?(?:\.\d[\d_]*|\d\.|\d(?=[eE]))(?:[eE][-+]?\d+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
    ("merge", r"<<", "<"),
    ("null", r"~|null|Null|NULL|", ("~", "n", "N", "")),
)


class Mark(NamedTuple):
    """Where a value stands (1-based line), and how it was typed, where that is a bare word read as something else."""

    line: int
    text: str | None = None


class YamlProblem(Exception):
    """Text that cannot be read: one sentence, and the 1-based line."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's scalars, which looks no deeper than MOST_DEPTH."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth += 1
        if self.depth > MOST_DEPTH:
            raise YamlProblem(self.peek_event().start_mark.line + 1, f"nested deeper than {MOST_DEPTH} levels")
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_whole(self, node: yaml.ScalarNode) -> int:
        """A whole number in decimal, 0o... or 0x..."""
        text = node.value.replace("_", "")
        value = int(text, 10 if text.lstrip("-+").isdigit() else 0) if len(text) < MOST_DIGITS else LARGEST + 1
        if abs(value) > LARGEST:
            raise YamlProblem(node.start_mark.line + 1, f"the number {shortened(text)} is too large; no option is")
        return value


_Loader.yaml_implicit_resolvers = {}
for _kind, _pattern, _first in _RESOLVERS:
    _Loader.add_implicit_resolver(f"{_TAG}{_kind}", re.compile(f"^(?:{_pattern})$"), list(_first))
_Loader.add_constructor(f"{_TAG}int", _Loader.construct_whole)


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes what `_Loader` would read as something else."""


_Dumper.yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


def parse_yaml(text: str, marks: dict[KeyPath, Mark]) -> Any:
    """The data of a text; `marks` is filled with the place of everything in it. Raises YamlProblem."""
    if len(text) > MOST_TEXT:
        raise YamlProblem(1, f"longer than {MOST_TEXT} characters; a recipe has a few thousand")
    try:
        loader = _Loader(text)
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise YamlProblem(line, f"YAML syntax: unacceptable character #x{error.character:04x}") from None
    try:
        node = loader.get_single_node()
        return None if node is None else _Builder(loader, marks).build(node, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = shortened(" ".join(str(error.problem or error.context).split()), 200)
        raise YamlProblem(mark.line + 1 if mark else 1, f"YAML syntax: {what}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise YamlProblem(1, f"YAML syntax: {shortened(' '.join(str(error).split()), 200)}") from None
    finally:
        loader.dispose()


def is_text(word: str) -> bool:
    """Whether YAML reads a bare word as text: as no number, truth value or nothing."""
    kinds = [kind for kind, pattern, _ in _RESOLVERS if re.fullmatch(pattern, word)]
    return not kinds or kinds == ["merge"]


def to_yaml(data: Mapping[str, Any]) -> str:
    """Data as the text of a recipe that reads back as the same data."""
    return yaml.dump(dict(data), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def shortened(text: str, most: int = 60) -> str:
    """Text cut to `most` characters, the last three of them dots."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


class _Builder:
    """Nodes to data: what aliases and merge keys repeat counts each time, so that none grows without end."""

    def __init__(self, loader: _Loader, marks: dict[KeyPath, Mark]) -> None:
        self.loader = loader
        self.marks = marks
        self.values = 0
        self.inside: set[int] = set()  # nodes that are being built
        self.merged: dict[int, dict[str, tuple[yaml.Node, yaml.Node]]] = {}

    def build(self, node: yaml.Node, path: KeyPath) -> Any:
        self.values += 1
        if self.values > MOST_VALUES:
            raise _at(node, path, f"more than {MOST_VALUES} values, with what aliases repeat; a recipe has hundreds")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if node.tag not in (f"{_TAG}map", f"{_TAG}seq"):
            raise _at(node, path, f"the tag {node.tag!r} is not read; write a plain value")
        if id(node) in self.inside:
            raise _at(node, path, "YAML syntax: an alias contains itself")
        self.inside.add(id(node))
        value: Any
        if isinstance(node, yaml.MappingNode):
            value = self._mapping(node, path)
        else:
            assert isinstance(node, yaml.SequenceNode), "there is no other kind"
            value = self._sequence(node, path)
        self.inside.remove(id(node))
        return value

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        if len(node.value) > MOST_LENGTH:
            raise _at(node, path, f"a value of {len(node.value)} characters; expected {MOST_LENGTH} at most")
        if node.tag not in _SCALARS:
            raise _at(node, path, f"the tag {node.tag!r} is not read; write a plain value")
        try:
            value = self.loader.construct_object(node, deep=True)
        except (ValueError, LookupError):
            raise _at(node, path, f"{shortened(node.value)!r} is not what its tag says") from None
        if node.style is None and isinstance(value, bool | int | float):
            self.marks[path] = Mark(self.marks[path].line if path in self.marks else _line(node), node.value)
        return value

    def _sequence(self, node: yaml.SequenceNode, path: KeyPath) -> list[Any]:
        items = []
        for index, child in enumerate(node.value):
            self.marks[*path, index] = Mark(_line(child))
            items.append(self.build(child, (*path, index)))
        return items

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, (key_node, value_node) in self._pairs(node, path).items():
            self.marks[*path, key] = Mark(_line(key_node))
            result[key] = self.build(value_node, (*path, key))
        return result

    def _pairs(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """Key -> its node and its value's: the mapping's own, and behind them those that merge keys bring."""
        if id(node) in self.merged:
            return self.merged[id(node)]
        own: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        merged: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise _at(key_node, path, "a key must be a word, found a list or a mapping")
            if key_node.tag == _MERGE:
                merged = {**self._brought(value_node, path), **merged}
                continue
            key = key_node.value
            if key in own:
                raise _at(key_node, (*path, shortened(key)), "this key stands twice; remove one")
            if len(key) > MOST_LENGTH:
                raise _at(key_node, path, f"a key of {len(key)} characters; expected {MOST_LENGTH} at most")
            own[key] = (key_node, value_node)
        self.merged[id(node)] = {**merged, **own}
        return self.merged[id(node)]

    def _brought(self, node: yaml.Node, path: KeyPath) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """What `<<: node` brings; of several mappings the first that has a key wins."""
        parts = node.value if isinstance(node, yaml.SequenceNode) else [node]
        pairs: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for part in reversed(parts):
            if not isinstance(part, yaml.MappingNode):
                raise _at(part, path, "YAML syntax: a merge key (<<) needs a mapping, or a list of mappings")
            if id(part) in self.inside:
                raise _at(part, path, "YAML syntax: an alias contains itself")
            self.inside.add(id(part))
            pairs |= self._pairs(part, path)
            self.inside.remove(id(part))
            self.values += len(pairs)
            if self.values > MOST_VALUES:
                raise _at(part, path, f"more than {MOST_VALUES} values, with what merge keys repeat")
        return pairs


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _at(node: yaml.Node, path: KeyPath, message: str) -> YamlProblem:
    return YamlProblem(_line(node), f"{shortened('.'.join(map(str, path)), 200)}: {message}" if path else message)
