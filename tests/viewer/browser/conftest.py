from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# selenium is imported by the fixtures, so that tests that need no browser run without it.


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from browser_helpers import start

    browser = start(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.quit()


@pytest.fixture
def open_page(driver: Any) -> Iterator[Callable[[Path], Any]]:
    """Opens a page; afterwards nothing may have been logged to the console, nor anything requested but its pictures."""
    from browser_helpers import requested
    from selenium.webdriver.support.ui import WebDriverWait

    opened: list[Path] = []

    def load(path: Path) -> Any:
        opened.append(path)
        driver.get_log("browser")
        requested(driver)
        driver.get(path.as_uri())
        WebDriverWait(driver, 10).until(
            lambda d: d.execute_script("return [...document.images].some((i) => i.complete && i.naturalWidth)")
        )
        return driver

    yield load
    assert driver.get_log("browser") == []
    urls = requested(driver)
    assert opened[0].as_uri() in urls
    beside = tuple(f"{path.with_suffix('').as_uri()}_files/" for path in opened)
    pages = {path.as_uri() for path in opened}
    own = [url for url in urls if not url.startswith("chrome")]  # the browser's first tab may still be loading
    assert [url for url in own if url not in pages and not url.startswith(beside)] == []
