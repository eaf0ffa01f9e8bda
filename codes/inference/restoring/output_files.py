"""What the results of a test run are called."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...data.companions import below
from ...images.files import WRITERS, ImageInfo
from ...recipe.output_options import OutputOptions

EXTENSIONS = {"png": ".png", "jpg": ".jpg", "webp": ".webp", "tiff": ".tif"}
SAME = {"PNG": ".png", "JPEG": ".jpg", "MPO": ".jpg", "WEBP": ".webp", "TIFF": ".tif"}  # by Pillow's name of a format
SPREAD = "spread"


@dataclass(frozen=True)
class OutputNames:
    """Names the files of an image: one for each result of the recipe (`outputs`, state keys) and each sample."""

    options: OutputOptions
    outputs: tuple[str, ...]

    def files(self, target: Path) -> dict[str, Path]:
        """Label of the page -> file. The first result takes the image's own name, the others add their key."""
        found = {}
        for index, key in enumerate(self.outputs):
            stem = target.stem if index == 0 else f"{target.stem}_{key}"
            for part in self.options.labels:
                name = f"{stem}_{part}" if part else stem
                extension = ".png" if part == SPREAD else target.suffix
                found[self.label(key, part)] = target.with_name(name + extension)
        return found

    @staticmethod
    def label(key: str, part: str) -> str:
        """What a file is called on the page."""
        return f"{key} {part}" if part else key

    def plan(self, folder: Path, files: Sequence[Path], infos: Sequence[ImageInfo], roots: Sequence[str]) -> list[Path]:
        """A target for every input, below `folder` as the input lies below its root; no two inputs share a file."""
        taken: set[Path] = set()
        result = []
        for file, info in zip(files, infos, strict=True):
            place, extension = folder / below(file, roots).parent, self._extension(file, info)
            number = 1
            while True:
                other = "" if number == 1 else f"_{file.suffix.lstrip('.')}" if number == 2 else f"_{number - 1}"
                target = place / f"{file.stem}{other}{self.options.suffix}{extension}"
                named = set(self.files(target).values())
                if taken.isdisjoint(named):
                    break
                number += 1
            taken |= named
            result.append(target)
        return result

    def _extension(self, file: Path, info: ImageInfo) -> str:
        if self.options.format != "same":
            return EXTENSIONS[self.options.format]
        kind = "JPEG" if info.format == "MPO" else info.format
        return file.suffix if WRITERS.get(file.suffix.lower()) == kind else SAME.get(info.format, ".png")


def clashes(named: Mapping[str, Path], inputs: frozenset[Path]) -> Path | None:
    """A result that is itself an input (resolved paths)."""
    return next((file for file in named.values() if file.resolve() in inputs), None)
