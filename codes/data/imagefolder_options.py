"""The options of `mode: imagefolder`, in DLAS's words."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from ..config.fingerprint import REPORT_ONLY
from ..config.options import Options, nested, validate_nested
from ..config.paths import UserPath
from ..config.registry import nearest
from ..config.yaml_source import Issue
from .corruptions.options import CorruptionOptions
from .corruptions.strength import estimators
from .corruptions.strength_map import StrengthMap
from .image_options import ImageOptions

Strength = Annotated[float, Field(ge=0.0, le=1.0)]
AUTO: tuple[str, ...] = ("auto", "auto_map")
StrengthEntry = Strength | Literal["auto", "auto_map"] | StrengthMap


def read_entry(value: Any) -> float | str | StrengthMap:
    """A strength as written in a recipe; what is wrong with it in one message, not in one for each kind of entry."""
    if isinstance(value, Mapping | StrengthMap):
        return validate_nested(StrengthMap, value)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value in AUTO or (number and 0 <= value <= 1):
        return value
    close = nearest(value, list(AUTO)) if isinstance(value, str) else None
    hint = f" (did you mean {close}?)" if close else ""
    raise nested(
        [Issue((), f"expected a number in [0, 1], auto, auto_map, or {{map: FILE or FOLDER}}, found {value!r}{hint}")]
    )


class FixedParameters(Options):
    """Values that are otherwise drawn for every item."""

    corruption_entropy: tuple[StrengthEntry, ...] | dict[str, StrengthEntry] | None = Field(
        None,
        description="Strength of each fixed corruption, in listed order or by name ({jpeg: 0.2, gaussian_blur: 0.5}), "
        "each in [0, 1]; 1 is the strongest. With skip_lq, `auto` reads it from each file "
        "(fixed_corruptions must then be listed): that of a JPEG corruption from its tables, any other by `estimator`; "
        "auto_map has the estimator tell one for every pixel, and {map: FILE or FOLDER} takes them from a picture.",
    )
    auto_default: Strength = Field(
        0.2,
        description="What `auto` takes, in [0, 1], for files without a sure trace of how they were compressed, and the "
        "most that it takes where the estimator is unsure.",
    )
    estimator: str | None = Field(
        None,
        description="Name of the network, a trained strength_estimator (path.pretrain_model_NAME), that reads `auto`; "
        "~: JPEG alone can be read.",
    )

    @field_validator("corruption_entropy", mode="before")
    @classmethod
    def _read_entries(cls, given: Any) -> Any:
        if not isinstance(given, Mapping | tuple):
            if given is None:
                return None
            raise nested(
                [Issue((), f"expected a list of strengths, or a mapping (corruption: strength), found {given!r}")]
            )
        read: dict[Any, Any] = {}
        issues = []
        for key, value in given.items() if isinstance(given, Mapping) else enumerate(given):
            try:
                read[key] = read_entry(value)
            except PydanticCustomError as error:
                entry_issues = (error.context or {})["issues"]
                issues += [replace(issue, path=(key, *issue.path)) for issue in entry_issues]
        if issues:
            raise nested(issues)
        return read if isinstance(given, Mapping) else tuple(read.values())


class ImageFolderOptions(CorruptionOptions, ImageOptions):
    """`datasets.<phase>` with `mode: imagefolder`."""

    mode: Literal["imagefolder"] = Field("imagefolder", description="Folders of images.")
    fixed_parameters: FixedParameters = Field(FixedParameters(), description="Values that are otherwise drawn.")
    skip_lq: bool = Field(
        False, description="Make no lq: the image itself is hq (restoration, where the file IS the low resolution)."
    )
    ground_truth: Annotated[UserPath | None, REPORT_ONLY] = Field(
        None,
        description="With skip_lq: what the results are compared with, an image file or a folder in which each image "
        "has a file of its sub-folder and name (the suffix may differ). Nothing: no metrics.",
    )

    def remarks(self) -> Iterator[Issue]:
        yield from super().remarks()
        if "auto_default" in self.fixed_parameters.model_fields_set and not self.auto_positions:
            yield Issue(("fixed_parameters", "auto_default"), "has no effect here: no strength is `auto`")

    def provides(self) -> frozenset[str]:
        """The keys of the tensors of an item: the first state of the graph."""
        return frozenset({"hq", "corruption_entropy"} if self.skip_lq else {"hq", "lq", "corruption_entropy"})

    @property
    def minimum_side(self) -> int:
        """Pixels that both sides of an image must have; an image that is restored as it is may have a single one."""
        return self.target_size or (1 if self.skip_lq else self.scale)

    @property
    def num_strengths(self) -> int:
        """How many strengths an item of training has."""
        return len(self.fixed_corruptions)

    @property
    def corruption_names(self) -> tuple[str, ...]:
        return self.fixed_corruptions

    @property
    def truth_list(self) -> tuple[str, ...]:
        return () if self.ground_truth is None else (self.ground_truth,)

    @property
    def files_are_lq(self) -> bool:
        return self.skip_lq

    @property
    def estimator(self) -> str | None:
        return self.fixed_parameters.estimator

    @property
    def known_entropy(self) -> tuple[float | Literal["auto", "auto_map"] | StrengthMap, ...] | None:
        """The strengths set in `fixed_parameters`, in the order of `fixed_corruptions`, or None."""
        given = self.fixed_parameters.corruption_entropy
        return tuple(given[name] for name in self.fixed_corruptions) if isinstance(given, Mapping) else given

    @property
    def auto_positions(self) -> tuple[int, ...]:
        """The positions of `auto` and `auto_map` in the strengths."""
        return tuple(index for index, value in enumerate(self.known_entropy or ()) if value in AUTO)

    def issues(self) -> Iterator[Issue]:
        """Everything about these options that does not fit together."""
        yield from super().issues()
        size = self.target_size
        if size is not None and size % self.scale and not self.skip_lq:
            yield Issue(("target_size",), f"{size} is not divisible by scale {self.scale}")
        if self.ground_truth is not None and not self.skip_lq:
            yield Issue(("ground_truth",), "without skip_lq the image itself is the ground truth; remove this key")
        yield from self.corruption_issues()
        named = [*self._name_issues()]
        yield from named or self._strength_issues()

    def _name_issues(self) -> Iterator[Issue]:
        """Strengths by name that do not fit `fixed_corruptions`."""
        given, fixed = self.fixed_parameters.corruption_entropy, self.fixed_corruptions
        path = ("fixed_parameters", "corruption_entropy")
        if not isinstance(given, Mapping):
            return
        if not fixed or len(set(fixed)) < len(fixed):
            wrong = "is empty" if not fixed else "names one of them twice"
            text = f"strengths by name need the names in fixed_corruptions, which {wrong}; give a list of strengths"
            yield Issue(path, text)
            return
        for name in given:
            if name not in fixed:
                close = nearest(name, list(fixed))
                hint = f"did you mean {close}?" if close else f"there are: {', '.join(fixed)}"
                yield Issue((*path, name), f"no such corruption in fixed_corruptions ({hint})")
        missing = [name for name in fixed if name not in given]
        if missing:
            yield Issue(path, f"no strength for {', '.join(missing)}; give one for each of fixed_corruptions")

    def _strength_issues(self) -> Iterator[Issue]:
        known, fixed = self.known_entropy, self.fixed_corruptions
        path = ("fixed_parameters", "corruption_entropy")
        listed = bool(fixed) or not self.skip_lq
        if known is not None and listed and len(known) != len(fixed):
            yield Issue(path, f"{len(known)} strengths for {len(fixed)} fixed_corruptions; give one for each")
            return
        maps = [index for index, value in enumerate(known or ()) if isinstance(value, StrengthMap)]
        numbers = [value for value in known or () if not isinstance(value, StrengthMap)]
        if not self.skip_lq:
            for index in maps:
                text = "a map is for finished images (skip_lq: true); here give a number in [0, 1]"
                yield Issue(self._entry_path(index), text)
            if known is not None and not self.auto_positions and not maps:
                yield from self.strength_issues(numbers)
        for index in self.auto_positions:
            yield from self._auto_issues(index)

    def _entry_path(self, index: int) -> tuple[str | int, ...]:
        """Where the strength of a position stands."""
        by_name = isinstance(self.fixed_parameters.corruption_entropy, Mapping)
        key = self.fixed_corruptions[index] if by_name else index
        return ("fixed_parameters", "corruption_entropy", key)

    def _auto_issues(self, index: int) -> Iterator[Issue]:
        path = self._entry_path(index)
        if not self.skip_lq:
            yield Issue(
                path, "auto reads the strength of a finished image (skip_lq: true); here give a number in [0, 1]"
            )
        elif not self.fixed_corruptions:
            yield Issue(path, "auto needs to know the corruption; list fixed_corruptions as in the training recipe")
        elif self.fixed_parameters.estimator is not None:
            return  # what it knows is written in its checkpoint
        elif (self.known_entropy or ())[index] == "auto_map":
            yield Issue(path, "auto_map needs fixed_parameters.estimator, the name of a trained strength_estimator")
        elif self.fixed_corruptions[index] not in estimators():
            name, known = self.fixed_corruptions[index], ", ".join(estimators())
            text = (
                f"auto cannot be read for {name} without fixed_parameters.estimator (only for: {known}); name one, or"
            )
            yield Issue(path, f"{text} give a number in [0, 1]")
