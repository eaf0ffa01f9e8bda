"""Self-attention over all positions of a feature map, in the parameter names of guided-diffusion."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import GroupNorm, zero_init

CPU_MATMUL_LENGTH = 1024
"""Up to this many positions the matrix of attention weights is small enough to be stored whole."""


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention of (B, heads, T, channels) tensors; q is scaled by 1/sqrt(channels)."""
    length, size = q.shape[-2:]
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and length <= CPU_MATMUL_LENGTH:
        # The CPU's fused kernel does not use its bfloat16 instructions: two matrix products are three times as fast.
        weight = torch.softmax((q * size**-0.5) @ k.transpose(-1, -2), dim=-1)
        return weight @ v
    return F.scaled_dot_product_attention(q, k, v)


class AttentionBlock(nn.Module):
    """x + proj(attention(norm(x))) with `num_heads` heads over the height*width positions.

    `new_order` says how the 3*channels rows of `qkv` are laid out: all queries, all keys, all values (True), or
    queries, keys and values of the first head, then of the second, ... (False, the older checkpoints).
    """

    def __init__(self, norm: GroupNorm, num_heads: int, new_order: bool) -> None:
        super().__init__()
        channels = norm.num_channels
        self.num_heads = num_heads
        self.new_order = new_order
        self.norm = norm
        # 1x1 convolutions over a sequence, because the checkpoints' shapes are theirs; applied as linear maps below.
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = zero_init(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        b, channels, height, width = x.shape
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        qkv = F.linear(tokens, self.qkv.weight[:, :, 0], self.qkv.bias)
        q, k, v = self._split(qkv)
        h = attend(q, k, v).transpose(1, 2).reshape(b, height * width, channels)
        h = F.linear(h, self.proj_out.weight[:, :, 0], self.proj_out.bias)
        return x + h.transpose(1, 2).reshape(b, channels, height, width)

    def _split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, 3*channels) -> q, k, v, each (B, heads, T, channels of a head)."""
        b, length, width = qkv.shape
        size = width // (3 * self.num_heads)
        if self.new_order:
            q, k, v = qkv.view(b, length, 3, self.num_heads, size).permute(2, 0, 3, 1, 4)
        else:
            q, k, v = qkv.view(b, length, self.num_heads, 3, size).permute(3, 0, 2, 1, 4)
        return q, k, v
