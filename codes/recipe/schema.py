"""Every option of a recipe as a JSON schema for editors and as a page to read, both from the option classes."""

import json
import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import AliasChoices
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from ..config.choice import ChoiceOptions, NameIn
from ..config.options import ONE_OF, OneOf, Options
from ..config.registry import Registry
from ..data.datasets import DATASETS
from ..evaluation.evaluators.base import EVALUATORS
from ..graph.graph import INJECTORS, LOSSES
from ..models.diffusion.networks.base import NETWORKS
from .recipe import Recipe, import_registered

WORDS = {str: "text", int: "whole number", float: "number", bool: "true or false"}
PLACES: tuple[tuple[str, Registry[Any], str], ...] = (
    ("datasets.<phase>", DATASETS, "mode"),
    ("networks.<name>.args", NETWORKS, "which_model_G"),
    ("steps.<name>.injectors.<name>", INJECTORS, "type"),
    ("steps.<name>.losses.<name>", LOSSES, "type"),
    ("eval.evaluators.<name>", EVALUATORS, "type"),
)
HEAD = """# Options

Every key that a recipe may have, with its type, its default and its meaning. This page and `options/schema.json` are
made from the option classes (`python codes/scripts/option_schema.py --markdown > docs/options.md`); a test fails when
they are stale.

`~` stands for "not set". `<name>` is a name of your own. Any key can be given on the command line as well:
`--set train.niter=1000 datasets.train.paths=/my/photographs`. There a value is taken as it stands, with `#`, colons and
spaces; `[...]`, `{...}` and quoted text are YAML. Words are read as in YAML 1.2 (`0123` is 123, `1:30` and `2024-01-01`
are text), and `yes`, `no`, `on` and `off` as truth values; where text is expected, `name: 007` is the text that was
typed. `base: FILE` (relative to the recipe) takes over
everything of another recipe that is not said anew.

"""


def json_schema() -> str:
    """The schema of a recipe (JSON Schema 2020-12) as text: what editors need for completion, hover and marking."""
    import_registered()
    classes = _Classes()
    schema = classes.schema_of(Recipe)
    base = {"type": "string", "description": "Another recipe whose keys hold wherever this one says nothing."}
    whole = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Tessera recipe",
        **schema,
        "properties": {"base": base, **schema["properties"]},
        "$defs": dict(sorted(classes.schemas.items())),
    }
    return json.dumps(whole, indent=1) + "\n"


def markdown() -> str:
    """The same as a page: a table of keys for every section."""
    import_registered()
    parts = [HEAD, *_section("The recipe", Recipe, "")]
    for place, registry, key in PLACES:
        parts.append(f"## `{place}`: one of these, by `{key}`\n\n")
        classes: dict[type[Options], list[str]] = {}
        for name in registry.names():
            classes.setdefault(registry.get(name).Options, []).append(name)
        for options, names in classes.items():
            parts += _section(", ".join(f"`{name}`" for name in names), options, "", level=3)
    return "".join(parts).rstrip("\n") + "\n"


class _Classes:
    """The schemas of all option classes that a recipe can lead to, by the name of the class."""

    def __init__(self) -> None:
        self.schemas: dict[str, Any] = {}

    def schema_of(self, options: type[Options]) -> dict[str, Any]:
        """The schema of a class; the classes it refers to are entered in `found`."""
        schema = options.model_json_schema(mode="validation")
        for name, part in schema.pop("$defs", {}).items():
            if name not in self.schemas:
                self.schemas[name] = {}  # so that a class that leads to itself comes to an end
                self.schemas[name] = self._finished(part)
        finished: dict[str, Any] = self._finished(schema)
        return finished

    def _finished(self, value: Any) -> Any:
        """Without the titles that only repeat a key, and with the choices of registries in place of their marks."""
        if isinstance(value, list):
            return [self._finished(item) for item in value]
        if not isinstance(value, Mapping):
            return value
        if ONE_OF in value:
            chosen = self._chosen(**value[ONE_OF])
            return {**{key: item for key, item in value.items() if key not in (ONE_OF, "title")}, **chosen}
        kept = {key: item for key, item in value.items() if not (key == "title" and isinstance(item, str))}
        return {key: self._finished(item) for key, item in kept.items()}

    def _chosen(self, kind: str, key: str, below: str | None = None) -> dict[str, Any]:
        """A mapping whose `key` says which class it follows, itself or what it has at `below`."""
        registry = next(registry for _, registry, _ in PLACES if registry.kind == kind)
        branches = []
        for name in registry.names():
            follows = self._reference(registry.get(name).Options)
            then = {"properties": {below: follows}} if below else follows
            branches.append({"if": {"properties": {key: {"const": name}}, "required": [key]}, "then": then})
        return {"type": "object", "properties": {key: {"enum": registry.names()}}, "allOf": branches}

    def _reference(self, options: type[Options]) -> dict[str, str]:
        name = options.__name__
        if name not in self.schemas:
            self.schemas[name] = {}
            self.schemas[name] = self.schema_of(options)
        return {"$ref": f"#/$defs/{name}"}


