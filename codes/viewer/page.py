"""The comparison page: one HTML file that shows every result beside what it was made from, with no network.

While they are few, the pictures lie inside the page as data URIs; those of many or large images lie in a folder beside
it (`index_files` of `index.html`), which moves with the page. Either way they are decoded only near the window. What is
too large even for that is compressed, or shown as a scaled preview and a lossless detail, and says so.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from string import Template

import numpy as np

from ..utils.files import atomic_write
from .html import (
    Metrics,
    as_json,
    asset,
    definitions,
    duration,
    link,
    metrics_table,
    number_text,
    policy,
    style_of,
)
from .images import Pictures, View
from .layers import Layer, Pixels, as_layer

PAGE_BYTES = 24 * 2**20  # opens in well under a second
BESIDE_BYTES = 2**30


@dataclass(frozen=True, eq=False)
class ReportEntry:
    """One image of the page.

    `layers`: label -> uint8 RGB (H, W, 3), or a `Layer` of which parts are read, where it is too large for memory. All
    are of one size, in the order of the buttons; the first one is the baseline of the metrics table, and the page opens
    with the first one on the left and the second one on the right.
    `metrics`: label -> metric name -> value, for any of the labels. `notes`: what else is to be said of the image, such
    as time, steps, seed and strengths. `files`: label -> the full-size file, linked relative to the page.
    Raises ValueError when a layer has another shape or type, or a label is unknown.
    """

    name: str
    layers: Mapping[str, Pixels | Layer]
    metrics: Metrics = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.layers:
            raise ValueError(f"{self.name}: no layers; expected at least one image to show")
        first = next(iter(self.layers))
        for label, pixels in self.layers.items():
            dtype = pixels.dtype if isinstance(pixels, np.ndarray) else np.uint8
            if dtype != np.uint8 or len(pixels.shape) != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
                found = f"{dtype} {pixels.shape}"
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
    `seconds`: wall-clock time of the run. `mean_metrics`: label -> metric name -> mean over the images,
    of which `measured` have metrics (None: all).
    """

    title: str
    options: str = ""
    weights: Sequence[str] = ()
    device: str = ""
    seconds: float | None = None
    version: str = ""
    mean_metrics: Metrics = field(default_factory=dict)
    measured: int | None = None


def write_report(
    path: Path,
    entries: Sequence[ReportEntry],
    summary: ReportSummary,
    page_bytes: int = PAGE_BYTES,
    beside_bytes: int = BESIDE_BYTES,
) -> None:
    """Write the page to `path`, atomically; pictures that it has no room for go to the folder `<stem>_files` beside it.

    Entries are visited once, in order and one at a time, so a sequence that loads its entries when asked for them keeps
    one image in memory. `page_bytes`, `beside_bytes`: about how large the page and the folder may become; what one
    entry leaves unused is shared among the following ones. `beside_bytes` 0 writes one file that needs no folder.
    Raises ValueError when there is no entry.
    """
    if not entries:
        raise ValueError("the comparison page has no entries; expected at least one image")
    folder = path.with_name(f"{path.stem}_files") if beside_bytes else None
    pictures = Pictures(folder, page_bytes, beside_bytes, len(entries))
    rows, body = _entries(entries, path.parent, pictures)
    head, tail = _page(summary, len(entries), pictures)
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", errors="replace", newline="\n") as file:
        file.write(head)
        file.writelines(body)
        file.write(tail.replace("<!-- index -->", _index_table(rows) if len(entries) > 1 else ""))
    pictures.remove_others()


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


@dataclass(frozen=True)
class _IndexRow:
    name: str
    metrics: Metrics


def _entries(entries: Sequence[ReportEntry], folder: Path, pictures: Pictures) -> tuple[list[_IndexRow], list[str]]:
    """What the table of all images says of every entry, and every entry as HTML."""
    template = Template(asset("entry.html"))
    rows, body = [], []
    for index in range(len(entries)):
        entry = entries[index]
        views = pictures.place({label: as_layer(picture) for label, picture in entry.layers.items()})
        body.append(template.substitute(_entry_fields(entry, index + 1, views, folder)))
        rows.append(_IndexRow(entry.name, entry.metrics))
    return rows, body


