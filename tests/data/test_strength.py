"""The strength of a JPEG corruption, read from the file: its tables, else the traces in its pixels, else a default."""

import io
import logging

import numpy as np
import pytest
from PIL import Image

from codes.config.options import parse
from codes.config.yaml_source import Source
from codes.data import ImageFolderDataset, ImageFolderOptions, held_out_photograph, sample_photographs
from codes.data.corruptions import jpeg_quality
from codes.data.corruptions.all import CORRUPTIONS
from codes.data.corruptions.jpeg_quality import quality_of_pixels, quality_of_table, standard_table
from codes.data.corruptions.strength import (
    Estimate,
    estimators,
    strength_of_image,
    strength_of_quality,
    told_strength,
)
from codes.images.bands import open_bands
from codes.images.files import jpeg_table, read_samples
from codes.utils.console import ROOT
from codes.utils.errors import ConfigError

PHOTOGRAPHS = (held_out_photograph(), *(path for path in sample_photographs() if path.name.startswith(("che", "cam"))))
QUALITIES = (10, 20, 35, 50, 75, 90)


def compressed(path, quality, **settings):
    """uint8 pixels of a photograph after it was a JPEG."""
    file = io.BytesIO()
    Image.open(path).convert("RGB").save(file, "JPEG", quality=quality, **settings)
    return np.array(Image.open(file))


def test_the_standard_tables_are_those_of_the_library(tmp_path):
    for quality in (1, 9, 25, 49, 50, 51, 75, 99, 100):
        Image.new("RGB", (16, 24)).save(tmp_path / "a.jpg", quality=quality)
        assert np.array_equal(jpeg_table(tmp_path / "a.jpg"), standard_table(quality))


def test_the_quality_is_read_from_the_tables(tmp_path):
    for quality in range(5, 100, 7):
        Image.new("RGB", (16, 24)).save(tmp_path / "a.jpg", quality=quality)
        assert quality_of_table(jpeg_table(tmp_path / "a.jpg")) == (quality, True)
    between = (standard_table(40) + standard_table(44)) // 2
    estimate = quality_of_table(between)
    assert 40 < estimate.quality < 44
    assert not estimate.exact
    Image.new("RGB", (16, 24)).save(tmp_path / "a.png")
    assert jpeg_table(tmp_path / "a.png") is None


@pytest.mark.parametrize("path", PHOTOGRAPHS, ids=lambda path: path.stem)
def test_known_qualities_are_found_in_the_pixels(path):
    for quality in QUALITIES:
        assert quality_of_pixels(compressed(path, quality)) == quality
    assert quality_of_pixels(compressed(path, 30, subsampling=0)) == 30
    assert quality_of_pixels(np.ascontiguousarray(compressed(path, 40)[3:, 5:])) == 40


def test_rows_of_a_file_say_what_the_whole_picture_says(tmp_path, monkeypatch):
    whole = np.ascontiguousarray(compressed(PHOTOGRAPHS[0], 40)[3:, 5:])
    Image.fromarray(whole).save(tmp_path / "a.png")
    origin, coefficients = jpeg_quality._grid_origin(whole), jpeg_quality._coefficients(whole, 5, 3)
    monkeypatch.setattr(jpeg_quality, "_BAND_PIXELS", 1)  # bands of one row of blocks
    rows = open_bands(tmp_path / "a.png")
    assert jpeg_quality._grid_origin(rows) == origin == (5, 3)
    np.testing.assert_array_equal(jpeg_quality._coefficients(rows, 5, 3), coefficients)
    assert quality_of_pixels(rows) == 40


@pytest.mark.parametrize("path", PHOTOGRAPHS, ids=lambda path: path.stem)
def test_without_a_sure_trace_there_is_no_answer(path):
    whole = read_samples(path)
    file = io.BytesIO()
    Image.fromarray(whole).save(file, "WEBP", quality=60)
    resized = Image.fromarray(compressed(path, 20)).resize((333, 257))
    for samples in (whole, np.array(Image.open(file).convert("RGB")), np.array(resized), whole[:24, :24]):
        assert quality_of_pixels(samples) is None
    assert quality_of_pixels(whole.astype(np.uint16) * 257) is None
    assert quality_of_pixels(np.full((64, 72, 3), 128, np.uint8)) is None


@pytest.mark.parametrize("name", ["jpeg", "jpeg-low", "jpeg-medium", "jpeg-broad", "jpeg-normal"])
def test_a_strength_gives_back_its_quality(name):
    kind = CORRUPTIONS.get(name)
    assert name in estimators()
    for quality in range(kind.quality(1.0), kind.quality(0.0) + 1):
        strength = strength_of_quality(kind, quality)
        assert 0 <= strength <= 1
        assert kind.quality(strength) == quality
    assert strength_of_quality(kind, 99) == 0
    assert strength_of_quality(kind, 1) == 1


