"""What a training run tells: log lines with ETA, a bar, TensorBoard, JSON lines, grids of images."""

import json
import math
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from ..utils.console import TrainingBar, format_seconds, get_logger
from ..utils.files import write_text
from ..utils.images import to_image, write_image
from ..utils.picture_grid import picture_grid
from .training_step import StepResult

logger = get_logger(__name__)
MOST_VISUALS = 8


class RunLog:
    """Collects iterations and shows their means every `print_freq`.

    `writes` is false for the ranks that leave all files to rank 0. What an earlier run logged after iteration `start`
    is dropped, because a resumed run goes through those iterations again.
    """

    def __init__(
        self,
        root: Path,
        start: int,
        niter: int,
        print_freq: int,
        batch_size: int,
        tensorboard: bool,
        writes: bool = True,
    ) -> None:
        self.root = root
        self.niter = niter
        self.print_freq = print_freq
        self.batch_size = batch_size
        self.writes = writes
        self.file = root / "log.jsonl"
        self.writer = SummaryWriter(str(root / "tb_logger"), purge_step=start + 1) if tensorboard and writes else None
        self.bar = TrainingBar(start, niter)
        self._first = start
        self._start = time.monotonic()
        self._paused = 0.0
        self._window: list[tuple[float, float]] = []  # seconds of an iteration, seconds waited for data
        self._sums: dict[str, float] = defaultdict(float)
        self._skipped = 0
        if writes and self.file.exists():
            write_text(self.file, "".join(_lines_until(self.file, start)))

    def record(self, iteration: int, result: StepResult, seconds: float, waited: float) -> None:
        """Take in one iteration; print when it is time."""
        self._window.append((seconds, waited))
        if result.skipped:
            self._skipped += 1
        else:
            for name, value in result.losses.items():
                self._sums[name] += value
            self._sums["gradient norm"] += result.gradient_norm
        self.bar.advance(iteration, sum(value for name, value in result.losses.items() if name.endswith("total")))
        if iteration % self.print_freq == 0 or iteration == self.niter:
            self._show(iteration, result.learning_rate)

    def _show(self, iteration: int, rate: float) -> None:
        count = max(len(self._window) - self._skipped, 1)
        means = {name: value / count for name, value in self._sums.items()}
        seconds = sum(row[0] for row in self._window)
        waited = sum(row[1] for row in self._window)
        speed = len(self._window) / max(seconds, 1e-9)
        numbers = {
            **{f"loss/{name}": value for name, value in means.items() if name != "gradient norm"},
            "gradient_norm": means.get("gradient norm", math.nan),
            "learning_rate": rate,
            "iterations_per_second": speed,
            "images_per_second": speed * self.batch_size,
            "data_wait_share": waited / max(seconds, 1e-9),
            "skipped": float(self._skipped),
            **_memory(),
        }
        self.scalars(iteration, numbers)
        losses = "  ".join(f"{name} {value:.4g}" for name, value in means.items())
        eta = format_seconds(self._seconds_per_iteration(iteration) * (self.niter - iteration))
        extra = f"  {self._skipped} skipped (not finite)" if self._skipped else ""
        wait = numbers["data_wait_share"]
        logger.info(
            "%d/%d  %s  lr %.3g  %.2f it/s  data wait %.0f %%  %s left%s",
            iteration, self.niter, losses, rate, speed, 100 * wait, eta, extra,
        )  # fmt: skip
        self._window.clear()
        self._sums.clear()
        self._skipped = 0

    def _seconds_per_iteration(self, iteration: int) -> float:
        done = max(iteration - self._first, 1)
        return (time.monotonic() - self._start - self._paused) / done

    def exclude(self, seconds: float) -> None:
        """Leave the time of an evaluation out of the speed."""
        self._paused += seconds

    def scalars(self, iteration: int, numbers: Mapping[str, float]) -> None:
        """Write numbers to TensorBoard and to log.jsonl."""
        if self.writer:
            for name, value in numbers.items():
                self.writer.add_scalar(name, value, iteration)
        if not self.writes:
            return
        shown = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"iteration": iteration, "time": time.time(), **shown}) + "\n")

    def picture(self, iteration: int, tag: str, path: Path, image: npt.NDArray[Any]) -> None:
        """Write a picture (H, W, 3) uint8 as PNG and to TensorBoard."""
        write_image(path, image)
        if self.writer:
            self.writer.add_image(tag, image, iteration, dataformats="HWC")

    def visuals(self, iteration: int, state: Mapping[str, Any], keys: Sequence[str], n1_to_1: bool) -> None:
        """Write grids of the state keys to visual_dbg/<key>/<iteration>.png."""
        for key in keys:
            value = state[key]
            if not isinstance(value, Tensor) or value.ndim != 4:
                continue
            images = [to_image(image.float().cpu(), n1_to_1) for image in value[:MOST_VISUALS]]
            columns = math.ceil(math.sqrt(len(images)))
            grid = picture_grid([images[at : at + columns] for at in range(0, len(images), columns)])
            self.picture(iteration, key, self.root / "visual_dbg" / key / f"{iteration}.png", grid)

    def close(self) -> None:
        self.bar.close()
        if self.writer:
            self.writer.close()


def _lines_until(file: Path, iteration: int) -> list[str]:
    """The whole lines of a log up to an iteration; the last one may have been cut by a crash."""
    kept = []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        with suppress(ValueError, KeyError, TypeError):
            if json.loads(line)["iteration"] <= iteration and line.endswith("\n"):
                kept.append(line)
    return kept


def _memory() -> dict[str, float]:
    if not torch.cuda.is_available():
        return {}
    return {"peak_memory_gib": torch.cuda.max_memory_allocated() / 2**30}
