import math
import tracemalloc

import numpy as np
import pytest
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from codes.evaluation import metrics
from codes.evaluation.metrics import fidelity, mean_fidelity, psnr, seam_score, ssim, studio_luma


def pair(height: int = 23, width: int = 31, noise: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(height)
    truth = rng.random((height, width, 3)).astype(np.float32)
    image = np.clip(truth + noise * rng.standard_normal(truth.shape), 0, 1).astype(np.float32)
    return truth, image


def test_psnr_is_that_of_its_definition_and_of_scikit_image() -> None:
    truth, image = pair()
    assert psnr(truth, image) == pytest.approx(peak_signal_noise_ratio(truth, image, data_range=1.0), abs=1e-6)
    by_hand = -10 * math.log10(np.mean((truth.astype(np.float64) - image) ** 2))
    assert psnr(truth, image) == pytest.approx(by_hand, abs=1e-4)


def test_a_constant_offset_gives_the_psnr_of_a_closed_form() -> None:
    truth = np.full((12, 14, 3), 0.25, np.float32)
    assert psnr(truth, truth + np.float32(0.1)) == pytest.approx(20.0, abs=1e-4)


def test_ssim_equals_scikit_image_as_wang_defines_it() -> None:
    truth, image = pair()
    expected = structural_similarity(
        truth, image, data_range=1.0, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert ssim(truth, image) == pytest.approx(expected, abs=1e-7)
    assert 0 < ssim(truth, image) < 1


def test_identical_images() -> None:
    truth, _ = pair()
    assert fidelity(truth, truth.copy()) == {"psnr": math.inf, "ssim": pytest.approx(1.0), "swd": 0.0, "grain": 1.0}


def test_more_noise_is_worse_by_both() -> None:
    little, much = fidelity(*pair(noise=0.02)), fidelity(*pair(noise=0.2))
    assert little["psnr"] > much["psnr"]
    assert little["ssim"] > much["ssim"]


@pytest.mark.parametrize(
    ("height", "width", "has_ssim"), [(1, 1, False), (5, 37, False), (10, 40, False), (11, 12, True)]
)
def test_tiny_images_have_a_psnr_and_an_ssim_from_11_pixels_on(height: int, width: int, has_ssim: bool) -> None:
    numbers = fidelity(*pair(height, width))
    assert ("ssim" in numbers) is has_ssim
    assert math.isfinite(numbers["psnr"])


def test_unequal_sizes_are_refused() -> None:
    truth, image = pair()
    with pytest.raises(ValueError, match=r"\(23, 30, 3\).*\(23, 31, 3\)"):
        fidelity(truth, image[:, :-1])


def photographs(height: int, width: int, dtype: type = np.uint8) -> tuple[np.ndarray, np.ndarray]:
    truth, image = pair(height, width, noise=0.05)
    top = np.iinfo(dtype).max
    return (truth * top).round().astype(dtype), (image * top).round().astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_integer_samples_give_scikit_images_numbers(dtype: type) -> None:
    truth, image = photographs(37, 23, dtype)
    assert psnr(truth, image) == pytest.approx(peak_signal_noise_ratio(truth, image), abs=1e-9)
    expected = structural_similarity(
        truth,
        image,
        data_range=np.iinfo(dtype).max,
        channel_axis=2,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    assert ssim(truth, image) == pytest.approx(expected, abs=1e-9)


def test_luma_is_matlabs_and_scikit_images() -> None:
    truth, image = photographs(29, 34)
    y_truth, y_image = (rgb2ycbcr(rgb)[..., 0] for rgb in (truth, image))
    assert np.allclose(studio_luma(truth / 255.0)[..., 0] * 255, y_truth, atol=1e-9)
    white, black = studio_luma(np.ones((1, 1, 3))), studio_luma(np.zeros((1, 1, 3)))
    assert (white.item() * 255, black.item() * 255) == (pytest.approx(235), pytest.approx(16))
    numbers = fidelity(truth, image, with_luma=True)
    assert numbers["psnr_y"] == pytest.approx(peak_signal_noise_ratio(y_truth, y_image, data_range=255), abs=1e-9)
    expected = structural_similarity(
        y_truth, y_image, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert numbers["ssim_y"] == pytest.approx(expected, abs=1e-9)


def test_a_border_is_left_out_on_every_side() -> None:
    truth, image = pair(30, 41)
    framed = image.copy()
    framed[:3], framed[-3:], framed[:, :3], framed[:, -3:] = 0, 1, 1, 0
    inner = fidelity(truth[3:-3, 3:-3], image[3:-3, 3:-3], with_luma=True)
    assert fidelity(truth, framed, crop_border=3, with_luma=True) == inner
    with pytest.raises(ValueError, match="border of 15 pixels leaves nothing"):
        psnr(truth, image, crop_border=15)


@pytest.mark.parametrize("shape", [(150, 37), (97, 60), (64, 64)])
def test_bands_give_the_numbers_of_the_whole(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    truth, image = pair(*shape)
    whole = fidelity(truth, image, with_luma=True)
    monkeypatch.setattr(metrics, "BAND_PIXELS", 1)  # the least number of rows
    assert shape[0] > metrics.LEAST_ROWS
    banded = fidelity(truth, image, with_luma=True)
    assert banded == {name: pytest.approx(value, abs=2e-7) for name, value in whole.items()}


def test_the_memory_of_ssim_does_not_grow_with_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, image = photographs(40, 1000)
    tall = [np.concatenate([one] * 30) for one in (truth, image)]  # 1.2 million pixels
    monkeypatch.setattr(metrics, "BAND_PIXELS", 2**17)
    tracemalloc.start()
    try:
        ssim(*tall)
        assert tracemalloc.get_traced_memory()[1] < 350 * metrics.BAND_PIXELS
    finally:
        tracemalloc.stop()


def test_a_seam_is_seen_and_smooth_borders_are_not() -> None:
    rng = np.random.default_rng(0)
    image = (rng.random((48, 60, 3)) * 0.2).astype(np.float32)
    assert seam_score(image, [16, 32], [20, 40]) == pytest.approx(1.0, abs=0.1)
    stepped = image.copy()
    stepped[16:] += 0.5
    assert seam_score(stepped, [16], []) > 5
    assert seam_score(stepped, [], [20, 40]) == pytest.approx(1.0, abs=0.15)
    assert seam_score((stepped * 255).astype(np.uint8), [16], []) > 5


def test_a_pattern_that_repeats_is_no_seam() -> None:
    image = np.random.default_rng(3).random((64, 96, 3)) * 0.1
    image[np.arange(64) % 8 < 4] += 0.5  # steps at every fourth row
    stepped = image.copy()
    stepped[32:] += 0.3
    assert seam_score(image, [16, 32], []) > 2
    assert seam_score(image, [16, 32], [], period=8) == pytest.approx(1.0, abs=0.1)
    assert seam_score(stepped, [16, 32], [], period=8) > 1.2


def test_no_border_or_no_texture_has_no_seam_score() -> None:
    image = np.random.default_rng(0).random((20, 30, 3))
    assert seam_score(image, [0, 1, 19, 20], [0, 30, 64]) is None
    assert seam_score(np.zeros((20, 30, 3)), [10], []) is None


def test_the_mean_is_over_the_images_that_have_a_number() -> None:
    assert mean_fidelity([{"psnr": 20.0}, {"psnr": 30.0, "ssim": 0.5}]) == {"psnr": 25.0, "ssim": 0.5}
