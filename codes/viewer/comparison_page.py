"""The comparison page: one HTML file that shows every result beside what it was made from, with no network.

While they are few, the pictures lie inside the page as data URIs; those of many or large images lie in a folder beside
it (`index_files` of `index.html`), which moves with the page. Either way they are decoded only near the window. What is
too large even for that is compressed, or shown as a scaled preview and a lossless detail, and says so.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .layers import Layer, Pixels, as_layer
from .pictures import Pictures, Shown
from .templates import write_page
from .text import Metrics, duration, link, metric_table, style_of

STYLES = ("theme.css", "page.css", "comparison.css")
SCRIPTS = ("frame.js", "comparison.js", "listing.js", "listing_bar.js")
PAGE_BYTES = 24 * 2**20  # opens in well under a second
BESIDE_BYTES = 2**30


@dataclass(frozen=True, eq=False)
class ComparisonEntry:
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
                shown = f"{dtype} {pixels.shape}"
                raise ValueError(f"{self.name}: layer '{label}' is {shown}; expected uint8 RGB of shape (H, W, 3)")
            if pixels.shape != self.layers[first].shape:
                raise ValueError(
                    f"{self.name}: layer '{label}' is {_size(pixels)} but '{first}' is {_size(self.layers[first])}; "
                    "bring all layers of an entry to one size"
                )
        for label in (*self.metrics, *self.files):
            if label not in self.layers:
                raise ValueError(f"{self.name}: '{label}' names no layer; expected one of {', '.join(self.layers)}")


@dataclass(frozen=True)
class ComparisonSummary:
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


def write_comparison_page(
    path: Path,
    entries: Sequence[ComparisonEntry],
    summary: ComparisonSummary,
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
    placed = [_entry_fields(entries[index], index + 1, path.parent, pictures) for index in range(len(entries))]
    columns = list(dict.fromkeys(column for fields in placed for column in fields["values"]))
    for fields in placed:
        fields["index"] = list(_index_cells(fields["values"], columns))
    fields = {**_summary_fields(summary, len(entries), pictures), "entries": placed}
    fields["index_columns"] = [(label, style_of(name).title) for label, name in columns]
    write_page(path, "comparison.html", fields, STYLES, SCRIPTS, uses_files=bool(pictures.location))
    pictures.remove_others()


def _entry_fields(entry: ComparisonEntry, number: int, folder: Path, pictures: Pictures) -> dict[str, Any]:
    """What the template is told of an entry, whose pictures are written."""
    shown = pictures.place({label: as_layer(picture) for label, picture in entry.layers.items()})
    height, width, _ = next(iter(entry.layers.values())).shape
    labels = list(entry.layers)
    links = {label: link(Path(file), folder) for label, file in entry.files.items()}
    return {
        "id": f"image-{number}",
        "name": entry.name,
        "size": f"{width} × {height}",
        "labels": labels,
        "shape": [each.shape for each in shown],
        "data": {"labels": labels, "views": [{**each.shape, "layers": each.urls} for each in shown]},
        "metrics": metric_table(entry.metrics, labels, links),
        "notes": {**entry.notes, "Shown": _shown_words(shown, bool(entry.files))},
        "values": {(label, name): value for label, row in entry.metrics.items() for name, value in row.items()},
    }


def _index_cells(
    values: Mapping[tuple[str, str], float], columns: Sequence[tuple[str, str]]
) -> Iterator[tuple[float, str]]:
    """(value, text) of an image in every column of the table of all images, which the script sorts by any of them."""
    for label, name in columns:
        value = values.get((label, name), math.nan)
        yield value, style_of(name).text(value)


def _shown_words(shown: Sequence[Shown], linked: bool) -> str:
    text = "; ".join(each.note if len(shown) == 1 else f"{each.name.lower()} {each.note}" for each in shown)
    exact = len(shown) == 1 and "lossless" in shown[0].note
    return text if exact or not linked else f"{text}; the links in the table lead to the full files"


def _summary_fields(summary: ComparisonSummary, count: int, pictures: Pictures) -> dict[str, Any]:
    facts = {
        "Weights": "\n".join(summary.weights),
        "Device": summary.device,
        "Time": "" if summary.seconds is None else duration(summary.seconds),
        "Version": summary.version,
        "Pictures": f"in the folder {pictures.location} beside this page" if pictures.location else "",
    }
    means = summary.mean_metrics if count > 1 else {}
    return {
        "title": summary.title,
        "facts": {name: text for name, text in facts.items() if text},
        "means": metric_table(means, list(means), {}),
        "measured": f"{count} images" if summary.measured in (None, count) else f"{summary.measured} of {count} images",
        "options": summary.options,
    }


def _size(pixels: Pixels | Layer) -> str:
    return f"{pixels.shape[1]}x{pixels.shape[0]}"
