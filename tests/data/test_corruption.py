"""Every registered corruption on a non-square image of odd size, and what each of them promises."""

import cv2
import numpy as np
import pytest
from data_helpers import picture

from codes.data.corruptions.all import CORRUPTIONS, CorruptionSettings, Jpeg, Stage
from codes.data.corruptions.blur import elliptic_kernel, motion_kernel
from codes.images.codecs import jpeg_round_trip, webp_round_trip
from codes.images.files import KERNELS, resample, resize_bicubic
from codes.utils.errors import ConfigError, DataError
from codes.utils.rng import numpy_generator

HEIGHT, WIDTH = 37, 51
PROMISED = {
    "jpeg": "jpeg jpeg-low jpeg-medium jpeg-broad jpeg-normal jpeg_twice webp",
    "blur": "gaussian_blur motion_blur anisotropic_blur generalised_blur sinc",
    "noise": "noise noise-5 gaussian_noise gaussian_noise_gray poisson_noise poisson_noise_gray",
    "colour": "color_quantization color_jitter saturation greyscale none",
    "resize": "resize lq_resampling lq_resampling4x",
}
JPEGS = {
    "jpeg": (10, 20),
    "jpeg-low": (15, 10),
    "jpeg-medium": (23, 25),
    "jpeg-broad": (15, 60),
    "jpeg-normal": (47, 35),
}
# At strength 0: the exact identity, or at least so many dB. A JPEG of these names starts at quality 30 to 82.
FAITHFUL = {"webp": 33, "jpeg_twice": 33, "color_quantization": 55}


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    return -10 * np.log10(max(float(np.square(first - second).mean()), 1e-12))


def damaged(
    name: str, image: np.ndarray, strength: float, seed: int = 3, blur_scale: float = 1.0, subsampling: str = "4:2:0"
) -> np.ndarray:
    corruption = CORRUPTIONS.get(name)(CorruptionSettings(blur_scale, subsampling))
    return corruption(image, strength, numpy_generator(seed, name))


@pytest.mark.parametrize("kind", PROMISED)
def test_every_promised_name_is_there(kind):
    assert not {*PROMISED[kind].split()} - {*CORRUPTIONS.names()}


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", CORRUPTIONS.names())
def test_shape_range_determinism_and_order_of_damage(name, seed):
    image = picture(seed, HEIGHT, WIDTH)
    untouched = image.copy()
    quality = []
    for strength in (0.0, 0.3, 1.0):
        result = damaged(name, image, strength, seed)
        assert result.shape == (HEIGHT, WIDTH, 3)
        assert result.dtype == np.float32
        assert result.min() >= 0
        assert result.max() <= 1
        assert np.array_equal(result, damaged(name, image, strength, seed))
        assert np.array_equal(image, untouched)
        assert not np.shares_memory(result, image)
        quality.append(psnr(result, image))
    if CORRUPTIONS.get(name).fixed_strength is None:
        assert quality[0] > quality[1] > quality[2]
    else:
        assert quality[0] == quality[1] == quality[2]


@pytest.mark.parametrize("name", CORRUPTIONS.names())
def test_strength_zero_is_as_close_to_the_identity_as_it_can_be(name):
    image = picture(0, HEIGHT, WIDTH)
    smooth = cv2.GaussianBlur(image, (0, 0), 2.0)
    result = damaged(name, smooth, 0.0)
    if name in FAITHFUL:
        assert psnr(result, smooth) > FAITHFUL[name]
    elif name not in JPEGS and name not in ("noise-5", "greyscale"):
        assert np.array_equal(result, smooth)


@pytest.mark.parametrize("name", CORRUPTIONS.names())
@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 40, 3), (40, 1, 3), (5, 3, 3), (2, 300, 3)])
def test_any_aspect_ratio_and_nothing_wraps_around(name, shape):
    """Height and width are not swapped, and white (or a little more, after a filter) does not become black."""
    for strength in (0.0, 0.3, 0.5, 1.0):
        result = damaged(name, np.full(shape, 1.0, np.float32), strength)
        assert result.shape == shape
        assert result.flags.c_contiguous
        assert result.min() > 0.4
        above = damaged(name, np.full(shape, 1.02, np.float32), strength)
        assert above.min() > 0.4


@pytest.mark.parametrize("name", CORRUPTIONS.names())
def test_a_read_only_mirrored_image_is_taken_as_it_is(name):
    image = picture(1, HEIGHT, WIDTH)[:, ::-1]
    image.flags.writeable = False
    assert np.array_equal(damaged(name, image, 0.4), damaged(name, np.ascontiguousarray(image), 0.4))


@pytest.mark.parametrize("name", ["motion_blur", "anisotropic_blur", "generalised_blur", "color_jitter", "jpeg_twice"])
def test_what_is_drawn_differs_between_generators(name):
    image = picture(0, HEIGHT, WIDTH)
    results = [damaged(name, image, 0.8, seed) for seed in range(5)]
    assert all(not np.array_equal(results[0], other) for other in results[1:])


