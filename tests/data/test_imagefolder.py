"""The image-folder dataset: what an item holds, where its draws come from, and what it does with bad files."""

import logging

import numpy as np
import pytest
import torch
from data_helpers import damage, dataset, fill, options, picture

from codes.config.options import parse
from codes.config.yaml_source import Source
from codes.data import HELD_OUT, ImageFolderDataset, ImageFolderOptions, held_out_photograph, sample_photographs
from codes.data.corruptions.all import CORRUPTIONS
from codes.images.files import read_image, resize_area, to_rgb, write_image
from codes.utils.console import ROOT, warn_once
from codes.utils.errors import ConfigError, DataError
from codes.utils.rng import numpy_generator


@pytest.fixture
def photographs(tmp_path):
    fill(tmp_path / "in", 6)
    return tmp_path / "in"


@pytest.fixture
def messages(monkeypatch, caplog):
    """Warnings of the project, each key anew."""
    monkeypatch.setattr(warn_once.__globals__["logging"].getLogger(ROOT), "propagate", True)
    warn_once.__globals__["_warned"].clear()
    caplog.set_level(logging.INFO)
    return caplog


def same(first, second):
    return first.keys() == second.keys() and all(
        torch.equal(first[key], second[key]) if isinstance(first[key], torch.Tensor) else first[key] == second[key]
        for key in first
    )


def test_an_item_holds_pair_strengths_and_paths(photographs):
    data = dataset(photographs)
    item = data.item(0)
    assert item["hq"].shape == (3, 16, 16)
    assert item["lq"].shape == (3, 8, 8)
    assert item["corruption_entropy"].shape == (2,)
    assert item["hq"].dtype == item["lq"].dtype == item["corruption_entropy"].dtype == torch.float32
    assert item["LQ_path"] == item["HQ_path"] == item["GT_path"]
    assert set(item) - {"LQ_path", "HQ_path", "GT_path", "image_name"} == data.state_keys
    assert len(data) == 6


def test_the_range_is_as_asked_for_hq_and_lq(photographs):
    plain, signed = dataset(photographs).item(3), dataset(photographs, rgb_n1_to_1=True).item(3)
    for key in ("hq", "lq"):
        assert plain[key].min() >= 0
        assert signed[key].min() < -0.1
        torch.testing.assert_close(signed[key], plain[key] * 2 - 1)


def test_entropy_is_the_true_strength(photographs):
    """lq is made again from hq with the strengths of the item, by hand."""
    item = dataset(photographs, disable_flip=True).item(2)
    hq = to_rgb(item["hq"], n1_to_1=False)
    jpeg, blur = (CORRUPTIONS.get(name)() for name in ("jpeg", "gaussian_blur"))
    strengths = item["corruption_entropy"].tolist()
    rng = numpy_generator(0)
    made = blur(jpeg(resize_area(hq, 8, 8), strengths[0], rng), strengths[1], rng)
    np.testing.assert_allclose(to_rgb(item["lq"], n1_to_1=False), made, atol=1e-6)
    assert strengths[0] != strengths[1]


def test_entropy_stands_in_listed_order_and_can_be_fixed(photographs):
    fixed = {"corruption_entropy": (0.2, 0.5)}
    items = [dataset(photographs, fixed_parameters=fixed).item(position) for position in (0, 7)]
    assert all(item["corruption_entropy"].tolist() == pytest.approx([0.2, 0.5]) for item in items)
    turned = dataset(photographs, fixed_corruptions=("gaussian_blur", "jpeg"), fixed_parameters=fixed).item(0)
    assert turned["corruption_entropy"].tolist() == pytest.approx([0.2, 0.5])
    assert not torch.equal(turned["lq"], items[0]["lq"])


def test_corrupting_before_downsizing_differs(photographs):
    after, before = dataset(photographs).item(1), dataset(photographs, corrupt_before_downsize=True).item(1)
    assert torch.equal(after["hq"], before["hq"])
    assert before["lq"].shape == after["lq"].shape
    assert not torch.equal(after["lq"], before["lq"])


def test_draws_depend_on_seed_epoch_and_index_alone(photographs):
    forwards = [dataset(photographs).item(position) for position in range(14)]
    data = dataset(photographs)
    for position in (13, 2, 9, 2, 0):
        assert same(data.item(position), forwards[position])
    assert not same(dataset(photographs, seed=6).item(0), forwards[0])
    strengths = {tuple(item["corruption_entropy"].tolist()) for item in forwards}
    assert len(strengths) == len(forwards)


def test_random_seed_fixes_everything_whatever_the_run_seed(photographs):
    first, second = (dataset(photographs, seed=seed, random_seed=99) for seed in (1, 2))
    assert all(same(first.item(position), second.item(position)) for position in range(8))


