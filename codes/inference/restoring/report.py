"""What a test run reports at its end: a table in the log, metrics.json, the page to compare, evaluators."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from ...evaluation.metrics import mean_metrics
from ...images.bands import Rows, image_rows
from ...images.channels import enlarged, pixels_of
from ...images.files import write_image
from ...utils.console import counted, format_seconds, get_logger, size_text
from ...utils.errors import DataError
from ...utils.files import write_json
from ...version import __version__
from ...viewer.comparison_page import ComparisonEntry, ComparisonSummary, write_comparison_page
from ...viewer.layers import (
    BICUBIC,
    TRUTH,
    Layer,
    Pixels,
    as_8_bit,
    as_layer,
    black_layer,
    file_layer,
    layer_of_file,
)
from .job import Inputs
from .measure import as_result, framing_of, numbers_text, truth_file, truth_of, whole_pixels
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
        "unexplained": row.unexplained,
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
    if row.unexplained:
        notes["the image"] = row.unexplained
    if setup.output.resized:
        notes["restored at"] = f"{size_text(row.restored_size)} pixels, then {setup.output.in_words}"
    if row.compared:
        notes["compared"] = row.compared
    layers = _pictures(setup.inputs[row.phase], row)
    metrics = {label: values for label, values in row.metrics.items() if label in layers}
    files = {label: file for label, file in row.files.items() if label in layers}
    return ComparisonEntry(row.name, layers, metrics, notes, files)


def _pictures(inputs: Inputs, row: ImageRecord) -> dict[str, Pixels | Layer]:
    """Label -> what there is to look at: enlarged input, results, ground truth; read again from their files."""
    before = _before(inputs, row)
    truth = before.pop(TRUTH, None)  # the last of the buttons
    layers = {**before, **_results(inputs, row)}
    return layers if truth is None else {**layers, TRUTH: truth}


def _before(inputs: Inputs, row: ImageRecord) -> dict[str, Pixels | Layer]:
    """What the image was, at the size of the result, and the ground truth; a black one where it cannot be read now."""
    try:
        small, truth = _low_res_rows(inputs, row), _truth_layer(inputs, row)
    except DataError as error:
        logger.warning("%s; black on the page", error)
        return {BICUBIC: black_layer(*row.size)}
    bicubic = enlarged(small, framing_of(inputs.output, row))
    layers: dict[str, Pixels | Layer] = {BICUBIC: layer_of_file(row.source, *row.size, partial(pixels_of, bicubic))}
    if truth is not None and truth.shape[:2] == row.size:
        layers[TRUTH] = truth
    return layers


def _low_res_rows(inputs: Inputs, row: ImageRecord) -> Rows:
    """The low resolution as one looks at it: of a file that is restored as it is, its rows, not as floats."""
    options = inputs.options
    as_it_is = inputs.as_they_are and options.target_size is None
    if not as_it_is or options.square or options.alpha == "crop":
        return inputs.read(row.position).shown()
    return image_rows(row.source, max_pixels=options.max_pixels, alpha=inputs.ground)


def _truth_layer(inputs: Inputs, row: ImageRecord) -> Layer | None:
    """The ground truth that the metrics compare with."""
    if not row.metrics:
        return None
    if inputs.as_they_are and inputs.options.alpha != "crop":
        file = truth_file(inputs, row.position)
        try:
            if file is None or not row.compared:
                return None if file is None else file_layer(file, alpha=inputs.ground)
            rows = image_rows(file, max_pixels=sys.maxsize, alpha=inputs.ground)
            return layer_of_file(file, *row.size, partial(pixels_of, as_result(inputs.output, row, rows)))
        except DataError as error:
            logger.warning("%s: its ground truth cannot be used (%s); not on the page", row.source, error)
            return None
    truth = truth_of(inputs, row.position, inputs.dataset.item(row.position))
    if truth is None or not row.compared:
        return None if truth is None else as_layer(as_8_bit(truth))
    return as_layer(whole_pixels(as_result(inputs.output, row, truth), row))


def _results(inputs: Inputs, row: ImageRecord) -> dict[str, Pixels | Layer]:
    """The results, but those that somebody replaced by something else."""
    results: dict[str, Pixels | Layer] = {}
    for label, file in row.files.items():
        try:
            layer = file_layer(file, alpha=inputs.ground)
        except DataError as error:
            logger.warning("%s; not on the page", error)
            continue
        if layer.shape[:2] == row.size:
            results[label] = layer
        else:
            known = size_text((layer.shape[0], layer.shape[1]))
            logger.warning("%s: %s pixels, expected %s; not on the page", file, known, size_text(row.size))
    return results


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
