"""The folder of an experiment: what lies where, and how a run finds what an earlier one left."""

import json
import platform
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib import metadata
from itertools import count
from pathlib import Path
from typing import Any

from ..config.yaml_source import Source
from ..utils.console import get_logger
from ..utils.errors import ConfigError
from ..utils.files import write_json, write_text
from ..utils.names import numbered
from ..version import __version__
from .run_lock import NAME as LOCK_NAME
from .run_lock import RunLock

logger = get_logger(__name__)
PACKAGES = (
    "torch",
    "numpy",
    "pydantic",
    "safetensors",
    "opencv-python-headless",
    "pillow",
    "scikit-image",
    "tensorboard",
)
SNAPSHOTS = "post_hoc_ema"  # folder of the averages whose length is chosen after training
STATE = re.compile(r"^(\d+)\.state$")


@dataclass(frozen=True)
class Experiment:
    """experiments/<name>: models/, training_state/, best/, visual_dbg/<key>/, samples/, tb_logger/, recipe.yml, ..."""

    root: Path

    @classmethod
    def named(cls, name: str) -> "Experiment":
        return cls(Path("experiments") / name)

    @classmethod
    def find(cls, name_or_folder: str) -> "Experiment":
        """An existing experiment by name or folder. Raises ConfigError with what there is."""
        for root in (Path("experiments") / name_or_folder, Path(name_or_folder)):
            if (root / "models").is_dir():
                return cls(root)
        there = sorted(path.parent.name for path in Path("experiments").glob("*/models"))
        listed = ", ".join(there) or "none; train first, or name a file in path.pretrain_model_<network>"
        raise ConfigError(
            f"path.experiment: no trained experiment {name_or_folder!r} (in experiments/ there are: {listed})"
        )

    def weights(self, network: str, iteration: int, ema: bool, suffix: str = ".safetensors") -> Path:
        return self.root / "models" / f"{iteration}_{network}{'_ema' if ema else ''}{suffix}"

    def saved_weights(self, network: str, iteration: int, ema: bool) -> Path:
        """The weights of an iteration in whichever format they were saved."""
        paths = [self.weights(network, iteration, ema, suffix) for suffix in (".safetensors", ".pth")]
        return next((path for path in paths if path.exists()), paths[0])

    def state(self, iteration: int) -> Path:
        return self.root / "training_state" / f"{iteration}.state"

    def states(self) -> list[tuple[int, Path]]:
        """All saved states, newest first."""
        folder = self.root / "training_state"
        numbered_states = [
            (int(match[1]), path) for path in folder.glob("*.state") if (match := STATE.match(path.name))
        ]
        return sorted(numbered_states, reverse=True)

    @property
    def best(self) -> Path:
        return self.root / "best"

    def best_record(self) -> dict[str, Any]:
        """What best/best.json says; empty when there is none that can be read."""
        try:
            record = json.loads((self.best / "best.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return record if isinstance(record, dict) else {}

    def best_weights(self, network: str) -> Path:
        """The averaged weights, else the plain ones, that `logger.keep_best` kept. Raises ConfigError."""
        files = [str(name) for name in self.best_record().get("files", [])]
        pattern = re.compile(rf"^\d+_{re.escape(network)}(_ema)?\.(safetensors|pth)$")
        names = sorted((name for name in files if pattern.match(name)), key=lambda name: "_ema." not in name)
        if not names:
            raise ConfigError(f"{self.best} holds no weights of {network!r}; train with logger.keep_best")
        return self.best / names[0]

    def newest_weights(self, network: str) -> Path:
        """The newest EMA weights of a network, or the newest plain ones. Raises ConfigError when there are none."""
        for suffix in ("_ema", ""):
            pattern = re.compile(rf"^(\d+)_{re.escape(network)}{suffix}\.(safetensors|pth)$")
            by_iteration = [
                (int(m[1]), path) for path in (self.root / "models").iterdir() if (m := pattern.match(path.name))
            ]
            if by_iteration:
                return max(by_iteration)[1]
        raise ConfigError(
            f"{self.root}/models holds no weights of {network!r}; "
            f"train first, or name a file in path.pretrain_model_{network}"
        )

    def archive(self, lock: RunLock | None = None) -> None:
        """Put an earlier run of the same name aside, so that nothing of it is overwritten; the lock stays here."""
        if not self.root.exists() or all(entry.name == LOCK_NAME for entry in self.root.iterdir()):
            return
        stamp = f"{self.root.name}_archived_{time.strftime('%Y%m%d_%H%M%S')}"
        aside = next(
            place
            for number in count(1)
            if not (place := self.root.with_name(stamp if number == 1 else f"{stamp}_{number}")).exists()
        )
        self.root.rename(aside)
        if lock is not None:
            lock.moved(aside)
        logger.info(
            "%s exists and no resume was asked for: moved to %s (use --auto_resume to continue a run)", self.root, aside
        )

    def record(self, source: Source) -> None:
        """Write the recipe as run (bases and overrides resolved), and with what it runs.

        What a resumed run finds there is kept under the time of its start when it says something else.
        """
        recipe = self.root / "recipe.yml"
        text = source.to_yaml()
        if recipe.exists() and recipe.read_text(encoding="utf-8") != text:
            _put_aside(recipe)
        write_text(recipe, text)
        surroundings = self.root / "environment.json"
        if surroundings.exists():
            _put_aside(surroundings)
        write_json(surroundings, environment())


def _put_aside(path: Path) -> None:
    stamp = time.strftime("%Y%m%d_%H%M%S", time.localtime(path.stat().st_mtime))
    names = (path.with_name(f"{name}{path.suffix}") for name in numbered(f"{path.stem}_from_{stamp}", ""))
    path.replace(next(place for place in names if not place.exists()))


def environment() -> dict[str, object]:
    """Versions, machine and the state of the source tree."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "tessera": __version__,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "packages": versions,
        "git": _git_state(),
        "command": sys.argv,
        "started": time.strftime("%Y-%m-%d %H:%M:%S%z"),
    }


def _git_state() -> str | None:
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        answer = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
