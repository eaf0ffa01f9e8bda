"""Every registered corruption on a non-square image of odd size."""

import numpy as np
import pytest

from codes.data.corruption import CORRUPTIONS, CorruptionSettings, Jpeg, apply_corruptions, draw_strengths
from codes.utils.errors import ConfigError
from codes.utils.rng import numpy_generator

from .helpers import picture

HEIGHT, WIDTH = 37, 51
JPEGS = {
    "jpeg": (10, 20),
    "jpeg-low": (15, 10),
    "jpeg-medium": (23, 25),
    "jpeg-broad": (15, 60),
    "jpeg-normal": (47, 35),
}


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    return -10 * np.log10(max(float(np.square(first - second).mean()), 1e-12))


def damaged(name: str, image: np.ndarray, strength: float, seed: int = 3, blur_scale: float = 1.0) -> np.ndarray:
    corruption = CORRUPTIONS.get(name)(CorruptionSettings(blur_scale=blur_scale))
    return corruption(image, strength, numpy_generator(seed, name))


@pytest.mark.parametrize("name", CORRUPTIONS.names())
def test_shape_range_determinism_and_order_of_damage(name):
    image = picture(0, HEIGHT, WIDTH)
    untouched = image.copy()
    quality = []
    for strength in (0.0, 0.3, 1.0):
        result = damaged(name, image, strength)
        assert result.shape == (HEIGHT, WIDTH, 3)
        assert result.dtype == np.float32
        assert result.min() >= 0
        assert result.max() <= 1
        assert np.array_equal(result, damaged(name, image, strength))
        assert np.array_equal(image, untouched)
        assert not np.shares_memory(result, image)
        quality.append(psnr(result, image))
    if CORRUPTIONS.get(name).uses_strength:
        assert quality[0] > quality[1] > quality[2]
    else:
        assert quality[0] == quality[1] == quality[2]


@pytest.mark.parametrize("name", CORRUPTIONS.names())
def test_a_single_bright_pixel_and_values_above_one_do_not_wrap(name):
    for shape in ((1, 1, 3), (5, 3, 3)):
        result = damaged(name, np.ones(shape, np.float32), 0.5)
        assert result.shape == shape
        assert result.min() > 0.9


@pytest.mark.parametrize("name", JPEGS)
def test_jpeg_quality_follows_the_table(name):
    lowest, span = JPEGS[name]
    corruption = CORRUPTIONS.get(name)
    assert issubclass(corruption, Jpeg)
    for strength in (0.0, 0.25, 0.5, 1.0):
        assert corruption.quality(strength) == int((1 - strength) * span) + lowest


def test_blur_at_strength_zero_is_the_identity_and_sigma_is_in_pixels():
    image = picture(0, HEIGHT, WIDTH)
    assert np.array_equal(damaged("gaussian_blur", image, 0.0), image)
    assert np.array_equal(damaged("gaussian_blur", image, 0.8, blur_scale=0.0), image)
    point = np.zeros((41, 61, 3), np.float32)
    point[20, 30] = 1
    for strength, scale in ((1.0, 1.0), (0.5, 2.0), (0.6, 2.0)):
        response = damaged("gaussian_blur", point, strength, blur_scale=scale)[..., 0]
        columns = np.arange(61) - 30
        assert response.sum() == pytest.approx(1, abs=1e-4)
        assert np.sqrt((response.sum(0) * columns**2).sum()) == pytest.approx(1.5 * strength * scale, rel=0.02)


@pytest.mark.parametrize(("name", "strength", "amplitude"), [("noise", 1.0, 6), ("noise", 0.5, 3), ("noise-5", 0.1, 5)])
def test_noise_is_zero_mean_with_the_stated_amplitude(name, strength, amplitude):
    gray = np.full((120, 170, 3), 0.5, np.float32)
    difference = (damaged(name, gray, strength) - gray) * 255
    assert abs(difference.mean()) < 0.05
    assert 0.95 * amplitude < np.abs(difference).max() <= amplitude + 1e-3


def test_order_matters_and_strengths_go_to_their_own_corruption():
    image = picture(0, HEIGHT, WIDTH)
    jpeg, blur = (CORRUPTIONS.get(name)() for name in ("jpeg", "gaussian_blur"))
    rng = numpy_generator(0)
    jpeg_first = apply_corruptions(image, [jpeg, blur], [0.2, 0.9], rng)
    blur_first = apply_corruptions(image, [blur, jpeg], [0.9, 0.2], rng)
    assert np.abs(jpeg_first - blur_first).max() > 0.02
    assert np.array_equal(jpeg_first, blur(jpeg(image, 0.2, rng), 0.9, rng))
    with pytest.raises(ValueError, match="shorter"):
        apply_corruptions(image, [jpeg, blur], [0.2], rng)


def test_strengths_are_biased_towards_clean_unless_asked_otherwise():
    biased = draw_strengths(20000, numpy_generator(1), cosine_bias=True)
    uniform = draw_strengths(20000, numpy_generator(1), cosine_bias=False)
    assert biased.dtype == np.float32
    assert 0 <= biased.min() <= biased.max() <= 1
    assert biased.mean() == pytest.approx(1 - 2 / np.pi, abs=0.01)
    assert uniform.mean() == pytest.approx(0.5, abs=0.01)
    np.testing.assert_allclose(biased, 1 - np.cos(uniform * np.pi / 2), atol=1e-6)


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"unknown corruption 'gausian_blur' \(did you mean gaussian_blur\?"):
        CORRUPTIONS.get("gausian_blur")
