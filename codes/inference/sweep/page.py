"""The page of a sweep: one picture that follows a slider for every axis, beside what it was made from.

The pictures are the files of the cells, which lie in a folder beside the page; both move together.
"""

from collections.abc import Mapping
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from ...images.files import probe_image
from ...utils.files import write_text
from ...viewer.html import as_json, asset, definitions, link, number_text, policy, style_of
from .axes import spoken
from .chart import charts
from .run import BICUBIC, TRUTH, SweepResult, described

RESULT, PINNED = "result", "pinned result"
SCRIPTS = ("frame.js", "comparison.js", "sweep.js")


def write_sweep_page(path: Path, result: SweepResult) -> None:
    """Write the page to `path`, atomically."""
    style = "\n".join(asset(name) for name in ("page.css", "sweep.css"))
    script = "\n\n".join(asset(name) for name in SCRIPTS)
    labels = [BICUBIC, RESULT, PINNED, *([TRUTH] if TRUTH in result.references else [])]
    info = probe_image(result.finished[0].file)
    view = {"name": "Whole image", "width": info.width, "height": info.height, "scale": 1}
    options = f"<details><summary>Options used</summary><pre>{escape(result.options)}</pre></details>"
    fields = {
        "title": escape(result.title),
        "policy": policy(style, script, uses_files=True),
        "style": style,
        "script": script,
        "facts": definitions(result.facts),
        "options": options if result.options.strip() else "",
        "labels": escape(as_json(labels)),
        "shape": escape(as_json([view])),
        "size": f"{info.width} × {info.height}",
        "charts": charts(result),
        "cells": _table(result),
        "data": as_json(_data(result, path.parent)),
    }
    write_text(path, Template(asset("sweep.html")).substitute(fields))


def _data(result: SweepResult, folder: Path) -> dict[str, Any]:
    """What the script works with."""
    names = [*result.finished[0].metrics, "seconds"]
    return {
        "axes": [{"name": axis.name, "values": [spoken(value) for value in axis.values]} for axis in result.axes],
        "cells": [
            {
                "file": link(row.file, folder),
                "words": described(row.cell.values),
                "metrics": _texts({**row.metrics, "seconds": row.seconds}),
            }
            for row in result.finished
        ],
        "references": {
            label: {"file": link(file, folder), "metrics": _texts(metrics)}
            for label, (file, metrics) in result.references.items()
        },
        "metrics": [{"name": name, "title": style_of(name).title} for name in names],
        "labels": {"result": RESULT, "pinned": PINNED, "input": BICUBIC},
    }


def _texts(metrics: Mapping[str, float]) -> dict[str, str]:
    return {name: number_text(value, style_of(name).decimals) for name, value in metrics.items()}


def _table(result: SweepResult) -> str:
    """All cells; the best of each column is marked, and the script lets a row choose its cell."""
    names = [*result.finished[0].metrics, "seconds"]
    rows = [{**row.metrics, "seconds": row.seconds} for row in result.finished]
    best = {
        name: max(row[name] * style_of(name).better for row in rows) for name in names if style_of(name).better != 0
    }
    head = "".join(f"<th scope=col>{escape(axis.name)}</th>" for axis in result.axes)
    head += "".join(f"<th scope=col>{escape(style_of(name).title)}</th>" for name in names)
    body = ""
    for index, (row, metrics) in enumerate(zip(result.finished, rows, strict=True)):
        values = "".join(f"<td>{escape(spoken(value))}</td>" for value in row.cell.values.values())
        for name in names:
            style = style_of(name)
            mark = " class=best" if name in best and metrics[name] * style.better == best[name] else ""
            values += f"<td{mark}>{number_text(metrics[name], style.decimals)}</td>"
        body += f'<tr data-cell="{index}">{values}</tr>\n'
    return f"<table class=metrics id=cells><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table>"
