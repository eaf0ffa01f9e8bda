"""The options of the training loop and of what it shows and keeps: `train` and `logger`."""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from ..config.effect import NotWith, OnlyWith
from ..config.options import FilePart, Options, nested
from ..config.yaml_source import Issue

MOST_SIGMA_REL = 1 / math.sqrt(12)  # of gamma 0 in power_ema.py, the plain mean of everything


class PostHocEmaOptions(Options):
    """Averages whose length is chosen after training: `train.post_hoc_ema`."""

    sigma_rel: tuple[Annotated[float, Field(gt=0, lt=MOST_SIGMA_REL)], ...] = Field(
        (0.05, 0.10),
        min_length=1,
        description="Lengths of the averages that are kept, as a share of the training so far (0.05 is 5 %).",
    )
    every: int = Field(ge=1, description="Iterations between the snapshots; the last iteration is always one.")
    dtype: Literal["fp32", "fp16"] = Field("fp32", description="Numbers of the snapshots; fp16 halves their size.")

    @field_validator("sigma_rel")
    @classmethod
    def _different(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if len({f"{value:.3f}" for value in values}) < len(values):
            raise ValueError(f"lengths that differ by less than 0.001 are the same, found {list(values)}")
        return values


class TrainOptions(Options):
    """The loop: `train`."""

    niter: int = Field(ge=1, le=10**9, description="Number of iterations (updates).")
    warmup_iter: int = Field(
        0, ge=-1, description="Iterations over which the learning rate rises from 0; 0 or -1 switches the rise off."
    )
    mega_batch_factor: int = Field(
        1, ge=1, description="Splits the batch into this many parts whose gradients accumulate."
    )
    ema_rate: float = Field(0.999, ge=0, lt=1, description="Decay of the averaged weights (EMA) per iteration.")
    ema_warmup: Annotated[bool, NotWith("ema_rate", 0)] = Field(
        True, description="Average over a shorter past at the start: rate min(ema_rate, (1+n)/(10+n))."
    )
    val_freq: Annotated[int | None, OnlyWith("/eval.evaluators")] = Field(
        None, ge=1, description="Iterations between evaluations (`eval.evaluators`)."
    )
    manual_seed: int = Field(
        0, ge=0, description="Seed from which every random draw of the run follows, where `seed` is not set."
    )
    default_lr_scheme: Literal["MultiStepLR", "CosineAnnealingLR", "constant"] = Field(
        "MultiStepLR", description="How the learning rate falls."
    )
    gen_lr_steps: tuple[int, ...] = Field(
        (), description="MultiStepLR: iterations at which the rate is multiplied by lr_gamma."
    )
    lr_gamma: Annotated[float, OnlyWith("gen_lr_steps")] = Field(
        0.5, gt=0, le=1, description="MultiStepLR: factor at each of gen_lr_steps."
    )

    lr_min_ratio: float = Field(
        0.0, ge=0, le=1, description="CosineAnnealingLR: the rate at the end, as a share of the rate after warm-up."
    )
    post_hoc_ema: PostHocEmaOptions | None = Field(
        None, description="Also keep averages from which codes/scripts/post_hoc_ema.py makes one of any length."
    )
    max_skipped_in_a_row: int = Field(
        50, ge=1, description="Updates in a row without a finite gradient after which the run stops, saved."
    )
    shard_optimizer: bool = Field(
        False, description="With several processes: each keeps the optimiser's state of its share of the parameters."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        scheme, issues = self.default_lr_scheme, []
        for key, owner in (("gen_lr_steps", "MultiStepLR"), ("lr_min_ratio", "CosineAnnealingLR")):
            if getattr(self, key) and scheme != owner:
                issues.append(Issue((key,), f"belongs to {owner}, but default_lr_scheme is {scheme}"))
        if any(later <= earlier for earlier, later in pairwise((0, *self.gen_lr_steps))):
            issues.append(Issue(("gen_lr_steps",), f"must ascend from 1, found {list(self.gen_lr_steps)}"))
        if issues:
            raise nested(issues)
        return self

    def remarks(self) -> Iterator[Issue]:
        late = [step for step in self.gen_lr_steps if step >= self.niter]
        if late:
            yield Issue(("gen_lr_steps",), f"{late[0]} is never reached: training ends at iteration {self.niter}")
        if self.warmup_iter > self.niter:
            yield Issue(("warmup_iter",), f"is longer than the training of {self.niter} iterations: it never ends")


class KeepBestOptions(Options):
    """Which checkpoint is the best: `logger.keep_best`."""

    evaluator: str = Field(description="Name of the evaluator (`eval.evaluators`).")
    metric: str = Field(description="Name of its number, as the log shows it, e.g. psnr.")
    mode: Literal["max", "min"] = Field("max", description="Whether more or less is better.")


class LoggerOptions(Options):
    """What is shown and kept: `logger`."""

    print_freq: int = Field(100, ge=1, description="Iterations between log lines and TensorBoard scalars.")
    save_checkpoint_freq: int = Field(
        5000, ge=1, description="Iterations between checkpoints; the last iteration is always saved."
    )
    keep_last: int | None = Field(None, ge=1, description="Keep only this many newest checkpoints; ~ keeps all.")
    keep_every: Annotated[int | None, OnlyWith("keep_last")] = Field(
        None, ge=1, description="Keep for ever the checkpoints of multiples of this iteration; ~ keeps none so."
    )
    keep_best: KeepBestOptions | None = Field(
        None, description="Keep the weights that an evaluator liked best under best/, whatever is removed."
    )
    checkpoint_format: Literal["safetensors", "pth"] = Field(
        "safetensors",
        description="safetensors know their network and process; pth is a bare state dict, as DLAS writes.",
    )
    visuals: tuple[FilePart, ...] = Field((), description="State keys of images to write as grids.")
    visual_debug_rate: Annotated[int, OnlyWith("visuals")] = Field(
        1000, ge=1, description="Iterations between grids of `visuals`."
    )
    reverse_n1_to_1: Annotated[bool, OnlyWith("visuals")] = Field(
        True, description="The visuals are in [-1, 1] (else in [0, 1])."
    )
    reverse_imagenet_norm: Literal[False] = Field(
        False, description="Not used by diffusion recipes; only false is accepted."
    )
    wandb_project: Annotated[str, OnlyWith("/wandb")] = Field(
        "tessera", min_length=1, description="Project that `wandb: true` logs to."
    )

    @model_validator(mode="after")
    def _saved_when_kept(self) -> Self:
        if self.keep_every and self.keep_every % self.save_checkpoint_freq:
            message = f"must be a multiple of save_checkpoint_freq ({self.save_checkpoint_freq}), or nothing is there"
            raise nested([Issue(("keep_every",), f"{message} to keep, found {self.keep_every}")])
        return self
