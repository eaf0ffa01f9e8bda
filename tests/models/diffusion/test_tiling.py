"""Tiled denoising: the untiled result where it can be, no seams where it cannot, whatever memory allows."""

import weakref
from collections.abc import Callable, Mapping
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusion_helpers import parameterized
from reference_sampling import CanvasNoise, TiledDenoiser, steps_of
from torch import Tensor, nn

from codes.models.diffusion.denoiser import Denoiser, NetworkDenoiser
from codes.models.diffusion.prediction import Prediction
from codes.models.diffusion.process import GaussianDiffusion
from codes.models.diffusion.samplers import Ddim
from codes.models.diffusion.schedule import NoiseSchedule
from codes.models.diffusion.tiling.memory import is_out_of_memory
from codes.models.diffusion.tiling.plan import TilePlan
from codes.models.diffusion.tiling.runner import TileRunner
from codes.utils.errors import TesseraError

PROCESS = GaussianDiffusion(NoiseSchedule.named("linear", 100), parameterized("start_x"), "learned_range").respaced(4)
FIXED = GaussianDiffusion(NoiseSchedule.named("linear", 100), parameterized("start_x"), "fixed_small").respaced(4)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def same(first: Prediction, second: Prediction) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def close(first: Prediction, second: Prediction, tolerance: float) -> None:
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


class Pixelwise:
    """Predicts each pixel from itself, its conditioning and its sample's vectors; checks that sizes agree."""

    def __call__(self, x_t: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Prediction:
        strength = (cond["corruption_factor"].sum(1) + cond["y"] + 0.01 * t).view(-1, 1, 1, 1)
        low_res = F.interpolate(cond["low_res"], x_t.shape[-2:], mode="bilinear")
        x_start = (torch.sin(2 * x_t) + strength * low_res + cond["map"]).clamp(-1, 1)
        return Prediction(x_start, PROCESS.eps_from_x_start(x_t, t, x_start), x_start.cos() - strength)


class ConvNet(nn.Module):
    """A random zero-padded network of `layers` 3x3 convolutions: what U-Nets do at the border of their input."""

    def __init__(self, out_channels: int = 3, layers: int = 4) -> None:
        super().__init__()
        widths = [3, *[12] * (layers - 1), out_channels]
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths))
        generator = torch.Generator().manual_seed(1)
        for layer in self.layers:
            nn.init.normal_(layer.weight, std=(2.0 / (9 * layer.in_channels)) ** 0.5, generator=generator)
            nn.init.normal_(layer.bias, std=0.2, generator=generator)

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        h = x * (1 + timesteps / 1000).view(-1, 1, 1, 1)
        for layer in self.layers[:-1]:
            h = F.silu(layer(h))
        return self.layers[-1](h)


class Recorder:
    """Passes through and remembers the inputs."""

    def __init__(self) -> None:
        self.batches: list[tuple[Tensor, Tensor, dict[str, Tensor]]] = []

    def __call__(self, x_t: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Prediction:
        self.batches.append((x_t, t, dict(cond)))
        return Prediction(x_t, torch.zeros_like(x_t), torch.zeros_like(x_t))


def tiled(denoiser: Denoiser, plan: TilePlan, tile_batch_size: int = 4, upsampling: str = "bilinear") -> TiledDenoiser:
    eps = PROCESS.eps_from_x_start
    runner = TileRunner(denoiser, eps, tile_batch_size=tile_batch_size, low_res_upsampling=upsampling)
    return TiledDenoiser(runner, plan)


def canvas(height: int, width: int, batch: int = 2) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    cond = {
        "low_res": randn(batch, 3, height // 2, width // 2, seed=1),
        "map": 0.1 * randn(batch, 1, height, width, seed=2),
        "corruption_factor": torch.rand(batch, 5, generator=torch.Generator().manual_seed(3)),
        "y": torch.arange(batch),
    }
    return randn(batch, 3, height, width), torch.arange(batch) % 4, cond


def test_one_tile_is_the_untiled_result_bit_for_bit() -> None:
    x_t, t, cond = canvas(24, 36)
    expected = Pixelwise()(x_t, t, cond)
    for tile in (64, (24, 36), (32, 48)):
        assert same(tiled(Pixelwise(), TilePlan.cover(24, 36, tile, 4, align=2))(x_t, t, cond), expected)
    network = NetworkDenoiser(ConvNet(6), PROCESS, low_res_upsampling="bilinear")
    with torch.no_grad():
        assert same(tiled(network, TilePlan.cover(24, 36, 64, 16))(x_t, t, {}), network(x_t, t, {}))


def test_one_tile_with_more_images_than_fit_a_batch() -> None:
    x_t, t, cond = canvas(24, 36, batch=5)
    recorder = Recorder()
    assert torch.equal(tiled(recorder, TilePlan.cover(24, 36, 64, 4), 2)(x_t, t, cond).x_start, x_t)
    assert [len(x) for x, _, _ in recorder.batches] == [2, 2, 1]
    assert same(tiled(Pixelwise(), TilePlan.cover(24, 36, 64, 4), 2)(x_t, t, cond), Pixelwise()(x_t, t, cond))


@pytest.mark.parametrize(("height", "width"), [(64, 90), (6, 500), (130, 34)])
def test_a_pixelwise_denoiser_gives_the_untiled_result(height: int, width: int) -> None:
    x_t, t, cond = canvas(height, width)
    plan = TilePlan.cover(height, width, 32, 10, align=2)
    assert len(plan) > 4
    close(tiled(Pixelwise(), plan)(x_t, t, cond), Pixelwise()(x_t, t, cond), 1e-5)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 500), (1, 70)])
