"""The same injector for each of several state keys."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Self

from pydantic import Field, model_validator
from torch import Tensor

from ...config.options import nested, validate_nested
from ...config.yaml_source import Issue, KeyPath
from ...models.diffusion.networks.base import DiffusionNetwork
from ...models.diffusion.process_options import ProcessOptions
from ..graph import INJECTORS, Injector, State, StepContext
from ..node_options import InjectorOptions
from .keys import paths_of

OUTER = ("every", "after", "before", "requires", "train", "eval", "no_grad")


class ForEachOptions(InjectorOptions):
    """Options of `for_each`."""

    in_keys: tuple[str, ...] = Field(validation_alias="in", min_length=1, description="State keys, one at a time.")
    out_keys: tuple[str, ...] = Field(
        validation_alias="out", min_length=1, description="State keys of the results; as many as `in`."
    )
    injector: dict[str, Any] = Field(
        description="The injector, one that has a single `in` and `out`: its type and options without these two."
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.in_keys) != len(self.out_keys):
            message = f"names {len(self.out_keys)} keys, but `in` names {len(self.in_keys)}; give one for each"
            raise nested([Issue(("out",), message)])
        issues = self._type_issues() or [
            Issue(("injector", key), "belongs to for_each itself, beside `injector`")
            for key in self.injector
            if key in OUTER or key in ("in", "out")
        ]
        if not issues:
            try:
                issues = self._written_issues()
            except ValueError as error:
                issues = _inside(error)
        if issues:
            raise nested(issues)
        return self

    def _type_issues(self) -> list[Issue]:
        kind = self.injector.get("type")
        if kind is None:
            return [Issue(("injector", "type"), f"missing (one of: {', '.join(_repeatable())})")]
        if not isinstance(kind, str) or kind not in INJECTORS:
            return [Issue(("injector", "type"), INJECTORS.unknown(kind))]
        if kind not in _repeatable():
            message = f"{kind} has no single `in` and `out` (these have: {', '.join(_repeatable())})"
            return [Issue(("injector", "type"), message)]
        return []

    def _written_issues(self) -> list[Issue]:
        further = [key for key in self.nodes[0].writes().values() if key != self.out_keys[0]]
        message = f"also writes {', '.join(further)}, each time the same; for_each takes injectors that write one key"
        return [Issue(("injector",), message)] if further else []

    @property
    def nodes(self) -> tuple[InjectorOptions, ...]:
        """The options of the injector for each key."""
        cls = INJECTORS.get(self.injector["type"]).Options
        pairs = zip(self.in_keys, self.out_keys, strict=True)
        return tuple(validate_nested(cls, {**self.injector, "in": key, "out": out}) for key, out in pairs)

    def reads(self) -> dict[KeyPath, str]:
        others = {
            ("injector", *path): key
            for node in self.nodes
            for path, key in node.reads().items()
            if path != ("in",)
        }  # fmt: skip
        return {**paths_of("in", self.in_keys), **others}

    def writes(self) -> dict[KeyPath, str]:
        return paths_of("out", self.out_keys)

    def same_size(self) -> dict[str, str]:
        return {out: key for node in self.nodes for out, key in node.same_size().items()}

    def network_inputs(self) -> dict[str, str]:
        return {name: key for node in self.nodes for name, key in node.network_inputs().items()}

    def processes(self) -> dict[str, ProcessOptions]:
        return {name: process for node in self.nodes for name, process in node.processes().items()}

    def problems(self, networks: Mapping[str, DiffusionNetwork]) -> list[Issue]:
        of_nodes = dict.fromkeys(issue for node in self.nodes for issue in node.problems(networks))
        return [Issue(("injector", *issue.path), issue.message) for issue in of_nodes]


def _repeatable() -> list[str]:
    """The injectors whose options have exactly one key in and one key out."""
    wanted = {"in_key": str, "out": str}
    fields = {name: INJECTORS.get(name).Options.model_fields for name in INJECTORS.names()}
    return [
        name
        for name, known in fields.items()
        if all(key in known and known[key].annotation is kind for key, kind in wanted.items())
    ]


def _inside(error: ValueError) -> list[Issue]:
    """The issues of the repeated injector, below `injector`."""
    issues: list[Issue] = getattr(error, "context", {}).get("issues", [])
    return [replace(issue, path=("injector", *issue.path)) for issue in issues]


@INJECTORS.register("for_each")
class ForEachInjector(Injector):
    """Runs one injector on every key of `in` in turn, each with its own key of `out`."""

    Options = ForEachOptions

    def __init__(self, options: ForEachOptions) -> None:
        self.options = options
        self.parts: list[Injector] = [INJECTORS.get(node.type)(node) for node in options.nodes]

    def __call__(self, state: State, context: StepContext) -> dict[str, Any]:
        return {key: value for part in self.parts for key, value in part(state, context).items()}

    def end_iteration(self, gather: Callable[[Tensor], Tensor]) -> None:
        for part in self.parts:
            part.end_iteration(gather)

    def state_dict(self) -> dict[str, Any]:
        states = {str(index): part.state_dict() for index, part in enumerate(self.parts)}
        return {index: state for index, state in states.items() if state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for index, part in enumerate(self.parts):
            if str(index) in state:
                part.load_state_dict(state[str(index)])
