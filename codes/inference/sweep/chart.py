"""Quality against time, or against a strength, as SVG inside a page: no script draws it, one may select its points."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from ...viewer.html import style_of
from .axes import STEPS, Axis, spoken
from .run import Finished, SweepResult

WIDTH, HEIGHT = 520, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 130, 16, 44  # room for numbers, names of lines, and the title of the x axis
COLOURS = 5  # classes in sweep.css
CLOSEST = 14  # pixels between two names of lines


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float
    start: float
    stop: float
    log: bool

    def __call__(self, value: float) -> float:
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        share = ((math.log(value) if self.log else value) - low) / (high - low)
        return self.start + share * (self.stop - self.start)


def charts(result: SweepResult) -> str:
    """A chart for PSNR, where there is a truth, and one for consistency; nothing where a chart would have one point."""
    names = [name for name in ("psnr", "consistency") if name in result.finished[0].metrics]
    return "".join(_chart(result, name) for name in names if len(result.finished) > 1)


def _x_of(result: SweepResult) -> tuple[str, bool, Callable[[Finished], float], Axis | None]:
    """Title, whether logarithmic, value and the axis that runs along a line: time, unless only strengths vary."""
    strengths = [axis for axis in result.axes if axis.kind == "strength"]
    if len(strengths) == len(result.axes):
        along = max(strengths, key=lambda axis: len(axis.values))
        return along.name, False, lambda row: row.cell.values[along.name], along
    steps = next(
        (axis for axis in result.axes if axis.name == STEPS or axis.field == "respaced_timestep_spacing"), None
    )
    return "seconds", True, lambda row: max(row.seconds, 1e-3), steps


def _chart(result: SweepResult, metric: str) -> str:
    title, log, x_of, along = _x_of(result)
    rows = [(index, row) for index, row in enumerate(result.finished) if math.isfinite(row.metrics[metric])]
    if len(rows) < 2:
        return ""
    x = _scale([x_of(row) for _, row in rows], LEFT, WIDTH - RIGHT, log)
    y = _scale([row.metrics[metric] for _, row in rows], HEIGHT - BOTTOM, TOP, False)
    others = [axis for axis in result.axes if axis is not along]

    def series(row: Finished) -> str:
        if len(others) == 1:
            return spoken(row.cell.values[others[0].name])
        return ", ".join(axis.label(row.cell.values[axis.name]) for axis in others)

    grouped = itertools.groupby(sorted(rows, key=lambda item: series(item[1])), key=lambda item: series(item[1]))
    lines = [(name, [(index, x(x_of(row)), y(row.metrics[metric])) for index, row in items]) for name, items in grouped]
    body = "".join(
        _line(number % COLOURS, sorted(points, key=lambda p: p[1])) for number, (_, points) in enumerate(lines)
    )
    name = style_of(metric).title
    label = f"{name} against {title}"
    return (
        f'<figure class="chart"><figcaption>{escape(label)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="group" aria-label="{escape(label)}">'
        f"{_ticks(x, y, title)}{body}{_names(lines, others)}</svg></figure>"
    )


def _scale(values: Sequence[float], start: float, stop: float, log: bool) -> _Scale:
    low, high = min(values), max(values)
    if log:
        return _Scale(low / 1.15, max(high * 1.15, low * 1.5), start, stop, True)
    margin = 0.06 * (high - low) or 0.5
    return _Scale(low - margin, high + margin, start, stop, False)


def _line(colour: int, points: Sequence[tuple[int, float, float]]) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for _, x, y in points)
    dots = "".join(f'<circle data-cell="{index}" cx="{x:.1f}" cy="{y:.1f}" r="4.5"></circle>' for index, x, y in points)
    return f'<g class="series{colour}"><polyline points="{path}"></polyline>{dots}</g>'


def _names(lines: Sequence[tuple[str, Sequence[tuple[int, float, float]]]], others: Sequence[Axis]) -> str:
    """Each line's name at its right end, moved down where two would overlap."""
    if len(lines) == 1:
        return ""
    ends = sorted((max(points, key=lambda p: p[1])[2], number, name) for number, (name, points) in enumerate(lines))
    title = others[0].name if len(others) == 1 else ""
    text, floor = f'<text x="{WIDTH - RIGHT + 10}" y="{TOP - 4}">{escape(title)}</text>', -math.inf
    for height, number, name in ends[: (HEIGHT - TOP) // CLOSEST]:
        floor = max(height, floor + CLOSEST)
        words = name if len(name) < 22 else name[:20] + "…"
        colour, x = number % COLOURS, WIDTH - RIGHT + 10
        text += f'<text class="series{colour}" x="{x}" y="{floor + 4:.1f}">{escape(words)}</text>'
    return text


def _ticks(x: _Scale, y: _Scale, title: str) -> str:
    text = ""
    for value in _round_values(y):
        at = y(value)
        text += f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"></line>'
        text += f'<text class="y" x="{LEFT - 8}" y="{at + 4:.1f}">{value:g}</text>'
    for value in _round_values(x):
        text += f'<text class="x" x="{x(value):.1f}" y="{HEIGHT - BOTTOM + 18}">{value:g}</text>'
    middle = (LEFT + WIDTH - RIGHT) / 2
    return f'{text}<text class="x" x="{middle}" y="{HEIGHT - 6}">{escape(title)}</text>'


def _round_values(scale: _Scale) -> list[float]:
    """1, 2, 5 times powers of ten within the scale; for a linear one, about five equal steps."""
    if scale.log:
        first = math.floor(math.log10(scale.low))
        found = [digit * 10.0**power for power in range(first, first + 8) for digit in (1, 2, 5)]
        inside = [value for value in found if scale.low <= value <= scale.high]
        return inside or [float(f"{scale.low * 1.15:.2g}")]
    rough = (scale.high - scale.low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(digit * power for digit in (1, 2, 5, 10) if digit * power >= rough)
    first = math.ceil(scale.low / step)
    return [float(f"{number * step:.10g}") for number in range(first, math.floor(scale.high / step) + 1)]
