"""What holds for every page: texts are escaped wherever they stand, and the policy allows its own style and script."""

import base64
import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
from jinja2 import UndefinedError
from viewer_helpers import Page, pixels

from codes.data.preview import PreviewItem, PreviewPicture, PreviewTable
from codes.images.files import write_image
from codes.viewer.comparison_page import ComparisonEntry, ComparisonSummary, write_comparison_page
from codes.viewer.layers import BICUBIC, TRUTH
from codes.viewer.preview_page import write_preview_page
from codes.viewer.sweep_page import write_sweep_page
from codes.viewer.sweep_result import Reference, SweepResult, SweptAxis, SweptCell
from codes.viewer.templates import asset, write_page

HOSTILE = "</script><script>alert('1')</script>\"'><img src=x onerror=alert(2)>{{ 7 * 7 }}&amp;"
SHORT = "<b>\"'&{{ 7 }}"  # no name of a line or file is cut
ORDINARY = "ordinary"


def comparison(path: Path, text: str) -> None:
    layers = {text: pixels(0), f"{text} 2": pixels(1)}
    metrics = {text: {text: 1.0}, f"{text} 2": {text: 2.0}}
    entry = ComparisonEntry(text, layers, metrics, {text: text}, {text: path.parent / "a.png"})
    summary = ComparisonSummary(text, text, (text,), text, 1.0, text, metrics)
    write_comparison_page(path, [entry, entry], summary)


def sweep(path: Path, text: str) -> None:
    file = path.parent / "index_files" / f"{re.sub('/', '_', text)}.png"
    write_image(file, pixels(0))
    names = ((text, (text, "1")), (f"{text} 2", (text, "b")))
    axes = [SweptAxis(name, (0.0, 1.0), texts, "strength") for name, texts in names]
    places = ((0, 0), (0, 1), (1, 0), (1, 1))
    cells = [SweptCell(at, file, 1.0 + i, {"psnr": 20.0 + i, text: 1.0}) for i, at in enumerate(places)]
    references = {BICUBIC: Reference(file, {text: 1.0}), TRUTH: Reference(file)}
    write_sweep_page(path, SweepResult(text, axes, cells, references, {text: text, "Input": text}, text))


def preview(path: Path, text: str) -> None:
    picture = PreviewPicture(pixels(0), text, text, text, 24, 40)
    item = PreviewItem(0, text, [picture], {text: 0.5}, {text: text})
    table = PreviewTable(text, text, [text], {text: [picture]})
    write_preview_page(path, text, {text: text}, [item], [table])


PAGES = pytest.mark.parametrize("write", [comparison, sweep, preview], ids=lambda write: write.__name__)


def written(tmp_path: Path, write, text: str) -> Page:
    path = tmp_path / "index.html"
    write(path, text)
    return Page(path)


@PAGES
def test_hostile_texts_add_no_element_and_no_handler(tmp_path: Path, write) -> None:
    plain, page = (written(tmp_path, write, text) for text in (ORDINARY, HOSTILE))
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in plain.elements]
    assert [set(attributes) for _, attributes in page.elements] == [set(attributes) for _, attributes in plain.elements]
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert "49" not in "".join(page.texts)  # a template inside a text is a text
    assert page.values("href") == [value.replace(ORDINARY, HOSTILE) for value in plain.values("href")]


@PAGES
def test_hostile_texts_are_shown_as_they_are(tmp_path: Path, write) -> None:
    plain, page = (written(tmp_path, write, text) for text in (ORDINARY, SHORT))
    times = "".join(plain.texts).count(ORDINARY)
    assert times > 5
    assert "".join(page.texts).count(SHORT) == times


@PAGES
def test_the_policy_names_the_style_and_the_script_and_forbids_the_rest(tmp_path: Path, write) -> None:
    page = written(tmp_path, write, HOSTILE)
    policy = next(value for value in page.values("content") if value.startswith("default-src 'none'"))
    (style,) = re.findall(r"<style>(.*?)</style>", page.source, re.DOTALL)
    scripts = re.findall(r"<script>(.*?)</script>", page.source, re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, *scripts)]
    assert re.findall(r"'sha256-(.*?)'", policy) == hashes
    assert ("script-src" in policy) == bool(scripts)
    assert "unsafe" not in policy
    assert not page.values("style")


def test_a_name_that_a_template_uses_and_nobody_gave_is_an_error_and_leaves_the_old_page(tmp_path: Path) -> None:
    path = tmp_path / "index.html"
    path.write_text("old")
    with pytest.raises(UndefinedError, match="facts"):
        write_page(path, "preview.html", {"title": "a"}, ("theme.css",))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_name_that_is_not_utf8_stands_in_every_page(tmp_path: Path) -> None:
    for write in (comparison, preview):
        assert "caf?.png" in "".join(written(tmp_path, write, "caf\udce9.png").texts)


def test_the_viewer_with_its_slider_needs_no_style_but_the_theme_and_its_own(tmp_path: Path) -> None:
    """Other pages reuse it: every class that its template and script name is in comparison.css or needs no style."""
    styles = asset("theme.css") + asset("comparison.css")
    page = written(tmp_path, comparison, ORDINARY)
    assert {"viewer", "tools", "stage", "handle"} <= {name for value in page.values("class") for name in value.split()}
    for name in ("viewer", "tools", "stage", "badge", "divider", "handle", "layer", "group", "readout"):
        assert f".{name}" in styles
    assert np.all([name in styles for name in (".stage.paired", ".stage.pannable", "img.enlarged")])
