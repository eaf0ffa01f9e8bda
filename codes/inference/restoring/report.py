"""What a test run reports at its end: a table in the log, metrics.json and the page to compare."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...images.files import write_image
from ...utils.console import counted, format_seconds, get_logger, size_text
from ...utils.files import write_json
from ...version import __version__
from ...viewer.comparison_page import ComparisonEntry, ComparisonSummary, mean_metrics, write_comparison_page
from ...viewer.layers import BICUBIC
from .measure import numbers_text, pictures
from .output import ImageRecord
from .setup import Setup

logger = get_logger(__name__)
WIDEST_NAME = 40
Means = Mapping[str, Mapping[str, float]]


def write_report_files(setup: Setup, rows: Sequence[ImageRecord], failed: Sequence[str], seconds: float) -> None:
    """Table, metrics.json and page of all finished images, those of earlier runs included."""
    means = mean_metrics([row.metrics for row in rows])
    numbers = {
        "mean": means,
        "mean_consistency": _mean_consistency(rows),
        "images": [_as_json(row) for row in rows],
        "failed": list(failed),
        "seconds": round(seconds, 2),
    }
    write_json(setup.root / "metrics.json", numbers)
    for line in table(rows):
        logger.info("%s", line)
    for label, values in means.items():
        count = sum(label in row.metrics for row in rows)
        logger.info("mean of %s, %s: %s", counted(count, "image"), label, numbers_text(values))
    if rows:
        page = setup.root / "index.html"
        measured = sum(bool(row.metrics) for row in rows)
        write_comparison_page(page, _Entries(setup, rows), _summary(setup, seconds, means, measured))
        logger.info("compare before and after: %s", page)


def table(rows: Sequence[ImageRecord]) -> list[str]:
    """A line an image: name, sizes (width x height), time, how close to the input and to the truth."""
    if len(rows) < 2:
        return []
    lines = [["file", "input", "result", "time", *_headings(rows)]]
    for row in rows:
        shown = row.name if len(row.name) <= WIDEST_NAME else "…" + row.name[1 - WIDEST_NAME :]
        time_taken = "earlier" if row.earlier else format_seconds(row.seconds)
        lines.append([shown, size_text(row.low_res), size_text(row.size), time_taken, *_cells(row, rows)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return [
        "  ".join(
            [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        )
        for line in lines
    ]


def _columns(rows: Sequence[ImageRecord]) -> list[tuple[str, str]]:
    """(label, metric) of the table: the baseline's PSNR, and all of the result that counts most."""
    labels = list(dict.fromkeys(label for row in rows for label in row.metrics))
    results = [label for label in labels if label != BICUBIC]
    best = [label for label in results if label.endswith(" mean")] or results
    of_restored = [(label, metric) for label in best[:1] for row in rows for metric in row.metrics.get(label, {})]
    baseline = [(BICUBIC, "psnr")] if BICUBIC in labels else []
    return baseline + list(dict.fromkeys(of_restored))


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


def _as_json(row: ImageRecord) -> dict[str, Any]:
    return {
        "file": str(row.source),
        "seconds": round(row.seconds, 2),
        "size": {
            "input": size_text(row.low_res),
            "restored": size_text(row.restored_size),
            "result": size_text(row.size),
        },
        "strengths": row.strengths,
        "seed": row.seed,
        "results": {label: str(file) for label, file in row.files.items()},
        "metrics": row.metrics,
        "compared": row.compared,
        "consistency": row.consistency,
        "earlier": row.earlier,
    }


def _mean_consistency(rows: Sequence[ImageRecord]) -> dict[str, float]:
    means = mean_metrics([{label: {"": value} for label, value in row.consistency.items()} for row in rows])
    return {label: values[""] for label, values in means.items() if "" in values}


def _summary(setup: Setup, seconds: float, means: Means, measured: int) -> ComparisonSummary:
    return ComparisonSummary(
        title=setup.recipe.name,
        options=setup.source.to_yaml(),
        weights=[str(file) for file in setup.use.weights.values()],
        device=f"{setup.use.device} ({setup.use.precision})",
        seconds=seconds,
        version=__version__,
        mean_metrics=means,
        measured=measured,
    )


def entry(setup: Setup, row: ImageRecord) -> ComparisonEntry:
    """The page's entry of a finished image, read again from its files so that a long run holds no pictures."""
    notes = {"time": format_seconds(row.seconds), "seed": str(row.seed), "strengths": row.strengths, **_steps(setup)}
    notes |= {f"consistency, {label}": f"{value:.2f} dB" for label, value in row.consistency.items()}
    if setup.output.resized:
        notes["restored at"] = f"{size_text(row.restored_size)} pixels, then {setup.output.in_words}"
    if row.compared:
        notes["compared"] = row.compared
    layers = pictures(setup.inputs[row.phase], row)
    metrics = {label: values for label, values in row.metrics.items() if label in layers}
    files = {label: file for label, file in row.files.items() if label in layers}
    return ComparisonEntry(row.name, layers, metrics, notes, files)


class _Entries(Sequence[ComparisonEntry]):
    """Entries of the page, made one at a time."""

    def __init__(self, setup: Setup, rows: Sequence[ImageRecord]) -> None:
        self.setup = setup
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return entry(self.setup, self.rows[index])

    def __iter__(self) -> Iterator[ComparisonEntry]:
        return (entry(self.setup, row) for row in self.rows)


def _steps(setup: Setup) -> dict[str, str]:
    return {node.out: node.method_under(setup.use.processes) for node in setup.chain.nodes}


def evaluate(setup: Setup) -> None:
    """Run the evaluators: numbers to the log and to evaluation.json, pictures beside it."""
    context = setup.use.context()
    evaluations = {name: evaluator.evaluate(context) for name, evaluator in setup.evaluators.items()}
    for name, evaluation in evaluations.items():
        logger.info("evaluation %s: %s", name, "  ".join(f"{k} {v:.4g}" for k, v in evaluation.metrics.items()))
        for key, image in evaluation.images.items():
            write_image(setup.root / f"{name}_{key}.png", image)
    if evaluations:
        numbers = {name: dict(evaluation.metrics) for name, evaluation in evaluations.items()}
        write_json(setup.root / "evaluation.json", numbers)


def tell(done: int, new: int, failed: Mapping[Any, str]) -> None:
    """The last lines of the log: what failed, or that nothing did, of so many images, so many of them in this run."""
    if failed:
        logger.error("%s restored, %d failed:", counted(done, "image"), len(failed))
        for line in failed.values():
            logger.error("  %s", line)
        return
    earlier = f", {done - new} of them earlier" if done > new else ""
    logger.info("done: %s restored%s", counted(done, "image"), earlier)
