"""Pictures, entries and a parser for the tests of the pages."""

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

from codes.viewer.comparison_page import ComparisonEntry, ComparisonSummary

HEIGHT, WIDTH = 24, 40


SUMMARY = ComparisonSummary(
    "Restored", options="scale: 2\n# <b>bold</b>\n", weights=("10_generator_ema.pth",), seconds=75.0
)


def pixels(seed: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def entry(name: str = "a.png", height: int = HEIGHT, width: int = WIDTH) -> ComparisonEntry:
    labels = ("bicubic", "restored", "ground truth")
    metrics = {"bicubic": {"psnr": 25.5, "ssim": 0.8}, "restored": {"psnr": 26.25, "ssim": 0.79}}
    return ComparisonEntry(name, {label: pixels(i, height, width) for i, label in enumerate(labels)}, metrics)


class Page(HTMLParser):
    """Collects the elements, the text and the embedded data of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.data: list[dict] = []
        self.in_data = False
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.in_data = tag == "script" and dict(attrs).get("type") == "application/json"

    def handle_data(self, data: str) -> None:
        if self.in_data:
            self.data.append(json.loads(data))
            self.in_data = False
        else:
            self.texts.append(data)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)

    def values(self, *names: str) -> list[str]:
        return [attrs[name] or "" for _, attrs in self.elements for name in names if name in attrs]
