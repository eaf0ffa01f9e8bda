"""The comparison page with many images: lazy pictures, finding, sorting, keys, both ways to compare, both themes."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser_helpers import COLORS, MARKS, one, press, screen, shown
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from codes.viewer.comparison_page import ComparisonEntry, ComparisonSummary, write_comparison_page

pytestmark = MARKS
COUNT = 200
HEIGHT, WIDTH = 120, 180
DECODED = "return [...document.images].filter((i) => i.complete && i.naturalWidth > 0).length"
NAMES = "return [...document.querySelectorAll('article:not([hidden]) h2')].map((h) => h.innerText)"


def photograph(index: int, label: str) -> np.ndarray:
    """One colour a layer, with a little texture of its own, so that no two pictures are the same file."""
    noise = np.random.default_rng((index, len(label))).integers(0, 12, (HEIGHT, WIDTH, 3))
    return (np.array(COLORS[label]) + noise).astype(np.uint8)


def entry(index: int) -> ComparisonEntry:
    layers = {label: photograph(index, label) for label in COLORS}
    metrics = {"restored": {"psnr": 20.0 + index * 37 % COUNT}} if index else {}
    return ComparisonEntry(f"{'Cat' if index % 4 else 'Dog'} {index:03d}.png", layers, metrics)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page whose pictures lie beside it, in a folder that was moved after it was written."""
    written = tmp_path_factory.mktemp("written") / "run"
    write_comparison_page(
        written / "index.html", [entry(i) for i in range(COUNT)], ComparisonSummary("Many"), page_bytes=10_000
    )
    return Path(shutil.move(written, tmp_path_factory.mktemp("moved") / "elsewhere ä#1"))


@pytest.fixture
def page(open_page: Callable[[Path], Any], folder: Path) -> Any:
    return open_page(folder / "index.html")


def wait(driver: Any, script: str, expected: Any = True) -> None:
    WebDriverWait(driver, 10).until(lambda d: d.execute_script(script) == expected)


def choose(driver: Any, title: str, text: str) -> None:
    Select(one(driver, f".bar select[title={title}]")).select_by_visible_text(text)


def test_pictures_beside_a_moved_page_are_decoded_near_the_window_only(page: Any, folder: Path) -> None:
    assert len(list((folder / "index_files").iterdir())) == COUNT * len(COLORS)
    assert shown(page, 0.2, 0.8) == ["bicubic", "restored"]
    assert 0 < page.execute_script(DECODED) <= 8 * len(COLORS)
    page.execute_script("comparisons[120].article.scrollIntoView()")
    wait(page, "return comparisons[120].layers.length", len(COLORS))
    wait(page, "return comparisons[0].layers.length", 0)
    wait(page, "return comparisons[120].layers.filter((l) => l.firstChild.naturalWidth).length", len(COLORS))
    assert page.execute_script(DECODED) <= 10 * len(COLORS)
    assert page.execute_script("return document.images.length") <= 10 * len(COLORS)


def test_layers_that_nobody_looks_at_are_not_fetched(page: Any) -> None:
    others = (
        "return comparisons.slice(1).filter((e) => e.layers.length)"
        ".map((e) => e.layers.map((l) => l.firstChild.hasAttribute('src')))"
    )
    wait(page, "return comparisons[0].layers.every((l) => l.firstChild.hasAttribute('src'))")
    fetched = page.execute_script(others)
    assert len(fetched) > 0
    assert fetched == [[True, True, False]] * len(fetched)


def test_finding_hides_the_others_and_escape_brings_them_back(page: Any) -> None:
    press(page, "/")
    press(page, "dog", " ", "08")
    assert page.execute_script(NAMES) == ["Dog 008.png", "Dog 080.png", "Dog 084.png", "Dog 088.png", "Dog 108.png"]
    assert one(page, ".found").text == f"5 of {COUNT}"
    assert len(page.find_elements(By.CSS_SELECTOR, "#index tbody tr:not([hidden])")) == 5
    assert len(page.find_elements(By.CSS_SELECTOR, ".bar select[title=Image] option")) == 5
    press(page, Keys.ENTER, "j")
    assert page.execute_script("return comparisons[80].article.contains(document.activeElement)")
    press(page, "/", Keys.ESCAPE)
    assert len(page.execute_script(NAMES)) == COUNT
    assert one(page, ".found").text == ""


def test_nothing_found_is_no_error(page: Any) -> None:
    press(page, "/")
    press(page, "zebra", Keys.ENTER, "j", "o", "1")
    assert page.execute_script(NAMES) == []
    assert one(page, ".found").text == f"0 of {COUNT}"


