"""Texture beside the truth's: known values of the sliced Wasserstein distance and of grain."""

import math

import numpy as np
import pytest

from codes.evaluation import texture as own
from codes.evaluation.texture import texture
from codes.images.files import resize_area, resize_bicubic


def noisy(height: int = 40, width: int = 57, amplitude: float = 0.1, seed: int = 0) -> np.ndarray:
    values = 0.5 + amplitude * np.random.default_rng(seed).standard_normal((height, width, 3))
    return values.astype(np.float32)


def test_the_same_texture_elsewhere_is_no_distance_and_full_grain() -> None:
    truth = noisy()
    assert texture(truth, truth) == {"swd": 0.0, "grain": 1.0}
    elsewhere = texture(truth, truth[::-1, ::-1])  # a patch turned around is another patch, drawn from the same field
    assert elsewhere["grain"] == pytest.approx(1.0, rel=1e-5)
    assert elsewhere["swd"] < 0.05


@pytest.mark.parametrize("share", [0.0, 0.5, 0.8, 1.5])
def test_of_gaussian_texture_the_distance_is_that_of_two_normal_distributions(share: float) -> None:
    """W1 of N(0, s^2) and N(0, (a s)^2) is |1 - a| s sqrt(2 / pi)."""
    truth = noisy(80, 90)
    metrics = texture(truth, 0.5 + np.float32(share) * (truth - np.float32(0.5)))
    assert metrics["swd"] == pytest.approx(abs(1 - share) * math.sqrt(2 / math.pi), rel=0.02)
    assert metrics["grain"] == pytest.approx(share**2, abs=1e-5)


def test_added_noise_is_grain_and_added_brightness_is_not() -> None:
    truth = noisy()
    extra = texture(truth, truth + noisy(amplitude=0.1, seed=1) - np.float32(0.5))
    assert extra["grain"] == pytest.approx(2.0, rel=0.1)
    assert texture(truth, truth + np.float32(0.2))["swd"] < 1e-5


def test_a_blurred_image_has_too_little_and_sharpening_it_brings_it_nearer() -> None:
    truth = noisy()
    soft = resize_bicubic(resize_area(truth, 20, 28), 40, 57)
    sharper = soft + (soft - resize_bicubic(resize_area(soft, 20, 28), 40, 57))
    assert texture(truth, soft)["grain"] < texture(truth, sharper)["grain"] < 1
    assert texture(truth, sharper)["swd"] < texture(truth, soft)["swd"] < math.sqrt(2 / math.pi)


def test_integer_samples_of_both_depths_give_the_numbers_of_floats() -> None:
    truth, image = noisy(), noisy(seed=1)
    expected = texture(truth, image)
    for dtype, rel in ((np.uint8, 0.01), (np.uint16, 1e-4)):
        top = np.iinfo(dtype).max
        pair = [(values * top).round().astype(dtype) for values in (truth, image)]
        assert texture(*pair) == pytest.approx(expected, rel=rel)


def test_bands_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, image = noisy(), noisy(seed=1, amplitude=0.2)
    whole = texture(truth, image)
    monkeypatch.setattr(own, "BAND_ROWS", 7)
    assert texture(truth, image) == pytest.approx(whole, rel=1e-6)


def test_a_large_image_is_measured_at_places_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, image = noisy(90, 100), noisy(90, 100, seed=1, amplitude=0.15)
    whole = texture(truth, image)
    monkeypatch.setattr(own, "MOST_PATCHES", 3000)
    places = own._places(90, 100)
    assert len(set(places.tolist())) == 3000
    assert places.max() < 84 * 100
    assert (places % 100).max() < 94
    assert texture(truth, image) == texture(truth, image)
    assert texture(truth, image)["swd"] == pytest.approx(whole["swd"], rel=0.1)


def test_without_detail_or_room_there_is_no_number() -> None:
    flat = np.full((20, 30, 3), 0.25, np.float32)
    assert texture(flat, noisy(20, 30)) == {}
    assert texture(noisy(6, 30), noisy(6, 30)) == {}
    assert set(texture(noisy(7, 9), noisy(7, 9, seed=1))) == {"swd", "grain"}


def test_unequal_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(9, 8, 3\).*\(8, 9, 3\)"):
        texture(noisy(8, 9), noisy(9, 8))
