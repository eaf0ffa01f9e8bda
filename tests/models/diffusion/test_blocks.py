"""Embeddings, patching, resampling, normalisation and attention, each against an independent formulation."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from network_helpers import TOLERANCE, fill, noise
from safetensors.torch import load_file

from codes.models.diffusion.networks.attention import AttentionBlock
from codes.models.diffusion.networks.blocks import (
    Downsample,
    GroupNorm,
    depth_to_space,
    norm_groups,
    position_embedding_2d,
    space_to_depth,
    timestep_embedding,
)

PIECES = load_file(Path(__file__).resolve().parents[2] / "golden" / "pieces.safetensors")


def test_patching_equals_the_reference_and_is_undone():
    image = PIECES["in/image"]
    torch.testing.assert_close(space_to_depth(image, 4), PIECES["out/patches"])
    assert torch.equal(depth_to_space(PIECES["out/patches"], 4), image)


@pytest.mark.parametrize("patch_size", [1, 2, 4])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_patching_of_any_shape_is_undone(patch_size, layout):
    image = noise(2, 5, 8, 12).contiguous(memory_format=layout)
    patches = space_to_depth(image, patch_size)
    assert patches.shape == (2, 5 * patch_size**2, 8 // patch_size, 12 // patch_size)
    assert torch.equal(depth_to_space(patches, patch_size), image)


def test_a_patch_is_a_pixel_of_the_small_image():
    patches = space_to_depth(noise(2, 3, 8, 12), 4)
    image = noise(2, 3, 8, 12)
    row, column, channel, inner_row, inner_column = 1, 2, 1, 3, 2
    index = (inner_row * 4 + inner_column) * 3 + channel
    assert torch.equal(
        patches[:, index, row, column], image[:, channel, row * 4 + inner_row, column * 4 + inner_column]
    )


@pytest.mark.parametrize("convention", ["adm", "patch"])
def test_timestep_embeddings_equal_the_reference(convention):
    # The golden file does not store its timesteps; the phase of the fastest frequency and the range give them back.
    expected = PIECES[f"out/timestep_embedding_{convention}"]
    fast, slow = (0, 15)
    cosine, sine = (expected[:, :16], expected[:, 16:]) if convention == "adm" else (expected[:, 16:], expected[:, :16])
    frequency = math.exp(-math.log(10000) * slow / (16 if convention == "adm" else 15))
    coarse = torch.atan2(sine[:, slow], cosine[:, slow]) / frequency
    phase = torch.atan2(sine[:, fast], cosine[:, fast])
    turns = ((coarse - phase) / (2 * math.pi)).round()
    timesteps = phase + 2 * math.pi * turns
    torch.testing.assert_close(timestep_embedding(timesteps, 32, convention), expected, rtol=1e-3, atol=2e-4)


def test_timestep_embedding_of_odd_width_ends_in_zero():
    embedding = timestep_embedding(torch.tensor([1, 900]), 33, "adm")
    assert embedding.shape == (2, 33)
    assert embedding[:, -1].eq(0).all()


def test_position_embedding_equals_the_reference():
    embedding = position_embedding_2d(32, 16, 16, torch.device("cpu"))
    torch.testing.assert_close(embedding, PIECES["out/position_embedding_2d"], **TOLERANCE)


def test_position_embedding_of_any_aspect_ratio():
    wide = position_embedding_2d(32, 8, 16, torch.device("cpu"))
    assert wide.shape == (1, 32, 8, 16)
    square = PIECES["out/position_embedding_2d"]
    torch.testing.assert_close(wide[:, :16, 0], square[:, :16, 0], **TOLERANCE)
    torch.testing.assert_close(wide[:, 16:, :, 0], square[:, 16:, ::2, 0], **TOLERANCE)


@pytest.mark.parametrize(("new_order", "heads"), [(True, 2), (False, 2), (True, 8)])
def test_attention_equals_einsum(new_order, heads):
    block = AttentionBlock(GroupNorm(32, 64), heads, new_order)
    fill(block)
    x = noise(3, 64, 4, 6)
    qkv = block.qkv(block.norm(x).flatten(2))
    size = 64 // heads
    if new_order:
        q, k, v = qkv.view(3, 3, heads, size, 24).unbind(1)
    else:
        q, k, v = qkv.view(3, heads, 3, size, 24).unbind(2)
    weight = torch.softmax(torch.einsum("bhct,bhcs->bhts", q, k) / math.sqrt(size), dim=-1)
    h = torch.einsum("bhts,bhcs->bhct", weight, v).reshape(3, 64, 24)
    torch.testing.assert_close(block(x), x + block.proj_out(h).view_as(x), **TOLERANCE)


@pytest.mark.parametrize(
    ("channels", "rule", "groups"),
    [(32, "adm", 32), (32, "dlas", 16), (16, "dlas", 8), (96, "dlas", 32), (80, "dlas", 16)],
)
def test_groups_of_a_norm(channels, rule, groups):
    assert norm_groups(channels, rule) == groups


def test_channels_that_cannot_be_grouped_are_refused():
    with pytest.raises(ValueError, match="choose a multiple of 32"):
        norm_groups(48, "adm")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norm_keeps_precision_and_layout(dtype):
    norm = GroupNorm(32, 64)
    fill(norm)
    x = (noise(2, 64, 6, 10) + 3).to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
    expected_input = x.detach().double().requires_grad_()
    expected = F.group_norm(expected_input, 32, norm.weight.double(), norm.bias.double())
    output = norm(x)
    assert output.dtype == dtype
    assert output.is_contiguous(memory_format=torch.channels_last)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(output.double(), expected, rtol=tolerance, atol=tolerance)
    output.double().pow(3).sum().backward()
    expected.pow(3).sum().backward()
    error = (x.grad.double() - expected_input.grad).abs().max()
    assert error <= tolerance * expected_input.grad.abs().max()


def test_downsampling_pads_as_its_family_does():
    x = noise(2, 32, 6, 8)
    for same, padding in ((False, (1, 1, 1, 1)), (True, (0, 1, 0, 1))):
        layer = Downsample(32, 64, use_conv=True, same=same)
        expected = F.conv2d(F.pad(x, padding), layer.op.weight, layer.op.bias, stride=2)
        torch.testing.assert_close(layer(x), expected)
        assert expected.shape[2:] == (3, 4)
