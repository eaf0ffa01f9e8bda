"""Padding by repeated reflection, from one pixel on."""

import numpy as np
import pytest
import torch
from reference_sampling import reflect_pad

from codes.images.reflection import reflected
from codes.models.diffusion.tiling.plan import padded_size


@pytest.mark.parametrize(
    ("size", "expected"), [((1, 1), (32, 32)), ((33, 64), (48, 64)), ((7, 500), (32, 512)), ((32, 31), (32, 32))]
)
def test_padded_size(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert padded_size(*size, minimum=32, multiple=16) == expected


def test_padded_size_rejects_an_empty_image() -> None:
    with pytest.raises(ValueError, match="image 0x5"):
        padded_size(0, 5, 32, 16)


@pytest.mark.parametrize(("size", "padded"), [(1, 1), (1, 9), (2, 9), (3, 40), (7, 32), (32, 32)])
def test_reflection_repeats_as_numpy_does(size: int, padded: int) -> None:
    expected = np.pad(np.arange(size), (0, padded - size), mode="reflect")
    np.testing.assert_array_equal(reflected(0, padded, size), expected)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 50), (32, 31)])
def test_reflect_pad_reaches_any_size_and_cropping_undoes_it(height: int, width: int) -> None:
    image = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    padded = reflect_pad(image, 32, 64)
    expected = np.pad(image.numpy(), ((0, 0), (0, 0), (0, 32 - height), (0, 64 - width)), mode="reflect")
    np.testing.assert_array_equal(padded.numpy(), expected)
    assert torch.equal(padded[:, :, :height, :width], image)
