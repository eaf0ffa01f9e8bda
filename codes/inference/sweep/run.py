"""One image at every combination of strengths or sampling options: a grid, a page with sliders, numbers.

Every finished cell is a file, named by what made it. So an interrupted sweep goes on where it stopped, and one with
more values restores only what is new.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...config.fingerprint import fingerprint
from ...config.yaml_source import Source
from ...evaluation.metrics import fidelity
from ...images.canvas import RamCanvas
from ...images.consistency import consistency
from ...images.files import quantise, read_image, to_float, to_tensor, write_image
from ...recipe.recipe import Recipe
from ...runtime.interrupt import StopRequest
from ...runtime.run_lock import RunLock
from ...runtime.step_watch import StepWatch
from ...utils.console import StepLine, format_seconds, get_logger
from ...utils.errors import ConfigError, Interrupted
from ...utils.files import digest_of, remove_temporaries, write_json
from ...utils.names import LONGEST_PART, cut_to_bytes, numbered
from ...viewer.layers import BICUBIC, TRUTH
from ...viewer.sweep_result import AxisKind, Reference, SweepResult, SweptAxis, SweptCell
from ..run import results_folder
from .axes import Axis, Cell, cells, read_axes, value_text
from .subject import Subject, SweepRequest

logger = get_logger(__name__)
MOST_CELLS = 64  # without --yes
KEPT = "cells.json"
STEPS_FIELD = "respaced_timestep_spacing"


class Sweep:
    """Restores the cells of a sweep. Building it loads the network and reads the image; errors are raised then."""

    def __init__(self, recipe: Recipe, source: Source, request: SweepRequest) -> None:
        if not request.axes:
            raise ConfigError("--axis: missing; name what to vary, as in --axis jpeg 0:1:5 or --axis steps 2,8,50")
        if not recipe.datasets:
            raise ConfigError(
                f"{source.file}: datasets: missing; a sweep reads its image as this recipe's data is read"
            )
        if not request.image.is_file():
            raise ConfigError(f"--image {request.image}: no such file")
        self.root = request.output or _folder_of(request.image, results_folder(recipe))
        self.request = request
        dataset = next(iter(recipe.datasets.values()))
        self.axes = read_axes(request.axes, dataset.corruption_names)
        _refuse_many(self.axes, request.yes)
        self.subject = Subject(recipe, source, request, self.root)
        self.cells = list(cells(self.axes, self.subject.node, self.subject.setup.output))
        for cell in self.cells:
            self.subject.check(cell)
        self.options = source.to_yaml()
        self.base = self._fingerprint()

    def run(self) -> SweepResult:
        """Restore what is missing, measure, write sweep.json. Raises Interrupted with all finished cells kept.

        Raises ConfigError when another run has the folder.
        """
        with RunLock(self.root) as lock:
            return self._run(lock)

    def _run(self, lock: RunLock) -> SweepResult:
        remove_temporaries([self.root, self.root / "cells"])
        kept: Mapping[str, Any] = self._kept()
        todo = [cell for cell in self.cells if self._key(cell) not in kept]
        if len(todo) < len(self.cells):
            logger.info("%d of %d cells are there already", len(self.cells) - len(todo), len(self.cells))
        with StopRequest() as stop:
            if todo and self.subject.setup.use.device.type != "cpu":
                self.subject.warm_up(todo[0])
            for number, cell in enumerate(todo, 1):
                lock.check()
                if not stop.requested:
                    kept = self._restore(cell, f"{number}/{len(todo)}", kept, stop)
                if stop.requested:
                    raise Interrupted(
                        f"stopped; {sum(self._key(cell) in kept for cell in self.cells)} of {len(self.cells)} cells "
                        f"are kept in {self.root}; the same command goes on from there"
                    )
        result = self._result(kept)
        write_json(self.root / "sweep.json", numbers(result, self.root))
        return result

    def _restore(self, cell: Cell, title: str, kept: Mapping[str, Any], stop: StopRequest) -> Mapping[str, Any]:
        """What is kept, with this cell if it was not interrupted."""
        words = ", ".join(axis.label(cell.values[axis.name]) for axis in self.axes)
        with StepLine(f"{title} {words}") as line:
            try:
                pixels, seconds = self.subject.restore(cell, self.axes, StepWatch(line, stop))
            except Interrupted:
                return kept
        key = self._key(cell)
        name = f"{_file_name(words)}-{key[:10]}.png"
        write_image(self.root / "cells" / name, pixels)
        logger.info("%s %s: %s", title, words, f"{seconds:.1f} s" if seconds < 60 else format_seconds(seconds))
        kept = {**kept, key: {"file": name, "seconds": round(seconds, 3)}}
        write_json(self.root / "cells" / KEPT, kept, indent=1)
        return kept

    def _kept(self) -> dict[str, Any]:
        """Cells of earlier runs whose files are there: key -> file and seconds."""
        try:
            rows = json.loads((self.root / "cells" / KEPT).read_text(encoding="utf-8"))
            return {key: row for key, row in rows.items() if (self.root / "cells" / row["file"]).is_file()}
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError, KeyError, AttributeError):
            logger.warning("%s: not readable, so every cell is restored anew", self.root / "cells" / KEPT)
            return {}

    def _fingerprint(self) -> str:
        """Of everything that decides a cell besides its values: options, image, weights."""
        decided = self.subject.setup.decided_by[self.subject.phase]
        return fingerprint(
            decided, self.request.image.name, digest_of(self.request.image), self.request.crop, self.subject.node.out
        )

    def _key(self, cell: Cell) -> str:
        return fingerprint(self.base, cell.values)[:24]

    def _result(self, kept: Mapping[str, Any]) -> SweepResult:
        finished = []
        for cell in self.cells:
            row = kept[self._key(cell)]
            file = self.root / "cells" / row["file"]
            finished.append(SweptCell(cell.at, file, row["seconds"], self._measured(read_image(file).rgb)))
        images = {BICUBIC: self.subject.bicubic()}
        if self.subject.truth is not None:
            images[TRUTH] = self.subject.truth
        references = {}
        for label, image in images.items():
            file = self.root / "cells" / ("bicubic.png" if label == BICUBIC else "truth.png")
            shown = quantise(image)
            write_image(file, shown)
            references[label] = Reference(file, self._measured(to_float(shown)) if label == BICUBIC else {})
        axes = [_swept(axis, self.subject.read_strengths.get(axis.name)) for axis in self.axes]
        return SweepResult(self.request.image.name, axes, finished, references, self._facts(), self.options)

    def _measured(self, image: np.ndarray) -> dict[str, float]:
        truth, small = self.subject.truth, self.subject.low_res
        metrics = {} if truth is None else fidelity(to_float(quantise(truth)), image)
        result = RamCanvas(to_tensor(image, False))
        return {**metrics, "consistency": consistency(result, to_tensor(small, False), n1_to_1=False)}

    def _facts(self) -> dict[str, str]:
        height, width = self.subject.state[self.subject.key].shape[-2:]
        crop = self.request.crop
        setup = self.subject.setup
        where = "" if crop is None else f", from row {crop[0]}, column {crop[1]}"
        read = ", ".join(f"{name} {strength:.2f}" for name, strength in self.subject.read_strengths.items())
        return {
            "Image": f"{self.request.image}",
            "Input": f"{width} × {height} pixels{where}; enlarged {self.subject.scale} times",
            **({"Strengths read": f"{read} (of the whole image, where the recipe says auto)"} if read else {}),
            **({"Remark": f"The image {unexplained}"} if (unexplained := self.subject.unexplained) else {}),
            "Weights": "\n".join(map(str, setup.use.weights.values())),
            "Device": f"{setup.use.device} ({setup.use.precision})",
            "Seed": "varied"
            if any(axis.kind == "seed" for axis in self.axes)
            else f"{setup.use.seed}, the same everywhere",
        }


def _swept(axis: Axis, read: float | None) -> SweptAxis:
    """An axis as the pages take it; `read`: the strength that was read from the image."""
    kind: AxisKind = "strength" if axis.kind == "strength" else "steps" if axis.field == STEPS_FIELD else "other"
    texts = [value_text(value) for value in axis.values]
    return SweptAxis(axis.name, axis.values, texts, kind, read if kind == "strength" else None)


def numbers(result: SweepResult, root: Path) -> dict[str, Any]:
    """sweep.json: axes, and the values, file below `root`, seconds and metrics of every cell; infinity is null."""
    return {
        "image": result.facts["Image"],
        "axes": [
            {"name": axis.name, "values": list(axis.values), **({} if axis.read is None else {"read": axis.read})}
            for axis in result.axes
        ],
        "cells": [
            {
                "values": {axis.name: axis.values[at] for axis, at in zip(result.axes, cell.at, strict=True)},
                "file": cell.file.relative_to(root).as_posix(),
                "seconds": cell.seconds,
                "metrics": _rounded(cell.metrics),
            }
            for cell in result.cells
        ],
        "references": {
            label: {"file": reference.file.relative_to(root).as_posix(), "metrics": _rounded(reference.metrics)}
            for label, reference in result.references.items()
        },
        **{key.lower(): value for key, value in result.facts.items() if key != "Image"},
    }


def _rounded(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 6) for name, value in metrics.items()}


def _refuse_many(axes: Sequence[Axis], yes: bool) -> None:
    count = math.prod(len(axis.values) for axis in axes)
    if count > MOST_CELLS and not yes:
        product = " x ".join(str(len(axis.values)) for axis in axes)
        raise ConfigError(f"--axis: {product} = {count} cells; more than {MOST_CELLS} need --yes")


def _file_name(words: str) -> str:
    plain = "".join(sign if sign.isalnum() or sign in "._-" else "_" for sign in words.replace(", ", "__"))
    return cut_to_bytes(plain[:80], LONGEST_PART)


def _folder_of(image: Path, results: Path) -> Path:
    """The folder of an image's sweeps: by its name, unless that is the folder of another image."""
    for name in numbered(cut_to_bytes(image.stem, LONGEST_PART), image.suffix.lstrip(".")):
        folder = results / f"sweep_{name}"
        try:
            swept = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))["image"]
        except (OSError, ValueError, LookupError, TypeError):
            return folder
        if swept == str(image):
            return folder
    raise AssertionError("the names end")
