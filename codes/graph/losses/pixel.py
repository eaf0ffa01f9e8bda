"""How far two images of the state are from each other, pixel by pixel."""

from typing import Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from ...config.options import nested
from ...config.yaml_source import Issue, KeyPath
from ...utils.errors import ConfigError
from ..graph import LOSSES, Loss, State, StepContext
from ..node_options import LossOptions

OWNERS = {"eps": "charbonnier", "delta": "huber"}


class PairLossOptions(LossOptions):
    """Options of a loss between an image and what it should be."""

    key: str = Field(description="State key of the images that are learned, (B, C, H, W).")
    target: str = Field(description="State key of what they should be, of the same shape.")

    def reads(self) -> dict[KeyPath, str]:
        return {("key",): self.key, ("target",): self.target}


class PixelLossOptions(PairLossOptions):
    """Options of `pixel`."""

    kind: Literal["l1", "l2", "charbonnier", "huber"] = Field(
        "l1",
        description="Error e of a pixel's difference d: |d|, d^2, sqrt(d^2 + eps^2), or d^2 / 2 up to delta and "
        "delta (|d| - delta / 2) beyond.",
    )
    eps: float | None = Field(None, gt=0, description="charbonnier: where it turns from a parabola to |d|; ~ is 1e-3.")
    delta: float | None = Field(None, gt=0, description="huber: where it turns from a parabola to |d|; ~ is 0.1.")
    mask: str | None = Field(
        None,
        description="State key of weights from 0 on, (B, 1 or C, H, W): a sample's loss is the weighted mean of its "
        "errors, 0 where all weights are 0.",
    )

    @model_validator(mode="after")
    def _owned(self) -> Self:
        issues = [
            Issue((name,), f"belongs to {owner}, but kind is {self.kind}")
            for name, owner in OWNERS.items()
            if getattr(self, name) is not None and self.kind != owner
        ]
        if issues:
            raise nested(issues)
        return self

    def reads(self) -> dict[KeyPath, str]:
        return {**super().reads(), **({("mask",): self.mask} if self.mask else {})}


@LOSSES.register("pixel")
class PixelLoss(Loss):
    """The mean error over the pixels and channels of each sample.

    charbonnier: Charbonnier et al., ICIP 1994, equation 12 (its square root form); huber: Huber 1964.
    """

    Options = PixelLossOptions

    def __init__(self, options: PixelLossOptions) -> None:
        self.options = options

    def __call__(self, state: State, context: StepContext) -> Tensor:  # noqa: ARG002
        options = self.options
        image, target = pair_of(state, options, "pixel")
        errors = self._errors(image, target)
        if options.mask is None:
            return errors.flatten(1).mean(dim=1)
        weights = state[options.mask].float()
        if (
            weights.ndim != 4
            or weights.shape[1] not in (1, image.shape[1])
            or weights[:, :1].shape != image[:, :1].shape
        ):
            raise ConfigError(
                f"loss pixel: {options.mask} has shape {tuple(weights.shape)}, expected (B, 1 or C, H, W) like "
                f"{options.key} {tuple(image.shape)}"
            )
        weights = weights.expand_as(errors).flatten(1)
        total = weights.sum(dim=1)
        return (weights * errors.flatten(1)).sum(dim=1) / total.clamp(min=torch.finfo(total.dtype).tiny)

    def _errors(self, image: Tensor, target: Tensor) -> Tensor:
        options = self.options
        if options.kind == "huber":
            return F.huber_loss(image, target, reduction="none", delta=options.delta or 0.1)
        difference = image - target
        if options.kind == "l1":
            return difference.abs()
        if options.kind == "l2":
            return difference.square()
        return torch.sqrt(difference.square() + (options.eps or 1e-3) ** 2)


def pair_of(state: State, options: PairLossOptions, name: str) -> tuple[Tensor, Tensor]:
    """The images and their target, float32. Raises ConfigError where their shapes differ."""
    image, target = state[options.key], state[options.target]
    if image.shape != target.shape:
        raise ConfigError(
            f"loss {name}: {options.key} has shape {tuple(image.shape)}, but {options.target} {tuple(target.shape)}; "
            "compare images of one size (`interpolate`, `crop`)"
        )
    return image.float(), target.float()
