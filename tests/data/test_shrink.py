"""Tiles cut from shrunk photographs."""

import numpy as np
import pytest
from data_helpers import dataset, fill, options, picture
from pydantic import ValidationError

from codes.config.options import issues_of
from codes.data import ImageFolderOptions
from codes.images.files import quantise, resize_area, to_float, to_rgb, write_image
from codes.utils.errors import DataError


def test_a_tile_is_what_is_cut_from_the_photograph_shrunk_by_area(tmp_path):
    """With a whole factor the square cut and then shrunk is a tile of the shrunk photograph, where the grids meet."""
    write_image(tmp_path / "a.png", picture(0, 48, 64))
    shrunk = resize_area(to_float(quantise(picture(0, 48, 64))), 24, 32)
    data = dataset(tmp_path, shrink=(2.0, 2.0), disable_flip=True, batch_size=1)
    met = 0
    for position in range(40):
        tile = to_rgb(data.item(position)["hq"], n1_to_1=False)
        assert tile.shape == (16, 16, 3)
        places = [(y, x) for y in range(9) for x in range(17)]
        met += any(np.allclose(tile, shrunk[y : y + 16, x : x + 16], atol=1e-5) for y, x in places)
    assert met > 2  # every fourth on average, where both offsets are even


def test_factors_are_drawn_evenly_between_the_two_and_every_item_again_the_same(tmp_path):
    fill(tmp_path, 1, height=70, width=80)
    data = dataset(tmp_path, shrink=(1.0, 3.0), batch_size=1)
    sides = []
    for position in range(300):
        drawn = data._draw(position)
        sides.append(data._cut_side(drawn.images[0], drawn.generator))
    assert (min(sides), max(sides)) == (16, 48)
    assert np.mean(sides) == pytest.approx(32, abs=2)
    again = dataset(tmp_path, shrink=(1.0, 3.0), batch_size=1)
    for position in (7, 2):
        assert np.array_equal(data.item(position)["hq"], again.item(position)["hq"])
    other = dataset(tmp_path, shrink=(1.0, 3.0), batch_size=1, seed=6)
    assert not np.array_equal(data.item(7)["hq"], other.item(7)["hq"])


def test_without_shrinking_the_tiles_are_those_of_before(tmp_path):
    fill(tmp_path, 2)
    plain, same = dataset(tmp_path, batch_size=1), dataset(tmp_path, batch_size=1, shrink=(1.0, 1.0))
    assert all(np.array_equal(plain.item(number)["hq"], same.item(number)["hq"]) for number in range(6))


def test_a_photograph_too_small_for_a_factor_is_shrunk_as_far_as_it_goes(tmp_path):
    fill(tmp_path, 1, height=20, width=30)
    data = dataset(tmp_path, shrink=(4.0, 4.0), batch_size=1)
    assert data._cut_side(data._draw(0).images[0], data._draw(0).generator) == 20
    assert data.item(0)["hq"].shape == (3, 16, 16)
    fill(tmp_path / "tiny", 1, height=15, width=30)
    with pytest.raises(DataError):
        dataset(tmp_path / "tiny", shrink=(1.0, 2.0))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tile": "center", "shrink": (1.0, 2.0)}, "needs tile: random"),
        ({"shrink": (2.0, 1.0)}, "the smaller factor comes first"),
        ({"shrink": (0.5, 1.0)}, "1"),
    ],
)
def test_shrink_that_makes_no_sense_is_refused(tmp_path, changes, said):
    with pytest.raises(ValidationError) as error:
        options(tmp_path, **changes)
    (issue,) = issues_of(ImageFolderOptions, error.value, changes)
    assert issue.path[0] == "shrink"
    assert said in issue.message
