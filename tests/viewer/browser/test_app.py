"""The app in a real browser, with the weights that come with the project: from a file to a download."""

import socket
import threading
import time
from urllib.parse import unquote

import numpy as np
import pytest

uvicorn = pytest.importorskip("uvicorn", reason="the app's packages are not installed (extra app)")
from PIL import Image  # noqa: E402

browser_helpers = pytest.importorskip("browser_helpers")
from browser_helpers import MARKS, one, press, requested  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402
from skimage import data  # noqa: E402

from codes.inference.app.folder import ProcessFolder  # noqa: E402
from codes.inference.app.models import ESTIMATOR, FAST, FULL, Models  # noqa: E402
from codes.inference.app.routes import build_app  # noqa: E402
from codes.inference.app.service import Service  # noqa: E402

pytestmark = MARKS
MAKER = 0x010F


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """(URL, service) of an app that runs."""
    service = Service(
        Models.load(FULL, FAST, ESTIMATOR, "cpu", "fp32"), None, ProcessFolder(tmp_path_factory.mktemp("app"))
    )
    config = uvicorn.Config(build_app(service), log_config=None, access_log=False, ws="none")
    server = uvicorn.Server(config)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/", service
        server.should_exit = True
        thread.join(20)


@pytest.fixture
def photo(tmp_path):
    """A JPEG with EXIF whose name is no good name, 112 x 80."""
    file = tmp_path / "<img src=x onerror=alert(1)>.jpg"
    exif = Image.Exif()
    exif[MAKER] = "A camera"
    Image.fromarray(data.astronaut()[20:100, 170:282]).save(file, quality=20, exif=exif)
    return file


def wait(driver, condition, seconds=60):
    WebDriverWait(driver, seconds, poll_frequency=0.1).until(condition)


def told(driver):
    return one(driver, "#photograph-state").text


def state_of(driver):
    """What the server tells the page of its photographs."""
    return driver.execute_async_script("fetch('api/state').then((a) => a.json()).then(arguments[0])")["photographs"]


def upload(driver, file):
    """Choose a file, and look at its photograph, which is the last one; what was there before stays."""
    before = len(state_of(driver))
    one(driver, "#files").send_keys(str(file))
    wait(driver, lambda d: len(d.find_elements(By.CSS_SELECTOR, "#photographs li")) == before + 1)
    one(driver, "#photographs li:last-child button").click()
    wait(driver, lambda d: one(d, "#photograph-name").text == file.name and told(d) == "ready")


def fetched(driver, selector):
    """(content-disposition, bytes) of what a link leads to, asked for with the browser's own cookie."""
    script = """
      const done = arguments[arguments.length - 1];
      fetch(document.querySelector(arguments[0]).href).then(async (answer) => {
        const bytes = new Uint8Array(await answer.arrayBuffer());
        done([answer.headers.get("content-disposition"), [...bytes]]);
      });"""
    name, content = driver.execute_async_script(script, selector)
    return name, bytes(content)


def test_a_photograph_is_restored_from_file_to_download(driver, served, photo, tmp_path):
    url, _ = served
    driver.get_log("browser")
    requested(driver)
    driver.get(url)
    one(driver, "#files").send_keys(str(photo))
    wait(driver, lambda d: told(d) == "ready")
    assert one(driver, "#photograph-name").text == photo.name  # as text
    strength = one(driver, "#strength-jpeg")
    assert float(strength.get_property("value")) > 0
    assert "tables" in one(driver, "#strength-jpeg-words").text

    # The keyboard moves the region and the sliders.
    one(driver, "#region").send_keys(Keys.ARROW_LEFT, Keys.ARROW_UP)
    assert one(driver, "#region-x").get_property("value") == "56"  # as wide as the photograph allows
    strength.send_keys(Keys.HOME)
    assert one(driver, "#read-again").is_displayed()
    one(driver, "#read-again").click()
    one(driver, 'input[name="steps"][value="1"]').click()

    one(driver, "#region").send_keys(Keys.ENTER)
    wait(driver, lambda d: one(d, "#compared").is_displayed())
    assert one(driver, "#compared .size").text.startswith("preview, 224 × 160, 1 step, detail 0.15")
    one(driver, "#restore").click()
    wait(driver, lambda d: told(d).startswith("restored, 224 × 160"))
    wait(driver, lambda d: one(d, "#compared .size").text.startswith("result, 224 × 160"))

    one(driver, "#compared .handle").send_keys(Keys.END)
    assert one(driver, "#compared .handle").get_attribute("aria-valuenow") == "100"
    layers = driver.find_elements(By.CSS_SELECTOR, "#compared .layer img")
    wait(driver, lambda _: all(layer.get_property("naturalWidth") == 224 for layer in layers))

    name, content = fetched(driver, "#download")
    assert unquote(name) == "attachment; filename*=utf-8''_img src=x onerror=alert(1)__restored.jpg"
    file = tmp_path / "result.jpg"
    file.write_bytes(content)
    with Image.open(file) as result:
        assert result.size == (224, 160)
        assert result.getexif()[MAKER] == "A camera"
        pixels = np.asarray(result).astype(float)
    whole = np.asarray(Image.fromarray(data.astronaut()[20:100, 170:282]).resize((224, 160))).astype(float)
    assert np.abs(pixels - whole).mean() < 12  # it is that photograph
    assert fetched(driver, "#download-all")[1].startswith(b"PK")

    assert driver.get_log("browser") == []
    assert {address for address in requested(driver) if not address.startswith(url)} == set()


