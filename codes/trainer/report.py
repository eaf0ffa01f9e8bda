"""The comparison page: one HTML file that shows every result beside what it was made from, with no network.

The pictures lie inside the page as data URIs, losslessly as long as they fit. A page of hundreds of large photographs
would be gigabytes, so the page has a size budget: an entry that exceeds its share is compressed, or shown as a scaled
preview and a lossless detail, and says so. The full files are linked.
"""

import base64
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from string import Template
from typing import Any, TextIO
from urllib.parse import quote

import numpy as np

from ..utils.files import atomic_write
from .report_images import Pixels, View, embed

Metrics = Mapping[str, Mapping[str, float]]

ASSETS = Path(__file__).with_name("assets")
PAGE_BYTES = 128 * 2**20


@dataclass(frozen=True, eq=False)
class ReportEntry:
    """One image of the page.

    `layers`: label -> uint8 RGB (H, W, 3), all of one size, in the order of the buttons; the first one is the baseline
    of the metrics table, and the page opens with the first one on the left and the second one on the right.
    `metrics`: label -> metric name -> value, for any of the labels. `notes`: what else is to be said of the image, such
    as time, steps, seed and strengths. `files`: label -> the full-size file, linked relative to the page.
    Raises ValueError when a layer has another shape or type, or a label is unknown.
    """

    name: str
    layers: Mapping[str, Pixels]
    metrics: Metrics = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.layers:
            raise ValueError(f"{self.name}: no layers; expected at least one image to show")
        first = next(iter(self.layers))
        for label, pixels in self.layers.items():
            if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
                found = f"{pixels.dtype} {pixels.shape}"
                raise ValueError(f"{self.name}: layer '{label}' is {found}; expected uint8 RGB of shape (H, W, 3)")
            if pixels.shape != self.layers[first].shape:
                raise ValueError(
                    f"{self.name}: layer '{label}' is {_size(pixels)} but '{first}' is {_size(self.layers[first])}; "
                    "bring all layers of an entry to one size"
                )
        for label in (*self.metrics, *self.files):
            if label not in self.layers:
                raise ValueError(f"{self.name}: '{label}' names no layer; expected one of {', '.join(self.layers)}")


@dataclass(frozen=True)
class ReportSummary:
    """What holds for the whole page. `options`: the options used, as YAML text. `weights`: the checkpoint files used.
    `seconds`: wall-clock time of the run. `mean_metrics`: label -> metric name -> mean over the images.
    """

    title: str
    options: str = ""
    weights: Sequence[str] = ()
    device: str = ""
    seconds: float | None = None
    version: str = ""
    mean_metrics: Metrics = field(default_factory=dict)


def write_report(
    path: Path, entries: Sequence[ReportEntry], summary: ReportSummary, page_bytes: int = PAGE_BYTES
) -> None:
    """Write the page to `path`, atomically.

    Entries are visited once, in order and one at a time, so a sequence that loads its entries when asked for them keeps
    one image in memory. `page_bytes`: about how large the page may become; what one entry leaves unused is
    shared among the following ones. Raises ValueError when there is no entry.
    """
    if not entries:
        raise ValueError("the comparison page has no entries; expected at least one image")
    head, tail = _page(summary, len(entries))
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", errors="replace", newline="\n") as file:
        file.write(head)
        rows = _write_entries(file, entries, path.parent, page_bytes)
        file.write(tail.replace("<!-- index -->", _index_table(rows) if len(entries) > 1 else ""))


def mean_metrics(per_image: Sequence[Metrics]) -> dict[str, dict[str, float]]:
    """Mean of every metric of every label over the images that have it; what is not finite is left out."""
    values: dict[str, dict[str, list[float]]] = {}
    for metrics in per_image:
        for label, row in metrics.items():
            for name, value in row.items():
                found = values.setdefault(label, {}).setdefault(name, [])
                if math.isfinite(value):
                    found.append(value)
    return {
        label: {name: sum(found) / len(found) for name, found in row.items() if found} for label, row in values.items()
    }


