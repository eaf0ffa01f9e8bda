"""What the results of a test run are called."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...data.companions import Roots
from ...images.files import WRITERS, ImageInfo
from ...recipe.output_options import OutputOptions
from ...utils.errors import ConfigError
from ...utils.names import first_free, numbered, problem_with_length, same_file

EXTENSIONS = {"png": ".png", "jpg": ".jpg", "webp": ".webp", "tiff": ".tif"}
SAME = {"PNG": ".png", "JPEG": ".jpg", "MPO": ".jpg", "WEBP": ".webp", "TIFF": ".tif"}  # by Pillow's name of a format
SPREAD = "spread"


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
        """A target for every input, below `folder` as the input lies below its root.

        No two inputs share a file, on whatever file system: not by case, nor by the form of an accented letter.
        """
        taken: set[tuple[str, ...]] = set()
        tree = Roots(roots)
        result = []
        for file, info in zip(files, infos, strict=True):
            place, extension = folder / tree.below(file).parent, self._extension(file, info)
            targets = (
                place / f"{stem}{self.options.suffix}{extension}"
                for stem in numbered(file.stem, file.suffix.lstrip("."))
            )
            result.append(first_free(targets, lambda target: self.files(target).values(), taken))
        return result

    def problem(self, target: Path) -> str | None:
        """Why the results of an image cannot be called as they would be; None where they can."""
        found = (problem_with_length(file) for file in self.files(target).values())
        return next((problem for problem in found if problem), None)

    def _extension(self, file: Path, info: ImageInfo) -> str:
        if self.options.format != "same":
            return EXTENSIONS[self.options.format]
        kind = "JPEG" if info.format == "MPO" else info.format
        return file.suffix if WRITERS.get(file.suffix.lower()) == kind else SAME.get(info.format, ".png")


def clashes(named: Mapping[str, Path], inputs: frozenset[tuple[str, ...]]) -> Path | None:
    """A result that is itself an input (`same_file` of the resolved paths)."""
    return next((file for file in named.values() if same_file(file.resolve()) in inputs), None)
