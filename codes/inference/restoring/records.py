"""What a test run remembers of every finished image, so that a later run neither repeats nor forgets it."""

import hashlib
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ...utils.console import get_logger
from ...utils.files import write_json
from .work_plan import Planned

logger = get_logger(__name__)
FOLDER = ".records"
RESUME = ".resume"
TEMPORARY = ".*.????????.tmp*"  # what `utils.files.atomic_write` names a file that is not whole yet


@dataclass(frozen=True)
class Restored:
    """One finished image: the files written and what was measured, by label of the page.

    Sizes are (height, width). `strengths`: what the network was told, in words. `consistency`: how close the result,
    made small again, is to the input.
    """

    phase: str
    position: int
    source: Path
    key: str
    files: Mapping[str, Path]
    low_res: tuple[int, int] = (0, 0)
    size: tuple[int, int] = (0, 0)
    seed: int = 0
    strengths: str = ""
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    truth: str = ""  # digest of the file that the metrics compare with
    consistency: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    earlier: bool = False  # finished by an earlier run

    @property
    def order(self) -> tuple[str, int]:
        return self.phase, self.position


class Records:
    """The records of the results below a folder, one file each, written after the results."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, row: Restored, target: Path) -> None:
        """Remember a finished image."""
        data = asdict(row) | {
            "source": str(row.source),
            "files": {label: str(file.relative_to(self.root)) for label, file in row.files.items()},
        }
        write_json(self._file(target), data)

    def get(self, image: Planned, files: Mapping[str, Path]) -> Restored | None:
        """What is known of an image whose results are all there; None where one is missing or nothing is known."""
        if not all(file.is_file() for file in files.values()):
            return None
        with suppress(OSError, ValueError, KeyError, TypeError):
            data: dict[str, Any] = json.loads(self._file(image.target).read_text(encoding="utf-8"))
            data |= {"low_res": tuple(data["low_res"]), "size": tuple(data["size"])}
            data |= {"metrics": {label: _with_inf(values) for label, values in data["metrics"].items()}}
            data |= {"consistency": _with_inf(data["consistency"])}
            data |= {"phase": image.phase, "position": image.position, "source": image.source, "files": dict(files)}
            return Restored(**data | {"earlier": True})
        return None

    def forget(self, image: Planned) -> None:
        """Before results are written again: from now on they are not what the record says."""
        self._file(image.target).unlink(missing_ok=True)

    def scratch(self, image: Planned) -> Path:
        """The folder for what an interruption of this image keeps."""
        return self.root / RESUME / image.key

    def finished(self, image: Planned) -> None:
        """Remove what an interruption would have kept."""
        if image.key:
            shutil.rmtree(self.scratch(image), ignore_errors=True)
            with suppress(OSError):
                (self.root / RESUME).rmdir()  # empty

    def clean(self, images: Sequence[Planned]) -> None:
        """Remove what interruptions kept of anything but these images, and files whose writing was cut off."""
        for place in {image.target.parent for image in images} | {self.root, self.root / FOLDER}:
            for left in place.glob(TEMPORARY):
                left.unlink(missing_ok=True)
        folder, keys = self.root / RESUME, {image.key for image in images}
        for left in folder.iterdir() if folder.is_dir() else ():
            if left.name not in keys:
                shutil.rmtree(left, ignore_errors=True)
        with suppress(OSError):
            folder.rmdir()

    def _file(self, target: Path) -> Path:
        # A name as long as a file system takes has no room for more, so a digest stands for it.
        name = str(target.relative_to(self.root)).encode("utf-8", "surrogateescape")
        return self.root / FOLDER / f"{hashlib.blake2b(name, digest_size=16).hexdigest()}.json"


def _with_inf(values: Mapping[str, float | None]) -> dict[str, float]:
    """JSON has no infinity (the PSNR of equal images), so null stands for it."""
    return {name: math.inf if value is None else value for name, value in values.items()}
