"""The options of a step of the graph: `steps.<name>`."""

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler, model_validator
from pydantic_core import core_schema

from ..config.fingerprint import TRAINING_ONLY
from ..config.options import OneOf, nested
from .graph import INJECTORS, LOSSES
from .node_options import InjectorOptions, LossOptions
from .optimizer_options import OptimizerName, OptimizerParams, optimizer_problems
from .switches import Switches


class WithoutEmpty:
    """For mappings of named parts: a part that is ~ is not there, so that a recipe can take away what its base has."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_before_validator_function(self._present, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        inner = handler(schema)
        return {**inner, "additionalProperties": {"anyOf": [inner["additionalProperties"], {"type": "null"}]}}

    @staticmethod
    def _present(value: Any) -> Any:
        return {key: item for key, item in value.items() if item is not None} if isinstance(value, Mapping) else value


WITHOUT_EMPTY = WithoutEmpty()


class StepOptions(Switches):
    """One step of the graph: `steps.<name>`."""

    training: Annotated[str | tuple[str, ...], TRAINING_ONLY] = Field(
        (), description="The network or networks that this step trains."
    )
    optimizer: Annotated[OptimizerName, TRAINING_ONLY] = Field(
        "adamw", description="The optimiser, one of torch.optim."
    )
    optimizer_params: Annotated[OptimizerParams, TRAINING_ONLY] = Field(
        OptimizerParams(), description="Options of the optimiser."
    )
    clip_grad_eps: Annotated[float | None, TRAINING_ONLY] = Field(
        None, gt=0, description="Largest norm of the gradient; ~ does not clip."
    )
    injectors: Annotated[dict[str, Annotated[InjectorOptions, OneOf(INJECTORS, "type")]], WITHOUT_EMPTY] = Field(
        {}, description="What this step adds to the state, in order; `name: ~` takes one of a `base:` away."
    )
    losses: Annotated[dict[str, Annotated[LossOptions, OneOf(LOSSES, "type")]], WITHOUT_EMPTY, TRAINING_ONLY] = Field(
        {}, description="What is minimised; `name: ~` takes one of a `base:` away."
    )

    @model_validator(mode="after")
    def _optimizer_fits(self) -> Self:
        if issues := optimizer_problems(self.optimizer, self.optimizer_params):
            raise nested(issues)
        return self

    @property
    def trained(self) -> tuple[str, ...]:
        return (self.training,) if isinstance(self.training, str) else self.training
