from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from codes.config.options import parse
from codes.config.yaml_source import Source
from codes.data.companions import Companions, below, image_names
from codes.data.corruptions.strength_map import read_strength_map
from codes.data.imagefolder import ImageFolderDataset, visible_colours
from codes.utils.errors import DataError


def save(path, value=128, size=(5, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, value).save(path)
    return path


def test_a_companion_has_the_same_sub_folder_and_name(tmp_path):
    for name in ("a.png", "deep/a.png", "deep/b.c.png"):
        save(tmp_path / "truth" / name)
    truth = Companions(str(tmp_path / "truth"), (str(tmp_path / "in"),))
    assert truth.of(tmp_path / "in/a.jpg") == tmp_path / "truth/a.png"
    assert truth.of(tmp_path / "in/deep/a.jpg") == tmp_path / "truth/deep/a.png"
    assert truth.of(tmp_path / "in/deep/b.c.jpg") == tmp_path / "truth/deep/b.c.png"
    assert truth.of(tmp_path / "in/deep/b.jpg") is None
    assert truth.of(tmp_path / "in/b.jpg") is None


def test_of_several_of_one_name_the_one_of_the_same_suffix_is_meant(tmp_path):
    for name in ("a.png", "a.bmp"):
        save(tmp_path / name)
    files = Companions(str(tmp_path), ("in",))
    assert files.of(Path("in/a.png")) == tmp_path / "a.png"
    with pytest.raises(DataError, match=r"in/a\.jpg: several files .* fit its name \(a\.bmp, a\.png\); keep one"):
        files.of(Path("in/a.jpg"))


def test_one_file_goes_with_every_image_and_a_place_without_images_is_refused(tmp_path):
    file = save(tmp_path / "m.png")
    assert Companions(str(file), ("in",)).of(Path("in/whatever.jpg")) == file
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: no image; expected an image file, or a folder of them"):
        Companions(str(tmp_path / "empty"), ("in",))


def test_a_file_that_is_listed_itself_has_its_name_alone():
    assert below(Path("x/y/a.png"), ("x/y/a.png",)) == Path("a.png")
    assert below(Path("x/y/a.png"), ("z", "x")) == Path("y/a.png")


def test_a_map_is_resized_to_its_image_and_white_is_the_strength_that_is_set(tmp_path):
    gradient = np.linspace(0, 255, 40).astype(np.uint8)[None].repeat(3, 0)
    Image.fromarray(gradient).save(tmp_path / "map.png")
    plane = read_strength_map(tmp_path / "map.png", 7, 10, 0.5)
    assert plane.shape == (7, 10)
    assert plane.dtype == np.float32
    assert plane[3, 0] < 0.03
    assert plane[3, -1] > 0.47
    assert (np.diff(plane, axis=1) > 0).all()


def test_hidden_pixels_take_the_nearest_visible_colour():
    rgb = np.random.default_rng(0).random((6, 9, 3)).astype(np.float32)
    alpha = np.ones((6, 9), np.float32)
    assert np.array_equal(visible_colours(rgb, alpha), rgb)
    alpha[:, 5:] = 0
    filled = visible_colours(rgb, alpha)
    assert np.array_equal(filled[:, :5], rgb[:, :5])
    assert np.array_equal(filled[:, 5:], rgb[:, 4:5].repeat(4, axis=1))
    assert np.array_equal(visible_colours(rgb, np.zeros_like(alpha)), rgb)


def options(**changes):
    data = {"mode": "imagefolder", "skip_lq": True, "fixed_corruptions": ["jpeg", "gaussian_blur"], **changes}
    return parse(ImageFolderDataset.Options, Source("recipe.yml", data, {}))


def test_an_item_has_a_plane_for_every_strength_where_one_is_a_map(tmp_path):
    save(tmp_path / "in/a.png", size=(8, 6))
    save(tmp_path / "map.png", 255)
    strengths = {"gaussian_blur": {"map": str(tmp_path / "map.png"), "white": 0.5}, "jpeg": 0.25}
    given = options(paths=str(tmp_path / "in"), fixed_parameters={"corruption_entropy": strengths})
    data = ImageFolderDataset(given, seed=0, shuffle=False)
    for item in (data.item(0), data.whole(0)[0]):
        assert item["corruption_entropy"].shape == (2, 6, 8)
        assert item["corruption_entropy"].amin((1, 2)).tolist() == item["corruption_entropy"].amax((1, 2)).tolist()
        assert item["corruption_entropy"][:, 0, 0].tolist() == [0.25, 0.5]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"corruption_entropy": {"jpg": 0.2, "gaussian_blur": 0.1}}, "corruption_entropy.jpg: .*did you mean jpeg?"),
        ({"corruption_entropy": {"jpeg": 0.2}}, "no strength for gaussian_blur; give one for each"),
        ({"corruption_entropy": {"jpeg": 0.2, "gaussian_blur": "auto"}}, "gaussian_blur: auto cannot be read"),
        (
            {"corruption_entropy": [{"map": "x", "whit": 1}, 0]},
            r"corruption_entropy\.0\.whit: unknown key \(did you mean white\?\)",
        ),
        (
            {"corruption_entropy": [1.5, 0]},
            r"corruption_entropy\.0: expected a number in \[0, 1\], auto, auto_map, or .*found 1.5",
        ),
    ],
)
def test_strengths_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(Exception, match=message):
        options(fixed_parameters=changes)


def test_maps_and_truths_are_for_finished_images():
    with pytest.raises(Exception, match=r"corruption_entropy\.0: a map is for finished images"):
        options(skip_lq=False, fixed_parameters={"corruption_entropy": [{"map": "x"}, 0.5]})
    with pytest.raises(Exception, match=r"ground_truth: without skip_lq the image itself is the ground truth"):
        options(skip_lq=False, ground_truth="x")


def test_names_follow_from_the_place_below_the_input_and_no_two_are_equal(tmp_path):
    files = [tmp_path / place for place in ("one/a.png", "one/deep/a.png", "two/a.png", "two/b.png", "three/a.png")]
    roots = [str(tmp_path / place) for place in ("one", "two", "three")]
    assert image_names(files, roots) == ("a.png", "deep/a.png", "a.png//2", "b.png", "a.png//3")
    assert image_names([files[3], files[1]], [f"{roots[1]}/", roots[0]]) == ("b.png", "deep/a.png")
    assert image_names(files[:1], [str(files[0])]) == ("a.png",)  # a file that is listed itself
    assert image_names([Path("x/y.png"), Path("z.png")], ["."]) == ("x/y.png", "z.png")
    assert image_names([tmp_path / "onesided/a.png"], [roots[0]]) == ("a.png",)  # not below one/
