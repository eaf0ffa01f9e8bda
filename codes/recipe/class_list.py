"""The classes of a class-conditional run, beside its checkpoints: what the numbers in `y` mean."""

import difflib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..data.base import Dataset
from ..models.diffusion.networks.base import DiffusionNetwork
from ..utils.errors import ConfigError
from ..utils.files import write_json
from ..utils.names import LONGEST_PART, cut_to_bytes, first_free, numbered, one_form, problem_with_part, same_file

FILE = "classes.json"
SHOWN = 10  # names in a message; ImageNet has 1000


@dataclass(frozen=True)
class ClassList:
    """The classes of a network: `count` numbers from 0, of which the first have `names` (perhaps none)."""

    count: int
    names: tuple[str, ...] = ()

    def index(self, wanted: int | str) -> int:
        """The number of a class given by number or by name; case does not matter, nor which of several names.

        Where all classes are called by numbers, a number is such a name: folder 2, not the third in the order of text.
        A name such as `tench, Tinca tinca` holds alternatives. Raises ValueError for what is none, with the nearest.
        """
        if isinstance(wanted, int):
            if self._by_number:
                if wanted in self._by_number:
                    return self._by_number[wanted]
                raise ValueError(f"no class called {wanted}; its classes are called {self._first_names()}")
            if 0 <= wanted < self.count:
                return wanted
            raise ValueError(f"no class {wanted}; there are {self.count}, numbered 0 to {self.count - 1}")
        if not self.names:
            raise ValueError(
                f"{wanted!r} is a name, but nothing names the classes; give numbers from 0 to {self.count - 1}, or a "
                "file in generate.class_names"
            )
        spellings = self._spellings()
        numbers_of = spellings.get(wanted.casefold(), [])
        if len(numbers_of) == 1:
            return numbers_of[0]
        if numbers_of:
            numbers = ", ".join(map(str, numbers_of))
            raise ValueError(f"{wanted!r} is the name of the classes {numbers}; give the number")
        raise ValueError(f"no class {wanted!r} ({self._nearest(wanted.casefold(), spellings)})")

    def name(self, index: int) -> str:
        """The name of a class, or its number where it has none."""
        return self.names[index] if index < len(self.names) else str(index)

    @cached_property
    def folders(self) -> tuple[str, ...]:
        """A folder name for each class: letters, digits, `-` and `_` of its first name; no two are alike."""
        plain = [_plain(self.name(number)) for number in range(self.count)]
        often = Counter(name.casefold() for name in plain)
        taken: set[tuple[str, ...]] = set()
        alone = {number: name for number, name in enumerate(plain) if often[name.casefold()] == 1 and _usable(name)}
        taken |= {same_file(Path(name)) for name in alone.values()}
        return tuple(
            alone[number]
            if number in alone
            else first_free(map(Path, numbered(f"{name or 'class'}-{number}", "")), lambda path: [path], taken).name
            for number, name in enumerate(plain)
        )

    @cached_property
    def _by_number(self) -> dict[int, int]:
        """Name -> number, where all names are numbers: folders 0, 1, 10, 11, 2 are numbered in the order of text."""
        if not all(name.isdecimal() for name in self.names):
            return {}
        numbers = {int(name): number for number, name in enumerate(self.names)}
        return numbers if len(numbers) == len(self.names) else {}

    def _first_names(self) -> str:
        return f"{', '.join(self.names[:SHOWN])}{', ...' if len(self.names) > SHOWN else ''}"

    def _spellings(self) -> dict[str, list[int]]:
        """Every way to write a class -> the classes that are written so."""
        numbers_of: dict[str, list[int]] = {}
        for number, name in enumerate(self.names):
            for spelling in dict.fromkeys([name, *(part.strip() for part in name.split(","))]):
                numbers_of.setdefault(spelling.casefold(), []).append(number)
        exact: dict[str, list[int]] = {name.casefold(): [] for name in self.names}
        for number, name in enumerate(self.names):
            exact[name.casefold()].append(number)
        return {**numbers_of, **exact}

    def _nearest(self, wanted: str, spellings: Mapping[str, Sequence[int]]) -> str:
        close = difflib.get_close_matches(wanted, list(spellings), n=3, cutoff=0.5)
        if close:
            named = dict.fromkeys(f"{self.names[number]} ({number})" for name in close for number in spellings[name])
            return f"did you mean {' or '.join(named)}?"
        return f"known: {self._first_names()}"


def _plain(name: str) -> str:
    plain = re.sub(r"[^\w-]+", "_", one_form(name).split(",")[0].strip()).strip("_")
    return cut_to_bytes(plain[:60], LONGEST_PART // 2)


def _usable(name: str) -> bool:
    return problem_with_part(name) is None


def read_class_names(file: Path) -> tuple[str, ...]:
    """Names in the order of their numbers, from a JSON list, a JSON mapping of numbers to names, or one a line.

    In a mapping a list of several names counts by its last, as in ImageNet's {"0": ["n01440764", "tench"]}. Raises
    ConfigError for a file that is none of these.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"generate.class_names: {file} cannot be read ({error})") from None
    if file.suffix != ".json":
        names: list[Any] = [line.strip() for line in text.splitlines() if line.strip()]
    else:
        try:
            names = _listed(json.loads(text))
        except (ValueError, KeyError, TypeError, IndexError):
            names = []
    if not names or not all(isinstance(name, str) for name in names):
        raise ConfigError(
            f"generate.class_names: {file} holds no class names; expected one a line, or in JSON a list of names or a "
            'mapping {"0": "first", "1": "second", ...}'
        )
    return tuple(names)


def _listed(data: Any) -> list[Any]:
    """JSON as a list, empty where it is neither list nor mapping; KeyError for a gap in a mapping's numbers."""
    if not isinstance(data, dict):
        return data if isinstance(data, list) else []
    numbered = {int(number): name[-1] if isinstance(name, list) else name for number, name in data.items()}
    return [numbered[number] for number in range(len(numbered))]


def classes_beside(weights: Path) -> tuple[str, ...]:
    """The names that training wrote beside its checkpoints; none where it wrote none."""
    file = weights.parent / FILE
    return read_class_names(file) if file.is_file() else ()


def record_classes(root: Path, dataset: Dataset, networks: Mapping[str, DiffusionNetwork], write: bool) -> None:
    """Write the names of the dataset's classes, in the order of their numbers, to models/classes.json of a run.

    Does nothing for a dataset without classes; only with `write` (rank 0) the file is read and written. Raises
    ConfigError when a network has fewer classes than the dataset, or when the run being continued was trained with
    others, whose numbers would now mean something else.
    """
    classes = dataset.classes
    if not classes:
        return
    for name, network in networks.items():
        known = network.num_classes
        if known is not None and known < len(classes):
            raise ConfigError(
                f"networks.{name}.args.num_classes: is {known}, but the dataset has {len(classes)} classes"
            )
    file = root / "models" / FILE
    if not write:
        return
    if file.is_file():
        before = json.loads(file.read_text(encoding="utf-8"))
        if before != list(classes):
            raise ConfigError(
                f"{file}: this run was trained with {len(before)} classes, not with the {len(classes)} found now; "
                "set datasets.train.classes to the list in this file, or start a run of another name"
            )
    else:
        write_json(file, classes, indent=1)
