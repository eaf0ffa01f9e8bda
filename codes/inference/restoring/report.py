"""What a test run reports at its end: a table in the log, metrics.json and the page to compare."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ...images.channels import Bicubic
from ...images.files import quantise, to_float
from ...utils.console import counted, format_seconds, get_logger
from ...utils.errors import DataError
from ...utils.files import write_json
from ...version import __version__
from ...viewer.comparison_page import ComparisonEntry, ComparisonSummary, mean_metrics, write_comparison_page
from ...viewer.layers import BICUBIC, TRUTH, RowsLayer
from .job import low_res_shown, read_item
from .measure import result_pixels, truth_of
from .output import ImageRecord
from .plan import Plan

logger = get_logger(__name__)
WIDEST_NAME = 40
Means = Mapping[str, Mapping[str, float]]


def write_report_files(plan: Plan, rows: Sequence[ImageRecord], failed: Sequence[str], seconds: float) -> None:
    """Table, metrics.json and page of all finished images, those of earlier runs included."""
    means = mean_metrics([row.metrics for row in rows])
    numbers = {
        "mean": means,
        "mean_consistency": _mean_consistency(rows),
        "images": [_as_json(row) for row in rows],
        "failed": list(failed),
        "seconds": round(seconds, 2),
    }
    write_json(plan.root / "metrics.json", numbers)
    for line in table(plan, rows):
        logger.info("%s", line)
    for label, values in means.items():
        count = sum(label in row.metrics for row in rows)
        logger.info("mean of %s, %s: %s", counted(count, "image"), label, _numbers(values))
    if rows:
        page = plan.root / "index.html"
        measured = sum(bool(row.metrics) for row in rows)
        write_comparison_page(page, _Entries(plan, rows), _summary(plan, seconds, means, measured))
        logger.info("compare before and after: %s", page)


def table(plan: Plan, rows: Sequence[ImageRecord]) -> list[str]:
    """A line an image: name, sizes (width x height), time, how close to the input and to the truth."""
    if len(rows) < 2:
        return []
    lines = [["file", "input", "result", "time", *_headings(rows)]]
    for row in rows:
        name = plan.name_below(row.phase, row.source)
        shown = name if len(name) <= WIDEST_NAME else "…" + name[1 - WIDEST_NAME :]
        time_taken = "earlier" if row.earlier else format_seconds(row.seconds)
        lines.append([shown, display_size(row.low_res), display_size(row.size), time_taken, *_cells(row, rows)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return [
        "  ".join(
            [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        )
        for line in lines
    ]


def metrics_text(metrics: Means) -> str:
    """Metrics for the end of a line."""
    return "".join(f"; {label}: {_numbers(values)}" for label, values in metrics.items())


def _columns(rows: Sequence[ImageRecord]) -> list[tuple[str, str]]:
    """(label, metric) of the table: the baseline's PSNR, and all of the result that counts most."""
    labels = list(dict.fromkeys(label for row in rows for label in row.metrics))
    results = [label for label in labels if label != BICUBIC]
    best = [label for label in results if label.endswith(" mean")] or results
    found = [(label, metric) for label in best[:1] for row in rows for metric in row.metrics.get(label, {})]
    baseline = [(BICUBIC, "psnr")] if BICUBIC in labels else []
    return baseline + list(dict.fromkeys(found))


def _headings(rows: Sequence[ImageRecord]) -> list[str]:
    consistency = ["consistency"] if any(row.consistency for row in rows) else []
    return consistency + [f"{'bicubic ' if label == BICUBIC else ''}{metric}" for label, metric in _columns(rows)]


def _cells(row: ImageRecord, rows: Sequence[ImageRecord]) -> list[str]:
    consistency = [f"{value:.2f} dB" for value in list(row.consistency.values())[:1]] or ["-"]
    cells = consistency if any(other.consistency for other in rows) else []
    for label, metric in _columns(rows):
        value = row.metrics.get(label, {}).get(metric)
        cells.append("-" if value is None else f"{value:.2f}" if metric.startswith("psnr") else f"{value:.4f}")
    return cells


def display_size(size: tuple[int, int]) -> str:
    """(height, width) as people write it."""
    return f"{size[1]}x{size[0]}"


