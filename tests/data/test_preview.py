"""The preview page: what it shows is what training gets, and it needs nothing but itself."""

import base64
import hashlib
import logging
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from data_helpers import dataset, fill, options, picture

from codes.data.corruptions.options import CorruptionOptions
from codes.data.preview import LARGEST_SHOWN, items, preview_item, sweep_tables
from codes.images.files import quantise, to_image, to_tensor, write_image
from codes.scripts import preview_data
from codes.utils.errors import ConfigError, DataError
from codes.viewer.preview_page import write_preview_page

RECIPE = """
name: small
scale: 2
datasets:
  train:
    {mode: imagefolder, batch_size: 2, target_size: 16, tile: random, rgb_n1_to_1: true,
     fixed_corruptions: [jpeg, gaussian_blur]}
train: {niter: 1}
eval:
  evaluators:
    held_out: {type: restoration, for: generator, dataset: {mode: imagefolder, scale: 2, fixed_corruptions: [jpeg]}}
"""
STRENGTHS = (0.0, 0.5, 1.0)


class Page(HTMLParser):
    """The decoded pictures of a page, its tags and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.pictures, self.tags, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        source = dict(attrs).get("src", "")
        if tag == "img":
            data = base64.b64decode(source.removeprefix("data:image/png;base64,"))
            picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
            self.pictures.append(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))

    def handle_data(self, data):
        self.words.append(data.strip())


def run(folder, *arguments, **changes):
    """The page of a small training set, and the exit code."""
    recipe, output = folder.parent / "recipe.yml", folder.parent / "page.html"
    recipe.write_text(RECIPE, encoding="utf-8")
    overrides = [f"datasets.train.{key}={value}" for key, value in {"paths": folder, **changes}.items()]
    code = preview_data.main(["-opt", str(recipe), "--output", str(output), *arguments, "--set", *overrides])
    return code, Page(output.read_text(encoding="utf-8")) if output.exists() else None


@pytest.fixture
def photographs(tmp_path):
    fill(tmp_path / "in", 5)
    return tmp_path / "in"


@pytest.fixture
def messages(monkeypatch, caplog):
    """What the command tells the user; it would otherwise keep the project's log to itself."""
    monkeypatch.setattr("codes.runtime.command_line.setup_logging", lambda _debug: None)
    monkeypatch.setattr(logging.getLogger("tessera"), "propagate", True)
    return caplog


def test_the_page_holds_the_very_items_of_training(photographs):
    code, page = run(photographs, "--count", "7")
    assert code == 0
    made = dataset(photographs, seed=0, rgb_n1_to_1=True)
    expected = [made.item(position) for position in range(7)]
    assert len(page.pictures) == 14
    for position, item in enumerate(expected):
        for key, shown in zip(("hq", "lq"), page.pictures[2 * position : 2 * position + 2], strict=True):
            assert np.array_equal(shown, to_image(item[key], n1_to_1=True))
        assert f"{position}: {Path(item['HQ_path']).name}" in page.words
        assert f"{item['corruption_entropy'][0]:.2f}" in page.words
    drawn = [float(item["corruption_entropy"][0]) for item in expected]
    assert page.words[page.words.index("Strength of jpeg") + 1].startswith(
        f"{min(drawn):.2f} to {max(drawn):.2f}, mean"
    )
    assert page.words.count("jpeg") == page.words.count("gaussian_blur") == 7


def test_the_page_needs_nothing_else_and_runs_nothing(tmp_path):
    evil = tmp_path / "<img src=x onerror=alert(1)>&.png"
    write_image(evil, picture(0, 40, 52))
    made = dataset(tmp_path, batch_size=1)
    output = tmp_path / "page.html"
    write_preview_page(output, "a <b> title", {"fact": "<i>"}, [preview_item(0, made.item(0), made.options)], [])
    text = output.read_text(encoding="utf-8")
    page = Page(text)
    assert len(page.pictures) == 2
    assert {"script", "i", "b"} & {*page.tags} == {"b"}  # the captions' own
    assert page.tags.count("b") == 2
    assert not re.search(r"https?:|src=(?!\"data:)", text.replace(evil.name, "").replace("&lt;img src=x", ""))
    style = re.search(r"<style>(.*)</style>", text, re.DOTALL).group(1)
    assert base64.b64encode(hashlib.sha256(style.encode()).digest()).decode() in text
    assert ' style="' not in text


def test_of_a_large_image_the_middle_is_shown_in_both(tmp_path):
    write_image(tmp_path / "large.png", picture(0, 700, 1100))
    made = dataset(tmp_path, shuffle=False, tile="none", target_size=None, batch_size=1, fixed_corruptions=())
    item = made.item(0)
    hq, lq = preview_item(0, item, made.options).pictures
    assert hq.pixels.shape == (LARGEST_SHOWN, LARGEST_SHOWN, 3)
    assert (hq.height, hq.width) == (lq.height, lq.width) == (LARGEST_SHOWN, LARGEST_SHOWN)
    assert "its middle 512 × 512" in hq.size
    half = LARGEST_SHOWN // 2
    means = hq.pixels.reshape(half, 2, half, 2, 3).mean((1, 3))
    assert np.abs(means - lq.pixels).max() <= 1.5  # the same part of the scene


