"""Weights cast once: the bits of autocast, without its casts."""

import pytest
import torch
from restorer_helpers import network

from codes.models.diffusion.networks.cast import cast_once
from codes.models.diffusion.networks.group_norm import GroupNorm, layout_kept


def call(made: torch.nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(2, 3, 32, 24, generator=generator).contiguous(memory_format=torch.channels_last)
    cond = {
        "low_res": torch.randn(2, 3, 16, 12, generator=generator),
        "corruption_factor": torch.rand(2, 2, generator=generator),
    }
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        return made(x, torch.tensor([3, 70]), **cond)


@pytest.mark.parametrize("scale_shift", [False, True])
def test_weights_cast_once_give_the_bits_of_autocast(scale_shift: bool) -> None:
    made = network({"use_scale_shift_norm": scale_shift}).eval().requires_grad_(False)
    ready = cast_once(made, torch.bfloat16)
    assert torch.equal(call(ready), call(made))
    kinds = {type(module): next(module.parameters(recurse=False)).dtype for module in ready.modules()
             if next(module.parameters(recurse=False), None) is not None}  # fmt: skip
    assert kinds[torch.nn.Conv2d] == kinds[torch.nn.Linear] == torch.bfloat16
    assert kinds[GroupNorm] == torch.float32  # the CPU's kernel takes it so, and rounds less
    assert all(parameter.dtype == torch.float32 for parameter in made.parameters())


def test_a_copy_is_kept_until_a_weight_changes() -> None:
    made = network().eval().requires_grad_(False)
    first = cast_once(made, torch.bfloat16)
    assert cast_once(made, torch.bfloat16) is first
    before = call(first)
    with torch.no_grad():
        next(made.parameters()).add_(0.5)
    second = cast_once(made, torch.bfloat16)
    assert second is not first
    assert not torch.equal(call(second), before)
    assert torch.equal(call(second), call(made))


@pytest.mark.parametrize("affine", [True, False])
def test_the_normalisation_for_compilers_equals_the_kernel_and_keeps_the_layout(affine: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x = (3 + torch.randn(2, 16, 5, 7, generator=generator)).contiguous(memory_format=torch.channels_last)
    norm = GroupNorm(4, 16, affine=affine)
    if affine:
        torch.nn.init.normal_(norm.weight, generator=generator)
        torch.nn.init.normal_(norm.bias, generator=generator)
    kept = layout_kept(x, 4, norm.weight, norm.bias, norm.eps)
    assert kept.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(kept, norm(x), rtol=1e-5, atol=1e-5)


def test_activated_is_normalise_scale_shift_and_silu() -> None:
    generator = torch.Generator().manual_seed(0)
    x, time = torch.randn(2, 16, 5, 7, generator=generator), torch.randn(2, 32, 1, 1, generator=generator)
    norm = GroupNorm(4, 16)
    expected = norm(x) * (1 + time[:, :16]) + time[:, 16:]
    torch.testing.assert_close(norm.activated(x, time), expected * expected.sigmoid())
    torch.testing.assert_close(norm.activated(x), norm(x) * norm(x).sigmoid())