def _as_json(row: ImageRecord) -> dict[str, Any]:
    return {
        "file": str(row.source),
        "seconds": round(row.seconds, 2),
        "size": {"input": display_size(row.low_res), "result": display_size(row.size)},
        "strengths": row.strengths,
        "seed": row.seed,
        "results": {label: str(file) for label, file in row.files.items()},
        "metrics": row.metrics,
        "consistency": row.consistency,
        "earlier": row.earlier,
    }


def _mean_consistency(rows: Sequence[ImageRecord]) -> dict[str, float]:
    found = mean_metrics([{label: {"": value} for label, value in row.consistency.items()} for row in rows])
    return {label: values[""] for label, values in found.items() if "" in values}


def _summary(plan: Plan, seconds: float, means: Means, measured: int) -> ComparisonSummary:
    return ComparisonSummary(
        title=plan.recipe.name,
        options=plan.source.to_yaml(),
        weights=[str(file) for file in plan.use.weights.values()],
        device=f"{plan.use.device} ({plan.use.precision})",
        seconds=seconds,
        version=__version__,
        mean_metrics=means,
        measured=measured,
    )


def entry(plan: Plan, row: ImageRecord) -> ComparisonEntry:
    """The page's entry of a finished image, read again from its files so that a long run holds no pictures."""
    layers = {**_before(plan, row), **_results(plan, row)}
    truth = layers.pop(TRUTH, None)  # the last of the buttons
    if truth is not None:
        layers[TRUTH] = truth
    notes = {"time": format_seconds(row.seconds), "seed": str(row.seed), "strengths": row.strengths, **_steps(plan)}
    notes |= {f"consistency, {label}": f"{value:.2f} dB" for label, value in row.consistency.items()}
    metrics = {label: values for label, values in row.metrics.items() if label in layers}
    files = {label: file for label, file in row.files.items() if label in layers}
    return ComparisonEntry(plan.name_below(row.phase, row.source), layers, metrics, notes, files)


def _before(plan: Plan, row: ImageRecord) -> dict[str, Any]:
    """What the image was, at the size of the result, and the ground truth; a black one where it cannot be read now."""
    try:
        item, traits = read_item(plan, row.phase, row.position)
    except DataError as error:
        logger.warning("%s; black on the page", error)
        return {BICUBIC: np.zeros((*row.size, 3), np.uint8)}
    small = low_res_shown(plan, row.phase, item, traits)
    bicubic = Bicubic(small, row.size[0] // small.shape[0])
    layers: dict[str, Any] = {BICUBIC: RowsLayer(*bicubic.size, bicubic.pixels)}
    truth = truth_of(plan, row.phase, row.position, item) if row.metrics else None
    if truth is not None and truth.shape[:2] == row.size:
        layers[TRUTH] = _as_8_bit(truth)
    return layers


def _results(plan: Plan, row: ImageRecord) -> dict[str, Any]:
    """The results as uint8 RGB, but those that somebody replaced by something else."""
    found, size = {}, row.size
    for label, file in row.files.items():
        try:
            pixels = _as_8_bit(result_pixels(plan, row.phase, file))
        except DataError as error:
            logger.warning("%s; not on the page", error)
            continue
        if pixels.shape[:2] == size:
            found[label] = pixels
        else:
            known = display_size((pixels.shape[0], pixels.shape[1]))
            logger.warning("%s: %s pixels, expected %s; not on the page", file, known, display_size(size))
    return found


class _Entries(Sequence[ComparisonEntry]):
    """Entries of the page, made one at a time."""

    def __init__(self, plan: Plan, rows: Sequence[ImageRecord]) -> None:
        self.plan = plan
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return entry(self.plan, self.rows[index])

    def __iter__(self) -> Iterator[ComparisonEntry]:
        return (entry(self.plan, row) for row in self.rows)


def _steps(plan: Plan) -> dict[str, str]:
    rows = {}
    for node in plan.nodes:
        spacing = node.respaced_timestep_spacing
        steps = f"{node.sampler_name}, {'all' if spacing is None else spacing} steps"
        rows[node.out] = "one pass" if node.type == "regression" else steps
    return rows


def _as_8_bit(samples: np.ndarray) -> np.ndarray:
    return samples if samples.dtype == np.uint8 else quantise(to_float(samples))


def _numbers(values: Mapping[str, float]) -> str:
    units = {"psnr": "PSNR {:.2f} dB", "ssim": "SSIM {:.4f}"}
    return ", ".join(units.get(name, name + " {:.4g}").format(value) for name, value in values.items())
