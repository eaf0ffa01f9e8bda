"""Which optimisers there are, and the options that each of them takes."""

import inspect
from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from pydantic import Field
from torch.optim import Optimizer

from ..config.options import Options
from ..config.yaml_source import Issue

# Those of torch.optim that take parameters of every shape, a learning rate and a weight decay.
OptimizerName = Literal[
    "adamw", "adam", "adamax", "nadam", "radam", "sgd", "rmsprop", "adagrad", "adadelta", "adafactor", "asgd"
]
_BY_NAME = {name.lower(): member for name, member in vars(torch.optim).items() if isinstance(member, type)}
OPTIMIZERS: Mapping[str, type[Optimizer]] = {name: _BY_NAME[name] for name in get_args(OptimizerName)}
COMMON = ("lr", "weight_decay")
BETAS = ("beta1", "beta2")


class OptimizerParams(Options):
    """Options of the optimiser: `steps.<name>.optimizer_params`. What is not set is torch's own default."""

    lr: float = Field(1e-4, gt=0, le=1000, description="Learning rate after warm-up.")
    weight_decay: float = Field(
        0.0,
        ge=0,
        description="Weight decay, never on biases, norms and embeddings; decoupled from the gradient in adamw and "
        "adafactor, part of it in the others.",
    )
    beta1: float = Field(0.9, ge=0, lt=1, description="Adam's kind: decay of the first moment.")
    beta2: float = Field(0.999, ge=0, lt=1, description="Adam's kind: decay of the second moment.")
    eps: float | None = Field(None, gt=0, description="Added to a denominator; not adafactor's, which has two.")
    amsgrad: bool | None = Field(None, description="adam, adamw: the greatest second moment so far.")
    decoupled_weight_decay: bool | None = Field(None, description="nadam, radam: decay as adamw does.")
    momentum: float | None = Field(None, ge=0, lt=1, description="sgd, rmsprop: share of the last update kept.")
    nesterov: bool | None = Field(None, description="sgd: look ahead along the momentum.")
    dampening: float | None = Field(None, ge=0, le=1, description="sgd: share of the gradient kept from the momentum.")
    alpha: float | None = Field(None, gt=0, lt=1, description="rmsprop: decay of the second moment; asgd: power.")
    centered: bool | None = Field(None, description="rmsprop: divide by the variance of the gradient.")
    momentum_decay: float | None = Field(None, ge=0, description="nadam: how the momentum rises.")
    rho: float | None = Field(None, ge=0, lt=1, description="adadelta: decay of the second moment.")
    lr_decay: float | None = Field(None, ge=0, description="adagrad: how the rate falls with every update.")
    initial_accumulator_value: float | None = Field(None, ge=0, description="adagrad: where the sums start.")
    beta2_decay: float | None = Field(None, le=0, description="adafactor: power of the second moment's decay.")
    d: float | None = Field(None, ge=1, description="adafactor: largest RMS of an update.")
    lambd: float | None = Field(None, ge=0, description="asgd: how the rate falls.")
    t0: float | None = Field(None, ge=0, description="asgd: update at which averaging starts.")


def options_taken(name: str) -> list[str]:
    """The options of `optimizer_params` that an optimiser takes."""
    signature = inspect.signature(OPTIMIZERS[name]).parameters
    fields = [key for key in OptimizerParams.model_fields if key in signature]
    if name == "adafactor":
        fields.remove("eps")  # a pair of other numbers
    return [*fields[:2], *(BETAS if "betas" in signature else ()), *fields[2:]]


def arguments_of(name: str, params: OptimizerParams) -> dict[str, Any]:
    """What the constructor of an optimiser is given besides the parameters."""
    taken = options_taken(name)
    arguments: dict[str, Any] = {"betas": (params.beta1, params.beta2)} if "beta1" in taken else {}
    for key in taken:
        value = getattr(params, key)
        if key not in BETAS and value is not None:
            arguments[key] = value
    return arguments


def optimizer_problems(name: str, params: OptimizerParams) -> list[Issue]:
    """Options that the optimiser does not take, or not together."""
    taken = options_taken(name)
    wrong = [key for key in OptimizerParams.model_fields if key in params.model_fields_set and key not in taken]
    issues = [
        Issue(("optimizer_params", key), f"{name} takes no {key} (it takes: {', '.join(taken)})")
        for key in wrong
        if getattr(params, key) is not None
    ]
    if not params.model_fields_set:  # torch takes a second for its first optimiser, which a test run need not wait for
        return issues
    try:
        OPTIMIZERS[name]([torch.nn.Parameter(torch.zeros(1))], **arguments_of(name, params))
    except ValueError as error:
        issues.append(Issue(("optimizer_params",), f"{name}: {error}"))
    return issues
