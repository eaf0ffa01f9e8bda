"""The geometry of tiles: coverage, windows, errors."""

import numpy as np
import pytest

from codes.models.diffusion.tiling.plan import TilePlan, blend_window


def random_plans(count: int) -> list[tuple[TilePlan, tuple[int, int], int]]:
    """Valid plans with the (tile, overlap) asked for, from tiny to 500 times longer than wide."""
    rng = np.random.default_rng(0)
    cases = []
    for _ in range(count):
        align = int(rng.choice([1, 2, 4, 6, 8]))
        tile = align * int(rng.integers(1, 40))
        overlap = int(rng.integers(0, tile - align + 1))
        height, width = (align * int(side) for side in np.exp(rng.uniform(0, [6, 3])))
        if rng.random() < 0.5:
            height, width = width, height
        cases.append((TilePlan.cover(height, width, tile, overlap, align), (tile, overlap), align))
    return cases


@pytest.mark.parametrize("axis", [0, 1])
def test_tiles_cover_the_canvas_aligned_and_overlapping(axis: int) -> None:
    several = 0
    for plan, (tile, overlap), align in random_plans(400):
        canvas, origins = (plan.height, plan.width)[axis], (plan.ys, plan.xs)[axis]
        assert plan.tile[axis] == min(tile, canvas)
        assert origins[0] == 0
        assert origins[-1] + plan.tile[axis] == canvas
        assert all(origin % align == 0 for origin in origins)
        steps = np.diff(origins)
        if len(origins) > 1:
            several += 1
            assert steps.min() > 0
            assert steps.max() <= tile - overlap
            assert steps.max() - steps.min() <= align  # evenly spread: no thin last step
            stride = (tile - overlap) // align * align
            assert (len(origins) - 1) * stride < canvas - tile + stride  # and no tile too many
    assert several > 50


def test_tiles_are_listed_row_by_row() -> None:
    plan = TilePlan.cover(10, 14, (6, 8), (2, 3))
    assert [(tile.y0, tile.x0) for tile in plan.tiles] == [(0, 0), (0, 3), (0, 6), (4, 0), (4, 3), (4, 6)]
    assert len(plan) == len(plan.tiles) == 6
    assert all((tile.y1 - tile.y0, tile.x1 - tile.x0) == (6, 8) for tile in plan.tiles)
    assert all((plan.ys[tile.row], plan.xs[tile.column]) == (tile.y0, tile.x0) for tile in plan.tiles)


def test_weights_of_every_pixel_add_up_to_one_and_none_is_zero() -> None:
    for plan, _, _ in random_plans(100):
        total = np.zeros((plan.height, plan.width), dtype=np.float32)
        rows, columns = plan.row_weights.astype(np.float32), plan.column_weights.astype(np.float32)
        assert min(rows.min(), columns.min()) > 0
        if len(plan) <= 400:
            for tile in plan.tiles:
                total[tile.y0 : tile.y1, tile.x0 : tile.x1] += np.outer(rows[tile.row], columns[tile.column])
            np.testing.assert_allclose(total, 1.0, rtol=2e-6)


@pytest.mark.parametrize(("size", "overlap"), [(64, 16), (64, 0), (7, 3), (9, 8), (1, 0), (256, 128)])
def test_window_is_symmetric_positive_and_smooth(size: int, overlap: int) -> None:
    window = blend_window(size, overlap)
    assert window.shape == (size,)
    assert 0 < window.min() <= window.max() == pytest.approx(1.0, abs=0.15)
    np.testing.assert_array_equal(window, window[::-1])
    if overlap:
        assert np.abs(np.diff(window)).max() <= np.pi**2 / 4 / min(overlap, size // 2) + 1e-12


@pytest.mark.parametrize("overlap", [1, 2, 15, 64])
def test_a_rising_and_a_falling_ramp_add_up_to_one_and_end_flat(overlap: int) -> None:
    window = blend_window(3 * overlap, overlap)
    np.testing.assert_allclose(window[:overlap] + window[-overlap:], 1.0, rtol=1e-12)
    if overlap > 8:
        assert window[0] < 1e-3


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        ((64, 64, 32, 32, 1), "use 0 to 31"),
        ((64, 64, 32, -1, 1), "use 0 to 31"),
        ((64, 64, 32, 29, 4), "use 0 to 28"),
        ((64, 64, 30, 8, 4), "use 32"),
        ((62, 64, 32, 8, 4), "pad it to 64"),
        ((64, 64, (32, 30), 8, 4), "tile width 30"),
        ((0, 64, 32, 8, 1), "at least 1"),
        ((64, 64, 0, 0, 1), "at least 1"),
        ((64, 64, 32, 8, 0), "at least 1"),
    ],
)
def test_bad_geometry_says_what_to_do(arguments: tuple, remedy: str) -> None:
    with pytest.raises(ValueError, match=remedy):
        TilePlan.cover(*arguments)


def test_smaller_halves_down_to_the_minimum() -> None:
    plan = TilePlan.cover(512, 96, 128, 32, align=8)
    half = plan.smaller(32)
    assert half is not None
    assert (half.tile, half.overlap) == ((64, 48), (16, 16))
    quarter = half.smaller(32)
    assert quarter is not None
    assert quarter.tile == (32, 32)
    assert quarter.smaller(32) is None
    assert (half.height, half.width, half.align) == (512, 96, 8)


def test_smaller_keeps_a_side_that_cannot_be_cut() -> None:
    plan = TilePlan.cover(30, 256, 64, 48, align=4).smaller(8)
    assert plan is not None
    assert plan.tile == (30, 32)
    assert plan.ys == (0,)
