"""Pictures beside the page, and layers that are read in parts."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from viewer_helpers import SUMMARY, Page, entry, pixels

from codes.images.files import write_image
from codes.viewer.comparison_page import ComparisonEntry, write_comparison_page
from codes.viewer.layers import ArrayLayer, Layer, RowsLayer, file_layer, sampled


def written(tmp_path: Path, *entries: ComparisonEntry, page_bytes: int = 1000, **budget: int) -> Page:
    write_comparison_page(tmp_path / "index.html", entries, SUMMARY, page_bytes=page_bytes, **budget)
    return Page(tmp_path / "index.html")


def policy(page: Page) -> str:
    return next(attrs["content"] or "" for tag, attrs in page.elements if tag == "meta" and "content" in attrs)


class Huge:
    """A layer of 6000 x 4000 pixels that exists nowhere; it notes how much was asked of it at once."""

    shape = (4000, 6000, 3)

    def __init__(self, mark: int) -> None:
        self.mark = mark
        self.most = 0

    def rows(self, y0: int, y1: int) -> np.ndarray:
        self.most = max(self.most, (y1 - y0) * self.shape[1])
        values = np.full((y1 - y0, self.shape[1], 3), 100, dtype=np.uint8)
        if y0 <= 3000 < y1:
            values[3000 - y0 :, 5000:5200] = self.mark
        return values


def test_what_the_page_has_no_room_for_lies_losslessly_beside_it(tmp_path: Path) -> None:
    first, second = entry("a.png"), entry("b.png", 30, 20)
    page = written(tmp_path, first, second)
    for data, source in zip(page.data, (first, second), strict=True):
        (view,) = data["views"]
        for label, expected in source.layers.items():
            assert view["layers"][label].startswith("./index_files/")
            np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / view["layers"][label])), expected)
    assert "in the folder index_files beside this page" in page.texts
    assert "img-src data: 'self' file:;" in policy(page)
    assert len(page.source) < 60_000


def test_a_page_with_room_has_no_folder_and_a_stricter_policy(tmp_path: Path) -> None:
    page = written(tmp_path, entry(), page_bytes=1_000_000)
    assert [file.name for file in tmp_path.iterdir()] == ["index.html"]
    assert "img-src data:;" in policy(page)
    assert not any("folder" in text for text in page.texts)


def test_once_one_image_lies_beside_the_page_the_following_do_too(tmp_path: Path) -> None:
    large, small = entry("large.png", 200, 300), entry("small.png", 8, 8)
    page = written(tmp_path, small, large, small, page_bytes=12_000)
    inside = [data["views"][0]["layers"]["restored"].startswith("data:") for data in page.data]
    assert inside == [True, False, False]


def test_pictures_beside_the_page_are_compressed_when_their_budget_ends(tmp_path: Path) -> None:
    page = written(tmp_path, entry("large.png", 300, 400), beside_bytes=900_000)
    (view,) = page.data[0]["views"]
    assert view["layers"]["restored"].endswith(".jpg")
    assert (view["height"], view["width"]) == (300, 400)
    assert sum(file.stat().st_size for file in (tmp_path / "index_files").iterdir()) < 900_000


def test_a_page_written_again_removes_what_it_no_longer_shows_and_nothing_else(tmp_path: Path) -> None:
    written(tmp_path, entry("a.png"))
    folder = tmp_path / "index_files"
    before = {file.name for file in folder.iterdir()}
    (folder / "mine.png").write_bytes(b"mine")
    page = written(tmp_path, ComparisonEntry("b.png", {"restored": pixels(9)}))
    names = {Path(url).name for data in page.data for url in data["views"][0]["layers"].values()}
    assert {file.name for file in folder.iterdir()} == names | {"mine.png"}
    assert not names & before
    (folder / "mine.png").unlink()
    written(tmp_path, entry(), page_bytes=1_000_000)
    assert not folder.exists()


def test_a_failure_leaves_the_pictures_of_the_old_page(tmp_path: Path) -> None:
    class Failing(tuple[ComparisonEntry, ...]):
        def __getitem__(self, index: Any) -> Any:
            if index == 1:
                raise OSError("gone")
            return super().__getitem__(index)

    page = written(tmp_path, entry())
    other = ComparisonEntry("b.png", {"restored": pixels(9)})
    with pytest.raises(OSError, match="gone"):
        write_comparison_page(tmp_path / "index.html", Failing((other, other)), SUMMARY, page_bytes=1000)
    assert Page(tmp_path / "index.html").source == page.source
    assert all((tmp_path / url).is_file() for url in page.data[0]["views"][0]["layers"].values())


def test_a_huge_layer_is_read_by_bands_and_shown_where_it_differs(tmp_path: Path) -> None:
    sources = Huge(90), Huge(250)
    layers: dict[str, Layer] = {
        name: RowsLayer(*Huge.shape[:2], source.rows)
        for name, source in zip(("bicubic", "restored"), sources, strict=True)
    }
    page = written(tmp_path, ComparisonEntry("huge.tif", layers), beside_bytes=400_000)
    whole, detail = page.data[0]["views"]
    assert whole["width"] * whole["height"] < 4_100_000
    assert whole["width"] / whole["height"] == pytest.approx(6000 / 4000, rel=0.01)
    assert max(source.most for source in sources) < 6_000_000
    shown = np.asarray(Image.open(tmp_path / detail["layers"]["restored"]))
    assert shown.shape == (detail["height"], detail["width"], 3)
    assert (shown == 250).any()


def test_shrinking_by_bands_is_shrinking_by_area(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = pixels(3, 60, 90)
    whole = ArrayLayer(picture).shrunk(7, 11)
    monkeypatch.setattr("codes.viewer.layers.BAND_PIXELS", 800)
    banded = ArrayLayer(picture).shrunk(7, 11)
    assert banded.shape == (7, 11, 3)
    assert np.abs(banded.astype(int) - whole).max() <= 1
    exact = picture.reshape(6, 10, 9, 10, 3).mean(axis=(1, 3))
    assert np.abs(ArrayLayer(picture).shrunk(6, 9) - exact).max() <= 1


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
def test_a_file_is_the_same_layer_whether_it_is_read_whole_or_by_bands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    path = tmp_path / f"a{suffix}"
    write_image(path, pixels(3, 60, 90))
    whole = file_layer(path)
    monkeypatch.setattr("codes.images.bands.LARGE", 0)
    parts = file_layer(path)
    assert isinstance(parts, ArrayLayer) == (suffix == ".jpg")
    np.testing.assert_array_equal(parts.shrunk(20, 30), whole.shrunk(20, 30))
    monkeypatch.setattr("codes.viewer.layers.BAND_PIXELS", 800)
    np.testing.assert_array_equal(parts.crop(11, 47, 20, 80), whole.crop(11, 47, 20, 80))
    np.testing.assert_array_equal(sampled(parts, 7), sampled(whole, 7))


def test_a_large_file_that_is_damaged_is_black_from_there_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.png"
    write_image(path, np.maximum(pixels(3, 600, 90), 1))
    monkeypatch.setattr("codes.images.bands.LARGE", 0)
    monkeypatch.setattr(logging.getLogger("tessera"), "propagate", True)
    data = bytearray(path.read_bytes())
    data[-40] ^= 1
    path.write_bytes(data)
    layer = file_layer(path)
    page = written(tmp_path, ComparisonEntry("a.png", {"restored": layer}))
    assert page.data[0]["labels"] == ["restored"]
    assert "a.png: damaged: a checksum of its pixels is wrong; black on the page from there on" in caplog.text
    assert not layer.crop(599, 600, 0, 90).any()


def test_a_lazy_layer_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a\.png: layer 'restored' is 20x12 but 'bicubic' is 40x24"):
        ComparisonEntry("a.png", {"bicubic": pixels(0), "restored": RowsLayer(12, 20, lambda y0, y1: pixels(1)[y0:y1])})
    with pytest.raises(ValueError, match="expected uint8 RGB"):
        ComparisonEntry("a.png", {"bicubic": RowsLayer(0, 20, lambda y0, y1: pixels(1)[y0:y1])})
