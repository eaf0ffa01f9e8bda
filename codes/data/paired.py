"""`mode: paired`: photographs (hq) and their low-resolution versions (lq) from two folders, matched by name."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field

from ..config.fingerprint import CHOICE_ONLY, CONTENT_ONLY
from ..config.options import Options
from ..config.paths import UserPath
from ..config.yaml_source import Issue
from ..images.files import to_float, to_tensor
from ..utils.errors import DataError
from .base import Item, Rejected, named
from .companions import stem_below
from .datasets import DATASETS
from .image_dataset import Drawn, Generators, ImageDataset
from .image_options import ImageOptions
from .scan import Scan, scan
from .windows import centre_corner, random_corner

Strength = Annotated[float, Field(ge=0.0, le=1.0)]


class PairedParameters(Options):
    """Values that are the same for every item."""

    corruption_entropy: tuple[Strength, ...] = Field(
        (), description="Strengths, each in [0, 1], that the network is told; as many as it was built for."
    )


class PairedOptions(ImageOptions):
    """`datasets.<phase>` with `mode: paired`."""

    mode: Literal["paired"] = Field("paired", description="Two folders of images that belong together by their names.")
    paths: Annotated[UserPath | tuple[UserPath, ...], CONTENT_ONLY] = Field(
        description="The hq: a folder (searched recursively), a file, or a list."
    )
    paths_lq: Annotated[UserPath | tuple[UserPath, ...], CONTENT_ONLY] = Field(
        description="The lq, as many as `paths`, in the same order. A pair has the same name (suffixes may differ) and "
        "lies in the same sub-folder; the lq has the sides of the hq divided by `scale`, rounded down."
    )
    lq_suffix: Annotated[str, CONTENT_ONLY] = Field(
        "", description="What names of lq have after those of hq: x2 pairs 0001.png with 0001x2.png."
    )
    allow_unmatched: Annotated[bool, CHOICE_ONLY] = Field(
        False, description="Leave out files without a fitting partner and name them, instead of stopping."
    )
    fixed_parameters: PairedParameters = Field(
        PairedParameters(), description="Values that are the same for all items."
    )

    def provides(self) -> frozenset[str]:
        """The keys of the tensors of an item: the first state of the graph."""
        return frozenset({"hq", "lq", "corruption_entropy"})

    @property
    def num_strengths(self) -> int:
        """How many strengths an item of training has."""
        return len(self.fixed_parameters.corruption_entropy)

    @property
    def lq_list(self) -> tuple[str, ...]:
        """`paths_lq` as a tuple."""
        return (self.paths_lq,) if isinstance(self.paths_lq, str) else self.paths_lq

    def issues(self) -> Iterator[Issue]:
        """Everything about these options that does not fit together."""
        yield from super().issues()
        size = self.target_size
        if len(self.lq_list) != len(self.path_list):
            text = f"{len(self.lq_list)} folders of lq for {len(self.path_list)} of hq; give one for each"
            yield Issue(("paths_lq",), text)
        if size is not None and size % self.scale:
            yield Issue(("target_size",), f"{size} is not divisible by scale {self.scale}")
        if size is not None and self.tile == "none":
            yield Issue(("tile",), "none would resize pairs, which changes what the lq lost; use random or center")
        if self.shrink != (1.0, 1.0):
            yield Issue(("shrink",), "would change what the lq of a pair lost; shrink both folders beforehand")
        if self.force_square:
            yield Issue(("force_square",), "pairs are cut by `tile` alone; remove this key")
        if self.alpha == "crop":
            yield Issue(("alpha",), "crop could cut the two images of a pair differently; use white or black")


@DATASETS.register("paired")
class PairedDataset(ImageDataset):
    """Items `hq` (3, H, W), `lq` (3, H / scale, W / scale) float32, `corruption_entropy` (K,), and the paths.

    Both images of a pair are cut at the same place and mirrored together. Raises as ImageDataset does, and DataError
    when files have no partner or sizes do not fit, unless `allow_unmatched`.
    """

    Options = PairedOptions

    def __init__(self, options: PairedOptions, *, seed: int, shuffle: bool) -> None:
        self.options = options
        self._lq_files: dict[Path, Path] = {}
        super().__init__(options, seed=seed, shuffle=shuffle)

    def item(self, position: int) -> Item:
        """The item of a position in the endless order."""
        drawn = self._draw(position)
        hq, lq = self._cut(drawn)
        strengths = torch.tensor(self.options.fixed_parameters.corruption_entropy, dtype=torch.float32)
        n1_to_1 = self.options.rgb_n1_to_1
        return {
            **self._record(drawn.number),
            "hq": to_tensor(hq, n1_to_1),
            "lq": to_tensor(lq, n1_to_1),
            "corruption_entropy": strengths,
        }

    def _cut(self, drawn: Drawn) -> tuple[np.ndarray, np.ndarray]:
        """float32 hq and lq of the same place."""
        options, (hq, lq) = self.options, drawn.images
        if options.target_size is not None and options.tile == "center":
            side = options.target_size // options.scale
            hq, lq = self._pair(hq, lq, *centre_corner(lq, side), side, side)
        elif options.target_size is None:
            hq, lq = self._pair(hq, lq, 0, 0, *lq.shape[:2])
        large, small = to_float(hq), to_float(lq)
        return (large[:, ::-1], small[:, ::-1]) if self._flipped(drawn.generator) else (large, small)

    def _pair(
        self, hq: np.ndarray, lq: np.ndarray, top: int, left: int, height: int, width: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """What lies at a place of the lq, and the same place of the hq."""
        small = lq[top : top + height, left : left + width]
        top, left, height, width = (value * self.options.scale for value in (top, left, height, width))
        return hq[top : top + height, left : left + width], small

    def _windows(self, images: tuple[np.ndarray, ...], generator: Generators) -> tuple[np.ndarray, ...]:
        options, (hq, lq) = self.options, images
        if options.tile != "random" or options.target_size is None:
            return images
        side = options.target_size // options.scale
        return self._pair(hq, lq, *random_corner(lq, side, generator("tile"), options.min_tile_std), side, side)

    def _sources(self, number: int) -> tuple[Path, ...]:
        file = self.files[number]
        return file, self._lq_files[file]

    def _load(self, number: int) -> tuple[np.ndarray, ...]:
        return tuple(self._cache.get(path) for path in self._sources(number))

    def _selected(self, scanned: Scan) -> Scan:
        """The hq that have a partner of the right size."""
        options = self.options
        least = -(-options.minimum_side // options.scale)
        partners = scan(options.lq_list, least, max_pixels=options.max_pixels, index=options.index)
        pairs, lone = _matched(scanned, partners, options)
        partners_of = {hq: lq for hq, lq in pairs.items() if lq is not None}
        self._lq_files = {scanned.files[hq]: partners.files[lq] for hq, lq in partners_of.items()}

        def judge(number: int) -> Rejected | None:
            lq = partners_of.get(number)
            if lq is None:
                return Rejected(scanned.files[number], "no lq of this name", "unmatched")
            return _wrong_size(scanned, number, partners, lq, options.scale)

        alone = tuple(Rejected(partners.files[lq], "no hq of this name", "unmatched") for lq in lone)
        result = scanned.without(judge)
        result = Scan(result.files, result.infos, result.folders, (*result.rejected, *partners.rejected, *alone))
        wrong = [entry for entry in result.rejected if entry.kind == "unmatched"]
        if wrong and not options.allow_unmatched:
            reasons = "; ".join(line.strip().removeprefix("skipped ") for line in named(wrong))
            raise DataError(
                f"dataset {options.name}: {len(wrong)} of {len(scanned.files)} hq and {len(partners.files)} lq "
                f"files do not match ({reasons}). Correct it, set scale or lq_suffix, or allow_unmatched: true to "
                "leave them out"
            )
        return result


def _matched(hq: Scan, lq: Scan, options: PairedOptions) -> tuple[dict[int, int | None], list[int]]:
    """The lq of every hq by their numbers, and the lq that belong to none. A name that comes twice matches nothing."""
    pairs: dict[int, int | None] = {}
    used: set[int] = set()
    for large, small, hq_path, lq_path in zip(hq.folders, lq.folders, options.path_list, options.lq_list, strict=True):
        names = defaultdict(list)
        for number, name in zip(small, _keys(lq.files[small.start : small.stop], lq_path), strict=True):
            names[name].append(number)
        taken = _keys(hq.files[large.start : large.stop], hq_path, options.lq_suffix)
        often = Counter(taken)
        for number, name in zip(large, taken, strict=True):
            unique = len(names[name]) == 1 and often[name] == 1
            pairs[number] = names[name][0] if unique else None
            used.update(names[name] if unique else ())
    return pairs, [number for number in range(len(lq.files)) if number not in used]


def _keys(files: Sequence[Path], root: str, suffix: str = "") -> list[str]:
    """What the two files of a pair share, of each file: the sub-folder and the name."""
    folder = Path(root)
    if not folder.is_dir():
        return [""] * len(files)  # two files that are named in the recipe are a pair whatever they are called
    return [stem_below(file.relative_to(folder), suffix) for file in files]


def _wrong_size(hq: Scan, hq_number: int, lq: Scan, lq_number: int, scale: int) -> Rejected | None:
    large, small = hq.infos[hq_number], lq.infos[lq_number]
    if (large.height // scale, large.width // scale) == (small.height, small.width):
        return None
    text = (
        f"{large.width}x{large.height}, but its lq {lq.files[lq_number]} is {small.width}x{small.height}; "
        f"scale {scale} needs {large.width // scale}x{large.height // scale}"
    )
    return Rejected(hq.files[hq_number], text, "unmatched")