def _page(summary: ReportSummary, count: int, pictures: Pictures) -> tuple[str, str]:
    """The page before and after its entries."""
    style = asset("page.css")
    script = "\n\n".join(asset(name) for name in ("frame.js", "comparison.js", "listing.js", "page.js"))
    fields = {
        "title": escape(summary.title),
        "policy": policy(style, script, bool(pictures.location)),
        "style": style,
        "script": script,
        "count": "1 image" if count == 1 else f"{count} images",
        "many": "" if count > 1 else "hidden",
        "facts": _facts(summary, pictures),
        "means": _means(summary, count),
        "options": _options(summary.options),
    }
    head, _, tail = Template(asset("page.html")).substitute(fields).partition("<!-- entries -->\n")
    return head, tail


def _entry_fields(entry: ReportEntry, number: int, views: Sequence[View], folder: Path) -> dict[str, str]:
    height, width, _ = next(iter(entry.layers.values())).shape
    data = {"labels": list(entry.layers), "views": [vars(view) for view in views]}
    return {
        "id": f"image-{number}",
        "name": escape(entry.name),
        "size": f"{width} × {height}",
        "data": as_json(data),
        "shape": escape(as_json([{key: value for key, value in vars(v).items() if key != "layers"} for v in views])),
        "labels": escape(as_json(list(entry.layers))),
        "metrics": metrics_table(entry.metrics, list(entry.layers), _links(entry.files, folder)),
        "notes": definitions({**entry.notes, "Shown": _shown(views, bool(entry.files))}),
    }


def _shown(views: Sequence[View], linked: bool) -> str:
    text = "; ".join(view.note if len(views) == 1 else f"{view.name.lower()} {view.note}" for view in views)
    exact = len(views) == 1 and "lossless" in views[0].note
    return text if exact or not linked else f"{text}; the links in the table lead to the full files"


def _facts(summary: ReportSummary, pictures: Pictures) -> str:
    seconds = "" if summary.seconds is None else duration(summary.seconds)
    facts = {
        "Weights": "\n".join(summary.weights),
        "Device": summary.device,
        "Time": seconds,
        "Version": summary.version,
        "Pictures": f"in the folder {pictures.location} beside this page" if pictures.location else "",
    }
    return definitions({name: value for name, value in facts.items() if value})


def _means(summary: ReportSummary, count: int) -> str:
    if not summary.mean_metrics or count == 1:
        return ""
    over = f"{count} images" if summary.measured in (None, count) else f"{summary.measured} of {count} images"
    table = metrics_table(summary.mean_metrics, list(summary.mean_metrics), {})
    return f"<section><h2>Mean of {over}</h2>{table}</section>"


def _options(options: str) -> str:
    if not options.strip():
        return ""
    return f"<details><summary>Options used</summary><pre>{escape(options)}</pre></details>"


def _index_table(rows: Sequence[_IndexRow]) -> str:
    """All images with all their metrics; the script sorts it by any column."""
    columns = list(
        dict.fromkeys((label, name) for row in rows for label, values in row.metrics.items() for name in values)
    )
    header = "".join(f"<th scope=col>{escape(label)}<br>{escape(style_of(name).title)}</th>" for label, name in columns)
    body = ""
    for number, row in enumerate(rows, start=1):
        values = [(row.metrics.get(label, {}).get(name, math.nan), style_of(name).decimals) for label, name in columns]
        cells = "".join(f'<td data-value="{value}">{number_text(value, decimals)}</td>' for value, decimals in values)
        body += f'<tr><th scope=row><a href="#image-{number}">{escape(row.name)}</a></th>{cells}</tr>\n'
    return (
        "<h2>All images</h2><div class=scroll><table class=metrics id=index><thead><tr><th scope=col>Image</th>"
        f"{header}</tr></thead><tbody>\n{body}</tbody></table></div>"
    )


def _links(files: Mapping[str, Path], folder: Path) -> dict[str, str]:
    return {label: link(Path(file), folder) for label, file in files.items()}


def _size(pixels: Pixels | Layer) -> str:
    return f"{pixels.shape[1]}x{pixels.shape[0]}"