@pytest.mark.parametrize("name", JPEGS)
def test_jpeg_quality_follows_the_table(name):
    lowest, span = JPEGS[name]
    corruption = CORRUPTIONS.get(name)
    assert issubclass(corruption, Jpeg)
    image = picture(0, HEIGHT, WIDTH)
    for strength in (0.0, 0.25, 0.5, 1.0):
        quality = int((1 - strength) * span) + lowest
        assert corruption.quality(strength) == quality
        assert np.array_equal(damaged(name, image, strength), jpeg_round_trip(image, quality))


def test_chroma_subsampling_is_an_option_of_every_jpeg():
    """Red and blue stripes of one pixel lose their colour unless it is kept at full resolution."""
    image = np.zeros((32, 48, 3), np.float32)
    image[:, ::2, 0] = image[:, 1::2, 2] = 1
    for name in (*JPEGS, "jpeg_twice"):
        loss = {kind: psnr(damaged(name, image, 0.0, subsampling=kind), image) for kind in ("4:2:0", "4:2:2", "4:4:4")}
        assert loss["4:4:4"] > loss["4:2:0"] + 3
        assert loss["4:4:4"] > loss["4:2:2"] + 3
    tall = image.transpose(1, 0, 2)
    assert psnr(damaged("jpeg", tall, 0.0, subsampling="4:2:2"), tall) > psnr(damaged("jpeg", tall, 0.0), tall) + 3
    drawn = {damaged("jpeg", image, 0.0, seed, subsampling="random").tobytes() for seed in range(30)}
    chosen = {damaged("jpeg", image, 0.0, subsampling=kind).tobytes() for kind in ("4:2:0", "4:2:2", "4:4:4")}
    assert drawn == chosen


def test_jpeg_twice_shows_two_block_grids():
    """The second grid is elsewhere: what one JPEG at this quality leaves alone, the shifted one changes again."""
    image = picture(0, 64, 80)
    once = jpeg_round_trip(image, 15)
    assert psnr(jpeg_round_trip(once, 15), once) > psnr(damaged("jpeg_twice", once, 1.0), once) + 5


def test_sides_that_a_format_cannot_hold_are_refused_in_a_sentence():
    with pytest.raises(DataError, match="webp holds sides of at most 16383 pixels, found 16384 x 1"):
        webp_round_trip(np.zeros((1, 16384, 3), np.float32), 50)


def test_blur_at_strength_zero_is_the_identity_and_sigma_is_in_pixels():
    image = picture(0, HEIGHT, WIDTH)
    for name in ("gaussian_blur", "motion_blur", "anisotropic_blur", "generalised_blur"):
        assert np.array_equal(damaged(name, image, 0.0), image)
        assert np.array_equal(damaged(name, image, 0.8, blur_scale=0.0), image)
        assert psnr(damaged(name, image, 0.5, blur_scale=2.0), image) < psnr(damaged(name, image, 0.5), image)
    point = np.zeros((41, 61, 3), np.float32)
    point[20, 30] = 1
    for strength, scale in ((1.0, 1.0), (0.5, 2.0), (0.6, 2.0)):
        response = damaged("gaussian_blur", point, strength, blur_scale=scale)[..., 0]
        columns = np.arange(61) - 30
        assert response.sum() == pytest.approx(1, abs=1e-4)
        assert np.sqrt((response.sum(0) * columns**2).sum()) == pytest.approx(1.5 * strength * scale, rel=0.02)


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0, 4.0])
def test_the_generalised_kernel_has_the_stated_width_whatever_its_shape(beta):
    kernel = elliptic_kernel(3.0, 1.5, 0.0, beta)
    assert kernel.sum() == pytest.approx(1, abs=1e-5)
    axis = np.arange(kernel.shape[0]) - kernel.shape[0] // 2
    # Its tails are cut at four sigma, which the pointed shape notices.
    assert np.sqrt((kernel.sum(0) * axis**2).sum()) == pytest.approx(3.0, rel=0.06)
    assert np.sqrt((kernel.sum(1) * axis**2).sum()) == pytest.approx(1.5, rel=0.06)
    np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-7)
    turned = elliptic_kernel(3.0, 1.5, np.pi / 2, beta)
    np.testing.assert_allclose(turned, kernel.T, atol=1e-6)