def test_odd_canvases(height: int, width: int) -> None:
    x_t = randn(2, 3, height, width)
    prediction = tiled(Recorder(), TilePlan.cover(height, width, 16, 5))(x_t, torch.tensor([1, 3]), {})
    torch.testing.assert_close(prediction.x_start, x_t, rtol=1e-6, atol=1e-6)


def test_eps_agrees_with_the_blended_x_start() -> None:
    x_t, t, cond = canvas(64, 90)
    prediction = tiled(Pixelwise(), TilePlan.cover(64, 90, 32, 10, align=2))(x_t, t, cond)
    torch.testing.assert_close(PROCESS.q_sample(prediction.x_start, t, prediction.eps), x_t, rtol=1e-5, atol=1e-5)


def test_tile_batch_size_changes_nothing() -> None:
    x_t, t, cond = canvas(64, 90, batch=4)
    plan = TilePlan.cover(64, 90, 32, 20, align=2)
    results = [tiled(Pixelwise(), plan, size)(x_t, t, cond) for size in (1, 2, 7, 1000)]
    assert all(same(result, results[0]) for result in results)


def test_the_order_of_images_and_their_company_change_nothing() -> None:
    x_t, t, cond = canvas(64, 90, batch=4)
    plan = TilePlan.cover(64, 90, 32, 20, align=2)
    order = [2, 0]
    all_images = tiled(Pixelwise(), plan)(x_t, t, cond)
    some = tiled(Pixelwise(), plan)(x_t[order], t[order], {name: value[order] for name, value in cond.items()})
    assert same(some, Prediction(*(value[order] for value in all_images)))


