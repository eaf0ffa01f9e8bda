"""The options of a step of the graph: `steps.<name>`."""

from typing import Annotated, Literal

from pydantic import Field

from ..utils.options import OneOf, Options
from .graph import INJECTORS, LOSSES, InjectorOptions, LossOptions


class OptimizerParams(Options):
    """Options of the optimiser: `steps.<name>.optimizer_params`."""

    lr: float = Field(1e-4, gt=0, description="Learning rate after warm-up.")
    weight_decay: float = Field(0.0, ge=0, description="Decoupled weight decay; never on biases, norms and embeddings.")
    beta1: float = Field(0.9, ge=0, lt=1, description="Decay of the first moment.")
    beta2: float = Field(0.999, ge=0, lt=1, description="Decay of the second moment.")


class StepOptions(Options):
    """One step of the graph: `steps.<name>`."""

    training: str | tuple[str, ...] = Field((), description="The network or networks that this step trains.")
    optimizer: Literal["adamw"] = Field("adamw", description="The optimiser.")
    optimizer_params: OptimizerParams = Field(OptimizerParams(), description="Options of the optimiser.")
    clip_grad_eps: float | None = Field(None, gt=0, description="Largest norm of the gradient; ~ does not clip.")
    injectors: dict[str, Annotated[InjectorOptions, OneOf(INJECTORS, "type")]] = Field(
        {}, description="What this step adds to the state, in order."
    )
    losses: dict[str, Annotated[LossOptions, OneOf(LOSSES, "type")]] = Field({}, description="What is minimised.")

    @property
    def trained(self) -> tuple[str, ...]:
        return (self.training,) if isinstance(self.training, str) else self.training
