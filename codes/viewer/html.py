"""Parts of HTML that the pages share: tables of metrics, numbers, links, the policy that forbids everything else."""

import base64
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

Metrics = Mapping[str, Mapping[str, float]]

ASSETS = Path(__file__).with_name("assets")


# How a metric is written: title, decimals, and which direction is better (0: unknown, nothing is marked).
@dataclass(frozen=True)
class _MetricStyle:
    title: str
    decimals: int = 4
    better: int = 0


_STYLES = {
    "psnr": _MetricStyle("PSNR (dB)", 2, 1),
    "ssim": _MetricStyle("SSIM", 4, 1),
    "psnr_y": _MetricStyle("PSNR-Y (dB)", 2, 1),
    "ssim_y": _MetricStyle("SSIM-Y", 4, 1),
    "ms_ssim": _MetricStyle("MS-SSIM", 4, 1),
    "swd": _MetricStyle("Texture distance (SWD)", 3, -1),
    "grain": _MetricStyle("Grain (1: as the truth)", 2),
    "effnet_lite0_distance": _MetricStyle("EfficientNet-lite0 distance", 4, -1),
    "lpips": _MetricStyle("LPIPS", 4, -1),
    "dists": _MetricStyle("DISTS", 4, -1),
    "consistency": _MetricStyle("Consistency (dB)", 2, 1),
    "seconds": _MetricStyle("Seconds", 2),
    "mae": _MetricStyle("MAE", 4, -1),
    "mse": _MetricStyle("MSE", 5, -1),
}


def definitions(items: Mapping[str, str]) -> str:
    """Pairs of a term and its text."""
    rows = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(str(value))}</dd></div>" for name, value in items.items())
    return f"<dl>{rows}</dl>" if rows else ""


def metrics_table(metrics: Metrics, labels: Sequence[str], links: Mapping[str, str]) -> str:
    """Rows are layers, columns are metrics; each value is followed by its gain over the first layer's."""
    names = list(dict.fromkeys(name for row in metrics.values() for name in row))
    header = "".join(f"<th scope=col>{escape(style_of(name).title)}</th>" for name in names)
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
    style = style_of(name)
    value = metrics.get(label, {}).get(name, math.nan)
    reference = metrics.get(baseline, {}).get(name, math.nan)
    gain = ""
    if label != baseline and math.isfinite(value) and math.isfinite(reference):
        gain = f" <small>{value - reference:+.{style.decimals}f}</small>".replace("-", "−")
    finite = [row[name] for row in metrics.values() if math.isfinite(row.get(name, math.nan))]
    is_best = style.better != 0 and len(finite) > 1 and value == max(finite, key=lambda v: v * style.better)
    return f"<td{' class=best' if is_best else ''}>{number_text(value, style.decimals)}{gain}</td>"


def style_of(name: str) -> _MetricStyle:
    """How a metric is written."""
    return _STYLES.get(name.lower(), _MetricStyle(name))


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


def as_json(value: Any) -> str:
    """JSON that may stand inside a script element."""
    # Inside a script element only "<" can end the element or open a comment; JSON may write it as an escape.
    return json.dumps(value).replace("<", "\\u003c")


def policy(style: str, script: str, uses_files: bool) -> str:
    """A content security policy: this style and this script, pictures inside the page or of its folder, nothing else.

    Browsers disagree on whether 'self' covers a page opened from the disk, so files are named as well.
    """
    pictures = "data: 'self' file:" if uses_files else "data:"
    return (
        f"default-src 'none'; img-src {pictures}; style-src '{digest(style)}'; script-src '{digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def digest(text: str) -> str:
    """The name of an inline style or script in a content security policy."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"


def asset(name: str) -> str:
    """A file of the page's own style, script or frame."""
    return (ASSETS / name).read_text(encoding="utf-8").strip("\n")