# How a metric is written: title, decimals, and which direction is better (0: unknown, nothing is marked).
@dataclass(frozen=True)
class _MetricStyle:
    title: str
    decimals: int = 4
    better: int = 0


_STYLES = {
    "psnr": _MetricStyle("PSNR (dB)", 2, 1),
    "ssim": _MetricStyle("SSIM", 4, 1),
    "ms_ssim": _MetricStyle("MS-SSIM", 4, 1),
    "lpips": _MetricStyle("LPIPS", 4, -1),
    "dists": _MetricStyle("DISTS", 4, -1),
    "mae": _MetricStyle("MAE", 4, -1),
    "mse": _MetricStyle("MSE", 5, -1),
}


@dataclass(frozen=True)
class _IndexRow:
    name: str
    metrics: Metrics


def _write_entries(file: TextIO, entries: Sequence[ReportEntry], folder: Path, page_bytes: int) -> list[_IndexRow]:
    template = Template(_asset("entry.html"))
    rows: list[_IndexRow] = []
    remaining = float(page_bytes)
    for index in range(len(entries)):
        entry = entries[index]
        views = embed(entry.layers, remaining / (len(entries) - index))
        remaining -= sum(view.bytes for view in views)
        file.write(template.substitute(_entry_fields(entry, index + 1, views, folder)))
        rows.append(_IndexRow(entry.name, entry.metrics))
    return rows


def _page(summary: ReportSummary, count: int) -> tuple[str, str]:
    """The page before and after its entries."""
    style, script = _asset("page.css"), _asset("comparison.js") + "\n\n" + _asset("page.js")
    fields = {
        "title": escape(summary.title),
        "policy": f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'",
        "style": style,
        "script": script,
        "count": "1 image" if count == 1 else f"{count} images",
        "many": "" if count > 1 else "hidden",
        "facts": _facts(summary),
        "means": _means(summary, count),
        "options": _options(summary.options),
    }
    head, _, tail = Template(_asset("page.html")).substitute(fields).partition("<!-- entries -->\n")
    return head, tail


def _entry_fields(entry: ReportEntry, number: int, views: Sequence[View], folder: Path) -> dict[str, str]:
    height, width, _ = next(iter(entry.layers.values())).shape
    data = {"labels": list(entry.layers), "views": [vars(view) for view in views]}
    return {
        "id": f"image-{number}",
        "name": escape(entry.name),
        "size": f"{width} × {height}",
        "data": _json(data),
        "shape": escape(_json([{key: value for key, value in vars(v).items() if key != "layers"} for v in views])),
        "labels": escape(_json(list(entry.layers))),
        "metrics": _metrics_table(entry.metrics, list(entry.layers), _links(entry.files, folder)),
        "notes": _definitions({**entry.notes, "Shown": _shown(views, bool(entry.files))}),
    }


def _shown(views: Sequence[View], linked: bool) -> str:
    text = "; ".join(view.note if len(views) == 1 else f"{view.name.lower()} {view.note}" for view in views)
    exact = len(views) == 1 and "lossless" in views[0].note
    return text if exact or not linked else f"{text}; the links in the table lead to the full files"


def _facts(summary: ReportSummary) -> str:
    seconds = "" if summary.seconds is None else _duration(summary.seconds)
    facts = {
        "Weights": "\n".join(summary.weights),
        "Device": summary.device,
        "Time": seconds,
        "Version": summary.version,
    }
    return _definitions({name: value for name, value in facts.items() if value})


def _means(summary: ReportSummary, count: int) -> str:
    if not summary.mean_metrics or count == 1:
        return ""
    table = _metrics_table(summary.mean_metrics, list(summary.mean_metrics), {})
    return f"<section><h2>Mean of {count} images</h2>{table}</section>"


def _options(options: str) -> str:
    if not options.strip():
        return ""
    return f"<details><summary>Options used</summary><pre>{escape(options)}</pre></details>"


