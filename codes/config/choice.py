"""Options of which one key names a registered class, whose own options stand beside it in the same section.

So `sampler: ddim` brings `eta` with it: what a class can be told is written in that class alone, and a plugin's class
brings its own keys.
"""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Self

from pydantic import (
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import core_schema

from .options import MOST_ISSUES, Options, field_keys, issues_of, nested, normalised
from .registry import Registry, nearest
from .yaml_source import Issue


class NameIn:
    """`Annotated[str, NameIn(REGISTRY)]`: text that is a registered name, looked up when a recipe is parsed."""

    def __init__(self, registry: Registry[Any]) -> None:
        self.registry = registry

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(self._known, handler(source))

    def __get_pydantic_json_schema__(self, _: core_schema.CoreSchema, __: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"enum": self.registry.names(), "type": "string"}

    def _known(self, name: str) -> str:
        if name not in self.registry:
            raise nested([Issue((), self.registry.unknown(name))])
        return name


class ChoiceOptions(Options):
    """Base of options whose key `choice_key` names a class of `choices`, of which every entry is an Options class.

    The keys of the class chosen are accepted beside the others, checked, and completed with their defaults: they are
    attributes, and part of a dump. A key of another class is accepted at its default there, where it changes nothing.
    """

    model_config = ConfigDict(extra="allow")
    choice_key: ClassVar[str]
    choices: ClassVar[Registry[Any]]

    @classmethod
    def chosen_name(cls, data: Mapping[str, Any]) -> Any:
        """The name that the keys `data` choose, perhaps of nothing registered."""
        field = cls.model_fields[cls.choice_key]
        return data.get(cls.choice_key, field.get_default())

    @classmethod
    def own_fields(cls) -> Iterator[tuple[str, str, FieldInfo]]:
        """(name of a class, its key, its field) for all that may stand beside the choice."""
        for name in cls.choices.names():
            for key, field in cls.choices.get(name).model_fields.items():
                yield name, key, field

    @classmethod
    def all_keys(cls) -> list[str]:
        """The names of all keys, those of every class that may be chosen among them."""
        return list(dict.fromkeys([*cls.model_fields, *(key for _, key, _ in cls.own_fields())]))

    @model_validator(mode="wrap")
    @classmethod
    def _with_own_keys(cls, data: Any, handler: ModelWrapValidatorHandler[Self], info: ValidationInfo) -> Self:
        if not isinstance(data, Mapping):
            return handler(data)
        data = normalised(data) if info.mode == "json" else data  # the handler no longer knows that lists are tuples
        known = {key for name, field in cls.model_fields.items() for key in field_keys(name, field)}
        further = {key: value for key, value in data.items() if key not in known}
        own, issues = cls._own(cls.chosen_name(data), further)
        try:
            made = handler(data)
        except ValidationError as error:
            raise nested([*issues_of(cls, error, data), *issues]) from None
        if issues:
            raise nested(issues)
        assert made.__pydantic_extra__ is not None, "extra keys are allowed"
        made.__pydantic_extra__.clear()
        made.__pydantic_extra__.update(own)
        return made

    @classmethod
    def _own(cls, chosen: Any, given: Mapping[str, Any]) -> tuple[dict[str, Any], list[Issue]]:
        """The options of the chosen class, complete, and what is wrong with the keys that this class does not have."""
        options: type[Options] | None = cls.choices.get(chosen) if chosen in cls.choices else None
        of_chosen = {key: value for key, value in given.items() if options and key in options.model_fields}
        others = [key for key in given if key not in of_chosen][:MOST_ISSUES]
        issues = [issue for key in others for issue in cls._misplaced(chosen, key, given[key])]
        if options is None:
            return {}, issues
        try:
            return options.model_validate(of_chosen).model_dump(), issues
        except ValidationError as error:
            return {}, [*issues_of(options, error, of_chosen), *issues]

    @classmethod
    def _misplaced(cls, chosen: Any, key: str, value: Any) -> list[Issue]:
        owners = {name: field for name, own, field in cls.own_fields() if own == key}
        if not owners:
            known = cls.all_keys()
            close = nearest(str(key), known)
            hint = f"did you mean {close}?" if close else f"known here: {', '.join(known)}"
            return [Issue((key,), f"unknown key ({hint})", close or "")]
        if chosen not in cls.choices or any(field.get_default() == value for field in owners.values()):
            return []
        return [
            Issue(
                (key,), f"{key} belongs to the {cls.choice_key} {' or '.join(owners)}, found {cls.choice_key} {chosen}"
            )
        ]

    def choice(self) -> Any:
        """The chosen class with its options."""
        return self.choices.get(self.chosen_name(vars(self))).model_validate(self.__pydantic_extra__)

    def given_for(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """The keys that were set, with `changes` in their place; of a class no longer chosen none is kept."""
        given = super().given_for({})
        chosen = self.chosen_name({**given, **changes})
        own = self.choices.get(chosen).model_fields if chosen in self.choices else {}
        left = {name for name in self.__pydantic_extra__ or {} if name not in own}
        return {**{name: value for name, value in given.items() if name not in left}, **changes}

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """For editors: the keys of every class that may be chosen."""
        schema = super().__get_pydantic_json_schema__(core, handler)
        own = handler.resolve_ref_schema(schema)
        for name in cls.choices.names():
            for key, field in cls.choices.get(name).model_json_schema()["properties"].items():
                described = {**field, "description": f"{name}: {field.get('description', '')}"}
                own["properties"].setdefault(key, described)
        own["additionalProperties"] = False
        return schema
