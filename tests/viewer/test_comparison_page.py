import base64
import io
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from viewer_helpers import HEIGHT, SUMMARY, WIDTH, Page, entry, pixels

from codes.evaluation.metrics import mean_metrics
from codes.viewer.comparison_page import ComparisonEntry, ComparisonSummary, write_comparison_page


def written(tmp_path: Path, *entries: ComparisonEntry, summary: ComparisonSummary = SUMMARY, **budget: int) -> Page:
    """The page of these entries; alone, without a folder beside it, when only `page_bytes` is given."""
    if "page_bytes" in budget:
        budget = {"beside_bytes": 0, **budget}
    path = tmp_path / "index.html"
    write_comparison_page(path, entries, summary, **budget)
    return Page(path)


def decoded(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


def test_layers_are_embedded_losslessly(tmp_path: Path) -> None:
    first, second = entry("a.png"), entry("b.png", 30, 20)
    page = written(tmp_path, first, second)
    for data, source in zip(page.data, (first, second), strict=True):
        (view,) = data["views"]
        assert data["labels"] == list(source.layers)
        assert (view["height"], view["width"]) == source.layers["bicubic"].shape[:2]
        for label, expected in source.layers.items():
            np.testing.assert_array_equal(decoded(view["layers"][label]), expected)


def test_page_refers_to_nothing_outside(tmp_path: Path) -> None:
    page = written(tmp_path, entry("a.png"), entry("b.png"))
    assert all(value.startswith(("#", "data:")) for value in page.values("src", "href", "action", "poster", "srcset"))
    assert not re.search(r"https?:|@import|url\(", page.source)
    policy = next(attrs["content"] for tag, attrs in page.elements if tag == "meta" and "content" in attrs)
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy


def test_full_size_files_are_linked_relative_to_the_page(tmp_path: Path) -> None:
    base = entry()
    file = tmp_path / "set 14" / "a#1?.png"
    page = written(tmp_path, ComparisonEntry(base.name, base.layers, base.metrics, files={"restored": file}))
    assert "./set%2014/a%231%3F.png" in page.values("href")


def test_link_of_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    base = entry()
    page = written(tmp_path, ComparisonEntry(name, base.layers, files={"restored": tmp_path / name}))
    assert "./caf%E9.png" in page.values("href")


def test_every_text_of_the_user_is_escaped(tmp_path: Path) -> None:
    evil = "<script>alert('1')</script>\"'&.png"
    layers = {evil: pixels(0), "b</script>": pixels(1)}
    hostile = ComparisonEntry(evil, layers, {evil: {evil: 1.0}}, {evil: evil}, {evil: tmp_path / "x.png"})
    summary = ComparisonSummary(evil, evil, (evil,), evil, 1.0, evil, {evil: {evil: 1.0}})
    plain = written(tmp_path, entry("a"), entry("b"))
    page = written(tmp_path, hostile, hostile, summary=summary)
    assert page.count("script") == plain.count("script")
    assert page.data[0]["labels"] == list(layers)
    assert page.texts.count(evil) >= 8
    assert [json.loads(value) for value in page.values("data-labels")] == [list(layers)] * 2


def test_options_are_shown_escaped(tmp_path: Path) -> None:
    page = written(tmp_path, entry())
    assert "scale: 2\n# <b>bold</b>\n" in page.texts
    assert page.count("b") == 0


def test_single_image_has_no_index_and_several_have(tmp_path: Path) -> None:
    assert "index" not in written(tmp_path, entry()).values("id")
    several = written(tmp_path, entry("a.png"), entry("b.png"))
    assert "index" in several.values("id")
    assert {"#image-1", "#image-2"} <= set(several.values("href"))
    assert several.values("id").count("image-2") == 1


def test_missing_ground_truth_and_metrics(tmp_path: Path) -> None:
    layers = {"bicubic": pixels(0), "restored": pixels(1)}
    page = written(tmp_path, ComparisonEntry("a.png", layers))
    assert page.data[0]["labels"] == ["bicubic", "restored"]
    assert page.count("table") == 0


def test_metrics_show_gain_and_best(tmp_path: Path) -> None:
    source = written(tmp_path, entry()).source
    assert '<td class="best">26.25 <small>+0.75</small></td>' in source
    assert "<td>0.7900 <small>−0.0100</small></td>" in source


def test_metrics_that_are_not_finite(tmp_path: Path) -> None:
    metrics = {"bicubic": {"psnr": float("inf")}, "restored": {"psnr": float("nan"), "ssim": 0.5}}
    page = written(tmp_path, ComparisonEntry("a.png", entry().layers, metrics))
    assert {"∞", "–", "0.5000"} <= set(page.texts)


def test_mean_metrics_leave_out_what_is_missing() -> None:
    images = [{"a": {"psnr": 20.0, "ssim": 0.5}}, {"a": {"psnr": 30.0}, "b": {"psnr": float("inf")}}]
    assert mean_metrics(images) == {"a": {"psnr": 25.0, "ssim": 0.5}, "b": {}}


def test_summary_is_shown(tmp_path: Path) -> None:
    summary = ComparisonSummary(
        "T", weights=("w.pth",), device="cpu", seconds=75.0, version="9.8", mean_metrics={"a": {"psnr": 27.125}}
    )
    texts = written(tmp_path, entry("a.png"), entry("b.png"), summary=summary).texts
    assert {"T", "w.pth", "cpu", "1 min 15 s", "9.8", "27.12", "Mean of 2 images"} <= set(texts)


def test_means_say_how_many_images_were_measured(tmp_path: Path) -> None:
    summary = ComparisonSummary("T", mean_metrics={"a": {"psnr": 27.125}}, measured=1)
    texts = written(tmp_path, entry("a.png"), entry("b.png"), summary=summary).texts
    assert "Mean of 1 of 2 images" in texts


def test_large_entries_are_compressed_then_reduced_within_the_budget(tmp_path: Path) -> None:
    large = entry("large.png", 700, 900)
    for budget, names in ((9_000_000, ["Whole image"]), (1_500_000, ["Whole image", "Detail"])):
        page = written(tmp_path, large, page_bytes=budget)
        views = page.data[0]["views"]
        assert [view["name"] for view in views] == names
        assert len(page.source) < 1.1 * budget + 60_000
    whole, detail = views
    assert whole["width"] < 900
    assert whole["scale"] == pytest.approx(whole["width"] / 900, rel=0.01)
    assert decoded(whole["layers"]["restored"]).shape == (whole["height"], whole["width"], 3)
    left, top = map(int, re.findall(r"[xy] (\d+)", detail["note"]))
    crop = large.layers["restored"][top : top + detail["height"], left : left + detail["width"]]
    np.testing.assert_array_equal(decoded(detail["layers"]["restored"]), crop)


def test_compressed_entries_keep_full_size_and_say_so(tmp_path: Path) -> None:
    page = written(tmp_path, entry("large.png", 300, 400), page_bytes=1_200_000)
    (view,) = page.data[0]["views"]
    assert (view["height"], view["width"]) == (300, 400)
    assert view["layers"]["bicubic"].startswith("data:image/jpeg")
    assert "full size, compressed for this page (JPEG 92)" in page.texts


def test_detail_lies_where_the_layers_differ(tmp_path: Path) -> None:
    base = np.full((900, 1100, 3), 128, dtype=np.uint8)
    changed = base.copy()
    changed[700:760, 300:380] = pixels(0, 60, 80)
    page = written(tmp_path, ComparisonEntry("a.png", {"bicubic": base, "restored": changed}), page_bytes=1000)
    detail = page.data[0]["views"][1]
    left, top = map(int, re.findall(r"[xy] (\d+)", detail["note"]))
    assert top <= 700
    assert left <= 300
    assert top + detail["height"] >= 760
    assert left + detail["width"] >= 380


def test_unused_budget_goes_to_later_entries(tmp_path: Path) -> None:
    small, large = entry("small.png"), entry("large.png", 200, 300)
    budget = 900_000
    page = written(tmp_path, small, large, page_bytes=budget)
    assert sum(len(uri) for uri in page.data[1]["views"][0]["layers"].values()) > budget / 2
    assert page.data[1]["views"][0]["note"] == "full size, lossless"


def test_entries_are_loaded_one_at_a_time(tmp_path: Path) -> None:
    class Lazy(tuple[ComparisonEntry, ...]):
        asked: list[int] = []  # noqa: RUF012

        def __getitem__(self, index):  # type: ignore[no-untyped-def, override]
            self.asked.append(index)
            return super().__getitem__(index)

    entries = Lazy((entry("a.png"), entry("b.png"), entry("c.png")))
    write_comparison_page(tmp_path / "index.html", entries, SUMMARY)
    assert entries.asked == [0, 1, 2]


def test_failure_leaves_the_old_page(tmp_path: Path) -> None:
    class Failing(tuple[ComparisonEntry, ...]):
        def __getitem__(self, index):  # type: ignore[no-untyped-def, override]
            if index == 1:
                raise OSError("gone")
            return super().__getitem__(index)

    path = tmp_path / "index.html"
    path.write_text("old")
    with pytest.raises(OSError, match="gone"):
        write_comparison_page(path, Failing((entry(), entry())), SUMMARY)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["index.html"]


def test_layers_of_unequal_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"a\.png: layer 'restored' is 40x25 but 'bicubic' is 40x24"):
        ComparisonEntry("a.png", {"bicubic": pixels(0), "restored": pixels(1, 25, 40)})


@pytest.mark.parametrize(
    "layer",
    [
        pixels(0).astype(np.float32),
        pixels(0)[..., 0],
        np.zeros((3, HEIGHT, WIDTH), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ],
    ids=["float", "gray", "channels first", "empty"],
)
def test_layers_that_are_not_uint8_rgb_are_refused(layer: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected uint8 RGB"):
        ComparisonEntry("a.png", {"bicubic": layer})


def test_unknown_labels_and_empty_entries_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'restord' names no layer; expected one of bicubic"):
        ComparisonEntry("a.png", {"bicubic": pixels(0)}, {"restord": {"psnr": 1.0}})
    with pytest.raises(ValueError, match="no layers"):
        ComparisonEntry("a.png", {})
    with pytest.raises(ValueError, match="no entries"):
        write_comparison_page(tmp_path / "index.html", [], SUMMARY)
