"""The options of the training loop and of what it shows and keeps: `train` and `logger`."""

from typing import Literal, Self

from pydantic import Field, model_validator

from ..utils.options import Options, nested
from ..utils.yaml_source import Issue


class TrainOptions(Options):
    """The loop: `train`."""

    niter: int = Field(ge=1, description="Number of iterations (updates).")
    warmup_iter: int = Field(
        0, ge=-1, description="Iterations over which the learning rate rises from 0; 0 or -1 switches the rise off."
    )
    mega_batch_factor: int = Field(
        1, ge=1, description="Splits the batch into this many parts whose gradients accumulate."
    )
    ema_rate: float = Field(0.999, ge=0, lt=1, description="Decay of the averaged weights (EMA) per iteration.")
    ema_warmup: bool = Field(
        True, description="Average over a shorter past at the start: rate min(ema_rate, (1+n)/(10+n))."
    )
    val_freq: int | None = Field(None, ge=1, description="Iterations between evaluations (`eval.evaluators`).")
    manual_seed: int = Field(0, ge=0, description="Seed from which every random draw of the run follows.")
    default_lr_scheme: Literal["MultiStepLR", "CosineAnnealingLR"] = Field(
        "MultiStepLR", description="How the learning rate falls."
    )
    gen_lr_steps: tuple[int, ...] = Field(
        (), description="MultiStepLR: iterations at which the rate is multiplied by lr_gamma."
    )
    lr_gamma: float = Field(0.5, gt=0, le=1, description="MultiStepLR: factor at each of gen_lr_steps.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.default_lr_scheme != "MultiStepLR" and self.gen_lr_steps:
            raise nested(
                [Issue(("gen_lr_steps",), f"belongs to MultiStepLR, but default_lr_scheme is {self.default_lr_scheme}")]
            )
        return self


class LoggerOptions(Options):
    """What is shown and kept: `logger`."""

    print_freq: int = Field(100, ge=1, description="Iterations between log lines and TensorBoard scalars.")
    save_checkpoint_freq: int = Field(
        5000, ge=1, description="Iterations between checkpoints; the last iteration is always saved."
    )
    keep_last: int | None = Field(None, ge=1, description="Keep only this many newest checkpoints; ~ keeps all.")
    checkpoint_format: Literal["safetensors", "pth"] = Field(
        "safetensors",
        description="safetensors know their network and process; pth is a bare state dict, as DLAS writes.",
    )
    visuals: tuple[str, ...] = Field((), description="State keys of images to write as grids.")
    visual_debug_rate: int = Field(1000, ge=1, description="Iterations between grids of `visuals`.")
    reverse_n1_to_1: bool = Field(True, description="The visuals are in [-1, 1] (else in [0, 1]).")
    reverse_imagenet_norm: Literal[False] = Field(
        False, description="Not used by diffusion recipes; only false is accepted."
    )