def test_the_order_in_which_tiles_are_asked_for_is_the_plans() -> None:
    plan = TilePlan.cover(20, 30, 12, 4)
    recorder = Recorder()
    x_t = randn(2, 3, 20, 30)
    tiled(recorder, plan, 3)(x_t, torch.tensor([0, 2]), {})
    seen = torch.cat([x for x, _, _ in recorder.batches])
    expected = [x_t[image, :, tile.y0 : tile.y1, tile.x0 : tile.x1] for image in range(2) for tile in plan.tiles]
    assert torch.equal(seen, torch.stack(expected))
    assert torch.cat([t for _, t, _ in recorder.batches]).tolist() == [0] * len(plan) + [2] * len(plan)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_low_res_is_upsampled_as_if_whole(mode: str, scale: int) -> None:
    height, width = 12 * scale, 17 * scale
    low_res = randn(2, 3, 12, 17)
    whole = F.interpolate(low_res, size=(height, width), mode=mode, align_corners=False)
    plan = TilePlan.cover(height, width, 6 * scale, scale, align=scale)
    recorder = Recorder()
    tiled(recorder, plan, 1, mode)(randn(2, 3, height, width), torch.tensor([0, 1]), {"low_res": low_res})
    naive = 0.0
    items = [(image, tile) for image in range(2) for tile in plan.tiles]
    for (_, _, cond), (image, tile) in zip(recorder.batches, items, strict=True):
        region = (slice(tile.y0, tile.y1), slice(tile.x0, tile.x1))
        expected = whole[image : image + 1, :, *region]
        if scale == 3:  # positions are not exact in binary
            torch.testing.assert_close(cond["low_res"], expected, rtol=1e-5, atol=1e-5)
        else:
            assert torch.equal(cond["low_res"], expected)
        crop = low_res[image : image + 1, :, *(slice(side.start // scale, side.stop // scale) for side in region)]
        alone = F.interpolate(crop, size=expected.shape[-2:], mode=mode, align_corners=False)
        naive = max(naive, float((alone - expected).abs().max()))
    assert naive > 0.1  # what the margin is for


def test_spatial_conditioning_is_cropped_at_its_own_resolution() -> None:
    strength = torch.arange(20.0 * 30).view(1, 1, 20, 30).repeat(2, 1, 1, 1)
    coarse = strength[:, :, ::2, ::2]
    plan = TilePlan.cover(20, 30, 12, 4, align=2)
    recorder = Recorder()
    tiled(recorder, plan, 1)(randn(2, 3, 20, 30), torch.tensor([0, 1]), {"map": strength, "coarse": coarse})
    for (_, _, cond), tile in zip(recorder.batches, plan.tiles * 2, strict=True):
        assert torch.equal(cond["map"], strength[:1, :, tile.y0 : tile.y1, tile.x0 : tile.x1])
        assert torch.equal(cond["coarse"], cond["map"][:, :, ::2, ::2])


def test_a_flat_prediction_stays_flat() -> None:
    def flat(x_t: Tensor, t: Tensor, _: Mapping[str, Tensor]) -> Prediction:
        value = torch.full_like(x_t, 0.7)
        return Prediction(value, PROCESS.eps_from_x_start(x_t, t, value), -3 * value)

    prediction = tiled(flat, TilePlan.cover(70, 101, 24, 15))(randn(2, 3, 70, 101), torch.tensor([1, 2]), {})
    torch.testing.assert_close(prediction.x_start, torch.full((2, 3, 70, 101), 0.7), rtol=3e-7, atol=0)
    torch.testing.assert_close(prediction.log_variance, torch.full((2, 3, 70, 101), -2.1), rtol=5e-7, atol=0)


def test_a_fixed_variance_is_not_spread_out_in_memory() -> None:
    x_t, t = randn(2, 3, 40, 56), torch.tensor([0, 2])
    denoiser = NetworkDenoiser(ConvNet(3), FIXED, low_res_upsampling="bilinear")
    prediction = tiled(denoiser, TilePlan.cover(40, 56, 24, 8))(x_t, t, {})
    assert prediction.log_variance.shape == x_t.shape
    assert prediction.log_variance.untyped_storage().nbytes() == 2 * 3 * 4
    with torch.no_grad():
        assert torch.equal(prediction.log_variance, denoiser(x_t, t, {}).log_variance)


def test_only_tiles_reach_the_denoiser() -> None:
    recorder = Recorder()
    x_t, t, cond = canvas(200, 300)
    tiled(recorder, TilePlan.cover(200, 300, 32, 8, align=2), 3)(x_t, t, cond)
    assert {tuple(x.shape[1:]) for x, _, _ in recorder.batches} == {(3, 32, 32)}
    assert max(len(x) for x, _, _ in recorder.batches) == 3
    assert all(value.shape[-1] <= 32 for _, _, cond in recorder.batches for value in cond.values())


def line_steps(image: Tensor, axis: int) -> np.ndarray:
    """Mean absolute difference between each line of (B, C, H, W) and the next."""
    return image.diff(dim=axis).abs().mean(dim=[d for d in range(4) if d != axis]).numpy()


def seam_ratio(image: Tensor, plan: TilePlan, axis: int) -> float:
    """The difference across the lines where tiles begin or end, over that across lines 1 to 4 pixels beside them."""
    steps = line_steps(image, axis)
    origins, tile = ((plan.ys, plan.tile[0]), (plan.xs, plan.tile[1]))[axis - 2]
    borders = {edge - 1 for origin in origins for edge in (origin, origin + tile)} & set(range(len(steps)))
    beside = {b + offset for b in borders for offset in (-4, -3, -2, -1, 1, 2, 3, 4)} & set(range(len(steps)))
    return float(steps[sorted(borders)].mean() / steps[sorted(beside - borders)].mean())


def pictures(height: int, width: int) -> dict[str, Tensor]:
    ramp = torch.linspace(-0.8, 0.8, height)[:, None] * 0.5 + torch.linspace(-0.8, 0.8, width)[None, :] * 0.5
    return {
        "flat": torch.full((2, 3, height, width), 0.3),
        "gradient": torch.stack([ramp, -ramp, ramp**2])[None].repeat(2, 1, 1, 1),
        "noisy": 0.3 * randn(2, 3, height, width),
    }


@pytest.mark.parametrize("picture", ["flat", "gradient", "noisy"])
def test_no_seam_along_tile_borders(picture: str) -> None:
    plan = TilePlan.cover(112, 160, 48, 12)
    denoiser = NetworkDenoiser(ConvNet(), FIXED, clip_denoised=False, low_res_upsampling="bilinear")
    x_start = tiled(denoiser, plan)(pictures(112, 160)[picture], torch.tensor([1, 1]), {}).x_start
    assert seam_ratio(x_start, plan, 2) <= 1.02
    assert seam_ratio(x_start, plan, 3) <= 1.02


@pytest.mark.parametrize("picture", ["flat", "gradient"])
def test_a_plain_average_of_tiles_would_show_seams(picture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codes.models.diffusion.tiling.plan.blend_window", lambda size, _: np.ones(size))
    plan = TilePlan.cover(112, 160, 48, 12)
    denoiser = NetworkDenoiser(ConvNet(), FIXED, clip_denoised=False, low_res_upsampling="bilinear")
    x_start = tiled(denoiser, plan)(pictures(112, 160)[picture], torch.tensor([1, 1]), {}).x_start
    assert seam_ratio(x_start, plan, 2) > 2
    assert seam_ratio(x_start, plan, 3) > 2


def test_no_seam_after_sampling() -> None:
    plan = TilePlan.cover(112, 160, 48, 12)
    runner = TileRunner(
        NetworkDenoiser(ConvNet(), FIXED, low_res_upsampling="bilinear"),
        FIXED.eps_from_x_start,
        tile_batch_size=4,
        low_res_upsampling="bilinear",
    )
    denoiser = TiledDenoiser(runner, plan)
    noise = CanvasNoise(range(24), 3, 112, 160)  # many, since the ratio of one draw is off by some percent by chance
    *_, last = steps_of(Ddim(eta=1.0), denoiser, FIXED, noise.initial(), {}, noise)
    assert seam_ratio(last.x_t, plan, 2) <= 1.02
    assert seam_ratio(last.x_t, plan, 3) <= 1.02


def test_border_pixels_are_as_good_as_inner_ones() -> None:
    x_t = pictures(112, 160)["noisy"]
    denoiser = NetworkDenoiser(ConvNet(), FIXED, clip_denoised=False, low_res_upsampling="bilinear")
    t = torch.tensor([1, 1])
    with torch.no_grad():
        whole = denoiser(x_t, t, {}).x_start
    error = (tiled(denoiser, TilePlan.cover(112, 160, 48, 12))(x_t, t, {}).x_start - whole).abs().mean(dim=(0, 1))
    inner = error[8:-8, 8:-8].mean()
    frame = torch.cat([error[:8].flatten(), error[-8:].flatten(), error[:, :8].flatten(), error[:, -8:].flatten()])
    assert 0 < inner < 0.02
    assert frame.mean() <= 1.1 * inner


class Small:
    """A device with room for `most` tiles of at most `side` pixels; records what it was asked for."""

    def __init__(self, most: int, side: int, error: Callable[[], RuntimeError]) -> None:
        self.most, self.side, self.error = most, side, error
        self.asked: list[tuple[int, int]] = []

    def __call__(self, x_t: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Prediction:
        self.asked.append((len(x_t), x_t.shape[-1]))
        if len(x_t) > self.most or max(x_t.shape[-2:]) > self.side:
            raise self.error()
        return Pixelwise()(x_t, t, cond)


def test_a_batch_is_gone_before_the_next_is_computed() -> None:
    kept: list[weakref.ref[Tensor]] = []

    def denoiser(x_t: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Prediction:
        assert all(reference() is None for reference in kept)
        prediction = Pixelwise()(x_t, t, cond)
        kept.append(weakref.ref(prediction.x_start))
        return prediction

    tiled(denoiser, TilePlan.cover(64, 96, 24, 8, align=2), tile_batch_size=2)(*canvas(64, 96))
    assert len(kept) > 4


def cuda_error() -> RuntimeError:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def cpu_error() -> RuntimeError:
    return RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")


@pytest.mark.parametrize("error", [cuda_error, cpu_error])
def test_out_of_memory_halves_the_batch_and_loses_nothing(error: Callable[[], RuntimeError]) -> None:
    x_t, t, cond = canvas(64, 90)
    plan = TilePlan.cover(64, 90, 32, 10, align=2)
    device, events = Small(2, 32, error), []
    runner = TileRunner(
        device, PROCESS.eps_from_x_start, tile_batch_size=8, on_event=events.append, low_res_upsampling="bilinear"
    )
    denoiser = TiledDenoiser(runner, plan)
    assert same(denoiser(x_t, t, cond), tiled(Pixelwise(), plan)(x_t, t, cond))
    assert [batch for batch, _ in device.asked[:3]] == [8, 4, 2]
    assert denoiser.tile_batch_size == 2
    assert len(events) == 2
    assert "with 4 tiles at once: going on with 2" in events[1]
    denoiser(x_t, t, cond)
    assert len(events) == 2  # the next step starts with what fitted


@pytest.mark.parametrize("tile", [64, 128])
def test_out_of_memory_shrinks_the_tile_and_repeats_the_step(tile: int) -> None:
    x_t, t, cond = canvas(120, 100)
    device, events = Small(2, 32, cuda_error), []
    runner = TileRunner(
        device,
        PROCESS.eps_from_x_start,
        tile_batch_size=2,
        smaller_plan=lambda plan: plan.smaller(16),
        on_event=events.append,
        low_res_upsampling="bilinear",
    )
    denoiser = TiledDenoiser(runner, TilePlan.cover(120, 100, tile, 16, align=2))
    close(denoiser(x_t, t, cond), Pixelwise()(x_t, t, cond), 1e-5)
    assert max(denoiser.plan.tile) <= 32
    assert "repeating this step" in events[-1]


def test_out_of_memory_with_nothing_left_to_shrink_is_one_clear_line() -> None:
    x_t, t, cond = canvas(64, 90)
    plan = TilePlan.cover(64, 90, 32, 10, align=2)
    with pytest.raises(TesseraError, match="single tile of 32x32 pixels") as caught:
        tiled(Small(2, 16, cuda_error), plan)(x_t, t, cond)
    assert "\n" not in str(caught.value)
    runner = TileRunner(
        Small(2, 8, cuda_error),
        PROCESS.eps_from_x_start,
        smaller_plan=lambda plan: plan.smaller(16),
        low_res_upsampling="bilinear",
    )
    with pytest.raises(TesseraError, match="single tile of 16x16"):
        TiledDenoiser(runner, plan)(x_t, t, cond)


def test_other_errors_pass_through() -> None:
    x_t, t, cond = canvas(64, 90)
    device = Small(0, 32, lambda: RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        tiled(device, TilePlan.cover(64, 90, 32, 10, align=2))(x_t, t, cond)
    assert len(device.asked) == 1


def test_messages_of_exhausted_memory_are_known() -> None:
    for message in ("CUDA error: out of memory", "MPS backend out of memory", "CUBLAS_STATUS_ALLOC_FAILED when",
                    "FIND was unable to find an engine", "GET was unable to find an engine to execute"):  # fmt: skip
        assert is_out_of_memory(RuntimeError(message))
    assert not is_out_of_memory(RuntimeError("CUDA error: device-side assert triggered"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x_t": randn(2, 3, 64, 88)}, r"\(2, 3, 64, 88\): the tile plan is for \(B, C, 64, 90\)"),
        ({"t": torch.tensor([1])}, r"t has shape \(1,\): expected \(2,\)"),
        ({"low_res": randn(2, 3, 32, 44)}, "low_res is 32x44: expected the canvas' 64x90 divided by a whole number"),
        ({"low_res": randn(2, 3, 128, 180)}, "low_res is 128x180"),
        ({"y": torch.tensor([1])}, r"y has shape \(1,\)"),
        ({"corruption_factor": randn(2, 3, 4)}, "corruption_factor has shape"),
    ],
)
def test_shapes_that_do_not_fit_are_named(change: dict[str, Tensor], message: str) -> None:
    x_t, t, cond = canvas(64, 90)
    x_t, t = change.pop("x_t", x_t), change.pop("t", t)
    with pytest.raises(ValueError, match=message):
        tiled(Pixelwise(), TilePlan.cover(64, 90, 32, 10, align=2))(x_t, t, cond | change)


def test_a_plan_that_ignores_the_scale_is_refused() -> None:
    x_t, t, cond = canvas(64, 90)
    with pytest.raises(ValueError, match="make the plan with align a multiple of 2"):
        tiled(Pixelwise(), TilePlan.cover(64, 90, 33, 10))(x_t, t, cond)


def test_bad_arguments_are_refused() -> None:
    plan = TilePlan.cover(64, 90, 32, 10)
    with pytest.raises(ValueError, match="tile_batch_size 0"):
        tiled(Pixelwise(), plan, 0)
    with pytest.raises(ValueError, match="one of bilinear, bicubic"):
        tiled(Pixelwise(), plan, upsampling="nearest")
