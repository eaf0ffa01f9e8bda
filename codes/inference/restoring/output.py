"""The files of a test run: what they are called, and what is remembered of every finished image.

So that a later run neither repeats nor forgets one.
"""

import hashlib
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from ...data.companions import Roots
from ...images.files import WRITERS, ImageInfo
from ...recipe.output_options import OutputOptions
from ...utils.errors import ConfigError
from ...utils.files import remove_temporaries, write_json
from ...utils.names import first_free, numbered, same_file
from .sizes import PlannedResult

EXTENSIONS = {"png": ".png", "jpg": ".jpg", "webp": ".webp", "tiff": ".tif"}
SAME = {"PNG": ".png", "JPEG": ".jpg", "MPO": ".jpg", "WEBP": ".webp", "TIFF": ".tif"}  # by Pillow's name of a format
SPREAD = "spread"
FOLDER = ".records"
RESUME = ".resume"
Order = tuple[str, int]


@dataclass(frozen=True)
class OutputNames:
    """Names the files of an image: one for each result of the recipe (`outputs`, state keys) and each sample."""

    options: OutputOptions
    outputs: tuple[str, ...]

    def __post_init__(self) -> None:
        """Raises ConfigError where two results of one image would always share a file."""
        files = self.files(Path("a.png")).values()
        if len(set(map(same_file, files))) < len(files):
            listed = ", ".join(file.name for file in files)
            raise ConfigError(
                f"eval.output_state: two results of an image would share a file ({listed}); rename an `out`"
            )

    def files(self, target: Path) -> dict[str, Path]:
        """Label of the page -> file. The first result takes the image's own name, the others add their key."""
        paths = {}
        for index, key in enumerate(self.outputs):
            stem = target.stem if index == 0 else f"{target.stem}_{key}"
            for part in self.options.labels:
                name = f"{stem}_{part}" if part else stem
                extension = ".png" if part == SPREAD else target.suffix
                paths[label_of(key, part)] = target.with_name(name + extension)
        return paths

    def targets(
        self, folder: Path, files: Sequence[Path], infos: Sequence[ImageInfo], roots: Sequence[str]
    ) -> list[Path]:
        """A target for every input, below `folder` as the input lies below its root.

        No two inputs share a file, on whatever file system: not by case, nor by the form of an accented letter.
        """
        taken: set[tuple[str, ...]] = set()
        tree = Roots(roots)
        result = []
        for file, info in zip(files, infos, strict=True):
            place, extension = folder / tree.below(file).parent, self._extension(file, info)
            names = (
                place / f"{stem}{self.options.suffix}{extension}"
                for stem in numbered(file.stem, file.suffix.lstrip("."))
            )
            result.append(first_free(names, lambda target: self.files(target).values(), taken))
        return result

    def _extension(self, file: Path, info: ImageInfo) -> str:
        if self.options.format != "same":
            return EXTENSIONS[self.options.format]
        kind = "JPEG" if info.format == "MPO" else info.format
        return file.suffix if WRITERS.get(file.suffix.lower()) == kind else SAME.get(info.format, ".png")


def label_of(key: str, part: str) -> str:
    """What the file of a result, or of a part of it, is called on the page."""
    return f"{key} {part}" if part else key


def clash(named: Mapping[str, Path], inputs: frozenset[tuple[str, ...]]) -> Path | None:
    """A result that is itself an input (`same_file` of the resolved paths)."""
    return next((file for file in named.values() if same_file(file.resolve()) in inputs), None)


@dataclass(frozen=True)
class Placed:
    """An image of a run: its dataset, its place there, its file, and its name below the input folder."""

    phase: str
    position: int
    source: Path
    name: str

    @property
    def order(self) -> Order:
        return self.phase, self.position


@dataclass(frozen=True)
class Planned(Placed):
    """One image to restore: `low_res`, its (height, width) by the header, and `results`, those written first.

    `files`: label of the page -> file to be written; `target` is the first one's name without what tells them apart.
    `tiles`: network tiles of one state at once (of the largest result); `states`: samples, twice with transparency
    that is restored; `pixels`: those of the output in all states, to which the work is in proportion.
    `input`: fingerprint of the files it is read from; `key`: of that and everything else that its results depend on.
    Both are "" where a file cannot be read.
    """

    target: Path
    files: Mapping[str, Path]
    low_res: tuple[int, int]
    results: tuple[PlannedResult, ...]
    tiles: int
    states: int
    pixels: int
    input: str
    key: str