def test_every_epoch_goes_through_all_files_in_another_order(photographs):
    data = dataset(photographs)
    epochs = [[data.item(epoch * 6 + index)["HQ_path"] for index in range(6)] for epoch in range(3)]
    assert all(sorted(epoch) == sorted(map(str, data.files)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_flips_are_drawn_and_can_be_switched_off(photographs):
    flipping, straight = dataset(photographs), dataset(photographs, disable_flip=True)
    mirrored = 0
    for position in range(40):
        hq, plain = flipping.item(position)["hq"], straight.item(position)["hq"]
        mirrored += torch.equal(hq, plain.flip(2))
        assert torch.equal(hq, plain) or torch.equal(hq, plain.flip(2))
    assert 10 <= mirrored <= 30


def test_random_tiles_lie_within_the_photograph(photographs):
    data = dataset(photographs, disable_flip=True, fixed_corruptions=(), scale=1)
    corners = set()
    for position in range(20):
        item = data.item(position)
        tile, whole = to_rgb(item["hq"], n1_to_1=False), read_image(item["HQ_path"]).rgb
        windows = np.lib.stride_tricks.sliding_window_view(whole[..., 0], (16, 16))
        places = np.argwhere(np.abs(windows - tile[..., 0]).max((2, 3)) < 1e-6)
        assert len(places) == 1
        corners.add(tuple(places[0]))
    assert len(corners) == 20


def test_without_tiles_the_centre_square_is_resized_by_area(tmp_path):
    image = picture(1, 32, 48)
    write_image(tmp_path / "in" / "a.png", image)
    data = dataset(tmp_path / "in", tile="none", batch_size=1, disable_flip=True)
    expected = read_image(tmp_path / "in" / "a.png").rgb[:, 8:40].reshape(16, 2, 16, 2, 3).mean((1, 3))
    np.testing.assert_allclose(to_rgb(data.item(0)["hq"], n1_to_1=False), expected, atol=1e-6)
    squeezed = dataset(tmp_path / "in", tile="none", batch_size=1, disable_flip=True, force_square=False)
    expected = read_image(tmp_path / "in" / "a.png").rgb.reshape(16, 2, 16, 3, 3).mean((1, 3))
    np.testing.assert_allclose(to_rgb(squeezed.item(0)["hq"], n1_to_1=False), expected, atol=1e-5)


def test_weights_say_how_often_a_folder_comes_each_epoch(tmp_path):
    fill(tmp_path / "a", 4)
    fill(tmp_path / "b", 4)
    data = dataset((tmp_path / "a", tmp_path / "b"), weights=(2, 0.5))
    assert len(data) == 10
    halves = set()
    for epoch in range(6):
        names = [data.item(epoch * 10 + index)["HQ_path"] for index in range(10)]
        assert all(names.count(str(path)) == 2 for path in data.files[:4])
        rare = frozenset(name for name in names if "/b/" in name)
        assert len(rare) == 2
        halves.add(rare)
    assert len(halves) > 1


def test_random_corruptions_change_the_low_resolution_alone(photographs):
    changes = {"random_corruptions": ("noise", "none"), "num_corrupts_per_image": 1, "disable_flip": True}
    plain, noisy = dataset(photographs, disable_flip=True), dataset(photographs, **changes)
    touched = 0
    for position in range(24):
        first, second = plain.item(position), noisy.item(position)
        assert torch.equal(first["hq"], second["hq"])
        assert torch.equal(first["corruption_entropy"], second["corruption_entropy"])
        # Noise of at most 6 levels, of which the JPEG behind it makes a little more in single pixels.
        assert (first["lq"] - second["lq"]).abs().max() <= 16 / 255
        assert (first["lq"] - second["lq"]).abs().mean() <= 4 / 255
        touched += not torch.equal(first["lq"], second["lq"])
        assert same(second, noisy.item(position))
    assert 4 <= touched <= 20
    off = dataset(photographs, random_corruptions=("noise-5", "none"), num_corrupts_per_image=0, disable_flip=True)
    assert same(off.item(0), plain.item(0))


def test_restoration_takes_whole_images_in_file_order(photographs):
    known = {"corruption_entropy": (0.2, 0.5)}
    data = dataset(
        photographs,
        shuffle=False,
        target_size=None,
        tile="none",
        skip_lq=True,
        fixed_corruptions=(),
        fixed_parameters=known,
    )
    for position, path in enumerate(data.files):
        item = data.item(position)
        np.testing.assert_array_equal(to_rgb(item["hq"], n1_to_1=False), read_image(path).rgb)
        assert item["corruption_entropy"].tolist() == pytest.approx([0.2, 0.5])
        assert "lq" not in item
    assert data.state_keys == {"hq", "corruption_entropy"}


def test_validation_on_whole_images_cuts_to_a_multiple_of_scale(tmp_path):
    write_image(tmp_path / "in" / "a.png", picture(1, 35, 53))
    data = dataset(tmp_path / "in", shuffle=False, target_size=None, tile="none", scale=4)
    item = data.item(0)
    assert item["hq"].shape == (3, 32, 52)
    assert item["lq"].shape == (3, 8, 13)


@pytest.mark.parametrize("kind", ["gray", "alpha", "deep"])
def test_gray_alpha_and_16_bits_train_like_others(tmp_path, kind):
    image = picture(1, 30, 44)
    if kind == "alpha":
        write_image(tmp_path / "in" / "a.png", image, alpha=np.full((30, 44), 0.5, np.float32))
    elif kind == "deep":
        write_image(tmp_path / "in" / "a.png", image, bit_depth=16)
    else:
        write_image(tmp_path / "in" / "a.png", image.mean(2, keepdims=True).repeat(3, 2))
    item = dataset(tmp_path / "in", batch_size=1).item(0)
    assert item["hq"].shape == (3, 16, 16)
    levels = item["hq"] * 255
    assert ((levels - levels.round()).abs().max() > 0.01) == (kind == "deep")


def test_the_input_folder_is_left_as_it_was(photographs):
    before = sorted(photographs.iterdir())
    data = dataset(photographs)
    data.item(0)
    data.report()
    assert sorted(photographs.iterdir()) == before


def test_bad_files_are_named_and_counted_at_the_start(photographs, messages):
    (photographs / "notes.txt").write_text("no image")
    (photographs / "empty.png").touch()
    (photographs / "fake.jpg").write_text("text, not a JPEG")
    write_image(photographs / "small.png", picture(0, 15, 60))
    report = dataset(photographs).report()
    assert report.usable == 6
    assert sorted(entry.path.name for entry in report.failed) == ["empty.png", "fake.jpg", "small.png"]
    text = "\n".join(report.lines())
    for part in ("6 of 10 files usable", "smallest 52x40", "largest 62x45", "6 RGB", "60x15 pixels, at least 16x16"):
        assert part in text
    for name, reason in (("empty.png", "the file is empty"), ("fake.jpg", "not an image file"), ("notes.txt", ".txt")):
        assert sum(name in record.message and reason in record.message for record in messages.records) == 1


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_truncated_file_is_found_at_the_start(photographs, messages, suffix):
    path = photographs / f"half.{suffix}"
    write_image(path, np.random.default_rng(2).random((50, 60, 3)).astype(np.float32))
    whole = path.read_bytes()
    path.write_bytes(whole + b"what some cameras append" * 500)
    assert dataset(photographs).report().usable == 7
    path.write_bytes(whole[: len(whole) // 2])
    report = dataset(photographs).report()
    assert (report.usable, [entry.path for entry in report.failed]) == (6, [path])
    assert sum(path.name in record.message for record in messages.records) == 1


def test_a_damaged_file_is_named_once_and_replaced_in_training(photographs, messages):
    damage(photographs / "img7.png")
    data = dataset(photographs)
    assert len(data) == 7
    items = [data.item(position) for position in range(21)]
    names = {item["HQ_path"] for item in items}
    assert len(names) == 6
    assert not any("img7" in name for name in names)
    assert [path.name for path in data.unreadable] == ["img7.png"]
    assert sum("img7.png" in record.message for record in messages.records) == 1
    assert data.report().usable == 6
    assert [entry.kind for entry in data.report().failed] == ["unreadable"]
    assert all(same(dataset(photographs).item(position), items[position]) for position in (0, 5, 20))


def test_a_damaged_file_is_an_error_of_its_own_in_restoration(photographs):
    damage(photographs / "img0.png")
    data = dataset(photographs, shuffle=False, target_size=None, tile="none", skip_lq=True)
    for _ in range(2):
        with pytest.raises(DataError, match=r"img0\.png: damaged"):
            data.item(0)
    assert data.item(1)["HQ_path"].endswith("img1.png")


def test_a_set_that_rots_away_ends_with_a_sentence(tmp_path):
    paths = fill(tmp_path / "in", 3)
    data = dataset(tmp_path / "in", batch_size=2)
    for path in paths:
        path.unlink()
    with pytest.raises(DataError, match="none of its 3 files can be decoded"):
        data.item(0)


def test_unusable_sets_stop_at_the_start(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: none of the 0 files can be used .*Set `paths`"):
        dataset(tmp_path / "empty")
    (tmp_path / "empty" / "a.txt").write_text("a")
    write_image(tmp_path / "empty" / "b.png", picture(0, 12, 40))
    with pytest.raises(
        DataError, match=r"none of the 2 files .*b\.png: 40x12 pixels, at least 16x16 .*a\.txt: not an image"
    ):
        dataset(tmp_path / "empty")
    with pytest.raises(DataError, match="nowhere: no such file or folder"):
        dataset(tmp_path / "nowhere")


def test_fewer_items_than_a_batch_are_refused(tmp_path):
    fill(tmp_path / "in", 3)
    with pytest.raises(DataError, match="3 usable images are fewer than one batch of 4"):
        dataset(tmp_path / "in", tile="none")
    assert len(dataset(tmp_path / "in", tile="none", batch_size=3)) == 3
    # Random tiles of three photographs are more than three different items.
    assert len(dataset(tmp_path / "in", tile="random", batch_size=4)) == 3
    write_image(tmp_path / "one" / "a.png", picture(0, 16, 16))
    with pytest.raises(DataError, match="1 usable images are fewer"):
        dataset(tmp_path / "one", batch_size=2)


def test_training_needs_a_target_size(photographs):
    with pytest.raises(ConfigError, match="target_size is missing"):
        dataset(photographs, target_size=None, tile="none")


def recipe_errors(**section):
    with pytest.raises(ConfigError) as caught:
        parse(ImageFolderOptions, Source("r.yml", section, {}))
    return str(caught.value)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"target_size": 15, "scale": 2}, "target_size: 15 is not divisible by scale 2"),
        ({"fixed_corruptions": ("jpg",)}, "fixed_corruptions.0: unknown corruption 'jpg' (did you mean jpeg?"),
        ({"random_corruptions": ("none",)}, "random_corruptions: num_corrupts_per_image (0 switches them off)"),
        ({"num_corrupts_per_image": 1}, "num_corrupts_per_image: 1, but there are no random_corruptions"),
        (
            {"fixed_corruptions": ("jpeg",), "fixed_parameters": {"corruption_entropy": (0.1, 0.2)}},
            "corruption_entropy: 2 strengths for 1 fixed_corruptions",
        ),
        (
            {"fixed_corruptions": ("jpeg",), "fixed_parameters": {"corruption_entropy": (1.2,)}},
            "corruption_entropy.0: expected a number in [0, 1], auto, auto_map, or {map: FILE or FOLDER}, found 1.2",
        ),
        ({"paths": ("a", "b"), "weights": (1,)}, "weights: 1 weights for 2 paths"),
        ({"paths": ()}, "paths: an empty list"),
        ({"tile": "random"}, "tile: random needs target_size"),
        ({"tiles_per_image": 2}, "tiles_per_image: 2 tiles of one image need tile: random"),
        ({"tile": "randm"}, "did you mean random?"),
        ({"batch_size": 0}, "batch_size: expected greater than or equal to 1"),
        ({"bath_size": 4}, "bath_size: unknown key (did you mean batch_size?)"),
    ],
)
def test_contradictions_are_named(section, message):
    assert message in recipe_errors(**section)


def test_contradictions_are_named_all_at_once():
    text = recipe_errors(target_size=15, scale=2, fixed_corruptions=("jpg",), tiles_per_image=2)
    assert len(text.splitlines()) == 3


def test_every_option_is_described():
    assert all(field.description for field in ImageFolderOptions.model_fields.values())


def test_sample_photographs_are_the_default(messages):
    training = ImageFolderDataset(ImageFolderOptions(target_size=32, tile="random"), seed=0, shuffle=True)
    assert list(training.files) == sample_photographs()
    assert held_out_photograph() not in training.files
    assert held_out_photograph().name == HELD_OUT
    assert sum("sample photographs" in record.message for record in messages.records) == 1
    restoring = ImageFolderDataset(ImageFolderOptions(skip_lq=True), seed=0, shuffle=False)
    assert list(restoring.files) == [held_out_photograph()]
    assert min(restoring.report().smallest) > 256
    assert min(training.report().smallest) > 256


def test_a_missing_sample_photograph_is_named(monkeypatch):
    monkeypatch.setattr("codes.data.samples.TRAINING", ("gone.png",))
    with pytest.raises(DataError, match=r"gone\.png: this sample photograph is missing from scikit-image"):
        sample_photographs()


def test_the_cache_changes_nothing(photographs):
    kept, forgotten = dataset(photographs, cache_megabytes=64), dataset(photographs, cache_megabytes=0)
    assert all(same(kept.item(position), forgotten.item(position)) for position in (0, 3, 0, 8, 3))


def test_options_are_frozen(photographs):
    with pytest.raises(ValueError, match="frozen"):
        options(photographs).scale = 4
