"""Group normalisation, with what follows it in a block: scale and shift by the time, and SiLU.

It computes in the dtype of its input with statistics in float32. On CPUs there is a faster backward pass for bfloat16.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LARGE = 2**20  # elements from which our backward pass is faster than torch's by way of float32


class GroupNorm(nn.GroupNorm):
    """Group normalisation with statistics in float32 at any precision of its input (the kernels see to that).

    torch's CPU backward pass of bfloat16 in channels_last takes three times as long as by way of float32, so training
    goes by way of float32 where activations are small, and by `_LargeGroupNorm` where they are large.
    """

    def forward(self, x: Tensor) -> Tensor:
        # torch.group_norm, not F.group_norm: the latter refuses a single pixel, which the deepest level may be.
        if self._slow_in_torch(x):
            if x.numel() >= LARGE and self.weight is not None:
                return _LargeGroupNorm.apply(x, self.weight, self.bias, self.num_groups, self.eps)
            return torch.group_norm(x.float(), self.num_groups, self.weight, self.bias, self.eps).to(x.dtype)
        if x.device.type == "cpu":  # its kernel takes weights of float32 beside a smaller dtype, and any layout
            return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)
        # Autocast would compute in float32 on CUDA and cast back and forth; the kernel sums in float32 by itself.
        with torch.autocast(x.device.type, enabled=False):
            if torch.compiler.is_compiling():
                return layout_kept(x, self.num_groups, *self._affine(x), self.eps)
            return torch.group_norm(x, self.num_groups, *self._affine(x), self.eps)

    def activated(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        """SiLU of the normalised x; `time` (B, 2 C, 1, 1) in between is a scale, from 1, and a shift."""
        normed: Tensor = self(x)
        if time is not None:
            scale, shift = time.chunk(2, dim=1)
            normed = torch.addcmul(shift, normed, 1 + scale)
        return F.silu(normed, inplace=not torch.is_grad_enabled())

    def _affine(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        if self.weight is None:
            return None, None
        return self.weight.to(x.dtype), self.bias.to(x.dtype)

    def _slow_in_torch(self, x: Tensor) -> bool:
        if x.dtype != torch.bfloat16 or not x.requires_grad or x.device.type != "cpu":
            return False
        return self.weight is None or self.weight.dtype == torch.float32


def layout_kept(x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Group normalisation of (B, C, H, W) written out, for a compiler to fuse with what follows.

    torch's CUDA kernel knows no channels_last, and would copy its input and the convolution after it its output.
    """
    b, channels, height, width = x.shape
    wide = x.float().unflatten(1, (groups, channels // groups))
    variance, mean = torch.var_mean(wide, dim=(2, 3, 4), correction=0, keepdim=True)
    normed = ((wide - mean) * torch.rsqrt(variance + eps)).reshape(b, channels, height, width)
    if weight is not None and bias is not None:
        normed = normed * weight.float()[:, None, None] + bias.float()[:, None, None]
    return normed.to(x.dtype)


class _LargeGroupNorm(torch.autograd.Function):
    """The backward pass with its two reductions accumulated in float32 and everything else per channel.

    With y = w (x - m) r + b over groups of n elements, S = sum(w x dy) and D = sum(w dy) over a group,
    dx = w r dy + c x - (c m + D r / n), c = (D m - S) r^3 / n (Wu & He 2018, differentiated).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        b, channels, height, width = x.shape
        y, mean, rstd = torch.ops.aten.native_group_norm(x, weight, bias, b, channels, height * width, groups, eps)
        ctx.save_for_backward(x, weight, mean, rstd)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x, weight, mean, rstd = ctx.saved_tensors
        b, channels, height, width = x.shape
        groups = mean.shape[1]
        shape, count = (b, groups, channels // groups), height * width * (channels // groups)
        sum_dy = dy.sum((2, 3), dtype=torch.float32)
        sum_x_dy = (dy * x).sum((2, 3), dtype=torch.float32)
        m, r = mean.float()[..., None], rstd.float()[..., None]
        group_dy = (sum_dy * weight).view(shape).sum(2, keepdim=True)
        group_x_dy = (sum_x_dy * weight).view(shape).sum(2, keepdim=True)
        of_x = (group_dy * m - group_x_dy) * r**3 / count
        constant = -of_x * m - group_dy * r / count

        def spread(value: Tensor) -> Tensor:
            return value.expand(shape).reshape(b, channels, 1, 1).to(x.dtype)

        of_dy = spread(r * weight.view(1, groups, -1))
        dx = torch.addcmul(torch.addcmul(spread(constant), x, spread(of_x)), dy, of_dy)
        centred = sum_x_dy.view(shape) - m * sum_dy.view(shape)
        return dx, (centred * r).sum(0).reshape(channels), sum_dy.sum(0), None, None
