"""How the samples of a folder were made, so that only a run that would make the same ones adds to them."""

import json
import time
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

from ...utils.console import get_logger
from ...utils.errors import ConfigError
from ...utils.files import write_text
from .sample_files import FOLDER

logger = get_logger(__name__)
FILE = "generation.json"


def take_up(root: Path, settings: Mapping[str, Any], restart: bool) -> None:
    """Make sure that the samples below `root` are of these settings, or that there are none.

    Others raise ConfigError that says what differs, or with `restart` are moved into a folder of their own.
    """
    if not any((root / FOLDER).rglob("*.png")):
        return
    before = _recorded(root)
    changed = [key for key in {**before, **settings} if before.get(key) != settings.get(key)]
    if not changed:
        return
    if restart:
        _move_aside(root)
        return
    said = [f"{key}: {_shown(before.get(key))} then, {_shown(settings.get(key))} now" for key in changed[:3]]
    more = f"; and {len(changed) - 3} more" if len(changed) > 3 else ""
    what = "; ".join(said) + more if before else f"{FILE} is missing"
    raise ConfigError(
        f"{root / FOLDER}: the samples there were made in another way ({what}); give this run another `name` or "
        "path.results, or set generate.on_change: restart to move them aside"
    )


def record(root: Path, settings: Mapping[str, Any], outcome: Mapping[str, Any]) -> None:
    """Write generation.json: the settings, and what was made so far."""
    text = json.dumps({"settings": dict(settings), **outcome}, indent=2, ensure_ascii=False, default=str)
    write_text(root / FILE, text + "\n")


def _recorded(root: Path) -> dict[str, Any]:
    try:
        settings: dict[str, Any] = json.loads((root / FILE).read_text(encoding="utf-8"))["settings"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return settings


def _move_aside(root: Path) -> None:
    stamp = time.strftime("earlier_%Y%m%d_%H%M%S")
    names = (stamp if number == 1 else f"{stamp}_{number}" for number in count(1))
    aside = next(place for name in names if not (place := root / name).exists())
    aside.mkdir()
    for file in [root / FOLDER, root / FILE, root / "grid.png", *root.glob("samples_*.npz")]:
        if file.exists():
            file.rename(aside / file.name)
    logger.info("the samples of other settings were moved to %s", aside)


def _shown(value: Any) -> str:
    text = "not set" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:37]}..."
