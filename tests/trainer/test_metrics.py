import math

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from codes.trainer.metrics import fidelity, psnr, ssim


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
    assert fidelity(truth, truth.copy()) == {"psnr": math.inf, "ssim": pytest.approx(1.0)}


def test_more_noise_is_worse_by_both() -> None:
    little, much = fidelity(*pair(noise=0.02)), fidelity(*pair(noise=0.2))
    assert little["psnr"] > much["psnr"]
    assert little["ssim"] > much["ssim"]


@pytest.mark.parametrize(
    ("height", "width", "has_ssim"), [(1, 1, False), (5, 37, False), (10, 40, False), (11, 12, True)]
)
def test_tiny_images_have_a_psnr_and_an_ssim_from_11_pixels_on(height: int, width: int, has_ssim: bool) -> None:
    found = fidelity(*pair(height, width))
    assert ("ssim" in found) is has_ssim
    assert math.isfinite(found["psnr"])


def test_unequal_sizes_are_refused() -> None:
    truth, image = pair()
    with pytest.raises(ValueError, match=r"\(23, 30, 3\).*\(23, 31, 3\)"):
        fidelity(truth, image[:, :-1])
