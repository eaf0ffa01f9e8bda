"""The best weights of a run by a number of an evaluator: kept beside the checkpoints, whatever becomes of those."""

import math
import os
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...recipe.recipe import Recipe
from ...runtime.experiment import Experiment
from ...utils.console import get_logger
from ...utils.files import require_folder, write_json
from .saving import Parts, write_weights_of

logger = get_logger(__name__)


class Best:
    """best/<iteration>_<network>.safetensors and best/best.json, which says which iteration and why.

    best.json is written between the new weights and the removal of the old ones, so it always names whole files.
    """

    def __init__(self, experiment: Experiment, recipe: Recipe) -> None:
        assert recipe.logger.keep_best is not None
        self.experiment = experiment
        self.recipe = recipe
        self.options = recipe.logger.keep_best
        self.record = self._read()

    def _read(self) -> Mapping[str, Any]:
        """The best so far, unless it was chosen by something else."""
        record = self.experiment.best_record()
        if not record or any(record.get(key) != value for key, value in self.options.model_dump().items()):
            return {}
        return record

    def consider(self, parts: Parts, iteration: int, evaluator: str, metrics: Mapping[str, float]) -> None:
        """Keep the weights of this iteration when the number is better than all before. Raises OSError."""
        if evaluator != self.options.evaluator:
            return
        value = metrics.get(self.options.metric)
        if value is None:
            there = ", ".join(metrics)
            logger.warning("logger.keep_best: %s gives no number %s (%s)", evaluator, self.options.metric, there)
            return
        if not self._better(value):
            return
        require_folder(self.experiment.root)
        kept = {path.name for path in self._keep(parts, iteration)}
        record = {"iteration": iteration, "value": value, **self.options.model_dump(), "files": sorted(kept)}
        write_json(self.experiment.best / "best.json", record)
        self.record = record
        for path in self.experiment.best.iterdir():
            if path.name not in kept and path.name != "best.json":
                with suppress(OSError):
                    path.unlink()
        logger.info("best so far: iteration %d, %s %s %.4g", iteration, evaluator, self.options.metric, value)

    def _better(self, value: float) -> bool:
        if not math.isfinite(value):
            return False
        if not self.record:
            return True
        old = float(self.record["value"])
        return value > old if self.options.mode == "max" else value < old

    def _keep(self, parts: Parts, iteration: int) -> list[Path]:
        """Links to the checkpoint of this iteration where there is one and the disk knows links, else copies."""
        paths = []
        for name in parts.networks:
            for ema in (True, False) if name in parts.averages else (False,):
                saved = self.experiment.saved_weights(name, iteration, ema)
                path = self.experiment.best / saved.name
                if not _linked(saved, path):
                    path = path.with_suffix(f".{self.recipe.logger.checkpoint_format}")
                    write_weights_of(path, self.recipe, parts, name, iteration, ema)
                paths.append(path)
        return paths


def _linked(saved: Path, path: Path) -> bool:
    if not saved.exists():
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex[:8]}.tmp{path.suffix}")
    try:
        os.link(saved, temporary)
    except OSError:
        return False
    temporary.replace(path)
    return True
