"""Options as frozen typed objects that live beside the class they configure, checked once, when a recipe is read.

`parse` reports every unknown key, wrong type and contradiction together, each with file, line, key path and, for a
misspelt key, the nearest valid one.
"""

import types
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError, core_schema

from ..utils.names import problem_with_part
from .registry import Registry, nearest
from .yaml_source import Issue, KeyPath, Source

LARGEST_EXACT = 2**53  # of the whole numbers that floats hold
MOST_ISSUES = 50  # that are told of one section: a file that is no recipe would have thousands
MOST_TOLD = 200  # of the whole recipe
M = TypeVar("M", bound="Options")
# What a recipe's writer calls what pydantic calls a tuple, a dictionary or an instance of a class.
PLAIN_WORDS = {
    "tuple_type": "a list",
    "dict_type": "a mapping (key: value)",
    "model_type": "a mapping (key: value)",
    "model_attributes_type": "a mapping (key: value)",
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
}


class Options(BaseModel):
    """Base of all option classes: frozen, unknown keys forbidden, no silent conversion of text to numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True, allow_inf_nan=False)

    def remarks(self) -> Iterable[Issue]:
        """What is not wrong, but hardly meant: its key path here, and why. A recipe gets a warning of each."""
        return ()

    def given_for(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """The keys that were set, with `changes` in their place."""
        return {**{name: getattr(self, name) for name in self.model_fields_set}, **changes}

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """For editors: all names of a key, and none required, since a recipe with a `base:` holds only what differs."""
        schema = handler(core)
        own = handler.resolve_ref_schema(schema)
        own.pop("required", None)
        for field in cls.model_fields.values():
            if isinstance(field.validation_alias, AliasChoices):
                first, *others = (str(choice) for choice in field.validation_alias.choices)
                own["properties"] |= dict.fromkeys(others, own["properties"][first])
        return schema


def _is_part_of_a_name(text: str) -> str:
    if problem := problem_with_part(text):
        raise ValueError(problem)
    return text


FilePart = Annotated[str, AfterValidator(_is_part_of_a_name)]
"""What becomes a file's or folder's name, or a part of one: so nothing in a recipe leads out of the run's folder."""


ONE_OF = "one_of"


class OneOf:
    """`Annotated[Base, OneOf(REGISTRY, "type")]`: the mapping's `type` names a registered class, whose `Options` apply.

    The look-up happens when a recipe is parsed, so that what a plugin registered later is found as well.
    """

    def __init__(self, registry: Registry[Any], key: str) -> None:
        self.registry = registry
        self.key = key

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self.parse)

    def __get_pydantic_json_schema__(self, _: core_schema.CoreSchema, __: GetJsonSchemaHandler) -> dict[str, Any]:
        """A mark, which whoever makes the schema of a recipe replaces by what the registry holds."""
        return {ONE_OF: {"kind": self.registry.kind, "key": self.key}}

    def parse(self, value: Any) -> Options:
        if isinstance(value, Options):
            return value
        if not isinstance(value, Mapping):
            raise nested([Issue((), f"expected a mapping with a key `{self.key}`, found {value!r}")])
        name = value.get(self.key)
        if name is None:
            raise nested([Issue((self.key,), f"missing (one of: {', '.join(self.registry.names())})")])
        if not isinstance(name, str) or name not in self.registry:
            raise nested([Issue((self.key,), self.registry.unknown(name))])
        return validate_nested(self.registry.get(name).Options, value)


def nested(issues: list[Issue]) -> PydanticCustomError:
    """An error that carries finished issues, with paths relative to the place where it is raised."""
    return PydanticCustomError("nested", "nested", {"issues": issues})


def validate_nested(cls: type[M], value: Any) -> M:
    """Validate inside a validator; problems keep their own key paths."""
    try:
        return cls.model_validate(value)
    except ValidationError as error:
        raise nested(issues_of(cls, error, value)) from None


def parse(cls: type[M], source: Source) -> M:
    """The typed options of a recipe. Raises ConfigError that lists every problem.

    Where text is expected, a bare word is the text that was typed: `name: 007` and `name: on` are names.
    """
    return parse_typed(cls, source)[0]


def parse_typed(cls: type[M], source: Source) -> tuple[M, Source]:
    """The same, and the source in which such words are text."""
    typed, text = source.typed(), dict[KeyPath, str]()
    data = normalised(source.data)
    while True:
        try:
            return cls.model_validate(data), replace(source, data=_all_with(source.data, text))
        except ValidationError as error:
            issues = issues_of(cls, error, data)
        words = {issue.path: typed.pop(issue.path) for issue in issues if issue.wants_text and issue.path in typed}
        if not words:
            raise source.error(_first_of(issues, MOST_TOLD))
        text |= words
        data = normalised(_all_with(source.data, text))


def _all_with(data: Any, values: Mapping[KeyPath, Any]) -> Any:
    """A copy of mappings and lists with the values at key paths that are there, each level copied once."""
    if () in values:
        return values[()]
    inside: dict[str | int, dict[KeyPath, Any]] = {}
    for path, value in values.items():
        inside.setdefault(path[0], {})[path[1:]] = value
    if isinstance(data, Mapping):
        return {key: _all_with(item, inside[key]) if key in inside else item for key, item in data.items()}
    if isinstance(data, list):
        return [_all_with(item, inside[place]) if place in inside else item for place, item in enumerate(data)]
    return data


