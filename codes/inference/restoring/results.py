"""What a test run makes of an image: the results, how large each is on the way and at the end, and their files."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ...data.companions import Roots
from ...graph.node_options import TiledOptions
from ...images.files import WRITERS, ImageInfo
from ...images.output_size import Framing, passes_for
from ...recipe.output_options import OutputOptions
from ...recipe.recipe import Recipe
from ...utils.errors import ConfigError
from ...utils.names import first_free, numbered, same_file

EXTENSIONS = {"png": ".png", "jpg": ".jpg", "webp": ".webp", "tiff": ".tif"}
SAME = {"PNG": ".png", "JPEG": ".jpg", "MPO": ".jpg", "WEBP": ".webp", "TIFF": ".tif"}  # by Pillow's name of a format
SPREAD = "spread"
Order = tuple[str, int]


@dataclass(frozen=True)
class PlannedResult:
    """An image that is made from another: its state key, and its (height, width) after `passes` times of `scale`.

    `framing`: what of it is written, and how large; None where it only leads to another. `interpolated`: that has more
    pixels than the networks give. `unit`: its values are in [0, 1], not in [-1, 1]. `wrapped`: the axes, (y, x), along
    which it is seamless.
    """

    key: str
    size: tuple[int, int]
    scale: int
    passes: int
    framing: Framing | None
    interpolated: bool
    unit: bool
    wrapped: tuple[bool, bool]


@dataclass(frozen=True)
class Chain:
    """The injectors of a recipe that restore images, in order; each starts from the data or from an earlier result.

    `outputs`: the results that are written. `starts`: for each injector the key that its low resolution has the size
    of, an image of the data or another result.
    """

    nodes: tuple[TiledOptions, ...]
    outputs: tuple[str, ...]
    starts: tuple[str, ...]
    output: OutputOptions

    @classmethod
    def of_recipe(cls, recipe: Recipe) -> Self:
        """What a test run of this recipe restores, which may be nothing."""
        every = [node for step in recipe.steps.values() for node in step.injectors.values()]
        nodes = tuple(node.tiled for node in every if not node.train and node.tiled and node.tiled.restores)
        made_of = {out: read for node in every for out, read in node.same_size().items()}
        starts = []
        for node in nodes:
            key = node.model_input_keys["low_res"]
            while key in made_of:
                key = made_of[key]
            starts.append(key)
        named = recipe.eval.output_state
        outputs = tuple(node.out for node in nodes) if named is None else (named,) if isinstance(named, str) else named
        return cls(nodes, outputs, tuple(starts), recipe.output)

    def node(self, key: str) -> TiledOptions:
        """The injector that writes a result."""
        return next(node for node in self.nodes if node.out == key)

    def low_res_key(self, keys: Collection[str]) -> str:
        """The image of the data, which has these keys, that restoration starts from. Raises ConfigError."""
        key = next((key for key in self.starts if key in keys), None)
        if key is None:
            raise ConfigError(
                f"low_res: {self.nodes[0].model_input_keys['low_res']} is neither an image of the data nor made from "
                "one of the same size, so the size of the result is not known beforehand; resize or crop the files "
                "themselves"
            )
        return key

    def results(self, low_res_key: str, low_res: tuple[int, int]) -> tuple[PlannedResult, ...]:
        """What is made of a low resolution of (height, width); what is written comes first."""
        asked = self.output.framing(*low_res, scale=1) if self.output.resized else None
        size_of, made = {low_res_key: low_res}, dict[str, PlannedResult]()
        for node, start in zip(self.nodes, self.starts, strict=True):
            (height, width), scale, written = size_of[start], node.output_scale_factor, node.out in self.outputs
            needed = asked.magnification(height, width) if asked and written else 1.0
            passes = passes_for(needed, scale) if asked else 1
            size = size_of[node.out] = (height * scale**passes, width * scale**passes)
            framing = (asked or Framing(*size)) if written else None
            made[node.out] = PlannedResult(
                node.out, size, scale, passes, framing, framing is not None and framing.interpolates(*size),
                node.undo_n1_to_1, node.wrapped,
            )  # fmt: skip
        return tuple(made[key] for key in dict.fromkeys([*self.outputs, *made]))


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
