"""Strengths read from images by a network: of any size, for every use of `auto`."""

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from command_helpers import restore, restore_small, save_picture

from codes.data import imagefolder
from codes.data.corruptions import jpeg_quality
from codes.data.corruptions.jpeg_quality import standard_table
from codes.data.corruptions.strength import in_words, told_strength
from codes.images import file_canvas
from codes.images.files import write_image
from codes.inference import restorer_strengths, strength_reader
from codes.inference.restorer import Restorer
from codes.inference.strength_reader import Pieces, StrengthReader, StrengthReading
from codes.models.diffusion.checkpoints.metadata import CheckpointMetadata, save_checkpoint
from codes.models.diffusion.networks.strength_estimator import (
    LocalStrengths,
    StrengthEstimator,
    StrengthEstimatorOptions,
)
from codes.utils.errors import ConfigError

NAMES = ("gaussian_blur", "jpeg")  # not in the order of the restorer
CPU = torch.device("cpu")


def network() -> StrengthEstimator:
    """Random weights that tell places apart, and call no image strange."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = StrengthEstimator(StrengthEstimatorOptions(num_corruptions=len(NAMES), model_channels=8))
        torch.nn.init.normal_(made.head[-1].weight, std=3.0)
    made.distance_moments.copy_(torch.tensor([0.0, 1e6]))
    return made.eval()


def image(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(1).random((height, width, 3)).astype(np.float32)


def noise_of(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(2).standard_normal(shape).astype(np.float32)


def saved(path: Path, names: tuple[str, ...] = NAMES) -> Path:
    made = network()
    metadata = CheckpointMetadata.of(made, "ema", 1, {}, {"scale": 2, "corruptions": list(names)})
    save_checkpoint(path, made.state_dict(), metadata)
    return path


def reading(mean: float, spread: float, distance: float = 0.0) -> StrengthReading:
    local = LocalStrengths(torch.full((1, 1, 2, 3), mean), torch.full((1, 1, 2, 3), spread**-2))
    return StrengthReading(("jpeg",), np.array([mean]), np.array([spread]), distance, local, (13, 20))


def test_blocks_say_what_the_whole_image_says(monkeypatch: pytest.MonkeyPatch) -> None:
    subject, picture = StrengthReader(network(), NAMES, CPU), image(200, 328)
    whole = subject.read(picture, everywhere=True)
    monkeypatch.setattr(strength_reader, "BLOCK", 96)
    parts = subject.read(picture, everywhere=True)
    for in_blocks, expected in zip(parts.local, whole.local, strict=True):
        torch.testing.assert_close(in_blocks, expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(parts.mean, whole.mean, atol=1e-4)
    np.testing.assert_allclose(parts.spread, whole.spread, rtol=1e-3)
    assert parts.distance == pytest.approx(whole.distance, abs=1e-3)
    monkeypatch.setattr(strength_reader, "MOST_BLOCKS", 4)
    some = subject.read(picture)
    assert 0 < int((some.local.precision[0, 0] > 0).sum()) < whole.local.precision[0, 0].numel()
    np.testing.assert_allclose(some.mean, whole.mean, atol=0.1)


def test_what_is_told_of_sure_unsure_and_strange_images() -> None:
    assert reading(0.7, 0.05).estimate("jpeg", 0.2).strength == pytest.approx(0.7)
    assert reading(0.7, 0.29).estimate("jpeg", 0.2).strength == pytest.approx(0.2)
    assert reading(0.1, 0.29).estimate("jpeg", 0.2).strength == pytest.approx(0.1)
    told = reading(0.7, 0.05, distance=9.0).estimate("jpeg", 0.2)
    assert told.strength == 0
    assert "unlike" in told.reason


def test_what_no_corruption_explains_makes_every_guess_a_small_one() -> None:
    noisy = dataclasses.replace(reading(0.7, 0.05), found=("noise of a deviation of about 25 of 255",))
    told = noisy.estimate("jpeg", 0.2)
    assert (told.strength, told.sure) == (pytest.approx(0.2), False)
    assert "noise of a deviation" in told.reason
    np.testing.assert_allclose(noisy.map("jpeg", 0.2), 0.2)
    assert dataclasses.replace(noisy, distance=9.0).estimate("jpeg", 0.2).strength == 0
    assert len(dataclasses.replace(noisy, distance=9.0).unexplained) == 2
    table = 4 * standard_table(50)  # what a file says of itself stays the first source
    by_table = told_strength("jpeg", 0.2, table, np.zeros((1, 1, 3), np.uint8), noisy)
    assert by_table.strength > 0.5
    assert by_table.unexplained == noisy.found
    assert in_words(()) == ""


@pytest.mark.parametrize(("names", "says"), [(NAMES, True), (("gaussian_noise", "jpeg"), False)])
def test_noise_is_said_where_no_corruption_of_the_checkpoint_is_noise(names: tuple[str, ...], says: bool) -> None:
    picture = np.full((130, 160, 3), 0.5, np.float32) + np.float32(20 / 255) * noise_of((130, 160, 3))
    told = StrengthReader(network(), names, CPU).read(picture).unexplained
    assert ["noise" in words for words in told] == [True] * says


def test_of_large_images_a_few_squares_are_looked_at_for_findings() -> None:
    many, one = Pieces(40), Pieces(1)
    for _ in range(40):
        many.take(np.zeros((512, 512, 3), np.float32))
    assert [piece.shape for piece in many.taken] == [(256, 256, 3)] * 14
    one.take(np.zeros((300, 200, 3), np.float32))
    assert [piece.shape for piece in one.taken] == [(256, 200, 3), (44, 200, 3)]


def test_a_map_follows_the_places_and_is_even_where_they_are() -> None:
    even = reading(0.6, 0.1).map("jpeg", 0.2)
    assert even.shape == (13, 20)
    np.testing.assert_allclose(even, 0.6, atol=1e-5)
    strength = torch.zeros(1, 1, 40, 60)
    strength[..., 30:] = 1.0
    local = LocalStrengths(strength, torch.full_like(strength, 400.0))
    halves = StrengthReading(("jpeg",), np.array([0.5]), np.array([0.05]), 0.0, local, (320, 480))
    strengths = halves.map("jpeg", 0.2)
    assert strengths[:, :80].max() < 0.1
    assert strengths[:, -80:].min() > 0.9
    assert np.abs(np.diff(strengths, axis=1)).max() < 0.02  # no edge of the places shows
    np.testing.assert_allclose(reading(0.6, 0.29).map("jpeg", 0.2), 0.2)


def test_a_recipe_names_the_estimator(here: Path) -> None:
    saved(here / "strengths.safetensors")
    sets = [
        "datasets.test.fixed_corruptions=[jpeg, gaussian_blur]",
        "datasets.test.fixed_parameters.corruption_entropy=[auto, auto_map]",
    ]
    code, said = restore("-opt", "infer.yml", "--set", *sets)
    assert code == 2
    assert "estimator" in said
    sets += [
        "datasets.test.fixed_parameters.estimator=strengths",
        "path.pretrain_model_strengths=strengths.safetensors",
    ]
    code, said = restore("-opt", "infer.yml", "--set", *sets)
    assert code == 0, said
    assert "strength of jpeg" in said
    saved(here / "strengths.safetensors", ("gaussian_blur", "noise"))
    code, said = restore("-opt", "infer.yml", "--set", *sets)
    assert code == 2
    assert "does not tell jpeg" in said


def test_strengths_are_read_from_the_rows_of_a_large_file_as_from_the_whole(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(here / "strengths.safetensors")
    save_picture("small/ok.png", 140, 200)
    monkeypatch.setattr(strength_reader, "BLOCK", 64)
    monkeypatch.setattr(strength_reader, "MOST_BLOCKS", 3)
    monkeypatch.setattr(jpeg_quality, "_BAND_PIXELS", 40 * 200)
    node = "steps.restore.injectors.detail"
    sets = [
        "datasets.test.fixed_corruptions=[jpeg, gaussian_blur]",
        "datasets.test.fixed_parameters={corruption_entropy: [auto, auto], estimator: strengths}",
        "path.pretrain_model_strengths=strengths.safetensors",
        f"{node}.tile=64",
    ]
    code, expected = restore_small(*sets, "name=ram")
    assert code == 0, expected
    monkeypatch.setattr(file_canvas, "LARGE", 100)
    monkeypatch.setattr(imagefolder, "read_image", None)  # the whole
    code, said = restore_small(*sets, "name=rows", f"{node}.canvas=disk")
    assert code == 0, said
    told = [
        [line.split("strength of ")[1] for line in log.splitlines() if "strength of " in line]
        for log in (said, expected)
    ]
    assert len(told[0]) == 2
    assert told[0] == told[1]
    files = [Path(f"results/{name}/test/ok.png").read_bytes() for name in ("rows", "ram")]
    assert files[0] == files[1]


def test_the_library_reads_every_strength_by_name(here: Path) -> None:
    file = next(Path("experiments/tiny/models").glob("*_ema.safetensors"))
    subject = Restorer.from_checkpoint(file, estimator=saved(here / "strengths.safetensors"))
    picture = image(40, 48)
    expected = StrengthReader(network(), NAMES, CPU).read(picture)
    told = subject.estimate(picture)
    assert set(told) == {"jpeg", "gaussian_blur"}
    for name in NAMES:
        assert told[name] == pytest.approx(expected.estimate(name, 0.2).strength, abs=1e-6)
    by_itself = subject(picture, "auto", steps="trailing1")
    np.testing.assert_array_equal(by_itself, subject(picture, told, steps="trailing1"))
    np.testing.assert_array_equal(subject(picture, steps="trailing1"), by_itself)  # None reads what can be read
    with pytest.raises(ConfigError, match="no estimator"):
        Restorer.from_checkpoint(file).estimate(picture)


def test_the_log_the_page_and_the_library_say_what_no_corruption_explains(
    here: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = (np.float32(0.5) + np.float32(20 / 255) * noise_of((96, 104, 3))).clip(0, 1).astype(np.float32)
    (here / "noisy").mkdir()
    write_image(here / "noisy" / "night.png", picture)
    saved(here / "strengths.safetensors")
    sets = [
        "datasets.test.paths=noisy",
        "datasets.test.fixed_corruptions=[jpeg, gaussian_blur]",
        "datasets.test.fixed_parameters={corruption_entropy: [auto, auto_map], estimator: strengths}",
        "path.pretrain_model_strengths=strengths.safetensors",
    ]
    code, said = restore("-opt", "infer.yml", "--set", *sets)
    assert code == 0, said
    lines = [line for line in said.splitlines() if "was not trained on: noise of a deviation" in line]
    assert len(lines) == 1
    assert "night.png" in lines[0]
    pages = [file.read_text(encoding="utf-8") for file in here.rglob("index.html")]
    assert any("was not trained on: noise" in page for page in pages)
    file = next(Path("experiments/tiny/models").glob("*_ema.safetensors"))
    subject = Restorer.from_checkpoint(file, estimator=here / "strengths.safetensors")
    told = subject.read_strengths(picture)
    assert all(one.strength <= 0.2 and "noise" in one.unexplained[0] for one in told.values())
    monkeypatch.setattr(restorer_strengths, "logger", logging.getLogger("heard"))
    with caplog.at_level(logging.WARNING):
        subject(picture, "auto", steps="trailing1")
    assert "was not trained on: noise" in caplog.text


def test_a_network_of_another_kind_is_refused(experiment: Path) -> None:
    file = next((experiment / "models").glob("*_ema.safetensors"))
    with pytest.raises(ConfigError, match="estimates no strengths"):
        StrengthReader.from_checkpoint(file, CPU)
    with pytest.raises(ConfigError, match="names 1 corruptions"):
        StrengthReader(network(), ("jpeg",), CPU)


def test_weights_that_come_with_the_project_bring_their_estimator() -> None:
    subject = Restorer.from_pretrained("tessera-photo-2x-fast", "cpu")
    assert subject.estimator is not None
    assert set(subject.estimator.names) >= set(subject.corruptions or ())