def _section(title: str, options: type[Options], path: str, level: int = 2) -> Iterator[str]:
    """A table of the keys of a class, then the sections of the classes nested in it."""
    yield f"{'#' * level} {title}\n\n"
    if path == "" and level == 3 and options.__doc__:
        yield f"{options.__doc__.splitlines()[0]}\n\n"
    yield "| key | type | default | meaning |\n|---|---|---|---|\n"
    nested: list[tuple[str, type[Options]]] = []
    for name, field in options.model_fields.items():
        key = _key(name, field)
        yield f"| {key} | {_words(field.annotation, field)} | {_default(field)} | {_cell(field.description or '')} |\n"
        for inner, below in _nested(field):
            first = key.partition(" ")[0].strip("`")
            nested.append((f"{path}{first}{below}", inner))
    yield from _own_rows(options)
    yield "\n"
    for inner_path, inner in nested:
        yield from _section(f"`{inner_path}`", inner, f"{inner_path}.", level if level == 3 else 2)


def _own_rows(options: type[Options]) -> Iterator[str]:
    """The keys that come with the class that another key names."""
    if not issubclass(options, ChoiceOptions):
        return
    for name, key, field in options.own_fields():
        meaning = _cell(f"With `{options.choice_key}: {name}`: {field.description}")
        yield f"| `{key}` | {_words(field.annotation, field)} | {_default(field)} | {meaning} |\n"


def _key(name: str, field: FieldInfo) -> str:
    alias = field.validation_alias
    if isinstance(alias, AliasChoices):
        first, *others = (str(choice) for choice in alias.choices)
        return f"`{first}` (also `{'`, `'.join(others)}`)"
    return f"`{alias if isinstance(alias, str) else name}`"


def _nested(field: FieldInfo) -> Iterator[tuple[type[Options], str]]:
    """The option classes inside a field, with what follows its key; those of registries have sections of their own."""
    for kind, below in _kinds(field.annotation):
        if not any(isinstance(note, OneOf) for note in field.metadata):
            yield kind, below


def _kinds(annotation: Any, below: str = "") -> Iterator[tuple[type[Options], str]]:
    if isinstance(annotation, type) and issubclass(annotation, Options):
        yield annotation, below
        return
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated and any(isinstance(note, OneOf) for note in inner[1:]):
        return
    if origin is Literal:
        return
    deeper = f"{below}.<name>" if origin is dict else below
    for part in inner[:1] if origin is Annotated else inner:
        yield from _kinds(part, deeper)


def _words(annotation: Any, field: FieldInfo) -> str:
    """A type in the words of a recipe's writer."""
    bounds = "".join(f" {sign} {value:g}" for sign, value in _bounds(field))
    return _cell(_type(annotation) + bounds)


def _type(annotation: Any) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation is type(None):
        return "~"
    if origin is Literal:
        return " or ".join(f"`{_plain(value)}`" for value in inner)
    if origin is Annotated:
        names = [note for note in inner[1:] if isinstance(note, NameIn)]
        if names:
            return " or ".join(f"`{name}`" for name in names[0].registry.names())
        notes = [note for note in inner[1:] if isinstance(note, OneOf)]
        return f"by `{notes[0].key}`" if notes else _type(inner[0])
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type(part) for part in inner))
    if origin is tuple:
        return f"list of {_type(inner[0])}" if Ellipsis in inner else f"[{', '.join(map(_type, inner))}]"
    if origin is dict:
        return f"mapping: name to {_type(inner[1])}"
    if isinstance(annotation, type) and issubclass(annotation, Options):
        return "section"
    return WORDS.get(annotation, "anything")


def _bounds(field: FieldInfo) -> Iterator[tuple[str, float]]:
    for note in field.metadata:
        for name, sign in (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<")):
            value = getattr(note, name, None)
            if value is not None:
                yield sign, value


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True, validated_data={})
    if default is PydanticUndefined or isinstance(default, Options):
        return ""
    return f"`{_cell(_plain(default))}`"


def _plain(value: Any) -> str:
    """A value as YAML writes it."""
    if value is None:
        return "~"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_plain, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_plain(item)}' for key, item in value.items())}}}"
    return f"{value:g}" if isinstance(value, float) else str(value) or '""'


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
