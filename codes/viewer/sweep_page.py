"""The page of a sweep: one picture that follows a slider for every axis, beside what it was made from.

The pictures are the files of the cells, which lie in a folder beside the page; both move together.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..images.files import probe_image
from .layers import BICUBIC, TRUTH
from .sweep_chart import charts
from .sweep_result import SweepResult, SweptAxis
from .templates import write_page
from .text import MetricCell, link, style_of

RESULT, PINNED = "result", "pinned result"
STYLES = ("theme.css", "page.css", "comparison.css", "sweep.css")
SCRIPTS = ("frame.js", "comparison.js", "sweep.js")


def write_sweep_page(path: Path, result: SweepResult) -> None:
    """Write the page to `path`, atomically."""
    info = probe_image(result.cells[0].file)
    names = _metric_names(result)
    fields = {
        "title": result.title,
        "facts": result.facts,
        "options": result.options,
        "labels": [BICUBIC, RESULT, PINNED, *([TRUTH] if TRUTH in result.references else [])],
        "shape": [{"name": "Whole image", "width": info.width, "height": info.height, "scale": 1}],
        "size": f"{info.width} × {info.height}",
        "charts": charts(result),
        "columns": [*(axis.name for axis in result.axes), *(style_of(name).title for name in names)],
        "rows": _rows(result),
        "data": _data(result, path.parent),
    }
    write_page(path, "sweep.html", fields, STYLES, SCRIPTS, uses_files=True)


def _metric_names(result: SweepResult) -> list[str]:
    return [*result.cells[0].metrics, "seconds"]


def _data(result: SweepResult, folder: Path) -> dict[str, Any]:
    """What the script works with."""
    return {
        "axes": [_axis(axis) for axis in result.axes],
        "cells": [
            {
                "file": link(cell.file, folder),
                "words": result.words(cell),
                "metrics": _texts({**cell.metrics, "seconds": cell.seconds}),
            }
            for cell in result.cells
        ],
        "references": {
            label: {"file": link(reference.file, folder), "metrics": _texts(reference.metrics)}
            for label, reference in result.references.items()
        },
        "metrics": [{"name": name, "title": style_of(name).title} for name in _metric_names(result)],
        "labels": {"result": RESULT, "pinned": PINNED, "input": BICUBIC},
    }


def _axis(axis: SweptAxis) -> dict[str, Any]:
    """`read`: the strength that was read; `mark`: where it lies among the values, 0 the first, 1 the second."""
    if axis.read is None:
        return {"name": axis.name, "values": axis.texts}
    values = [float(value) for value in axis.values]  # type: ignore[arg-type]  # a strength is a number
    order = np.argsort(values)
    mark = float(np.interp(axis.read, np.array(values)[order], order))
    return {"name": axis.name, "values": axis.texts, "read": f"{axis.read:.2f}", "mark": mark}


def _texts(metrics: Mapping[str, float]) -> dict[str, str]:
    return {name: style_of(name).text(value) for name, value in metrics.items()}


def _rows(result: SweepResult) -> list[dict[str, Any]]:
    """All cells; the best of each column is marked, and the script lets a row choose its cell."""
    numbers = [{**cell.metrics, "seconds": cell.seconds} for cell in result.cells]
    best = {name: style_of(name).best([row[name] for row in numbers]) for name in _metric_names(result)}
    return [
        {
            "texts": [axis.texts[place] for axis, place in zip(result.axes, cell.at, strict=True)],
            "cells": [MetricCell(style_of(name).text(row[name]), "", row[name] == best[name]) for name in best],
        }
        for cell, row in zip(result.cells, numbers, strict=True)
    ]
