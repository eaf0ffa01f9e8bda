"""Colours taken from the input, and the consistency with it: what is repaired, what stays, by bands, on disk."""

import math

import numpy as np
import pytest
import torch
from skimage import data
from torch.nn import functional as F

from codes.images import canvas as canvas_module
from codes.images.canvas import DiskCanvas, RamCanvas
from codes.images.codecs import jpeg_round_trip
from codes.images.colour_fix import REACH, fix_colours
from codes.images.consistency import consistency
from codes.images.files import resize_area, resize_bicubic, to_tensor

KINDS = ["mean", "wavelet", "lowfreq"]
SCALE = 2


@pytest.fixture(scope="module")
def truth():
    """A photograph, (3, 240, 336) in [-1, 1], away from its ends so that nothing is clipped."""
    image = data.astronaut()[40:280, 100:436].astype(np.float32) / 255 * 0.7 + 0.15
    return to_tensor(image, True)


@pytest.fixture(scope="module")
def small(truth):
    return F.avg_pool2d(truth[None], SCALE)[0]


def fixed(result, low_res, kind, n1_to_1=True):
    canvas = RamCanvas(result.clone())
    fix_colours(canvas, low_res, kind, n1_to_1=n1_to_1)
    return canvas.values


def cast_of(height, width):
    """A smooth cast (3, H, W): constant in red, a ramp in green, half a wave in blue."""
    y, x = torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width)
    zero = torch.zeros(height, width)
    return torch.stack([zero + 0.12, 0.1 * (x - 0.5) + zero, 0.08 * torch.sin(math.pi * y) + zero])


@pytest.mark.parametrize("kind", KINDS)
def test_a_constant_cast_is_repaired(truth, small, kind):
    cast = torch.tensor([0.12, -0.08, 0.05])[:, None, None]
    assert (fixed(truth + cast, small, kind) - fixed(truth, small, kind)).abs().max() < 1e-4
    assert (fixed(truth + cast, small, kind) - truth).mean(dim=(1, 2)).abs().max() < 1e-3


@pytest.mark.parametrize("kind", ["wavelet", "lowfreq"])
def test_a_smooth_cast_is_repaired(truth, small, kind):
    cast = cast_of(*truth.shape[1:])
    left = fixed(truth + cast, small, kind) - fixed(truth, small, kind)
    assert left.abs().max() < 1e-2
    assert left.abs().mean() < 2e-3
    assert (fixed(truth + cast, small, "mean") - truth).abs().max() > 0.05  # the mean alone cannot


@pytest.mark.parametrize("kind", KINDS)
def test_a_result_without_a_cast_stays(truth, small, kind):
    change = (fixed(truth, small, kind) - truth).abs()
    assert change.max() < (0.03 if kind == "wavelet" else 1e-5)  # a bicubic input differs in what it can show
    rgb = np.ascontiguousarray(small.numpy().transpose(1, 2, 0) / 2 + 0.5)
    upsampled = to_tensor(resize_bicubic(rgb, *truth.shape[1:]), True)
    assert (fixed(upsampled, small, kind) - upsampled).abs().max() < 0.02


def test_none_changes_nothing_and_does_not_even_clip(truth, small):
    loud = truth * 3
    assert torch.equal(fixed(loud, small, "none"), loud)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n1_to_1", [True, False])
def test_the_result_lies_in_its_range(truth, small, kind, n1_to_1):
    limits = (-1, 1) if n1_to_1 else (0, 1)
    image, low_res = (truth, small) if n1_to_1 else ((truth + 1) / 2, (small + 1) / 2)
    loud = (image - image.mean()) * 4 + image.mean()
    corrected = fixed(loud, low_res, kind, n1_to_1)
    assert (corrected.min(), corrected.max()) == limits
    if not n1_to_1:
        same = fixed((image - image.mean()) * 8 + 2 * image.mean() - 1, low_res * 2 - 1, kind)
        assert (corrected * 2 - 1 - same).abs().max() < 1e-4


def blockiness(image, period):
    """Mean squared step across the lines of a grid of this period over that across all other lines, (C, H, W)."""
    steps = (image[:, :, 1:] - image[:, :, :-1]).double().square().mean(dim=(0, 1))
    border = torch.arange(1, image.shape[2]) % period == 0
    return float(steps[border].mean() / steps[~border].mean())


