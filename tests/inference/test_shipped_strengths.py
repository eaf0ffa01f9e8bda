"""What the estimator that comes with the project reads of images that it has never seen."""

import cv2
import numpy as np
import pytest
import torch
from skimage import data

from codes.data.corruptions.options import CorruptionOptions
from codes.data.corruptions.pipeline import CorruptionPipeline
from codes.images.files import resize_area
from codes.inference.restorer import Restorer
from codes.inference.strength_reader import StrengthReader
from codes.models.diffusion.checkpoints.shipped import weights_file
from codes.utils.rng import numpy_generator

NAMES = ("jpeg", "gaussian_blur")
DEFAULT = 0.2
PHOTOGRAPHS = {"astronaut": data.astronaut, "coffee": data.coffee, "cat": data.chelsea}


@pytest.fixture(scope="module")
def reader():
    return StrengthReader.from_checkpoint(weights_file("tessera-photo-strengths"), torch.device("cpu"))


def photograph(name):
    """float32 (H, W, 3) in [0, 1], of sides that 16 divides."""
    image = PHOTOGRAPHS[name]().astype(np.float32) / 255
    height, width = (side // 16 * 16 for side in image.shape[:2])
    return image[:height, :width]


def half(image):
    return resize_area(image, image.shape[0] // 2, image.shape[1] // 2)


def told(reader, image):
    reading = reader.read(image)
    return {name: reading.estimate(name, DEFAULT) for name in NAMES}


def corrupted(image, jpeg, blur):
    made = CorruptionPipeline(CorruptionOptions(fixed_corruptions=NAMES, clean_probability=0.1))
    return made.low_res(image, 2, np.array([jpeg, blur], np.float32), lambda purpose: numpy_generator(0, purpose))


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_strengths_rise_with_the_damage(reader, name):
    image = photograph(name)
    blurs = [told(reader, corrupted(image, 0.0, blur))["gaussian_blur"].strength for blur in (0, 0.4, 0.8)]
    assert blurs[0] < blurs[1] - 0.1 < blurs[2] - 0.2
    assert blurs[2] == pytest.approx(0.8, abs=0.2)
    jpegs = [told(reader, corrupted(image, jpeg, 0.2))["jpeg"].strength for jpeg in (0, 0.5, 1.0)]
    assert jpegs[0] < jpegs[1] < jpegs[2]
    assert jpegs[2] > 0.75


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_a_clean_photograph_made_smaller_reads_near_0(reader, name):
    small = half(photograph(name))
    assert all(estimate.strength < 0.3 for estimate in told(reader, small).values())


def test_what_was_never_trained_gives_no_strong_guess(reader):
    small = half(photograph("astronaut"))
    noisy = (small + numpy_generator(0, "noise").normal(0, 0.1, small.shape)).clip(0, 1).astype(np.float32)
    screen = np.full((256, 288, 3), 244, np.uint8)
    for row in range(8):
        cv2.putText(screen, "File  Edit  View", (9, 30 + 25 * row), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (30, 30, 30), 1)
    for image in (noisy, screen.astype(np.float32) / 255):
        assert all(estimate.strength < 0.25 for estimate in told(reader, image).values())


def test_a_map_tells_a_sharp_subject_from_a_blurred_background(reader):
    image = photograph("coffee")
    sharp, soft = corrupted(image, 0.0, 0.0), corrupted(image, 0.0, 0.9)
    both = np.concatenate([sharp[:, : sharp.shape[1] // 2], soft[:, sharp.shape[1] // 2 :]], axis=1)
    strengths = reader.read(both, everywhere=True).map("gaussian_blur", DEFAULT)
    assert strengths.shape == both.shape[:2]
    assert strengths[:, :60].mean() < 0.35 < 0.6 < strengths[:, -60:].mean()
    assert np.abs(np.diff(strengths, axis=1)).max() < 0.05


def test_a_map_restores_a_sharp_subject_as_sharp_and_its_background_as_blurred(reader):
    image = photograph("coffee")[:256, 128:512]
    sharp, soft = corrupted(image, 0.0, 0.0), corrupted(image, 0.0, 0.9)
    border = np.clip((np.arange(sharp.shape[1]) - 80) / 32, 0, 1).astype(np.float32)[None, :, None]
    both = sharp * (1 - border) + soft * border
    restorer = Restorer.from_pretrained("tessera-photo-2x-fast", "cpu")
    strengths = reader.read(both, everywhere=True).map("gaussian_blur", DEFAULT)
    with_map = restorer(both, {"gaussian_blur": "auto_map"}, steps=1)
    np.testing.assert_allclose(with_map, restorer(both, {"gaussian_blur": strengths}, steps=1), atol=1e-5)
    as_sharp, as_soft = (restorer(both, {"gaussian_blur": strength}, steps=1) for strength in (0.0, 0.9))

    def nearness(columns):
        to_sharp, to_soft = (np.abs(with_map - one)[:, columns].mean() for one in (as_sharp, as_soft))
        return to_sharp / to_soft

    assert nearness(slice(0, 96)) < 0.5  # the subject
    assert nearness(slice(-96, None)) > 1.5  # the background
