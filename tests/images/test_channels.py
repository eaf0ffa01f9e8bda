import numpy as np
import pytest
import torch
from PIL import Image

from codes.images.canvas import RamCanvas
from codes.images.channels import Bicubic, FileOptions, Mean, Result, Spread, write_channels
from codes.images.files import resize_bicubic


def canvas(seed, channels=3, height=13, width=9, low=-1.2, high=1.2):
    generator = torch.Generator().manual_seed(seed)
    return RamCanvas(torch.rand(channels, height, width, generator=generator) * (high - low) + low)


def test_a_result_is_clipped_and_gray_is_the_mean_of_its_channels():
    values = canvas(0)
    rows = Result(values, unit=False, gray=False).rows(2, 7)
    assert torch.equal(rows, ((values.values[:, 2:7] + 1) / 2).clamp(0, 1))
    assert torch.equal(Result(values, False, gray=True).rows(2, 7), rows.mean(0, keepdim=True))
    assert torch.equal(Result(values, unit=True, gray=False).rows(2, 7), values.values[:, 2:7].clamp(0, 1))


def test_mean_and_spread_of_samples():
    samples = [Result(canvas(seed), False, False) for seed in range(4)]
    stacked = torch.stack([sample.rows(0, 13) for sample in samples])
    assert torch.allclose(Mean(samples).rows(3, 8), stacked.mean(0)[:, 3:8])
    expected = 4 * stacked.var(dim=0).mean(dim=0, keepdim=True).sqrt()
    assert torch.allclose(Spread(samples).rows(3, 8), expected.clamp(0, 1)[:, 3:8])
    assert Spread(samples[:1] * 3).rows(0, 13).max() < 1e-5


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_bicubic_by_bands_is_that_of_the_whole(scale):
    small = np.random.default_rng(0).random((17, 6, 3)).astype(np.float32)
    layer = Bicubic(small, scale)
    whole = resize_bicubic(small, 17 * scale, 6 * scale)
    for y0, y1 in ((0, 5), (5, 6), (7, 17 * scale), (17 * scale - 1, 17 * scale)):
        assert np.allclose(layer.rows(y0, y1).permute(1, 2, 0).numpy(), whole[y0:y1], atol=1e-6)


@pytest.mark.parametrize("band", [1, 4, 100])
def test_a_file_is_the_same_whatever_the_band(tmp_path, band):
    planes = [Result(canvas(0), False, False), Result(canvas(1), False, True)]
    write_channels(tmp_path / "a.png", planes, FileOptions(13, 9, 8, 95, None, None), band)
    written = np.asarray(Image.open(tmp_path / "a.png"))
    expected = torch.cat([plane.rows(0, 13) for plane in planes]).permute(1, 2, 0).numpy()
    assert np.array_equal(written, np.rint(expected * 255).astype(np.uint8))
