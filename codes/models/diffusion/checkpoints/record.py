"""What one of our checkpoints records of itself, read into typed objects: nothing in it is taken on trust."""

import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ....config.options import Options, issues_of, normalised
from ....utils.errors import ConfigError
from ....utils.printable import printable

VERSION = "tessera_version"
PARTS = ("network", "process", "data")
MOST_SHOWN = 200  # characters of a message: keys and values are those of the file


class NetworkRecord(Options):
    """Which network it is, with its options as plain JSON values."""

    which_model: str
    args: dict[str, Any]


class DataRecord(BaseModel):
    """What it was trained on. Of a later version it may hold more."""

    model_config = ConfigDict(frozen=True, strict=True, extra="allow")

    scale: int | None = Field(None, ge=1, le=1024)
    corruptions: tuple[str, ...] | None = None


class Record(Options):
    """The whole record."""

    network: NetworkRecord
    kind: Literal["ema", "raw"]
    iteration: int = Field(ge=0)
    process: dict[str, Any]
    data: DataRecord = DataRecord()


def read_record(text: Mapping[str, str], place: str) -> Record:
    """The record in the metadata of a file of ours. Raises ConfigError, one line, that begins with `place`."""
    try:
        plain = {key: json.loads(text[key]) for key in (*PARTS, "iteration") if key in text}
        data = {**plain, "kind": text.get("kind"), "data": normalised(plain.get("data", {}))}
        return Record.model_validate(data)
    except ValidationError as error:
        problem = first_problem(Record, error, data)
    except RecursionError:
        problem = "nested too deep"
    except ValueError as error:
        problem = printable(f"no JSON ({error})")[:MOST_SHOWN]
    raise ConfigError(
        f"{place}: its record of itself is damaged: {problem}; fetch the file again, or save its weights as .pth and "
        "give their network in a recipe"
    )


def first_problem(cls: type[BaseModel], error: ValidationError, data: Any) -> str:
    """The first finding of a validation in one printable line."""
    issue = issues_of(cls, error, data)[0]
    return printable(issue.words)[:MOST_SHOWN]