def test_motion_is_a_line_of_its_length_at_its_angle():
    level = motion_kernel(10.0, 0.0)
    middle = level.shape[0] // 2
    assert level[middle].sum() == pytest.approx(1, abs=1e-5)
    axis = np.arange(level.shape[0]) - middle
    # A uniform path of length L has a deviation of L / sqrt(12).
    assert np.sqrt((level[middle] * axis**2).sum()) == pytest.approx(10 / np.sqrt(12), rel=0.05)
    np.testing.assert_allclose(motion_kernel(10.0, np.pi / 2), level.T, atol=1e-6)
    short = motion_kernel(0.01, 1.0)
    assert short[short.shape[0] // 2, short.shape[1] // 2] > 0.9


def test_sinc_rings_on_both_sides_of_an_edge():
    edge = np.full((20, 60, 3), 0.2, np.float32)
    edge[:, 30:] = 0.8
    result = damaged("sinc", edge, 0.5)[10, :, 0]
    assert result.max() > 0.83
    assert result.min() < 0.17
    assert np.diff(np.sign(np.diff(result))).astype(bool).sum() > 6


@pytest.mark.parametrize(("name", "strength", "amplitude"), [("noise", 1.0, 6), ("noise", 0.5, 3), ("noise-5", 0.1, 5)])
def test_noise_is_zero_mean_with_the_stated_amplitude(name, strength, amplitude):
    gray = np.full((120, 170, 3), 0.5, np.float32)
    difference = (damaged(name, gray, strength) - gray) * 255
    assert abs(difference.mean()) < 0.05
    assert 0.95 * amplitude < np.abs(difference).max() <= amplitude + 1e-3


@pytest.mark.parametrize("value", [0.25, 0.6])
@pytest.mark.parametrize("strength", [0.3, 1.0])
@pytest.mark.parametrize("kind", ["gaussian_noise", "poisson_noise"])
def test_sensor_noise_has_the_stated_deviation_in_colour_and_in_gray(kind, strength, value):
    flat = np.full((150, 170, 3), value, np.float32)
    expected = 30 / 255 * strength * (1.0 if kind == "gaussian_noise" else np.sqrt(value))
    colour = damaged(kind, flat, strength) - flat
    gray = damaged(f"{kind}_gray", flat, strength) - flat
    for difference in (colour, gray):
        assert abs(difference.mean()) < 0.02 * expected + 1e-3
        assert difference.std() == pytest.approx(expected, rel=0.03)
    assert np.abs(gray - gray[..., :1]).max() < 1e-6
    assert abs(np.corrcoef(colour[..., 0].ravel(), colour[..., 1].ravel())[0, 1]) < 0.05


def test_the_faintest_photon_noise_does_not_overflow():
    image = picture(0, HEIGHT, WIDTH)
    for strength in (1e-30, 1e-9, 1e-5, 1e-4):
        assert psnr(damaged("poisson_noise", image, strength), image) > 80


def test_colour_changes_do_as_they_are_called():
    image = picture(0, HEIGHT, WIDTH)
    gray = damaged("greyscale", image, 0.1)
    assert np.array_equal(gray[..., 0], gray[..., 1])
    assert np.array_equal(gray[..., 0], gray[..., 2])
    assert len(np.unique(damaged("color_quantization", image, 1.0))) <= 8
    assert damaged("color_quantization", image, 1.0).mean() == pytest.approx(image.mean(), abs=0.01)
    spread = [np.ptp(damaged("saturation", image, 0.5, seed), axis=2).mean() for seed in range(12)]
    usual = np.ptp(image, axis=2).mean()
    assert min(spread) < 0.6 * usual
    assert max(spread) > 1.2 * usual
    distances = [psnr(damaged("color_jitter", image, 0.5, seed), image) for seed in range(20)]
    assert max(distances) < 32  # no draw leaves the colours nearly alone


@pytest.mark.parametrize("name", ["resize", "lq_resampling", "lq_resampling4x"])
def test_resampling_draws_its_kernel(name):
    image = picture(0, HEIGHT, WIDTH)
    kinds = {damaged(name, image, 1.0, seed).tobytes() for seed in range(120)}
    assert len(kinds) == (len(KERNELS) ** 2 if name == "resize" else 4)


@pytest.mark.parametrize("kernel", KERNELS)
def test_resample_keeps_the_mean_and_does_not_swap_sides(kernel):
    image = picture(0, HEIGHT, WIDTH)
    small = resample(image, 12, 17, kernel)
    assert small.shape == (12, 17, 3)
    assert small.mean() == pytest.approx(image.mean(), abs=0.01)
    assert resample(small, 30, 40, kernel).shape == (30, 40, 3)
    assert np.array_equal(small, resize_bicubic(image, 12, 17)) == (kernel == "bicubic")


def test_stages_follow_the_light():
    stages = {name: CORRUPTIONS.get(name).stage for name in CORRUPTIONS.names()}
    assert stages["gaussian_blur"] == stages["motion_blur"] == Stage.OPTICS
    assert stages["noise"] == stages["poisson_noise_gray"] == Stage.SENSOR
    assert stages["resize"] == stages["lq_resampling4x"] == Stage.RESIZE
    assert stages["jpeg-broad"] == stages["webp"] == stages["jpeg_twice"] == Stage.COMPRESSION
    assert list(Stage) == sorted(Stage)


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"unknown corruption 'gausian_blur' \(did you mean gaussian_blur\?"):
        CORRUPTIONS.get("gausian_blur")
