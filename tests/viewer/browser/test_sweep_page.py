"""The page of a sweep: sliders choose the picture, wherever it is zoomed to."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser_helpers import MARKS, one, press, screen
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from codes.images.files import write_image
from codes.viewer.layers import BICUBIC, TRUTH
from codes.viewer.sweep_page import write_sweep_page
from codes.viewer.sweep_result import Reference, SweepResult, SweptAxis, SweptCell

pytestmark = MARKS
HEIGHT, WIDTH = 90, 150
AXES = (
    SweptAxis("jpeg", (0.0, 0.5, 1.0), ("0", "0.5", "1"), "strength", read=0.2),
    SweptAxis("eta", (0.0, 0.25, 0.5, 1.0), ("0", "0.25", "0.5", "1")),
)
BACKGROUNDS = {BICUBIC: (0, 0, 200), TRUTH: (0, 0, 90)}


def colour(at: tuple[int, ...]) -> tuple[int, int, int]:
    """Every cell has a colour of its own."""
    return (60 + 80 * at[0], 40 + 60 * at[1], 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sweep")

    def picture(name: str, shade: tuple[int, int, int]) -> Path:
        file = root / "index_files" / name
        write_image(file, np.full((HEIGHT, WIDTH, 3), shade, dtype=np.uint8))
        return file

    places = itertools.product(*(range(len(axis.values)) for axis in AXES))
    cells = [
        SweptCell(at, picture(f"{number}.png", colour(at)), 0.5 + number, {"psnr": 20.0 + number % 5})
        for number, at in enumerate(places)
    ]
    references = {
        label: Reference(picture(f"{label}.png", shade), {"psnr": 19.0}) for label, shade in BACKGROUNDS.items()
    }
    facts = {"Input": "75 × 45 pixels", "Image": "<b>.png"}
    write_sweep_page(root / "index.html", SweepResult("<b>.png", AXES, cells, references, facts, "scale: 2"))
    return root


@pytest.fixture
def page(open_page: Callable[[Path], Any], folder: Path) -> Any:
    return open_page(folder / "index.html")


def wait_for(driver: Any, shade: tuple[int, int, int], at: float = 0.8) -> None:
    """Until the stage shows this colour at a fraction of its width."""

    def there(_: Any) -> bool:
        picture = screen(driver)
        pixel = picture[picture.shape[0] // 8, int(at * picture.shape[1])]
        return int(np.abs(pixel - shade).max()) <= 2

    WebDriverWait(driver, 10).until(there)


def heading(driver: Any) -> str:
    return one(driver, "article h2").text


def test_the_picture_follows_the_sliders(page: Any) -> None:
    wait_for(page, colour((0, 0)))
    assert heading(page) == "jpeg 0, eta 0"
    first, second = page.find_elements(By.CSS_SELECTOR, ".axes input")
    first.send_keys(Keys.ARROW_RIGHT)
    wait_for(page, colour((1, 0)))
    second.send_keys(Keys.END)
    wait_for(page, colour((1, 3)))
    assert heading(page) == "jpeg 0.5, eta 1"
    assert second.get_attribute("aria-valuetext") == "1"
    assert [output.text for output in page.find_elements(By.CSS_SELECTOR, ".axes output")] == ["0.5", "1"]
    assert one(page, ".badge.right").text == "result: jpeg 0.5, eta 1"
    wait_for(page, BACKGROUNDS[BICUBIC], at=0.2)


def test_the_strength_that_was_read_has_a_tick_under_its_slider(page: Any) -> None:
    (tick,) = page.find_elements(By.CSS_SELECTOR, ".axes .read")
    assert tick.text == "read: 0.20"
    track = page.find_elements(By.CSS_SELECTOR, ".axes input")[0].rect
    at = tick.rect["x"] + tick.rect["width"] / 2
    assert at == pytest.approx(track["x"] + 8 + 0.2 * (track["width"] - 16), abs=2)  # of 0, 0.5 and 1


def test_arrows_walk_over_the_axes_and_brackets_work_anywhere(page: Any) -> None:
    page.find_elements(By.CSS_SELECTOR, ".axes input")[0].send_keys(Keys.ARROW_DOWN)
    press(page, Keys.ARROW_RIGHT)
    assert heading(page) == "jpeg 0, eta 0.25"
    press(page, Keys.ARROW_UP, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert heading(page) == "jpeg 1, eta 0.25"
    one(page, ".handle").click()
    press(page, "[")
    assert heading(page) == "jpeg 0.5, eta 0.25"
    press(page, "]", "]", "]")
    assert heading(page) == "jpeg 1, eta 0.25"


def test_zoom_and_place_stay_when_the_cell_changes(page: Any) -> None:
    one(page, ".stage").click()
    for _ in range(5):
        press(page, "+")
    stage = one(page, ".stage")
    drag = ActionChains(page).move_to_element_with_offset(stage, 150, 60).click_and_hold()
    drag.move_by_offset(-40, -30).release().perform()
    state = "return comparison.layers.map((l) => l.firstChild.style.transform)"
    before = page.execute_script(state)
    assert len(set(before)) == 1
    press(page, "]")
    wait_for(page, colour((1, 0)))
    assert page.execute_script(state) == before


def test_a_pinned_result_is_compared_with_others(page: Any) -> None:
    press(page, "]", "p", "]")
    ActionChains(page).key_down(Keys.SHIFT).send_keys("3").key_up(Keys.SHIFT).perform()
    wait_for(page, colour((1, 0)), at=0.2)
    wait_for(page, colour((2, 0)), at=0.8)
    assert one(page, ".badge.left").text == "pinned result: jpeg 0.5, eta 0"
    cells_shown = [cell.text for cell in page.find_elements(By.CSS_SELECTOR, "#now tbody td:nth-child(2)")]
    assert cells_shown == ["19.00", "23.00", "24.00"]


def test_points_and_rows_choose_their_cell(page: Any) -> None:
    rows = page.find_elements(By.CSS_SELECTOR, "#cells tbody tr")
    page.execute_script("arguments[0].click()", rows[7])
    wait_for(page, colour((1, 3)))
    point = page.find_element(By.CSS_SELECTOR, 'circle[data-cell="9"]')
    point.click()
    wait_for(page, colour((2, 1)))
    current = page.find_elements(By.CSS_SELECTOR, "[aria-current]")
    assert {element.get_attribute("data-cell") for element in current} == {"9"}
    page.execute_script("arguments[0].focus()", page.find_element(By.CSS_SELECTOR, 'circle[data-cell="2"]'))
    press(page, Keys.ENTER)
    assert heading(page) == "jpeg 0, eta 0.5"


def test_layers_help_and_theme(page: Any) -> None:
    press(page, "4")
    wait_for(page, BACKGROUNDS[TRUTH])
    press(page, "s")
    wait_for(page, BACKGROUNDS[BICUBIC], at=0.3)
    before = one(page, "html").get_attribute("data-theme")
    press(page, "t", "?")
    assert one(page, "html").get_attribute("data-theme") != before
    assert one(page, "#help").is_displayed()
    press(page, "]", Keys.ESCAPE)
    assert heading(page) == "jpeg 0, eta 0"


def test_only_what_is_near_is_held(page: Any) -> None:
    assert page.execute_script("return document.images.length") == 4
    assert page.execute_script("return axes.neighbours.length") == 2
    press(page, "]")
    assert page.execute_script("return axes.neighbours.length") == 3


def test_a_narrow_window_needs_no_sideways_scrolling(page: Any) -> None:
    metrics = {"width": 340, "height": 700, "deviceScaleFactor": 2, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        assert page.execute_script("return [document.documentElement.scrollWidth, innerWidth]") == [340, 340]
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
