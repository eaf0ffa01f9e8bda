"""Seamless textures: canvases that go on with their beginning, for tiles, blending, noise and upsampling alike."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from restorer_helpers import PROCESS, network
from torch import Tensor

from codes.config.options import validate_nested
from codes.evaluation.metrics import seam_score
from codes.images.canvas import RamCanvas
from codes.images.canvas_store import RamStore
from codes.images.files import to_rgb
from codes.models.diffusion.engine import Engine
from codes.models.diffusion.noise import NoiseField
from codes.models.diffusion.prediction import Prediction
from codes.models.diffusion.request import Request
from codes.models.diffusion.samplers import Ddim
from codes.models.diffusion.sampling_options import SamplingOptions
from codes.models.diffusion.tiling.canvas_sampling import SampledImage, sample_images
from codes.models.diffusion.tiling.plan import TilePlan
from codes.models.diffusion.tiling.runner import TileRunner, View
from codes.utils.errors import TesseraError

NET = network().eval()
BOTH = (True, True)


def engine(**changes: Any) -> Engine:
    given = {"respaced_timestep_spacing": "karras3", "sampler": "ddim", "temperature": 0.5, **changes}
    options = validate_nested(SamplingOptions, given)
    return Engine(NET, options.build_process(PROCESS, "generator"), options, torch.device("cpu"), torch.no_grad)


def texture(height: int, width: int) -> Tensor:
    """(1, 3, height, width) in [-1, 1], smooth across its edges: whole waves."""
    y, x = torch.arange(height)[:, None] / height, torch.arange(width) / width
    waves = [torch.sin(2 * torch.pi * (a * y + b * x + a / 7)) for a, b in ((1, 2), (3, -1), (2, 3))]
    return torch.stack(waves)[None] * 0.7


def restored(
    low_res: Tensor, seed: int = 3, scratch: Path | None = None, subject: Engine | None = None, **changes: Any
) -> Tensor:
    """(3, 2 h, 2 w)."""
    height, width = (2 * side for side in low_res.shape[-2:])
    request = Request(
        {"low_res": low_res, "corruption_factor": torch.tensor([[0.2, 0.5]])}, height, width, seed, scratch
    )
    canvas = (subject or engine(**changes)).restore([request], 2)[0]
    return canvas.rows(0, height).clone()


@pytest.mark.parametrize("canvas", [1, 6, 8, 10, 24, 50, 64, 65, 130, 256])
@pytest.mark.parametrize(("tile", "overlap"), [(8, 0), (32, 8), (64, 16), (64, 48)])
def test_tiles_go_around_the_edge_and_their_weights_add_up_to_one(canvas: int, tile: int, overlap: int) -> None:
    plan = TilePlan.cover(canvas, 40, tile, overlap, 8, (True, False))
    total = np.zeros(canvas)
    for row, y0 in enumerate(plan.ys):
        np.add.at(total, np.arange(y0, y0 + plan.tile[0]) % canvas, plan.row_weights[row])
    np.testing.assert_allclose(total, 1.0)
    assert plan.tile[0] % 8 == 0
    assert all(y % 8 == 0 for y in plan.ys)
    assert max(np.diff([*plan.ys, canvas])) <= max(plan.tile[0] - overlap, plan.tile[0] // 2)
    if len(plan.ys) == 1:  # too short for two: several rounds
        assert plan.tile[0] >= 3 * canvas
    assert not plan.whole
    assert plan.xs == TilePlan.cover(canvas if canvas > tile and canvas % 8 == 0 else 8, 40, tile, overlap, 8).xs


def test_the_grid_turns_and_shrinks_around_the_circle() -> None:
    plan = TilePlan.cover(130, 96, 32, 8, 8, BOTH)
    turned = plan.shifted(16, 24)
    assert turned.ys == tuple(sorted((y + 16) % 130 for y in plan.ys))
    np.testing.assert_allclose(sum_of_rows(turned), 1.0)
    smaller = plan.smaller(8)
    assert smaller is not None
    assert smaller.tile == (16, 16)
    assert smaller.wrap == BOTH
    np.testing.assert_allclose(sum_of_rows(smaller), 1.0)


def sum_of_rows(plan: TilePlan) -> np.ndarray:
    total = np.zeros(plan.height)
    for row, y0 in enumerate(plan.ys):
        np.add.at(total, np.arange(y0, y0 + plan.tile[0]) % plan.height, plan.row_weights[row])
    return total


class Upsampling:
    """x_start is what the tile sees of the upsampled low_res."""

    def __call__(self, x_t: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Prediction:
        process = PROCESS_OF_TESTS
        x_start = cond["low_res"]
        return Prediction(x_start, process.eps_from_x_start(x_t, t, x_start), torch.zeros_like(x_t))


PROCESS_OF_TESTS = engine().process


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(12, 20), (5, 9), (33, 14), (3, 3)])
def test_the_low_resolution_is_upsampled_around_its_edges(mode: str, size: tuple[int, int]) -> None:
    low_res = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    expected = torch.nn.functional.interpolate(low_res.repeat(1, 1, 3, 3), scale_factor=2, mode=mode)
    height, width = 2 * size[0], 2 * size[1]
    expected = expected[0, :, height : 2 * height, width : 2 * width]
    plan = TilePlan.cover(height, width, 16, 8, 8, BOTH)
    store = RamStore((3, height, width))
    image = SampledImage({"low_res": low_res}, {"low_res": 2}, plan, NoiseField(1, 3), store)
    runner = TileRunner(Upsampling(), PROCESS_OF_TESTS.eps_from_x_start, low_res_upsampling=mode, tile_batch_size=3)
    sample_images([image], runner, PROCESS_OF_TESTS, Ddim())
    torch.testing.assert_close(store.state.rows(0, height), expected, rtol=0, atol=1e-5)


def test_a_texture_may_be_rolled_before_or_after_it_is_restored() -> None:
    low_res = texture(32, 48)
    calm = {"temperature": 0.0, "wrap": "xy", "tile": 32, "tile_overlap": 8}
    assert engine(**calm).plan(64, 96, 2).ys == (0, 16, 40)
    # Columns lie 24 apart; rows do not lie evenly, so they stay.
    assert engine(**calm).plan(64, 96, 2).xs == (0, 24, 48, 72)
    rolled = torch.roll(restored(torch.roll(low_res, 12, dims=3), **calm), -24, dims=2)
    torch.testing.assert_close(rolled, restored(low_res, **calm), rtol=0, atol=1e-4)
    open_ended = {**calm, "wrap": "none"}
    cut = torch.roll(restored(torch.roll(low_res, 12, dims=3), **open_ended), -24, dims=2)
    assert float((cut - restored(low_res, **open_ended)).abs().max()) > 0.05


@pytest.mark.parametrize("size", [(32, 48), (27, 37), (9, 50)])
@pytest.mark.parametrize("wrap", ["x", "y", "xy"])
def test_the_seam_across_the_wrapped_edge_measures_like_any_other_place(size: tuple[int, int], wrap: str) -> None:
    low_res = texture(*size)
    height, width = 2 * size[0], 2 * size[1]

    def at_the_edges(**changes: Any) -> float:
        image = to_rgb(restored(low_res, tile=32, tile_overlap=16, **changes), True)
        image = np.roll(image, (height // 2, width // 2), (0, 1))
        rows = [height // 2] if "y" in wrap else []
        columns = [width // 2] if "x" in wrap else []
        score = seam_score(image, rows, columns)
        assert score is not None
        return score

    seamless, cut = at_the_edges(wrap=wrap), at_the_edges()
    assert seamless < 1.25
    assert seamless < cut


def test_rows_that_wait_come_last_and_a_canvas_on_disk_changes_nothing(tmp_path: Path) -> None:
    low_res = texture(27, 37)
    in_memory = restored(low_res, wrap="xy")
    on_disk = restored(low_res, scratch=tmp_path, wrap="xy", canvas="disk")
    assert torch.equal(in_memory, on_disk)
    subject = engine(wrap="y")
    plan = subject.plan(54, 74, 2)
    view = View(RamCanvas(torch.zeros(3, plan.height, plan.width)), 3, 1, {"low_res": low_res}, {"low_res": 2}, plan)
    told = {"low_res": low_res, "corruption_factor": torch.zeros(1, 2)}
    bands = [*subject._runner(None).bands([view.__class__(view.x_t, 3, 1, told, {"low_res": 2}, plan)])]
    covered = [(band.y0, band.y1) for band in bands]
    assert covered[-1][0] == 0
    assert [band.first for band in bands] == [True, *[False] * (len(bands) - 1)]
    assert sorted(y for y0, y1 in covered for y in range(y0, y1)) == list(range(plan.height))


@pytest.mark.parametrize("wrap", ["x", "y", "xy"])
def test_whole_image_adjustments_jitter_and_every_sampler_go_around(wrap: str) -> None:
    for changes in ({"dynamic_threshold": True}, {"tile_jitter": True}, {"sampler": "dpm_solver_pp"}, {"tile": 0}):
        images = [
            restored(texture(27, 20), wrap=wrap, tile_batch_size=size, **changes)
            for size in (1, 5)  # type: ignore[arg-type]
        ]
        torch.testing.assert_close(images[0], images[1], rtol=0, atol=2e-4)
        assert torch.isfinite(images[0]).all()


def test_tiles_too_large_for_the_device_shrink_around_the_edge_too() -> None:
    whole = engine(wrap="xy", tile=64)
    runner = whole._runner(None)
    real = runner.denoiser

    def small_only(x_t: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Prediction:
        if x_t.shape[-1] > 32:
            raise torch.OutOfMemoryError("out of memory")
        return real(x_t, t, cond)

    runner.denoiser = small_only
    plan = whole.plan(64, 80, 2)
    view = View(
        RamCanvas(torch.randn(3, 64, 80, generator=torch.Generator().manual_seed(0))), 3, 1,
        {"low_res": texture(32, 40), "corruption_factor": torch.zeros(1, 2)}, {"low_res": 2}, plan,
    )  # fmt: skip
    rows = np.zeros(64, int)
    for band in runner.bands([view]):
        rows[band.y0 : band.y1] += 1
        assert torch.isfinite(band.prediction.x_start).all()
    assert (rows == 1).all()
    runner.denoiser = lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("out of memory"))
    with pytest.raises(TesseraError, match="ran out of memory"):
        next(runner.bands([view]))
