"""The faster backward pass of group normalisation against torch's own in float32."""

import pytest
import torch

from codes.models.diffusion.networks import group_norm
from codes.models.diffusion.networks.group_norm import GroupNorm


def run(x: torch.Tensor, dy: torch.Tensor, norm: GroupNorm) -> list[torch.Tensor]:
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    norm.zero_grad()
    y = norm(x)
    y.backward(dy)
    values = [y.detach(), x.grad, norm.weight.grad.clone(), norm.bias.grad.clone()]
    return [value.float() for value in values]


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("large", [1, 10**9], ids=["our backward pass", "by way of float32"])
def test_bfloat16_gradients_equal_those_of_float32(
    memory_format: torch.memory_format, large: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_norm, "LARGE", large)
    generator = torch.Generator().manual_seed(0)
    norm = GroupNorm(8, 32)
    with torch.no_grad():
        norm.weight.copy_(1 + 0.3 * torch.randn(32, generator=generator))
        norm.bias.copy_(torch.randn(32, generator=generator))
    x = (2 * torch.randn(2, 32, 12, 20, generator=generator) + 0.7).bfloat16().contiguous(memory_format=memory_format)
    dy = torch.randn(2, 32, 12, 20, generator=generator).bfloat16().contiguous(memory_format=memory_format)
    for got, exact in zip(run(x, dy, norm), run(x.float(), dy.float(), norm), strict=True):
        torch.testing.assert_close(got, exact, rtol=0, atol=0.015 * float(exact.abs().max()))


def test_our_backward_pass_is_taken_only_where_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_norm, "LARGE", 1)
    norm = GroupNorm(4, 8)

    def function(x: torch.Tensor) -> str:
        return type(norm(x).grad_fn).__name__

    x = torch.randn(2, 8, 4, 6, generator=torch.Generator().manual_seed(1))
    assert "LargeGroupNorm" in function(x.bfloat16().requires_grad_())
    assert "LargeGroupNorm" not in function(x.requires_grad_())
