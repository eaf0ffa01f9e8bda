"""Measuring without touching: which weights are measured, and everything as it was before."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from ...graph.graph import StepContext
from ...utils.rng import torch_globals_at


@contextmanager
def measuring(context: StepContext, use_ema: bool) -> Iterator[StepContext]:
    """A context whose networks are those to measure: in evaluation mode, without gradients, averaged with `use_ema`.

    Afterwards the mode of every module and torch's own generators are as they were before, whatever a network or an
    injector of the user's did with them. Nobody is told of the steps of sampling.
    """
    networks = {**context.networks, **context.ema_networks} if use_ema else dict(context.networks)
    # Each module by itself: a network in training may hold parts that are frozen in evaluation mode.
    modes = [(module, module.training) for network in networks.values() for module in network.modules()]
    for network in networks.values():
        network.eval()
    try:
        with torch.no_grad(), torch_globals_at(context.device, context.seed, "evaluation"):
            yield replace(context, networks=networks, ema_networks={}, on_step=None)
    finally:
        for module, mode in modes:
            module.training = mode


def weights_in_words(name: str, context: StepContext, use_ema: bool) -> str:
    """Which weights of a network `measuring` takes, for the log."""
    if use_ema and name in context.ema_networks:
        return "averaged weights (EMA)"
    if name in context.ema_networks:
        return "weights that are not averaged (use_ema: false)"
    return "the weights as they were loaded"