def test_items_without_lq_and_with_other_tensors_are_shown_as_they_are():
    image = to_tensor(picture(0, 20, 30), n1_to_1=False)
    shown = preview_item(3, {"hq": image, "y": torch.tensor(7), "HQ_path": "/a/b.png"}, options(Path("/a")))
    assert [tile.title for tile in shown.pictures] == ["hq"]
    assert shown.pictures[0].pixels.shape == (20, 30, 3)
    assert shown.notes == {"y": "7"}
    assert not shown.strengths
    repeated = options(Path("/a"), fixed_corruptions=("noise", "noise"))
    entropy = {"hq": image, "corruption_entropy": torch.tensor([0.25, 0.5])}
    assert preview_item(0, entropy, repeated).strengths == {"noise (1)": 0.25, "noise (2)": 0.5}


def test_what_cannot_be_read_is_left_out_and_named(tmp_path, messages):
    files = fill(tmp_path, 3)
    made = dataset(tmp_path, shuffle=False, tile="none", target_size=None, batch_size=1)
    files[1].write_bytes(files[1].read_bytes()[:400])
    assert [position for position, _ in items(made, 10)] == [0, 2]
    assert "img1.png" in messages.text
    made = dataset(tmp_path, shuffle=False, tile="none", target_size=None, batch_size=1)
    for path in files:
        path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(DataError, match="no item that can be shown"):
        list(items(made, 10))


def item_of(image):
    return {"hq": to_tensor(image, n1_to_1=False), "HQ_path": "/a/b.png"}


def test_a_sweep_starts_clean_and_ends_worst():
    image = picture(0, 40, 60)
    names = ("gaussian_blur", "motion_blur", "noise")
    (grid,) = sweep_tables(item_of(image), CorruptionOptions(), 2, False, names, STRENGTHS)
    assert list(grid.rows) == list(names)
    assert list(grid.columns) == ["0", "0.5", "1"]
    clean = quantise(image.reshape(20, 2, 30, 2, 3).mean((1, 3)))
    for row in grid.rows.values():
        errors = [np.square(tile.pixels.astype(float) - clean).mean() for tile in row]
        assert errors[0] < 0.5 < 1 < errors[2]
        assert errors[1] < errors[2]
        assert row[0].quality == "unchanged"
        assert row[0].pixels.shape == (20, 30, 3)
    whole = CorruptionOptions(corrupt_before_downsize=True)
    (grid,) = sweep_tables(item_of(image), whole, 2, False, names, STRENGTHS)
    assert grid.rows["noise"][0].pixels.shape == (40, 60, 3)


def test_a_sweep_of_two_shows_every_pair_in_the_recipes_order():
    image = picture(0, 40, 60)
    names = ("jpeg", "gaussian_blur")
    single, pairs = sweep_tables(item_of(image), CorruptionOptions(), 1, False, names, STRENGTHS)
    assert [len(row) for row in pairs.rows.values()] == [3, 3, 3]
    for label, jpeg in zip(pairs.rows, single.rows["jpeg"], strict=True):
        assert np.array_equal(pairs.rows[label][0].pixels, jpeg.pixels)  # blur at 0 is the identity
    physical = CorruptionOptions(corruption_order="physical")
    _, turned = sweep_tables(item_of(image), physical, 1, False, names, STRENGTHS)
    assert np.array_equal(turned.rows["1"][0].pixels, pairs.rows["1"][0].pixels)
    assert not np.array_equal(turned.rows["1"][2].pixels, pairs.rows["1"][2].pixels)


def test_the_sweep_takes_the_recipes_corruptions_unless_some_are_named(photographs):
    code, page = run(photographs, "--sweep", "--count", "1")
    columns = len(preview_data.STRENGTHS)
    assert code == 0
    assert len(page.pictures) == 2 * columns + columns**2
    code, page = run(photographs, "--sweep", "webp")
    assert len(page.pictures) == preview_data.DEFAULT_SWEPT * columns
    assert "gaussian_blur" not in page.words


def test_evaluators_have_previews_too_and_how_lq_is_made_is_said(photographs):
    code, page = run(photographs, "--phase", "held_out", "--count", "3")
    assert code == 0
    assert len(page.pictures) == 2  # the one held-out photograph
    assert "0: astronaut.png" in page.words
    changes = {"corruption_order": "physical", "second_order_probability": 0.25, "random_corruptions": "[noise]"}
    _, page = run(photographs, "--count", "2", **changes, random_probabilities="[0.5]")
    text = " ".join(page.words)
    for phrase in ("shrunk by 2 (area), then jpeg, gaussian_blur", "noise (50%)", "25% are resized", "physical"):
        assert phrase in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--count", "0"), "--count 0: expected at least 1"),
        (("--phase", "val"), "--phase val: no such dataset in the recipe (there are: held_out, train)"),
        (("--sweep", "jpg"), "unknown corruption 'jpg' (did you mean jpeg?"),
    ],
)
def test_wrong_arguments_are_named_in_one_line(photographs, messages, arguments, message):
    code, page = run(photographs, *arguments)
    assert code == 2
    assert page is None
    errors = [record.getMessage() for record in messages.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1
    assert message in errors[0]


def test_a_recipe_without_corruptions_has_nothing_to_sweep():
    with pytest.raises(ConfigError, match="the recipe lists no corruptions; name some of"):
        preview_data._swept(options(Path("/a"), fixed_corruptions=()), ())