def _definitions(items: Mapping[str, str]) -> str:
    rows = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(str(value))}</dd></div>" for name, value in items.items())
    return f"<dl>{rows}</dl>" if rows else ""


def _metrics_table(metrics: Metrics, labels: Sequence[str], links: Mapping[str, str]) -> str:
    """Rows are layers, columns are metrics; each value is followed by its gain over the first layer's."""
    names = list(dict.fromkeys(name for row in metrics.values() for name in row))
    header = "".join(f"<th scope=col>{escape(_style(name).title)}</th>" for name in names)
    body = ""
    for label in labels:
        if label not in metrics and label not in links:
            continue
        cells = "".join(_metric_cell(metrics, labels[0], label, name) for name in names)
        title = escape(label)
        if label in links:
            title = f'<a href="{escape(links[label])}" target="_blank" rel="noopener">{title}</a>'
        body += f"<tr><th scope=row>{title}</th>{cells}</tr>"
    if not body:
        return ""
    return f"<table class=metrics><thead><tr><th scope=col>Layer</th>{header}</tr></thead><tbody>{body}</tbody></table>"


def _metric_cell(metrics: Metrics, baseline: str, label: str, name: str) -> str:
    style = _style(name)
    value = metrics.get(label, {}).get(name, math.nan)
    reference = metrics.get(baseline, {}).get(name, math.nan)
    gain = ""
    if label != baseline and math.isfinite(value) and math.isfinite(reference):
        gain = f" <small>{value - reference:+.{style.decimals}f}</small>".replace("-", "−")
    finite = [row[name] for row in metrics.values() if math.isfinite(row.get(name, math.nan))]
    is_best = style.better != 0 and len(finite) > 1 and value == max(finite, key=lambda v: v * style.better)
    return f"<td{' class=best' if is_best else ''}>{_number(value, style.decimals)}{gain}</td>"


def _index_table(rows: Sequence[_IndexRow]) -> str:
    """All images with all their metrics; the script sorts it by any column."""
    columns = list(
        dict.fromkeys((label, name) for row in rows for label, values in row.metrics.items() for name in values)
    )
    header = "".join(f"<th scope=col>{escape(label)}<br>{escape(_style(name).title)}</th>" for label, name in columns)
    body = ""
    for number, row in enumerate(rows, start=1):
        values = [(row.metrics.get(label, {}).get(name, math.nan), _style(name).decimals) for label, name in columns]
        cells = "".join(f'<td data-value="{value}">{_number(value, decimals)}</td>' for value, decimals in values)
        body += f'<tr><th scope=row><a href="#image-{number}">{escape(row.name)}</a></th>{cells}</tr>\n'
    return (
        "<h2>All images</h2><div class=scroll><table class=metrics id=index><thead><tr><th scope=col>Image</th>"
        f"{header}</tr></thead><tbody>\n{body}</tbody></table></div>"
    )


def _style(name: str) -> _MetricStyle:
    return _STYLES.get(name.lower(), _MetricStyle(name))


def _number(value: float, decimals: int) -> str:
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{value:.{decimals}f}".replace("-", "−")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{seconds:.1f} s"
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _links(files: Mapping[str, Path], folder: Path) -> dict[str, str]:
    return {label: _link(Path(file), folder) for label, file in files.items()}


def _link(file: Path, folder: Path) -> str:
    """A URL relative to the page. Names are quoted as bytes, because they need not be valid UTF-8."""
    try:
        relative = os.path.relpath(file, folder)
    except ValueError:  # another drive on Windows: there is no relative path
        return file.resolve().as_uri()
    return "./" + quote(os.fsencode(relative.replace(os.sep, "/")))


def _json(value: Any) -> str:
    # Inside a script element only "<" can end the element or open a comment; JSON may write it as an escape.
    return json.dumps(value).replace("<", "\\u003c")


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8").strip("\n")


def _size(pixels: Pixels) -> str:
    return f"{pixels.shape[1]}x{pixels.shape[0]}"
