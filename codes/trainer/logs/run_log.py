"""What a training run tells: log lines with ETA, a bar, means for every writer, grids of images."""

import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from ...images.files import to_image, write_image
from ...images.picture_grid import picture_grid
from ...runtime.devices import peak_memory
from ...utils.console import TrainingBar, format_seconds, get_logger
from ...utils.files import require_folder
from ..training_step import StepResult
from .writers import LogWriter, WriterGuard

logger = get_logger(__name__)
MOST_VISUALS = 8
STARVED = 0.2  # share of the time spent waiting for data
MOST_BINS = 64  # of a histogram over timesteps


class RunLog:
    """Collects iterations and shows their means every `print_freq`; without writers it only speaks.

    `remedy`: what is to be said once when training waits for its data, after the first window, in which it always does.
    """

    def __init__(
        self,
        root: Path,
        start: int,
        niter: int,
        print_freq: int,
        batch_size: int,
        writers: Iterable[LogWriter] = (),
        device: torch.device | None = None,
        remedy: str = "",
    ) -> None:
        self.root = root
        self.niter = niter
        self.print_freq = print_freq
        self.batch_size = batch_size
        self.writers = list(writers)
        self.device = device or torch.device("cpu")
        self.remedy = remedy
        self._windows = 0
        self.bar = TrainingBar(start, niter)
        self._pictures = WriterGuard("pictures")
        self._first = start
        self._start = time.monotonic()
        self._paused = 0.0
        self._window: list[tuple[float, float]] = []  # seconds of an iteration, seconds waited for data
        self._sums: dict[str, float] = defaultdict(float)
        self._counts: Counter[str] = Counter()
        self._rate = 0.0
        self._rates: dict[str, float] = {}  # by step: not every step runs at every iteration
        self._skipped = 0
        self.skipped_in_all = 0

    def due(self, iteration: int) -> bool:
        """Whether this iteration ends a window whose means are shown."""
        return iteration % self.print_freq == 0 or iteration == self.niter

    def record(
        self, iteration: int, result: StepResult, seconds: float, waited: float, more: Mapping[str, float] | None = None
    ) -> None:
        """Take in one iteration; print when it is time, with `more` numbers of the whole window."""
        self._window.append((seconds, waited))
        if result.losses:  # else no step ran at this iteration
            self._rate = result.learning_rate
        self._rates |= result.learning_rates
        if result.skipped:
            self._skipped += 1
            self.skipped_in_all += 1
        else:
            for name, value in {**result.losses, "gradient norm": result.gradient_norm}.items():
                self._sums[name] += value
                self._counts[name] += 1
        self.bar.advance(iteration, sum(value for name, value in result.losses.items() if name.endswith("total")))
        if self.due(iteration):
            self._show(iteration, more or {})

    def _show(self, iteration: int, more: Mapping[str, float]) -> None:
        means = {name: value / self._counts[name] for name, value in self._sums.items()}
        norm = means.pop("gradient norm", math.nan)
        seconds = max(sum(row[0] for row in self._window), 1e-9)
        speed = len(self._window) / seconds
        wait = sum(row[1] for row in self._window) / seconds
        memory = peak_memory(self.device)
        numbers = {
            **{f"loss/{name}": value for name, value in means.items()},
            **more,
            "gradient_norm": norm,
            "learning_rate": self._rate,
            **{f"learning_rate/{step}": rate for step, rate in self._rates.items()},
            "iterations_per_second": speed,
            "images_per_second": speed * self.batch_size,
            "data_wait_share": wait,
            "skipped": float(self._skipped),
            "peak_memory_gib": memory,
        }
        self.scalars(iteration, numbers)
        losses = "  ".join(f"{name} {value:.4g}" for name, value in means.items())
        lr = "  ".join(f"{step} {rate:.3g}" for step, rate in self._rates.items()) or f"{self._rate:.3g}"
        extra = f"  {self._skipped} skipped (not finite; {self.skipped_in_all} in all)" if self._skipped else ""
        logger.info(
            "%d/%d  %s  gradient norm %.3g  lr %s  %.2f it/s  %.3g images/s  data wait %.0f %%  %.1f GiB  %s left%s",
            iteration, self.niter, losses, norm, lr, speed, speed * self.batch_size, 100 * wait, memory,
            self._time_left(iteration), extra,
        )  # fmt: skip
        self._tell_of_waiting(wait)
        self._window.clear()
        self._sums.clear()
        self._counts.clear()
        self._skipped = 0

    def _tell_of_waiting(self, share: float) -> None:
        self._windows += 1
        if share > STARVED and self._windows > 1 and self.remedy:
            logger.warning("training waits for data %.0f %% of the time; %s", 100 * share, self.remedy)
            self.remedy = ""

    def _time_left(self, iteration: int) -> str:
        done = max(iteration - self._first, 1)
        each = (time.monotonic() - self._start - self._paused) / done
        return format_seconds(each * (self.niter - iteration))

    def exclude(self, seconds: float) -> None:
        """Leave the time of an evaluation out of the speed."""
        self._paused += seconds

    def scalars(self, iteration: int, numbers: Mapping[str, float]) -> None:
        """Numbers by name to every writer."""
        for writer in self.writers:
            writer.scalars(iteration, numbers)

    def note(self, iteration: int, facts: Mapping[str, Any]) -> None:
        """Facts that are no numbers, to the writers that take such."""
        for writer in self.writers:
            writer.note(iteration, facts)

    def distribution(self, iteration: int, tag: str, weights: Tensor) -> None:
        """Weights (N,), positive in sum, as a histogram of at most MOST_BINS bins over their places."""
        bins = torch.tensor_split(weights.detach().cpu().double(), min(MOST_BINS, len(weights)))
        joined = torch.stack([part.sum() for part in bins]).numpy()
        for writer in self.writers:
            writer.distribution(iteration, tag, joined)

    def picture(self, iteration: int, tag: str, path: Path, image: npt.NDArray[Any]) -> None:
        """Write a picture (H, W, 3) uint8 as PNG and to the writers. A full disk costs the picture, not the run."""

        def write() -> None:
            require_folder(self.root)
            write_image(path, image)

        self._pictures.attempt(write)
        for writer in self.writers:
            writer.picture(iteration, tag, image)

    def visuals(self, iteration: int, state: Mapping[str, Any], keys: Sequence[str], n1_to_1: bool) -> None:
        """Write grids of the state keys to visual_dbg/<key>/<iteration>.png."""
        for key in keys:
            value = state.get(key)  # an injector that writes it may not run at every iteration
            if not isinstance(value, Tensor) or value.ndim != 4:
                continue
            images = [to_image(image.float().cpu(), n1_to_1) for image in value[:MOST_VISUALS]]
            columns = math.ceil(math.sqrt(len(images)))
            grid = picture_grid([images[at : at + columns] for at in range(0, len(images), columns)])
            self.picture(iteration, key, self.root / "visual_dbg" / key / f"{iteration}.png", grid)

    def close(self) -> None:
        self.bar.close()
        for writer in self.writers:
            writer.close()