def test_sorting_orders_the_images_and_what_has_no_value_is_last(page: Any) -> None:
    order = sorted(range(1, COUNT), key=lambda index: index * 37 % COUNT)
    for choice, expected in (("rising", order), ("falling", order[::-1])):
        choose(page, "Sort", f"restored PSNR (dB), {choice}")
        numbers = [int(name.split()[1][:3]) for name in page.execute_script(NAMES)]
        assert numbers == [*expected, 0]
        jumps = page.find_elements(By.CSS_SELECTOR, ".bar select[title=Image] option")
        assert [option.text for option in jumps[:3]] == page.execute_script(NAMES)[:3]
    page.execute_script("document.activeElement.blur()")
    press(page, "j")
    focused = page.execute_script("return comparisons.findIndex((c) => c.article.contains(document.activeElement))")
    assert focused == order[-2]
    choose(page, "Sort", "as given")
    assert page.execute_script(NAMES)[:2] == ["Dog 000.png", "Cat 001.png"]


def test_side_by_side_zooms_and_pans_in_step(page: Any) -> None:
    press(page, "s")
    assert shown(page, 0.2, 0.35, 0.65, 0.8) == ["bicubic", "bicubic", "restored", "restored"]
    ActionChains(page).move_to_element_with_offset(one(page, ".stage"), -300, 0).click().perform()
    for _ in range(9):
        press(page, "+")
    state = (
        "return comparisons[0].layers.map((l) => new DOMMatrix(getComputedStyle(l.firstChild).transform))"
        ".map((m) => [m.e, m.f, m.a])"
    )
    left, right, _ = page.execute_script(state)
    half = page.execute_script("return comparisons[0].pane()[0]")
    assert right == pytest.approx([left[0] + half, left[1], left[2]])
    for _ in range(2):
        press(page, Keys.ARROW_RIGHT, Keys.ARROW_DOWN)
    panned = page.execute_script(state)
    assert panned[0] == pytest.approx([left[0] - 80, left[1] - 80, left[2]], abs=1.5)
    assert panned[1] == pytest.approx([panned[0][0] + half, *panned[0][1:]])
    stage = one(page, ".stage")
    drag = ActionChains(page).move_to_element_with_offset(stage, -30, 0).click_and_hold()
    drag.move_by_offset(60, 30).release().perform()
    dragged = page.execute_script(state)
    assert dragged[0] == pytest.approx([panned[0][0] + 60, panned[0][1] + 30, left[2]], abs=1.5)
    assert dragged[1] == pytest.approx([dragged[0][0] + half, *dragged[0][1:]])


def test_side_by_side_never_shows_one_layer_twice(page: Any) -> None:
    press(page, "s", "1")
    assert shown(page, 0.2, 0.8) == ["restored", "bicubic"]
    press(page, "s")
    assert one(page, ".handle").is_displayed()


def test_keys_step_through_the_layers(page: Any) -> None:
    press(page, ".")
    assert shown(page, 0.2, 0.8) == ["bicubic", "ground truth"]
    press(page, ",", ",")
    assert shown(page, 0.2, 0.8) == ["bicubic", "bicubic"]
    press(page, ",")
    assert shown(page, 0.2, 0.8) == ["bicubic", "ground truth"]


def test_the_bar_pairs_all(page: Any) -> None:
    button = page.find_element(By.XPATH, "//nav//button[text()='Side by side']")
    for expected in (True, False):
        button.click()
        assert page.execute_script("return comparisons.every((each) => each.paired === arguments[0])", expected)
        assert button.get_attribute("aria-pressed") == str(expected).lower()


def test_help_opens_and_closes(page: Any) -> None:
    press(page, "?")
    assert one(page, "#help").is_displayed()
    before = page.execute_script("return comparisons[0].right")
    press(page, "3")
    assert page.execute_script("return comparisons[0].right") == before
    press(page, Keys.ESCAPE)
    assert not one(page, "#help").is_displayed()
    one(page, "#show-help").click()
    one(page, "#help button").click()
    assert not one(page, "#help").is_displayed()


def test_light_and_dark(page: Any) -> None:
    seen = []
    for _ in range(2):
        seen.append((one(page, "html").get_attribute("data-theme"), float(screen(page, "h1")[1, 1].mean())))
        press(page, "t")
    brightness = dict(seen)
    assert brightness["dark"] < 60 < 200 < brightness["light"]
    assert one(page, "html").get_attribute("data-theme") == seen[0][0]


def test_everything_that_acts_has_a_name(page: Any) -> None:
    nameless = page.execute_script(
        "return [...document.querySelectorAll('button, select, input, [role=slider], [role=group]')].filter((e) =>"
        " !(e.textContent.trim() || e.getAttribute('aria-label') || e.title)).map((e) => e.outerHTML)"
    )
    assert nameless == []