def normalised(value: Any) -> Any:
    """Lists become tuples (options are immutable) and whole floats become ints (`niter: 5e5` is a count)."""
    if isinstance(value, Mapping):
        return {key: normalised(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(normalised(item) for item in value)
    if isinstance(value, float) and value.is_integer() and abs(value) <= LARGEST_EXACT:
        return int(value)
    return value


def issues_of(cls: type[BaseModel], error: ValidationError, data: Any) -> list[Issue]:
    """A pydantic error as issues in the words of a recipe's writer: the first ones, and all that want text.

    Those are put right by `parse_typed`, all at once.
    """
    merged: dict[KeyPath, list[Issue]] = {}
    details = error.errors(include_url=False)
    told = details[:MOST_ISSUES] + [detail for detail in details[MOST_ISSUES:] if detail["type"] == "string_type"]
    for detail in told:
        context = detail.get("ctx") or {}
        nested_in = detail["type"] == "nested"
        path = _existing(detail["loc"], data, keep_last=detail["type"] == "missing")
        last = detail["loc"][-1:]
        if nested_in and (*path, *last) == detail["loc"] and str(*last) in _known_keys(cls, path):
            path = (*path, *last)  # a default that does not fit: its key is not in the data
        for issue in context["issues"] if nested_in else [_issue(cls, detail, path)]:
            merged.setdefault((*path, *issue.path), []).append(issue)
    of_keys = [_joined(path, issues) for path, issues in merged.items()]
    return _first_of(of_keys, len(of_keys), len(details) - len(told))


def _first_of(issues: list[Issue], most: int, more: int = 0) -> list[Issue]:
    """At most `most` of them, and how many others there are besides."""
    more += max(len(issues) - most, 0)
    return [*issues[:most], Issue((), f"and {more} more problems of this kind")] if more else issues


def _joined(path: KeyPath, issues: list[Issue]) -> Issue:
    """What several kinds of value that a key may have say of one that is none of them."""
    message = " or ".join(dict.fromkeys(issue.message for issue in issues))
    return Issue(path, message, issues[0].meant, any(issue.wants_text for issue in issues))


def _issue(cls: type[BaseModel], detail: ErrorDetails, path: KeyPath) -> Issue:
    """The issue of one finding of pydantic's, without its path."""
    if detail["type"] != "extra_forbidden":
        return Issue((), _message(detail), wants_text=detail["type"] == "string_type")
    known = _known_keys(cls, path[:-1])
    close = nearest(str(path[-1]), known)
    hint = f"did you mean {close}?" if close else f"known here: {', '.join(known)}"
    return Issue((), f"unknown key ({hint})", close or "")


def _existing(loc: tuple[int | str, ...], data: Any, keep_last: bool) -> KeyPath:
    """The part of a pydantic location that exists in the data: unions and validators add parts of their own."""
    path: list[str | int] = []
    for part in loc:
        in_list = isinstance(data, tuple) and isinstance(part, int) and part < len(data)
        if in_list or (isinstance(data, Mapping) and part in data):
            data = data[part]
        elif keep_last and part == loc[-1]:
            return (*path, part)
        else:
            break
        path.append(part)
    return tuple(path)


def _message(detail: ErrorDetails) -> str:
    kind, given = detail["type"], detail["input"]
    if kind == "missing":
        return "missing; this key is required"
    text = detail["msg"].removeprefix("Value error, ")
    if text.startswith("Input should be "):
        expected = PLAIN_WORDS.get(kind, text.removeprefix("Input should be "))
        close = (
            nearest(given, expected.replace("'", "").replace(" or ", ", ").split(", "))
            if isinstance(given, str)
            else None
        )
        hint = f" (did you mean {close}?)" if kind == "literal_error" and close else ""
        return f"expected {expected}, found {_shown(given)}{hint}"
    return text


def _shown(value: Any) -> str:
    if value is None:
        return "nothing (~)"
    text = repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def field_keys(name: str, field: FieldInfo) -> list[str]:
    """The keys by which a recipe may set a field."""
    alias = field.validation_alias
    others = [str(choice) for choice in alias.choices] if isinstance(alias, AliasChoices) else [alias] if alias else []
    return list(dict.fromkeys([*map(str, others), name]))


def _known_keys(cls: type[BaseModel], path: KeyPath) -> list[str]:
    model = _model_at(cls, path)
    return [key for name, field in model.model_fields.items() for key in field_keys(name, field)] if model else []


def _model_at(annotation: Any, path: KeyPath) -> type[BaseModel] | None:
    """The option class that the key path leads to, through optional, dict and tuple annotations."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, types.UnionType):
        models = (_model_at(member, path) for member in get_args(annotation) if member is not type(None))
        return next((model for model in models if model), None)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if not path:
            return annotation
        for name, field in annotation.model_fields.items():
            if path[0] in field_keys(name, field):
                return _model_at(field.annotation, path[1:])
        return None
    if get_origin(annotation) in (dict, tuple, Mapping) and path:
        members = [member for member in get_args(annotation) if member is not Ellipsis]
        return _model_at(members[-1], path[1:]) if members else None
    return None
