"""Gaussian likelihoods and divergences, in nats; all element-wise. Inputs broadcast against each other."""

import math

import torch
from torch import Tensor


def mean_flat(values: Tensor) -> Tensor:
    """Mean over everything but the batch: (B, ...) -> (B,)."""
    return values.flatten(1).mean(1)


def normal_kl(mean1: Tensor, log_variance1: Tensor, mean2: Tensor, log_variance2: Tensor) -> Tensor:
    """KL(N(mean1, exp(log_variance1)) || N(mean2, exp(log_variance2)))."""
    gap = log_variance2 - log_variance1
    return 0.5 * (gap - 1.0 + torch.exp(-gap) + (mean1 - mean2).square() * torch.exp(-log_variance2))


def discretized_gaussian_log_likelihood(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Log-probability of 8-bit pixels x, rescaled to [-1, 1], under a Gaussian (Ho et al. 2020, eq. 13).

    A pixel is a bin of width 2/255; the outermost bins reach to infinity. log_scale is the log standard deviation.
    """
    inverse_scale = torch.exp(-log_scale)
    upper = _normal_cdf((x - mean + 1 / 255) * inverse_scale)
    lower = _normal_cdf((x - mean - 1 / 255) * inverse_scale)
    upper = torch.where(x > 0.999, torch.ones_like(upper), upper)
    lower = torch.where(x < -0.999, torch.zeros_like(lower), lower)
    return (upper - lower).clamp(min=1e-12).log()


def _normal_cdf(x: Tensor) -> Tensor:
    # The tanh approximation of Page 1977, with which published bounds were computed; erf differs in the third digit.
    return 0.5 * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x.pow(3))))
