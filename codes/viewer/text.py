"""How the pages write what they show: metrics, numbers, times, links."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

Metrics = Mapping[str, Mapping[str, float]]  # label -> metric name -> value


@dataclass(frozen=True)
class MetricStyle:
    """How a metric is written: title, decimals, and which direction is better (0: unknown, nothing is marked)."""

    title: str
    decimals: int = 4
    better: int = 0

    def text(self, value: float) -> str:
        """The number with a true minus, and signs for what is missing or infinite."""
        return number_text(value, self.decimals)

    def best(self, values: Sequence[float]) -> float:
        """The best of the values that are there; NaN, which equals nothing, where no direction is better."""
        there = [value for value in values if not math.isnan(value)]
        return max(there, key=lambda value: value * self.better) if self.better and there else math.nan


_STYLES = {
    "psnr": MetricStyle("PSNR (dB)", 2, 1),
    "ssim": MetricStyle("SSIM", 4, 1),
    "psnr_y": MetricStyle("PSNR-Y (dB)", 2, 1),
    "ssim_y": MetricStyle("SSIM-Y", 4, 1),
    "ms_ssim": MetricStyle("MS-SSIM", 4, 1),
    "swd": MetricStyle("Texture distance (SWD)", 3, -1),
    "grain": MetricStyle("Grain (1: as the truth)", 2),
    "effnet_lite0_distance": MetricStyle("EfficientNet-lite0 distance", 4, -1),
    "lpips": MetricStyle("LPIPS", 4, -1),
    "dists": MetricStyle("DISTS", 4, -1),
    "consistency": MetricStyle("Consistency (dB)", 2, 1),
    "seconds": MetricStyle("Seconds", 2),
    "mae": MetricStyle("MAE", 4, -1),
    "mse": MetricStyle("MSE", 5, -1),
}


def style_of(name: str) -> MetricStyle:
    """How a metric is written."""
    return _STYLES.get(name.lower(), MetricStyle(name))


def number_text(value: float, decimals: int) -> str:
    """A number with a true minus, and signs for what is missing or infinite."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{value:.{decimals}f}".replace("-", "−")


def duration(seconds: float) -> str:
    """75 -> '1 min 15 s'."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{seconds:.1f} s"
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def link(file: Path, folder: Path) -> str:
    """A URL relative to the page. Names are quoted as bytes, because they need not be valid UTF-8."""
    try:
        relative = os.path.relpath(file, folder)
    except ValueError:  # another drive on Windows: there is no relative path
        return file.resolve().as_uri()
    return "./" + quote(os.fsencode(relative.replace(os.sep, "/")))


@dataclass(frozen=True)
class MetricCell:
    """A number of a table: its text, its gain over the first row's ("" for none), whether it is the column's best."""

    text: str
    gain: str
    is_best: bool


@dataclass(frozen=True)
class MetricRow:
    """A layer's numbers. `link`: URL of its full-size file, or ""."""

    label: str
    link: str
    cells: Sequence[MetricCell]


@dataclass(frozen=True)
class MetricTable:
    """Rows are layers, columns are metrics."""

    titles: Sequence[str]
    rows: Sequence[MetricRow]


def metric_table(metrics: Metrics, labels: Sequence[str], links: Mapping[str, str]) -> MetricTable:
    """The layers of `labels` that have a metric or a link; each value with its gain over the first layer's."""
    names = list(dict.fromkeys(name for row in metrics.values() for name in row))
    shown = [label for label in labels if label in metrics or label in links]
    rows = [
        MetricRow(label, links.get(label, ""), [_cell(metrics, labels[0], label, name) for name in names])
        for label in shown
    ]
    return MetricTable([style_of(name).title for name in names], rows)


def _cell(metrics: Metrics, baseline: str, label: str, name: str) -> MetricCell:
    style = style_of(name)
    value = metrics.get(label, {}).get(name, math.nan)
    reference = metrics.get(baseline, {}).get(name, math.nan)
    gain = ""
    if label != baseline and math.isfinite(value) and math.isfinite(reference):
        gain = f"{value - reference:+.{style.decimals}f}".replace("-", "−")
    others = [row[name] for row in metrics.values() if not math.isnan(row.get(name, math.nan))]
    return MetricCell(style.text(value), gain, len(others) > 1 and value == style.best(others))