def test_a_damaged_file_is_a_message_beside_the_others_and_removed_by_its_button(driver, served, tmp_path):
    url, _ = served
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    driver.get(url)
    before = len(driver.find_elements(By.CSS_SELECTOR, "#photographs li"))
    one(driver, "#files").send_keys(str(broken))
    wait(driver, lambda d: any("damaged" in item.text for item in d.find_elements(By.CSS_SELECTOR, "#photographs li")))
    item = next(item for item in driver.find_elements(By.CSS_SELECTOR, "#photographs li") if "broken.png" in item.text)
    item.find_element(By.TAG_NAME, "button").click()
    assert not one(driver, "#restore").is_enabled()
    one(driver, "#remove").click()
    wait(driver, lambda d: "broken.png" not in one(d, "#photographs").text)
    assert len(driver.find_elements(By.CSS_SELECTOR, "#photographs li")) <= max(before, 1)


def test_cancelling_ends_a_restoration_and_light_and_dark_change_by_key(driver, served, tmp_path):
    url, _ = served
    file = tmp_path / "large.png"
    Image.fromarray(data.astronaut()).save(file)
    driver.get(url)
    upload(driver, file)
    one(driver, "#restore").click()
    wait(driver, lambda d: "left" in told(d))
    one(driver, "#cancel").click()
    wait(driver, lambda d: told(d) == "ready", 20)
    theme = one(driver, "html").get_attribute("data-theme")
    driver.execute_script("document.activeElement.blur()")
    press(driver, "t")
    assert one(driver, "html").get_attribute("data-theme") != theme


def fill(driver, selector, text):
    field = one(driver, selector)
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys(text)


def test_a_size_is_chosen_told_with_its_warning_and_kept_by_the_download(driver, served, photo, tmp_path):
    url, _ = served
    driver.get(url)
    driver.get_log("browser")
    upload(driver, photo)
    wait(driver, lambda d: one(d, "#output-size").text == "224 × 160 pixels")
    assert not one(driver, "#resampling").is_enabled()
    way = one(driver, "#way")
    way.send_keys("w")  # by the keyboard: width x height
    assert one(driver, "#output-width").is_displayed()
    fill(driver, "#output-width", "400")
    fill(driver, "#output-height", "240")
    wait(driver, lambda d: one(d, "#output-size").text.startswith("336 × 240 pixels; restored 2 times in a row"))
    assert "warning" in one(driver, "#output-size").get_attribute("class")
    assert one(driver, "#region").size["width"] < one(driver, "#thumbnail").size["width"] * 0.7  # 64 of 112 pixels
    fill(driver, "#output-width", "0")
    wait(driver, lambda d: "at least 1 pixel" in one(d, "#output-size").text)
    one(driver, 'input[name="steps"][value="1"]').click()
    one(driver, "#restore").click()
    wait(driver, lambda d: "at least 1 pixel" in one(d, "#trouble").text)
    fill(driver, "#output-width", "170")
    fill(driver, "#output-height", "160")
    one(driver, "#size-mode").send_keys("e")
    wait(driver, lambda d: one(d, "#output-size").text == "170 × 160 pixels")
    one(driver, "details.more summary").click()
    assert one(driver, "#resampling").is_enabled()
    one(driver, "#linear-light").click()
    one(driver, "#consistency").send_keys("a")
    one(driver, "#preview").click()
    wait(driver, lambda d: one(d, "#compared .size").text.startswith("preview, 170 × 160"))
    one(driver, "#restore").click()
    wait(driver, lambda d: told(d).startswith("restored, 170 × 160"))
    file = tmp_path / "result.jpg"
    file.write_bytes(fetched(driver, "#download")[1])
    with Image.open(file) as result:
        assert result.size == (170, 160)
        assert result.getexif()[MAKER] == "A camera"
    (dials,) = [p["result"]["dials"] for p in state_of(driver) if p.get("result", {}).get("width") == 170]
    assert dials["output"] | {"size": "170x160", "size_mode": "exact", "linear_light": True} == dials["output"]
    assert dials["consistency"] == "end"
    expected = [entry for entry in driver.get_log("browser") if "status of 400" not in entry["message"]]
    assert expected == []
