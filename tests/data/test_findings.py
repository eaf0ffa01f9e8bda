"""What pixels show that strengths of corruptions do not account for."""

import cv2
import numpy as np
import pytest
from skimage import data

from codes.data.corruptions.all import CORRUPTIONS
from codes.data.corruptions.options import CorruptionOptions
from codes.data.corruptions.pipeline import CorruptionPipeline
from codes.data.findings.all import FINDINGS, unexplained
from codes.images.files import resample, resize_area
from codes.utils.rng import numpy_generator

PHOTOGRAPHS = {"astronaut": data.astronaut, "coffee": data.coffee, "cat": data.chelsea}
TRAINED = ("jpeg", "gaussian_blur")


def eight_bits(image):
    return (np.rint(image.clip(0, 1) * 255) / np.float32(255)).astype(np.float32)


def photograph(name="cat"):
    """float32 (H, W, 3), half as large as the file, so that nothing of its own compression is left."""
    image = PHOTOGRAPHS[name]()[:296, :440].astype(np.float32) / 255
    return eight_bits(resize_area(image, image.shape[0] // 2, image.shape[1] // 2))


def with_noise(image, deviation, channels=3):
    drawn = numpy_generator(0, "noise").normal(0, deviation / 255, (*image.shape[:2], channels))
    return eight_bits(image + drawn.astype(np.float32))


def with_impulses(image, share):
    drawn = numpy_generator(0, "impulses").random((*image.shape[:2], 1))
    return np.where(drawn < share / 2, 0, np.where(drawn > 1 - share / 2, 1, image)).astype(np.float32)


def found(image, name):
    assert image.dtype == np.float32
    return FINDINGS.get(name)([image])


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_nothing_is_found_in_photographs_and_what_was_trained(name):
    image = PHOTOGRAPHS[name]()[:296, :448].astype(np.float32) / 255
    made = CorruptionPipeline(CorruptionOptions(fixed_corruptions=TRAINED, clean_probability=0.1))
    pairs = [(0.0, 0.0), (0.5, 0.0), (0.0, 0.6), (0.8, 0.5), (1.0, 1.0)]
    for pair in pairs:
        image_of_pair = made.low_res(image, 2, np.array(pair, np.float32), lambda purpose: numpy_generator(0, purpose))
        assert unexplained([eight_bits(image_of_pair)], TRAINED) == (), pair
    assert unexplained([photograph(name).mean(2, keepdims=True).repeat(3, axis=2)], TRAINED) == ()


@pytest.mark.parametrize("deviation", [5, 10, 25])
def test_noise_is_measured(deviation):
    one = found(with_noise(photograph(), deviation), "noise")
    assert one is not None
    assert one.amount == pytest.approx(deviation, rel=0.2)
    assert f"about {one.amount:.0f} of 255" in one.words


def test_noise_that_all_channels_share_is_told_from_a_texture():
    one = found(with_noise(photograph(), 15, channels=1), "noise")
    assert one is not None
    assert one.amount == pytest.approx(15, rel=0.25)
    y, x = np.mgrid[:96, :160]
    grain = numpy_generator(1, "texture").random((96, 160)).astype(np.float32)
    texture = cv2.GaussianBlur(grain, (0, 0), 1.2) + 0.02 * np.sin(x / 3 + y / 5).astype(np.float32)
    assert found(eight_bits(np.repeat(texture[..., None], 3, axis=2)), "noise") is None


@pytest.mark.parametrize("share", [0.01, 0.05])
def test_salt_and_pepper_is_counted_and_noise_is_none_of_it(share):
    one = found(with_impulses(photograph(), share), "impulses")
    assert one is not None
    assert 0.5 * share < one.amount <= share
    assert found(with_noise(photograph(), 50), "impulses") is None


def test_palettes_and_missing_levels():
    image = photograph()
    few = np.rint(image * 5) / np.float32(5)
    assert (one := found(few, "palette")) is not None
    assert 256 / one.amount == len(np.unique(few.reshape(-1, 3), axis=0))
    gray = np.rint(image.mean(2, keepdims=True) * 15).repeat(3, axis=2) / np.float32(15)
    assert found(gray.astype(np.float32), "palette") is None  # a gray picture has 256 colours at most
    assert (one := found(gray.astype(np.float32), "levels")) is not None
    assert one.amount == pytest.approx(17, rel=0.2)
    assert found(np.full((96, 160, 3), 0.5, np.float32), "levels") is None


@pytest.mark.parametrize("factor", [1.5, 2, 4])
@pytest.mark.parametrize("kernel", ["nearest", "bicubic"])
def test_how_far_a_picture_was_enlarged(factor, kernel):
    small = photograph("astronaut")[:72, 20:128]
    height, width = (int(side * factor) for side in small.shape[:2])
    if kernel == "nearest":
        large = cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)
    else:
        large = eight_bits(resample(small, height, width, kernel))
    one = found(large, "enlarged")
    assert one is not None
    assert one.amount == pytest.approx(factor, abs=0.1)
    assert ("repeated" in one.words) == (kernel == "nearest")


def test_corruptions_of_training_explain_what_they_make_and_no_more():
    noisy, very = [with_noise(photograph(), 20)], [with_noise(photograph(), 90)]
    assert unexplained(noisy, ("jpeg",)) != ()
    assert unexplained(noisy, ("jpeg", "gaussian_noise")) == ()
    assert unexplained(noisy, ("noise",)) != ()  # an amplitude of 6 is none of 20
    assert [one for one in unexplained(very, ("gaussian_noise",)) if "noise" in one.words]
    assert unexplained(noisy, ("its_own_plugin",)) != ()


def test_what_corruptions_explain_are_findings():
    for name in CORRUPTIONS.names():
        explained = CORRUPTIONS.get(name).explains
        assert set(explained) <= set(FINDINGS.names())
        assert all(amount > 0 for amount in explained.values())


@pytest.mark.parametrize("shape", [(1, 1, 3), (7, 300, 3), (33, 40, 3)])
def test_tiny_pieces_are_no_trouble(shape):
    image = numpy_generator(0, "tiny").random(shape).astype(np.float32)
    before = image.copy()
    for name in FINDINGS.names():
        assert FINDINGS.get(name)([image]) is None or (name, min(shape[:2])) == ("noise", 33)
    np.testing.assert_array_equal(image, before)
