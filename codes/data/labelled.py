"""`mode: labelled`: images with a class, for class-conditional generation."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field

from ..config.yaml_source import Issue
from ..images.files import to_tensor
from ..utils.console import get_logger
from ..utils.errors import DataError
from ..utils.names import one_form
from .base import Item, Rejected
from .datasets import DATASETS
from .image_dataset import ImageDataset
from .image_options import ImageOptions
from .scan import Scan

logger = get_logger(__name__)


class LabelledOptions(ImageOptions):
    """`datasets.<phase>` with `mode: labelled`."""

    mode: Literal["labelled"] = Field("labelled", description="Images with a class.")
    class_from: Literal["folder", "prefix"] = Field(
        "folder",
        description="`folder`: the first folder below `paths` (for files that lie in `paths` itself: that folder); "
        "`prefix`: the name of the file before its first underscore.",
    )
    classes: tuple[str, ...] | None = Field(
        None,
        description="The classes in the order of their numbers; files of others are left out. Nothing: all that are "
        "found, sorted by name.",
    )

    def provides(self) -> frozenset[str]:
        """The keys of the tensors of an item: the first state of the graph."""
        return frozenset({"hq", "y"})

    def issues(self) -> Iterator[Issue]:
        """Everything about these options that does not fit together."""
        yield from super().issues()
        if self.paths is None:
            yield Issue(("paths",), "missing; the sample photographs have no classes, so name a folder of images")
        if self.classes is not None and len(set(self.classes)) < len(self.classes):
            twice = next(name for name in self.classes if self.classes.count(name) > 1)
            yield Issue(("classes",), f"{twice} comes twice; a class has one number")
        if self.classes == ():
            yield Issue(("classes",), "an empty list; name the classes, or remove the key to use all that are found")


@DATASETS.register("labelled")
class LabelledDataset(ImageDataset):
    """Items `hq` (3, H, W) float32, `y` () int64 (the position in `classes`), `class` (its name), and the paths.

    Raises as ImageDataset does, and DataError when a class of `options.classes` has no image.
    """

    Options = LabelledOptions

    def __init__(self, options: LabelledOptions, *, seed: int, shuffle: bool) -> None:
        self.options = options
        self._labels: dict[Path, int] = {}
        super().__init__(options, seed=seed, shuffle=shuffle)

    def item(self, position: int) -> Item:
        """The item of a position in the endless order."""
        drawn = self._draw(position)
        hq = self._hq(drawn.images[0], drawn.generator)
        file = self.files[drawn.number]
        label = self._labels[file]
        return {
            **self._record(drawn.number),
            "hq": to_tensor(hq, self.options.rgb_n1_to_1),
            "y": torch.tensor(label),
            "class": self.classes[label],
        }

    def _selected(self, scanned: Scan) -> Scan:
        """The images of a class."""
        names: dict[Path, str | None] = {}
        for path, folder in zip(self.options.path_list, scanned.folders, strict=True):
            names |= {scanned.files[number]: self._class_of(scanned.files[number], Path(path)) for number in folder}
        self.classes = self.options.classes or tuple(sorted({name for name in names.values() if name is not None}))
        numbers = {one_form(name): number for number, name in enumerate(self.classes)}

        def judge(number: int) -> Rejected | None:
            name = names[scanned.files[number]]
            if name is None:
                return Rejected(scanned.files[number], "no underscore in its name, so no class", "unlabelled")
            return None if name in numbers else Rejected(scanned.files[number], f"class {name} is unused", "unlabelled")

        result = scanned.without(judge)
        self._labels = {file: numbers[name] for file in result.files if (name := names[file]) is not None}
        self._check_classes()
        return result

    def _class_of(self, file: Path, path: Path) -> str | None:
        if self.options.class_from == "prefix":
            prefix, underscore, _ = file.name.partition("_")
            return one_form(prefix) if underscore else None
        below = file.relative_to(path).parts if path.is_dir() else ()
        return one_form(below[0] if len(below) > 1 else file.absolute().parent.name)

    def _check_classes(self) -> None:
        empty = set(self.classes) - {self.classes[label] for label in self._labels.values()}
        if empty:
            raise DataError(
                f"dataset {self.options.name}: no usable image of class {', '.join(sorted(empty))} in "
                f"{', '.join(self.options.path_list)}; add some, or take it off `classes`"
            )
        counted = f"{len(self.classes)} class{'' if len(self.classes) == 1 else 'es'}"
        logger.info("dataset %s: %s by %s", self.options.name, counted, self.options.class_from)
