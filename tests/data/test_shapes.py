"""Drawn shapes: a function of class and number alone, each class unlike the others, and the script that writes them."""

import numpy as np
import pytest

from codes.data.shapes import SHAPES, draw_shape
from codes.images.files import quantise, read_samples
from codes.scripts.make_shapes import main


@pytest.mark.parametrize("name", SHAPES)
def test_a_picture_follows_from_its_arguments(name):
    picture = draw_shape(name, 24, 0, 3)
    assert picture.shape == (24, 24, 3)
    assert picture.dtype == np.float32
    assert picture.min() >= 0
    assert picture.max() <= 1
    assert np.array_equal(picture, draw_shape(name, 24, 0, 3))
    assert not np.array_equal(picture, draw_shape(name, 24, 0, 4))
    assert not np.array_equal(picture, draw_shape(name, 24, 1, 3))


def test_the_distances_have_the_areas_of_the_shapes():
    """Inside the outline they are negative; closed shapes stay within the circle of radius 1."""
    row = (np.arange(800) + 0.5) / 400 - 1
    x, y = np.meshgrid(row, row)
    star = 10 * 0.5 * 0.42 * np.sin(np.pi / 5)
    areas = {"circle": np.pi * 0.81, "square": 1.44**2, "ring": np.pi * (0.92**2 - 0.52**2),
             "cross": 2 * 1.9 * 0.6 - 0.36, "triangle": 3 * np.sqrt(3) / 4, "star": star}  # fmt: skip
    for name, distance in SHAPES.items():
        inside = distance(x, y) < 0
        if name in areas:
            assert inside.mean() * 4 == pytest.approx(areas[name], rel=0.01)
        if name not in ("stripes", "checkers"):
            assert not inside[np.hypot(x, y) > 1.02].any(), name
        assert 0.1 < inside.mean() < 0.75, name


def test_every_class_differs_from_every_other():
    row = (np.arange(64) + 0.5) / 32 - 1
    x, y = np.meshgrid(row, row)
    planes = {name: distance(x, y) < 0 for name, distance in SHAPES.items()}
    for first in planes:
        for second in planes:
            if first != second:
                assert (planes[first] != planes[second]).mean() > 0.05, (first, second)


def test_shape_and_background_differ_in_colour():
    for number in range(20):
        picture = draw_shape("square", 32, 0, number)
        assert np.abs(picture - picture[0, 0]).sum(2).max() > 0.5


def test_the_script_writes_a_folder_a_class_and_goes_on(tmp_path):
    arguments = ["--output", str(tmp_path / "set"), "--per-class", "2", "--size", "16", "--seed", "5"]
    assert main(arguments) == 0
    files = sorted((tmp_path / "set").rglob("*.png"))
    assert len(files) == 2 * len(SHAPES)
    assert {file.parent.name for file in files} == set(SHAPES)
    assert np.array_equal(read_samples(files[-1]), quantise(draw_shape("triangle", 16, 5, 1)))
    before = {file: file.stat().st_mtime_ns for file in files[1:]}
    files[0].unlink()
    assert main(arguments) == 0
    assert files[0].is_file()
    assert {file: file.stat().st_mtime_ns for file in files[1:]} == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--per-class", "0"], "--per-class must be at least 1, got 0"),
        (["--size", "4"], "--size must be at least 8 pixels, got 4"),
        (["--per-class", "x"], "invalid int value"),
    ],
)
def test_wrong_arguments_are_told(tmp_path, capsys, arguments, said):
    with pytest.raises(SystemExit) as stop:
        main(["--output", str(tmp_path), *arguments])
    assert stop.value.code == 2
    assert said in capsys.readouterr().err
