"""Noise keyed by coordinates: any crop of any region agrees, and the values are independent normals."""

import pytest
import torch
from reference_sampling import CanvasNoise

from codes.models.diffusion.noise import NoiseField

SHIFT = 64  # pixels


def test_a_region_is_the_crop_of_any_region_that_holds_it() -> None:
    field = NoiseField(seed=7, channels=3)
    whole = field(4, -10, 200, -70, 150)
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        y0, x0 = (int(torch.randint(low, 140, (1,), generator=generator)) for low in (-10, -70))
        y1 = y0 + int(torch.randint(1, 200 - y0 + 1, (1,), generator=generator))
        x1 = x0 + int(torch.randint(1, 150 - x0 + 1, (1,), generator=generator))
        assert torch.equal(field(4, y0, y1, x0, x1), whole[:, y0 + 10 : y1 + 10, x0 + 70 : x1 + 70])
    assert whole.dtype == torch.float32
    assert whole.shape == (3, 210, 220)


def test_one_pixel_and_a_long_strip() -> None:
    field = NoiseField(seed=7, channels=3)
    strip = field(0, 0, 7, 0, 500)
    assert torch.equal(field(0, 3, 4, 421, 422), strip[:, 3:4, 421:422])


def test_a_channel_does_not_depend_on_the_number_of_channels() -> None:
    assert torch.equal(NoiseField(7, 1)(2, 0, 70, 0, 90), NoiseField(7, 3)(2, 0, 70, 0, 90)[:1])


def test_values_are_standard_normal() -> None:
    values = NoiseField(seed=1, channels=3)(0, 0, 640, 0, 512).double()
    count = values.numel()
    assert abs(values.mean()) < 4 / count**0.5
    assert abs(values.var() - 1) < 4 * (2 / count) ** 0.5
    assert abs((values**4).mean() - 3) < 4 * (96 / count) ** 0.5
    assert abs(float((values.abs() > 1.959964).double().mean()) - 0.05) < 4 * (0.05 * 0.95 / count) ** 0.5


def correlation(first: torch.Tensor, second: torch.Tensor) -> float:
    """In standard deviations of the correlation of independent samples."""
    return abs(float((first.double() * second.double()).mean())) * first.numel() ** 0.5


def test_blocks_steps_seeds_channels_and_pixels_are_uncorrelated() -> None:
    field = NoiseField(seed=5, channels=3)
    here = field(0, 0, 320, 0, 320)
    assert correlation(here[:, :-SHIFT], here[:, SHIFT:]) < 4
    assert correlation(here[:, :, :-SHIFT], here[:, :, SHIFT:]) < 4
    assert correlation(here[:, :-1], here[:, 1:]) < 4
    assert correlation(here[:, :, :-1], here[:, :, 1:]) < 4
    assert correlation(here[:2], here[1:]) < 4
    assert correlation(here, field(1, 0, 320, 0, 320)) < 4
    assert correlation(here, NoiseField(seed=6, channels=3)(0, 0, 320, 0, 320)) < 4


def test_canvas_noise_gives_each_image_its_own_field() -> None:
    noise = CanvasNoise(seeds=(11, 12), channels=3, height=40, width=70)
    assert noise(5).shape == (2, 3, 40, 70)
    assert torch.equal(noise(5)[1], NoiseField(12, 3)(5, 0, 40, 0, 70))
    assert torch.equal(noise(5)[1], CanvasNoise((12, 99), 3, 64, 90)(5)[0, :, :40, :70])
    assert not torch.equal(noise.initial(), noise(0))
    assert torch.equal(noise.initial(), noise.initial())


def test_an_empty_region_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        NoiseField(0, 3)(0, 5, 5, 0, 8)