def test_strengths_of_photographs_of_known_strength(tmp_path):
    """The corruption itself makes the file; its strength comes back to within one step of quality."""
    quality = CORRUPTIONS.get("jpeg").quality(0.4)
    photograph = Image.open(PHOTOGRAPHS[0]).convert("RGB")
    photograph.save(tmp_path / "a.jpg", quality=quality)
    Image.open(tmp_path / "a.jpg").save(tmp_path / "b.png")
    for name, source in (
        ("a.jpg", "quality 22 from its quantisation tables"),
        ("b.png", "about quality 22 by the 8x8"),
    ):
        estimate = strength_of_image(jpeg_table(tmp_path / name), read_samples(tmp_path / name), "jpeg", 0.9)
        assert estimate.strength == pytest.approx(0.4, abs=1 / 20)
        assert source in estimate.reason
    photograph.save(tmp_path / "c.png")
    estimate = strength_of_image(None, read_samples(tmp_path / "c.png"), "jpeg", 0.9)
    assert estimate.strength == 0.9
    assert "auto_default" in estimate.reason


def restoring(paths, **parameters):
    return ImageFolderOptions.model_validate(
        {"paths": str(paths), "skip_lq": True, "fixed_corruptions": ("gaussian_blur", "jpeg"),
         "fixed_parameters": {"corruption_entropy": (0.5, "auto"), **parameters}}
    )  # fmt: skip


def test_auto_stands_for_each_files_own_strength(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger(ROOT), "propagate", True)
    caplog.set_level(logging.INFO)
    photograph = Image.open(PHOTOGRAPHS[0]).convert("RGB").crop((0, 0, 200, 160))
    for name, settings in (("a.jpg", {"quality": 15}), ("b.jpg", {"quality": 25}), ("c.png", {})):
        photograph.save(tmp_path / name, **settings)
    data = ImageFolderDataset(restoring(tmp_path, auto_default=0.1), seed=0, shuffle=False)
    told = [data.item(position)["corruption_entropy"].tolist() for position in (0, 1, 2, 0)]
    assert told[0] == told[3] == pytest.approx([0.5, 0.725], abs=1e-3)
    assert told[1] == pytest.approx([0.5, 0.225], abs=1e-3)
    assert told[2] == pytest.approx([0.5, 0.1])
    # By the record: where a handler stands at two loggers the same one arrives twice.
    records = {id(record): record.message for record in caplog.records if "strength of jpeg" in record.message}
    messages = [*records.values()]
    assert len(messages) == 3
    assert "a.jpg: strength of jpeg: 0.72 (quality 15 from its quantisation tables)" in messages[0]


@pytest.mark.parametrize(("settings", "by_table"), [
    ({"target_size": 32, "tile": "none"}, False), ({"target_size": 32, "tile": "center"}, True),
    ({"force_square": True}, True),
])  # fmt: skip
def test_auto_does_not_read_the_tables_of_a_file_that_is_resized(tmp_path, settings, by_table):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 96, 3), np.uint8)).save(
        tmp_path / "a.jpg", quality=15
    )
    options = restoring(tmp_path, auto_default=0.1).model_copy(update=settings)
    data = ImageFolderDataset(options, seed=0, shuffle=False)
    strength = float(data.item(0)["corruption_entropy"][1])
    assert (strength == pytest.approx(0.1)) != by_table


def test_auto_in_training_is_refused(tmp_path):
    options = restoring(tmp_path).model_copy(update={"target_size": 16})
    with pytest.raises(ConfigError, match="auto reads the strength of files to be restored; in training give a number"):
        ImageFolderDataset(options, seed=0, shuffle=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"skip_lq": False, "fixed_corruptions": ("jpeg", "jpeg")}, "auto reads the strength of a finished image"),
        ({}, "auto needs to know the corruption; list fixed_corruptions"),
        ({"fixed_corruptions": ("noise", "jpeg")}, "auto cannot be read for noise without fixed_parameters.estimator"),
        ({"fixed_corruptions": ("jpeg",)}, "2 strengths for 1 fixed_corruptions"),
        ({"fixed_parameters": {"corruption_entropy": ("atuo",)}}, "did you mean auto?"),
    ],
)
def test_auto_where_it_means_nothing_is_an_error(changes, message):
    section = {"skip_lq": True, "fixed_parameters": {"corruption_entropy": ("auto", 0.5)}, **changes}
    with pytest.raises(ConfigError) as caught:
        parse(ImageFolderOptions, Source("r.yml", section, {}))
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


class Told:
    """A reading that says one strength of everything."""

    def __init__(self, strength: float, sure: bool) -> None:
        self.answer = Estimate(strength, "read", sure)
        self.unexplained = ()

    def estimate(self, name: str, default: float) -> Estimate:  # noqa: ARG002
        return self.answer

    def map(self, name: str, default: float) -> np.ndarray:
        raise NotImplementedError


def test_tables_come_before_an_estimator_and_traces_help_it_where_it_is_unsure(tmp_path):
    photograph = Image.open(PHOTOGRAPHS[0]).convert("RGB")
    photograph.save(tmp_path / "a.jpg", quality=22)
    samples, table = read_samples(tmp_path / "a.jpg"), jpeg_table(tmp_path / "a.jpg")
    by_table = strength_of_image(table, samples, "jpeg", 0.9).strength
    sure, unsure = Told(0.33, True), Told(0.11, False)
    assert told_strength("jpeg", 0.9, table, samples, sure).strength == by_table
    assert told_strength("jpeg", 0.9, None, samples, sure).strength == 0.33
    assert told_strength("jpeg", 0.9, None, samples, unsure).strength == pytest.approx(by_table, abs=1 / 20)
    assert told_strength("jpeg", 0.9, None, np.array(photograph), unsure).strength == 0.11
    assert told_strength("gaussian_blur", 0.9, table, samples, unsure).strength == 0.11
