"""Results kept to their input: the low frequencies agree up to the tolerance, everything else stays."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from codes.data.corruptions.all import CORRUPTIONS
from codes.data.corruptions.deviation import tolerance_of
from codes.images.canvas import DiskCanvas, RamCanvas
from codes.images.enforced import CELL, LEAST, Agreement, CellMeans, Correction, cells_of, low_frequencies
from codes.utils.errors import ConfigError


def smooth(height, width, seed=0):
    """(3, height, width) in [-0.7, 0.7]: a photograph's large shapes."""
    coarse = torch.rand(1, 3, 5, 6, generator=torch.Generator().manual_seed(seed)) * 1.4 - 0.7
    return F.interpolate(coarse, (height, width), mode="bicubic").clamp(-0.7, 0.7)[0]


def apart(result, low_res, scale, wrap=(False, False)):
    """The largest difference of low frequencies."""
    reduced = F.avg_pool2d(result[None], scale)[0]
    return float((low_frequencies(cells_of(reduced), wrap) - low_frequencies(cells_of(low_res), wrap)).abs().max())


@pytest.mark.parametrize("size", [(40, 28), (33, 51), (7, 5)])
def test_cells_are_means_whatever_the_bands(size):
    image = torch.rand(3, *size, generator=torch.Generator().manual_seed(1))
    whole = cells_of(image)
    parts = CellMeans(3, *size, CELL)
    for y0 in range(0, size[0], 3):
        parts.add(y0, image[:, y0 : y0 + 3])
    torch.testing.assert_close(parts.means(), whole)
    torch.testing.assert_close(whole[:, 1, 1], image[:, 2:4, 2:4].mean((1, 2)))
    torch.testing.assert_close(
        whole[:, -1, -1], image[:, (size[0] - 1) // 2 * 2 :, (size[1] - 1) // 2 * 2 :].mean((1, 2))
    )


@pytest.mark.parametrize("scale", [1, 2, 4])
@pytest.mark.parametrize("tolerance", [0.02, 0.1])
def test_a_drift_is_brought_back_to_the_tolerance_and_no_further(scale, tolerance):
    low_res = smooth(40, 56)
    truth = F.interpolate(low_res[None], scale_factor=scale, mode="bicubic")[0] if scale > 1 else low_res
    detail = 0.1 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(2))
    detail -= F.interpolate(F.avg_pool2d(detail[None], 8 * scale), truth.shape[-2:], mode="bicubic")[0]
    drifted = truth + 0.4 * smooth(*truth.shape[-2:], seed=3) + detail
    result = RamCanvas(drifted.clone())
    Agreement(low_res, tolerance, scale).enforce(result, clip=False)
    assert apart(drifted, low_res, scale) > 2 * tolerance
    assert 0.5 * tolerance < apart(result.values, low_res, scale) < 1.2 * tolerance + 0.02
    # Fine detail is as it was: the correction holds nothing above the cells' own frequencies.
    moved = result.values - drifted
    assert float(moved.diff(dim=2).abs().mean()) < 0.25 * float(moved.abs().mean())


def test_what_agrees_already_is_not_touched():
    low_res = smooth(40, 56)
    result = RamCanvas(F.interpolate(low_res[None], scale_factor=2, mode="bicubic")[0])
    before = result.values.clone()
    Agreement(low_res, 0.1, 2).enforce(result)
    assert torch.equal(result.values, before)


def test_a_canvas_on_disk_gives_the_same_by_bands(tmp_path, monkeypatch):
    low_res, drifted = smooth(40, 56), smooth(80, 112, seed=5)
    in_memory, on_disk = RamCanvas(drifted.clone()), DiskCanvas(tmp_path / "a.raw", 3, 80, 112)
    on_disk.write(0, drifted)
    Agreement(low_res, 0.03, 2).enforce(in_memory)
    monkeypatch.setattr("codes.images.canvas.BAND_BYTES", 4 * 3 * 112 * 7)
    assert len(list(on_disk.bands())) > 5
    Agreement(low_res, 0.03, 2).enforce(on_disk)
    torch.testing.assert_close(on_disk.rows(0, 80), in_memory.values)


@pytest.mark.parametrize("wrap", [(True, False), (False, True), (True, True)])
def test_a_correction_goes_around_the_edges_of_a_texture(wrap):
    cells = torch.rand(3, 10, 12, generator=torch.Generator().manual_seed(1))
    tiled = cells.repeat(1, 3 if wrap[0] else 1, 3 if wrap[1] else 1)
    once = Correction(cells, 2, 48, wrap).rows(0, 40)
    around = Correction(tiled, 2, tiled.shape[2] * 4, wrap).rows(0, tiled.shape[1] * 4)
    y, x = (40 if wrap[0] else 0), (48 if wrap[1] else 0)
    torch.testing.assert_close(once, around[:, y : y + 40, x : x + 48])
    middle = low_frequencies(tiled, wrap)[:, y // 4 : y // 4 + 10, x // 4 : x // 4 + 12]
    torch.testing.assert_close(low_frequencies(cells, wrap), middle)


def photograph(height=64, width=80):
    """(3, H, W) in [-1, 1]: shapes and texture."""
    rng = np.random.default_rng(3)
    texture = torch.from_numpy(rng.normal(0, 0.15, (3, height, width)).astype(np.float32))
    return (smooth(height, width) + texture).clamp(-1, 1)


def test_the_tolerance_grows_with_every_strength_and_is_least_without():
    image = photograph()
    assert torch.equal(tolerance_of(image, None, None), torch.full((3, 32, 40), LEAST))
    none = tolerance_of(image, torch.zeros(2), ("jpeg", "gaussian_blur"))
    assert torch.equal(none, torch.full((3, 32, 40), LEAST))
    for index in range(2):
        means = []
        for strength in (0.0, 0.3, 0.6, 1.0):
            told = torch.zeros(2)
            told[index] = strength
            means.append(float(tolerance_of(image, told, ("jpeg", "gaussian_blur")).mean()))
        assert means == sorted(means)
        assert means[-1] > 2 * means[0]
    told = torch.tensor([0.3, 0.5])
    single, double = (tolerance_of(image, told, ("jpeg", "gaussian_blur"), factor) - LEAST for factor in (1.0, 2.0))
    torch.testing.assert_close(double, 2 * single)
    strongest = tolerance_of(image, torch.stack([torch.full((8, 8), 0.3), torch.eye(8) / 2]), ("jpeg", "gaussian_blur"))
    torch.testing.assert_close(strongest - LEAST, single)


@pytest.mark.parametrize("told", [(0.2, 0.5), (0.6, 0.3), (0.9, 0.9)])
def test_the_truth_itself_is_within_the_tolerance_nearly_everywhere(told):
    """What is enforced must not move a perfect result."""
    clean = photograph(96, 128)
    degraded = ((clean + 1) / 2).permute(1, 2, 0).numpy()
    for name, strength in zip(("jpeg", "gaussian_blur"), told, strict=True):
        degraded = CORRUPTIONS.get(name)()(degraded, strength, np.random.default_rng(0))
    low_res = torch.from_numpy(degraded).permute(2, 0, 1) * 2 - 1
    difference = low_frequencies(cells_of(clean)) - low_frequencies(cells_of(low_res))
    tolerance = tolerance_of(low_res, torch.tensor(told), ("jpeg", "gaussian_blur"))
    assert float((difference.abs() <= tolerance).float().mean()) > 0.85


def test_strengths_without_names_are_refused():
    with pytest.raises(ConfigError, match="does not record what its strengths stand for"):
        tolerance_of(photograph(), torch.tensor([0.2, 0.5]), None)