def test_the_blocks_of_a_jpeg_do_not_come_back(truth, small):
    rgb = np.ascontiguousarray(small.numpy().transpose(1, 2, 0) / 2 + 0.5)
    blocky = to_tensor(jpeg_round_trip(rgb, 10), True)
    assert blockiness(blocky, 8) > 1.3  # the input shows them
    before = blockiness(truth, 8 * SCALE)
    cast = cast_of(*truth.shape[1:])
    assert blockiness(fixed(truth + cast, blocky, "lowfreq"), 8 * SCALE) < before * 1.002
    assert blockiness(fixed(truth, blocky, "mean"), 8 * SCALE) < before * 1.002
    flat = torch.zeros_like(truth)
    left = {kind: blockiness(fixed(flat, blocky, kind), 8 * SCALE) for kind in ("lowfreq", "wavelet")}
    assert left["lowfreq"] < 1.05
    assert left["lowfreq"] <= left["wavelet"] * 1.05


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("band_rows", [1, 3, 17, 64])
def test_bands_change_nothing(truth, small, kind, band_rows, monkeypatch, tmp_path):
    result = truth + cast_of(*truth.shape[1:])
    whole = fixed(result, small, kind)
    monkeypatch.setattr(canvas_module, "BAND_BYTES", band_rows * 3 * truth.shape[2] * 4)
    assert (fixed(result, small, kind) - whole).abs().max() < 2e-6
    disk = DiskCanvas(tmp_path / "canvas", *truth.shape)
    disk.write(0, result)
    fix_colours(disk, small.numpy(), kind)
    assert (disk.rows(0, disk.height) - whole).abs().max() < 2e-6


@pytest.mark.parametrize("kind", ["none", *KINDS])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (13, 1), (5, 7), (33, 18)])
@pytest.mark.parametrize("scale", [1, 2, 3])
def test_every_size(kind, size, scale):
    rng = np.random.default_rng(0)
    low_res = rng.uniform(-0.5, 0.5, (3, *size)).astype(np.float32)
    result = torch.full((3, size[0] * scale, size[1] * scale), 0.9)
    corrected = fixed(result, low_res, kind)
    assert corrected.shape == result.shape
    if kind != "none":
        expected = low_res.mean(axis=(1, 2))
        np.testing.assert_allclose(corrected.mean(dim=(1, 2)), expected, atol=1e-5 if kind == "mean" else 0.15)
    assert math.isfinite(consistency(RamCanvas(corrected), low_res))


def test_wavelets_are_those_of_stablesr(truth, small):
    """Against its formula: replicated padding, a dilated 3 x 3 kernel, five levels."""
    kernel = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]])[None, None].repeat(3, 1, 1, 1) / 16

    def low(image):
        for level in range(5):
            radius = 2**level
            padded = F.pad(image[None], (radius,) * 4, mode="replicate")
            image = F.conv2d(padded, kernel, groups=3, dilation=radius)[0]
        return image

    style = F.interpolate(small[None], scale_factor=SCALE, mode="bicubic")[0].clamp(-1, 1)
    expected = (truth - low(truth) + low(style)).clamp(-1, 1)
    assert (fixed(truth, small, "wavelet") - expected).abs().max() < 1e-5
    assert sum(2**level for level in range(5)) == REACH


def test_consistency_is_the_psnr_of_the_downsampled_result(truth, small, monkeypatch):
    noisy = truth + 0.02 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    rgb = np.ascontiguousarray(noisy.clamp(-1, 1).numpy().transpose(1, 2, 0))
    error = np.square(resize_area(rgb, *small.shape[1:]) - small.numpy().transpose(1, 2, 0)).mean(dtype=np.float64)
    expected = 10 * math.log10(4 / error)
    assert consistency(RamCanvas(noisy), small) == pytest.approx(expected, abs=1e-3)
    unit = consistency(RamCanvas((noisy + 1) / 2), ((small + 1) / 2).numpy(), n1_to_1=False)
    assert unit == pytest.approx(expected, abs=1e-3)
    monkeypatch.setattr(canvas_module, "BAND_BYTES", 5000)
    assert consistency(RamCanvas(noisy), small) == pytest.approx(expected, abs=1e-4)


def test_consistency_of_an_exact_result_is_infinite(tmp_path):
    small = torch.linspace(-1, 1, 3 * 5 * 4).reshape(3, 5, 4).bfloat16().float()  # so that sums of 16 are exact
    result = small.repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)
    disk = DiskCanvas(tmp_path / "canvas", *result.shape)
    disk.write(0, result)
    assert consistency(disk, small) == math.inf
    disk.write(3, disk.rows(3, 4) * 0.5)
    assert 10 < consistency(disk, small) < 40


def test_values_beyond_the_range_count_as_the_file_will_hold_them():
    small = torch.ones(3, 2, 3)
    assert consistency(RamCanvas(torch.full((3, 4, 6), 1.7)), small) == math.inf


@pytest.mark.parametrize("shape", [(3, 10, 13), (3, 9, 12), (1, 10, 12), (3, 4, 5)])
def test_a_result_of_another_size_is_refused(shape):
    low_res = torch.zeros(3, 5, 6)
    with pytest.raises(ValueError, match="no whole multiple of its input"):
        fix_colours(RamCanvas(torch.zeros(shape)), low_res, "mean")
    with pytest.raises(ValueError, match="no whole multiple of its input"):
        consistency(RamCanvas(torch.zeros(shape)), low_res)


@pytest.mark.parametrize("kind", KINDS)
def test_the_input_is_not_changed(truth, small, kind):
    before = small.clone()
    fixed(truth * 0.5, small, kind)
    assert torch.equal(small, before)
