"""Chromium without a window, and what the tests of the pages ask of it."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed (pip install selenium)")
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")
MARKS = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM or not CHROMEDRIVER, reason="chromium or chromedriver is not on the PATH"),
]
ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--window-size=1400,1000",
)
COLORS = {"bicubic": (200, 0, 0), "restored": (0, 160, 0), "ground truth": (0, 0, 220)}


def start(profile: Path) -> Any:
    """A browser that logs its console and what it requests."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for argument in (*ARGUMENTS, f"--user-data-dir={profile}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=Service(CHROMEDRIVER))


def requested(driver: Any) -> list[str]:
    """Every URL that was asked for since the last call, but data and what the browser asks of itself."""
    messages = [json.loads(line["message"])["message"] for line in driver.get_log("performance")]
    urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    return [url.partition("#")[0] for url in urls if not url.startswith(("data:", "chrome:"))]


def one(driver: Any, selector: str) -> Any:
    return driver.find_element(By.CSS_SELECTOR, selector)


def press(driver: Any, *keys: str) -> None:
    ActionChains(driver).send_keys(*keys).perform()


def screen(driver: Any, selector: str = ".stage") -> np.ndarray:
    """The element as it is on the screen, (H, W, 3)."""
    return np.asarray(Image.open(io.BytesIO(one(driver, selector).screenshot_as_png)).convert("RGB")).astype(int)


def shown(driver: Any, *fractions: float) -> list[str]:
    """The label whose colour is on the screen at these fractions of the stage's width, near its top."""
    picture = screen(driver)
    row = picture[picture.shape[0] // 8]
    pixels = [row[min(int(fraction * len(row)), len(row) - 1)] for fraction in fractions]
    return [min(COLORS, key=lambda label: int(np.abs(pixel - COLORS[label]).sum())) for pixel in pixels]
