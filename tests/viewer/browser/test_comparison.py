"""Drives the comparison page in headless Chromium (Debian's packages chromium and chromium-driver, and selenium)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser_helpers import COLORS, MARKS, one, press, shown
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.actions.wheel_input import ScrollOrigin
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from codes.evaluation.metrics import mean_metrics
from codes.viewer.comparison_page import ComparisonEntry, ComparisonSummary, write_comparison_page

pytestmark = MARKS
HEIGHT, WIDTH = 90, 150


def entry(name: str, index: int) -> ComparisonEntry:
    layers = {label: np.full((HEIGHT, WIDTH, 3), color, dtype=np.uint8) for label, color in COLORS.items()}
    metrics = {"bicubic": {"psnr": 25.0}, "restored": {"psnr": 26.0 + index % 7}}
    return ComparisonEntry(name, layers, metrics)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    names = ["<script>document.title='x'</script>.png", *(f"{index:03d}.png" for index in range(1, 200))]
    entries = [entry(name, index) for index, name in enumerate(names)]
    large = np.random.default_rng(0).integers(0, 256, (500, 700, 3), dtype=np.uint8)
    contents = {
        "one": entries[:1],
        "many": entries,
        "reduced": [ComparisonEntry("large.png", {"bicubic": large, "restored": 255 - large})],
        "sample": [ComparisonEntry("sample.png", {"sample": entries[0].layers["restored"]})],
    }
    for name, items in contents.items():
        means = mean_metrics([item.metrics for item in items])
        summary = ComparisonSummary("Restored", "scale: 2", ("w.pth",), "cpu", 3.0, "1", means)
        write_comparison_page(folder / f"{name}.html", items, summary, page_bytes=1_000_000, beside_bytes=0)
    return {name: folder / f"{name}.html" for name in contents}


@pytest.fixture
def opened(open_page: Callable[[Path], Any], pages: dict[str, Path]) -> Callable[[str], Any]:
    return lambda name: open_page(pages[name])


def clip(driver: Any) -> str:
    return driver.execute_script("return document.querySelector('.layer').style.clipPath")


def value(driver: Any) -> int:
    return int(one(driver, ".handle").get_attribute("aria-valuenow"))


def scale(driver: Any) -> str:
    return one(driver, ".readout").text


def test_slider_shows_one_layer_on_either_side(opened: Any) -> None:
    driver = opened("one")
    assert shown(driver, 0.2, 0.45, 0.55, 0.8) == ["bicubic", "bicubic", "restored", "restored"]
    handle = one(driver, ".handle")
    assert handle.aria_role == "slider"
    assert handle.get_attribute("aria-valuetext") == "50 % bicubic, 50 % restored"


def test_keyboard_moves_the_slider(opened: Any) -> None:
    driver = opened("one")
    before = clip(driver)
    one(driver, ".handle").send_keys(Keys.ARROW_RIGHT)
    assert value(driver) == 51
    assert clip(driver) != before
    press(driver, Keys.HOME)
    assert (value(driver), shown(driver, 0.1)) == (0, ["restored"])
    press(driver, Keys.END)
    assert (value(driver), shown(driver, 0.9)) == (100, ["bicubic"])
    ActionChains(driver).key_down(Keys.SHIFT).send_keys(Keys.ARROW_LEFT).key_up(Keys.SHIFT).perform()
    assert value(driver) == 90


def test_mouse_moves_the_slider(opened: Any) -> None:
    driver = opened("one")
    before = clip(driver)
    width = one(driver, ".stage").size["width"]
    ActionChains(driver).drag_and_drop_by_offset(one(driver, ".handle"), -width // 4, 0).perform()
    assert value(driver) == pytest.approx(25, abs=1)
    assert clip(driver) != before
    assert shown(driver, 0.15, 0.35) == ["bicubic", "restored"]
    ActionChains(driver).move_to_element_with_offset(one(driver, ".stage"), width // 4, 20).click().perform()
    assert value(driver) == pytest.approx(75, abs=1)


def test_touch_moves_the_slider(opened: Any) -> None:
    driver = opened("one")
    box = driver.execute_script("return document.querySelector('.handle').getBoundingClientRect().toJSON()")
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    for kind, points in (("Start", [x]), ("Move", [x + 60]), ("Move", [x + 120]), ("End", [])):
        touches = [{"x": point, "y": y} for point in points]
        driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": touches})
    visible = one(driver, ".stage").size["width"] // WIDTH * WIDTH
    assert value(driver) == pytest.approx(50 + 100 * 120 / visible, abs=2)


def test_layers_are_chosen_by_button_and_by_key(opened: Any) -> None:
    driver = opened("one")
    one(driver, ".group.right button:nth-of-type(3)").click()
    assert shown(driver, 0.2, 0.8) == ["bicubic", "ground truth"]
    assert one(driver, ".group.right button[aria-pressed=true]").text == "ground truth"
    press(driver, "2")
    assert shown(driver, 0.2, 0.8) == ["bicubic", "restored"]
    ActionChains(driver).key_down(Keys.SHIFT).send_keys("3").key_up(Keys.SHIFT).perform()
    assert shown(driver, 0.2, 0.8) == ["ground truth", "restored"]
    press(driver, "x")
    assert shown(driver, 0.2, 0.8) == ["restored", "ground truth"]
    assert [one(driver, f".badge.{side}").text for side in ("left", "right")] == ["restored", "ground truth"]


def test_zoom_is_in_step_and_pixelated(opened: Any) -> None:
    driver = opened("one")
    press(driver, "o")
    assert scale(driver) == "100 %"
    state = "return [...document.images].map((i) => [i.style.transform, getComputedStyle(i).imageRendering])"
    first, *others = driver.execute_script(state)
    assert others == [first] * 2
    assert first[1] == "auto"
    for _ in range(6):
        press(driver, "+")
    assert scale(driver) == "1200 %"
    before, *others = driver.execute_script(state)
    assert others == [before] * 2
    assert before[1] == "pixelated"
    stage = one(driver, ".stage")
    ActionChains(driver).move_to_element_with_offset(stage, 150, 90).click_and_hold().move_by_offset(
        -60, -40
    ).release().perform()
    after, *others = driver.execute_script(state)
    assert others == [after] * 2
    assert after[0] != before[0]
    assert value(driver) == 50


def test_wheel_zooms_only_after_a_click(opened: Any) -> None:
    driver = opened("one")
    stage = one(driver, ".stage")
    before = scale(driver)
    origin = ScrollOrigin.from_element(stage)
    ActionChains(driver).scroll_from_origin(origin, 0, 60).perform()
    assert scale(driver) == before
    stage.click()
    ActionChains(driver).scroll_from_origin(origin, 0, -100).perform()
    WebDriverWait(driver, 5).until(lambda d: scale(d) != before)
    press(driver, "f")
    assert scale(driver) == before


def test_names_are_text(opened: Any) -> None:
    driver = opened("one")
    assert driver.title == "Restored"
    assert one(driver, "article h2").text == "<script>document.title='x'</script>.png"


def test_two_hundred_entries_are_decoded_only_near_the_window(opened: Any) -> None:
    driver = opened("many")
    loaded = "return comparisons.flatMap((each, index) => each.layers.length ? [index] : [])"
    first = driver.execute_script(loaded)
    assert 0 in first
    assert len(first) < 8
    one(driver, ".bar select").send_keys("150.png")
    WebDriverWait(driver, 5).until(lambda d: 150 in d.execute_script(loaded))
    WebDriverWait(driver, 5).until(lambda d: 0 not in d.execute_script(loaded))
    assert len(driver.execute_script(loaded)) < 8
    assert one(driver, ".bar option:checked").text == "150.png"
    driver.execute_script("document.activeElement.blur()")
    press(driver, "j")
    assert driver.execute_script("return comparisons[151].article.contains(document.activeElement)")


def test_the_bar_changes_all_entries(opened: Any) -> None:
    driver = opened("many")
    one(driver, ".bar select[title=Right]").send_keys("ground truth")
    assert driver.execute_script("return comparisons.every((each) => each.left === 0 && each.right === 2)")


def test_the_table_sorts_by_a_metric(opened: Any) -> None:
    driver = opened("many")
    column = (
        "return [...document.querySelectorAll('#index tbody td:nth-child(3)')].map((cell) => Number(cell.innerText))"
    )
    button = one(driver, "#index thead th:nth-child(3) button")
    expected = sorted(26.0 + index % 7 for index in range(200))
    for order in (expected, expected[::-1]):
        driver.execute_script("arguments[0].click()", button)
        assert driver.execute_script(column) == order


def test_views_of_a_reduced_image(opened: Any) -> None:
    driver = opened("reduced")
    assert scale(driver).endswith("of the preview")
    driver.execute_script("comparisons[0].viewButtons.querySelectorAll('button')[1].click()")
    assert not scale(driver).endswith("of the preview")
    sizes = driver.execute_script(
        "return Promise.all([...document.images].map((i) => i.decode().then(() => [i.naturalWidth, i.naturalHeight])))"
    )
    shape = driver.execute_script("const c = comparisons[0]; return [c.width, c.height]")
    assert sizes == [shape] * 2


def test_a_single_layer_has_no_slider(opened: Any) -> None:
    driver = opened("sample")
    assert driver.find_elements(By.CSS_SELECTOR, "[role=slider], .group.left") == []
    assert shown(driver, 0.2, 0.8) == ["restored", "restored"]


@pytest.mark.parametrize("name", ["one", "many", "reduced"])
def test_a_narrow_window_needs_no_sideways_scrolling(opened: Any, name: str) -> None:
    driver = opened(name)
    metrics = {"width": 340, "height": 700, "deviceScaleFactor": 2, "mobile": True}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        width = driver.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
        assert width == [340, 340]
        assert one(driver, ".stage").size["width"] > 300
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
