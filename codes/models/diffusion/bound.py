"""The full variational bound of images under a denoiser, in bits per dimension."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from .denoiser import Denoiser
from .likelihood import mean_flat, normal_kl
from .process import GaussianDiffusion


class VariationalBound(NamedTuple):
    """Bits per dimension: total (B,) = prior (B,) + the sum over steps of terms (B, T), terms[:, t] being that of t."""

    total: Tensor
    prior: Tensor
    terms: Tensor


@torch.no_grad()
def variational_bound(
    denoiser: Denoiser,
    process: GaussianDiffusion,
    x_start: Tensor,
    cond: Mapping[str, Tensor],
    noise: Callable[[int], Tensor],
) -> VariationalBound:
    """Upper bound on -log2 p(x_start) per dimension (Ho et al. 2020, eq. 5) for 8-bit images (B, C, H, W) in [-1, 1].

    Calls the denoiser once per step, with noise(i) (shaped like x_start) for the i-th, t = T-1-i. Published numbers
    clip the predicted x_start.
    """
    count = process.num_timesteps
    terms = []
    for index, t in enumerate(reversed(range(count))):
        t_batch = torch.full((x_start.shape[0],), t, dtype=torch.int64, device=x_start.device)
        x_t = process.q_sample(x_start, t_batch, noise(index))
        terms.append(process.variational_term(denoiser(x_t, t_batch, cond), x_start, x_t, t_batch))
    abar = float(process.schedule.alphas_cumprod[-1])
    zero = torch.zeros_like(x_start)
    prior = mean_flat(normal_kl(math.sqrt(abar) * x_start, zero + math.log1p(-abar), zero, zero)) / math.log(2.0)
    by_step = torch.stack(terms[::-1], dim=1)
    return VariationalBound(prior + by_step.sum(1), prior, by_step)
