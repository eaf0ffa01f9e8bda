"""Quality against time, or against a strength: what the template draws as SVG, without a script."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .sweep_result import SweepResult, SweptAxis, SweptCell
from .text import style_of

WIDTH, HEIGHT = 520, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 130, 16, 44  # room for numbers, names of lines, and the title of the x axis
COLOURS = 5  # classes in sweep.css
CLOSEST = 14  # pixels between two names of lines
LONGEST_NAME = 21  # characters


@dataclass(frozen=True)
class Tick:
    """A number beside an axis, `at` pixels from the top or the left."""

    at: float
    text: str


@dataclass(frozen=True)
class Point:
    """The cell of this number, in pixels of the chart."""

    cell: int
    x: float
    y: float


@dataclass(frozen=True)
class Line:
    """The cells that differ only along the axis that a chart runs along, from left to right."""

    name: str
    colour: int
    points: Sequence[Point]


@dataclass(frozen=True)
class LineName:
    """The name of a line, `at` pixels from the top, moved down where two would overlap."""

    at: float
    text: str
    colour: int


@dataclass(frozen=True)
class Chart:
    """A chart of WIDTH x HEIGHT pixels; its lines lie between `left`, `right`, `top` and `bottom`.

    `read`: where on the x axis the strength lies that was read from the image.
    """

    title: str
    x_title: str
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    lines: Sequence[Line]
    names_title: str
    names: Sequence[LineName]
    read: Tick | None = None
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


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


@dataclass(frozen=True)
class _Horizontal:
    """What a chart's x axis is: time, unless only strengths vary. `along`: the axis of the sweep that lines follow."""

    title: str
    log: bool
    value: Callable[[SweptCell], float]
    along: int | None


def charts(result: SweepResult) -> list[Chart]:
    """One for PSNR, where there is a truth, and one for consistency; none where a chart would have one point."""
    names = [name for name in ("psnr", "consistency") if name in result.cells[0].metrics]
    return [chart for name in names if (chart := _chart(result, name)) is not None]


def _chart(result: SweepResult, metric: str) -> Chart | None:
    cells = [(index, cell) for index, cell in enumerate(result.cells) if math.isfinite(cell.metrics[metric])]
    if len(cells) < 2:
        return None
    horizontal = _horizontal(result.axes)
    x = _scale([horizontal.value(cell) for _, cell in cells], LEFT, WIDTH - RIGHT, horizontal.log)
    y = _scale([cell.metrics[metric] for _, cell in cells], HEIGHT - BOTTOM, TOP, False)
    others = [index for index in range(len(result.axes)) if index != horizontal.along]
    points = [
        (_series(result.axes, cell, others), Point(index, x(horizontal.value(cell)), y(cell.metrics[metric])))
        for index, cell in cells
    ]
    lines = _lines(points)
    return Chart(
        f"{style_of(metric).title} against {horizontal.title}",
        horizontal.title,
        [Tick(x(value), f"{value:g}") for value in _round_values(x)],
        [Tick(y(value), f"{value:g}") for value in _round_values(y)],
        lines,
        result.axes[others[0]].name if len(others) == 1 else "",
        _names(lines),
        _read(result.axes, horizontal, x),
    )


def _read(axes: Sequence[SweptAxis], horizontal: _Horizontal, x: _Scale) -> Tick | None:
    """The strength that was read, where the chart runs along it and reaches that far."""
    axis = None if horizontal.along is None else axes[horizontal.along]
    if axis is None or axis.read is None or not x.low <= axis.read <= x.high:
        return None
    return Tick(x(axis.read), f"read: {axis.read:.2f}")


def _horizontal(axes: Sequence[SweptAxis]) -> _Horizontal:
    strengths = [index for index, axis in enumerate(axes) if axis.kind == "strength"]
    if len(strengths) < len(axes):
        steps = next((index for index, axis in enumerate(axes) if axis.kind == "steps"), None)
        return _Horizontal("seconds", True, lambda cell: max(cell.seconds, 1e-3), steps)
    along = max(strengths, key=lambda index: len(axes[index].values))
    numbers = [float(value) for value in axes[along].values]  # type: ignore[arg-type]  # a strength is a number
    return _Horizontal(axes[along].name, False, lambda cell: numbers[cell.at[along]], along)


def _series(axes: Sequence[SweptAxis], cell: SweptCell, others: Sequence[int]) -> str:
    """What the cells of a line have in common, in words."""
    if len(others) == 1:
        return axes[others[0]].texts[cell.at[others[0]]]
    return ", ".join(axes[index].label(cell.at[index]) for index in others)


def _lines(points: Sequence[tuple[str, Point]]) -> list[Line]:
    grouped = itertools.groupby(sorted(points, key=lambda item: item[0]), key=lambda item: item[0])
    return [
        Line(name, number % COLOURS, sorted((point for _, point in items), key=lambda point: point.x))
        for number, (name, items) in enumerate(grouped)
    ]


def _scale(values: Sequence[float], start: float, stop: float, log: bool) -> _Scale:
    low, high = min(values), max(values)
    if log:
        return _Scale(low / 1.15, max(high * 1.15, low * 1.5), start, stop, True)
    margin = 0.06 * (high - low) or 0.5
    return _Scale(low - margin, high + margin, start, stop, False)


def _names(lines: Sequence[Line]) -> list[LineName]:
    """Each line's name at its right end; none where there is one line."""
    names: list[LineName] = []
    lowest = -math.inf
    ends = sorted(lines, key=lambda line: line.points[-1].y) if len(lines) > 1 else []
    for line in ends[: (HEIGHT - TOP) // CLOSEST]:
        lowest = max(line.points[-1].y, lowest + CLOSEST)
        text = line.name if len(line.name) <= LONGEST_NAME else line.name[: LONGEST_NAME - 1] + "…"
        names.append(LineName(lowest, text, line.colour))
    return names


def _round_values(scale: _Scale) -> list[float]:
    """1, 2, 5 times powers of ten within the scale; for a linear one, about five equal steps."""
    if scale.log:
        first = math.floor(math.log10(scale.low))
        rounded = [digit * 10.0**power for power in range(first, first + 8) for digit in (1, 2, 5)]
        inside = [value for value in rounded if scale.low <= value <= scale.high]
        return inside or [float(f"{scale.low * 1.15:.2g}")]
    rough = (scale.high - scale.low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(digit * power for digit in (1, 2, 5, 10) if digit * power >= rough)
    first = math.ceil(scale.low / step)
    return [float(f"{number * step:.10g}") for number in range(first, math.floor(scale.high / step) + 1)]
