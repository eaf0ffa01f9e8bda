"""The axes of a sweep, as the command line names them: a strength, an option of sampling, the seed."""

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from ...config.options import issues_of
from ...config.registry import nearest
from ...graph.node_options import TiledOptions
from ...models.diffusion.sampling_options import SamplingOptions
from ...recipe.output_options import OutputOptions
from ...utils.errors import ConfigError

Kind = Literal["strength", "sampling", "colour", "seed"]
RANGE = re.compile(r"([^:,]+):([^:,]+):([^:,]+)")
STEPS = "steps"
SHORT = {STEPS: "respaced_timestep_spacing"}
WORDS: dict[str, Any] = {"true": True, "false": False, "~": None, "null": None}
# Not of one number or word each, or not of the picture.
NO_AXES = {"beta_schedule", "diffusion_args", "canvas", "resume_seconds", "use_ddim"}


@dataclass(frozen=True)
class Axis:
    """One thing that a sweep varies. `name` as the user wrote it, `field` as the options call it."""

    name: str
    field: str
    kind: Kind
    values: tuple[Any, ...]

    def label(self, value: Any) -> str:
        """`jpeg 0.25`, for pictures and pages."""
        return f"{self.name} {value_text(value)}"


def value_text(value: Any) -> str:
    """A value as a recipe would write it."""
    if value is None:
        return "~"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def parse_values(name: str, text: str) -> tuple[Any, ...]:
    """`0:1:5` (start:stop:count, both ends included) or `2,4,8`. Raises ConfigError for anything else."""
    match = RANGE.fullmatch(text.strip())
    values = _range(name, text, match.groups()) if match else tuple(_scalar(part) for part in text.split(","))
    if not values or "" in values or (":" in text and not match):
        raise ConfigError(f"--axis {name} {text}: expected start:stop:count, as in 0:1:5, or a list, as in 2,4,8")
    if len(set(values)) < len(values):
        raise ConfigError(f"--axis {name} {text}: the same value stands twice; remove one")
    return values


def _range(name: str, text: str, parts: Sequence[str]) -> tuple[int | float, ...]:
    try:
        start, stop, count = float(parts[0]), float(parts[1]), int(parts[2])
    except ValueError:
        raise ConfigError(
            f"--axis {name} {text}: start:stop:count takes two numbers and a whole number of values, as in 0:1:5"
        ) from None
    if count < 2 or start == stop or not (math.isfinite(start) and math.isfinite(stop)):
        raise ConfigError(f"--axis {name} {text}: a range goes from one number to another in at least 2 values")
    return tuple(_whole(float(f"{start + (stop - start) * i / (count - 1):.6g}")) for i in range(count))


def _scalar(text: str) -> Any:
    text = text.strip()
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    try:
        number = float(text)
    except ValueError:
        return text
    return _whole(number) if math.isfinite(number) else text


def _whole(value: float) -> int | float:
    return int(value) if value.is_integer() else value


def read_axes(given: Sequence[tuple[str, str]], corruptions: Sequence[str]) -> tuple[Axis, ...]:
    """The axes of the command line. Raises ConfigError for names that nothing has, with the nearest that there is."""
    axes = tuple(_axis(name, text, corruptions) for name, text in given)
    for index, axis in enumerate(axes):
        if axis.field in [other.field for other in axes[:index]]:
            raise ConfigError(f"--axis {axis.name}: given twice; write all its values into one")
    return axes


def _axis(name: str, text: str, corruptions: Sequence[str]) -> Axis:
    values = parse_values(name, text)
    if name in corruptions:
        wrong = [v for v in values if isinstance(v, bool) or not isinstance(v, int | float) or not 0 <= v <= 1]
        if wrong:
            raise ConfigError(f"--axis {name} {text}: a strength lies in [0, 1], found {value_text(wrong[0])}")
        return Axis(name, name, "strength", tuple(float(value) for value in values))
    if name == "seed":
        if any(isinstance(value, bool) or not isinstance(value, int) or value < 0 for value in values):
            raise ConfigError(f"--axis seed {text}: expected whole numbers from 0 on")
        return Axis(name, name, "seed", values)
    if name == "color_fix":
        return Axis(name, name, "colour", values)
    field = SHORT.get(name, name)
    if field in SamplingOptions.all_keys() and field not in NO_AXES:
        return Axis(name, field, "sampling", values)
    raise ConfigError(_unknown(name, corruptions))


def _unknown(name: str, corruptions: Sequence[str]) -> str:
    options = [field for field in SamplingOptions.all_keys() if field not in NO_AXES]
    close = nearest(name, [*corruptions, *options, *SHORT, "seed", "color_fix"])
    hint = f"did you mean {close}? " if close else ""
    listed = ", ".join(corruptions) or "none, because fixed_corruptions is not listed"
    return (
        f"--axis {name}: no such corruption or option ({hint}corruptions of this recipe: {listed}; or an option of "
        "sampling: steps, sampler, eta, stop_at_snr, guidance_scale, ..., color_fix, seed)"
    )


@dataclass(frozen=True)
class Cell:
    """One combination: `values` by axis name, `at` its place on every axis, and the options that make it."""

    at: tuple[int, ...]
    values: Mapping[str, Any]
    node: TiledOptions
    output: OutputOptions


def cells(axes: Sequence[Axis], node: TiledOptions, output: OutputOptions) -> Iterator[Cell]:
    """Every combination, the last axis fastest. Raises ConfigError for one that the options do not allow."""
    for at in itertools.product(*(range(len(axis.values)) for axis in axes)):
        chosen = {axis.name: axis.values[place] for axis, place in zip(axes, at, strict=True)}
        sampling = {axis.field: chosen[axis.name] for axis in axes if axis.kind == "sampling"}
        colour = {axis.field: chosen[axis.name] for axis in axes if axis.kind == "colour"}
        words = " ".join(axis.label(chosen[axis.name]) for axis in axes if axis.kind in ("sampling", "colour"))
        given = {**node.given_for(sampling), "canvas": "ram"}
        made = _made(type(node), given, words)
        fixed = _made(OutputOptions, {**output.model_dump(exclude_unset=True), **colour}, words)
        yield Cell(at, chosen, made, fixed)


def _made(options: Any, given: Mapping[str, Any], words: str) -> Any:
    try:
        return options.model_validate(given)
    except ValidationError as error:
        issue = issues_of(options, error, given)[0]
        raise ConfigError(f"--axis: {words}: {issue.words}") from None
