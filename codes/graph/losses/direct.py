"""The loss that an injector has computed already."""

from pydantic import Field
from torch import Tensor

from ...config.yaml_source import KeyPath
from ..graph import LOSSES, Loss, State, StepContext
from ..node_options import LossOptions


class DirectLossOptions(LossOptions):
    """Options of `direct`."""

    key: str = Field(description="State key that holds one loss a sample, shape (B,).")

    def reads(self) -> dict[KeyPath, str]:
        return {("key",): self.key}


@LOSSES.register("direct")
class DirectLoss(Loss):
    """Takes a state key as the loss, for example the `mse` of the injector gaussian_diffusion."""

    Options = DirectLossOptions

    def __init__(self, options: DirectLossOptions) -> None:
        self.options = options

    def __call__(self, state: State, context: StepContext) -> Tensor:  # noqa: ARG002
        return state[self.options.key]
