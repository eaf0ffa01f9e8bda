"""Averages of parameters with power-function profiles, and what can be made of them after training.

Karras et al. 2024, "Analyzing and improving the training dynamics of diffusion models", section 3 and appendix C. The
weight of the parameters of time tau in the average at time t is proportional to tau^gamma (equation 1), so its length
is a fixed share of the training so far: sigma_rel, the standard deviation of the profile over t (equation 7).
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ..recipe.train_options import MOST_SIGMA_REL

Network = TypeVar("Network", bound=nn.Module)
Array = npt.NDArray[np.float64]


def exponent_of(sigma_rel: float) -> float:
    """gamma of a profile of this relative length (algorithm 2): the real root of a cubic. 0 < sigma_rel < 0.288."""
    if not 0 < sigma_rel < MOST_SIGMA_REL:
        raise ValueError(f"sigma_rel must lie between 0 and {MOST_SIGMA_REL:.3f}, found {sigma_rel}")
    t = sigma_rel**-2
    return float(np.roots([1.0, 7.0, 16.0 - t, 12.0 - t]).real.max())


def decay(iteration: int, gamma: float) -> float:
    """beta of update number `iteration`, from 1 (equation 4): the first update takes the parameters as they are."""
    return (1.0 - 1.0 / iteration) ** (gamma + 1.0)


class PowerEma(Generic[Network]):
    """Average of a network's parameters with one power-function profile; buffers are copied."""

    def __init__(self, network: Network, sigma_rel: float) -> None:
        self.gamma = exponent_of(sigma_rel)
        self.network = copy.deepcopy(network).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, network: Network, iteration: int) -> None:
        """Take in the parameters after update number `iteration`, from 1; none may be left out."""
        trained = [parameter.detach() for parameter in network.parameters()]
        torch._foreach_lerp_(list(self.network.parameters()), trained, 1.0 - decay(iteration, self.gamma))
        for copied, current in zip(self.network.buffers(), network.buffers(), strict=True):
            copied.copy_(current)

    def state_dict(self) -> dict[str, Any]:
        return self.network.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`. Raises RuntimeError when it is of another network."""
        self.network.load_state_dict(state)


def inner_products(t_a: Array, gamma_a: Array, t_b: Array, gamma_b: Array) -> Array:
    """Products of profiles a (N,) with profiles b (M,), (N, M): the integral of p_a p_b (algorithm 2)."""
    t_a, gamma_a, t_b, gamma_b = t_a[:, None], gamma_a[:, None], t_b[None], gamma_b[None]
    exponent = np.where(t_a < t_b, gamma_b, -gamma_a)
    ratio = (t_a / t_b) ** exponent
    products = (gamma_a + 1) * (gamma_b + 1) * ratio / ((gamma_a + gamma_b + 1) * np.maximum(t_a, t_b))
    return np.asarray(products, dtype=np.float64)


def coefficients(snapshots: Sequence[tuple[float, float]], t: float, gamma: float) -> Array:
    """The weights (N,), 1 in sum, of snapshots (iteration, gamma) that together are nearest to the profile (t, gamma).

    Least squares between the profiles (section 3.2), in float64. Neighbouring snapshots are nearly the same, so the
    system is solved by its pseudo-inverse. Snapshots after t must not be among them.
    """
    times = np.array([row[0] for row in snapshots], dtype=np.float64)
    gammas = np.array([row[1] for row in snapshots], dtype=np.float64)
    target = inner_products(times, gammas, np.array([float(t)]), np.array([gamma]))
    gram = inner_products(times, gammas, times, gammas)
    solved = np.asarray(np.linalg.lstsq(gram, target, rcond=None)[0][:, 0], dtype=np.float64)
    return solved / solved.sum()