@dataclass(frozen=True)
class ImageRecord(Placed):
    """One finished image: the files written and what was measured, by label of the page.

    Sizes are (height, width); `restored_size` is that before the result was brought to its size. `strengths`: what the
    network was told, in words. `consistency`: how close the result, made small again, is to the input. `input` and
    `key`: those of its `Planned`.
    """

    input: str
    key: str
    files: Mapping[str, Path]
    low_res: tuple[int, int] = (0, 0)
    size: tuple[int, int] = (0, 0)
    restored_size: tuple[int, int] = (0, 0)
    seed: int = 0
    strengths: str = ""
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    truth: str = ""  # digest of the file that the metrics compare with
    compared: str = ""  # what was done to the truth before it was compared
    consistency: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    earlier: bool = False  # finished by an earlier run


@dataclass(frozen=True)
class Records:
    """The records of the results below a folder, one file each, written after the results."""

    root: Path

    def earlier(self, images: Sequence[Planned], skip: Literal["same", True, False]) -> dict[Order, ImageRecord]:
        """The images that need not be restored again, as `output.skip_existing` says.

        Results that are known to come from another input never count.
        """
        records = {}
        for image in images if skip is not False else ():
            if not all(_is_file(file) for file in image.files.values()):
                continue
            record = self.get(image)
            if record is not None and image.key and record.key == image.key:
                records[image.order] = record
            elif skip is True and (record is None or record.input == image.input):
                records[image.order] = record or _without_record(image)
        return records

    def put(self, record: ImageRecord, image: Planned) -> None:
        """Remember a finished image."""
        data = asdict(record) | {
            "source": str(record.source),
            "files": {label: str(file.relative_to(self.root)) for label, file in record.files.items()},
        }
        write_json(self._file(image.target), data)

    def get(self, image: Planned) -> ImageRecord | None:
        """What was remembered of the results of an image; None where nothing was."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            data: dict[str, Any] = json.loads(self._file(image.target).read_text(encoding="utf-8"))
            data |= {name: tuple(data[name]) for name in ("low_res", "size", "restored_size")}
            data |= {"metrics": {label: _with_inf(values) for label, values in data["metrics"].items()}}
            data |= {"consistency": _with_inf(data["consistency"])}
            data |= {"phase": image.phase, "position": image.position, "source": image.source, "name": image.name}
            data |= {"files": dict(image.files)}
            return ImageRecord(**data | {"earlier": True})
        return None

    def forget(self, image: Planned) -> None:
        """Before results are written again: from now on they are not what the record says."""
        self._file(image.target).unlink(missing_ok=True)

    def scratch(self, image: Planned) -> Path | None:
        """The folder for what an interruption of this image keeps; None where nothing tells it from another."""
        return self.root / RESUME / image.key if image.key else None

    def finished(self, image: Planned) -> None:
        """Remove what an interruption would have kept."""
        if scratch := self.scratch(image):
            shutil.rmtree(scratch, ignore_errors=True)
            with suppress(OSError):
                (self.root / RESUME).rmdir()  # empty

    def clean(self, images: Sequence[Planned]) -> int:
        """Remove what interruptions kept of anything but these images, and files whose writing was cut off.

        Returns of how many of these images something is kept.
        """
        own = (self.root, self.root / FOLDER, self.root / "index_files")
        remove_temporaries({image.target.parent for image in images}.union(own))
        folder, keys = self.root / RESUME, {image.key for image in images}
        for left in folder.iterdir() if folder.is_dir() else ():
            if left.name not in keys:
                shutil.rmtree(left, ignore_errors=True)
        with suppress(OSError):
            folder.rmdir()
        return sum(scratch.is_dir() for image in images if (scratch := self.scratch(image)))

    def _file(self, target: Path) -> Path:
        # A name as long as a file system takes has no room for more, so a digest stands for it.
        name = str(target.relative_to(self.root)).encode("utf-8", "surrogateescape")
        return self.root / FOLDER / f"{hashlib.blake2b(name, digest_size=16).hexdigest()}.json"


def _without_record(image: Planned) -> ImageRecord:
    """What can be said of results that were there before anything was remembered of them."""
    first = image.results[0]
    assert first.framing is not None, "what is written comes first"
    return ImageRecord(
        image.phase, image.position, image.source, image.name, "", "", image.files, image.low_res, first.framing.size,
        first.size, earlier=True,
    )  # fmt: skip


def _is_file(file: Path) -> bool:
    with suppress(OSError):  # a name so long that the system cannot even be asked
        return file.is_file()
    return False


def _with_inf(values: Mapping[str, float | None]) -> dict[str, float]:
    """JSON has no infinity (the PSNR of equal images), so null stands for it."""
    return {name: math.inf if value is None else value for name, value in values.items()}
