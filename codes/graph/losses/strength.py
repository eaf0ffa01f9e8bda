"""How well strengths are told, with how sure the network was of them."""

import math

import torch
from pydantic import Field
from torch import Tensor

from ...config.yaml_source import KeyPath
from ...utils.errors import ConfigError
from ..graph import LOSSES, Loss, State, StepContext
from ..node_options import LossOptions


class StrengthLossOptions(LossOptions):
    """Options of `strength`."""

    key: str = Field("estimated_entropy", description="State key of the strengths, (B, K) in [0, 1].")
    spread: str = Field("estimated_spread", description="State key of their standard deviations, (B, K), positive.")
    target: str = Field("corruption_entropy", description="State key of the true strengths, (B, K) in [0, 1].")

    def reads(self) -> dict[KeyPath, str]:
        return {("key",): self.key, ("spread",): self.spread, ("target",): self.target}


@LOSSES.register("strength")
class StrengthLoss(Loss):
    """Negative log-likelihood of the true strengths under normal distributions, in nats a corruption.

    Nix and Weigend 1994, "Estimating the mean and variance of the target probability distribution", equation 4: it is
    least where the spread is the root mean square error of the strengths that look alike.
    """

    Options = StrengthLossOptions

    def __init__(self, options: StrengthLossOptions) -> None:
        self.options = options

    def __call__(self, state: State, context: StepContext) -> Tensor:  # noqa: ARG002
        options = self.options
        mean, spread, target = state[options.key], state[options.spread], state[options.target]
        if not mean.shape == spread.shape == target.shape:
            raise ConfigError(
                f"loss strength: {options.key} has shape {tuple(mean.shape)}, {options.spread} {tuple(spread.shape)} "
                f"and {options.target} {tuple(target.shape)}; they must be alike, one number for each corruption"
            )
        error = (target.float() - mean.float()) / spread.float()
        return (0.5 * error.square() + torch.log(spread.float()) + 0.5 * math.log(2 * math.pi)).mean(1)
