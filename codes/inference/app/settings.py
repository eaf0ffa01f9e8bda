"""What a user may choose, and what one user may take of the machine."""

from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...utils.errors import EXIT_FAILED, TesseraError

MIB = 2**20
SMALLEST_TILE, LARGEST_TILE = 64, 1024
Steps = Literal[1, 4, 8]
Format = Literal["same", "png", "jpeg", "webp", "tiff"]


class RequestError(TesseraError):
    """A request that cannot be done; `status` is HTTP's number for the reason."""

    exit_code = EXIT_FAILED

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Limits:
    """`file_bytes` and `pixels` of a photograph, `photographs` of a session; `free_bytes` stay free on the disk.

    A session that is not heard of for `away` seconds lets others pass, after `forget` seconds it is removed.
    """

    file_bytes: int = 256 * MIB
    pixels: int = 50_000_000
    photographs: int = 100
    sessions: int = 200
    free_bytes: int = 512 * MIB
    away: float = 150.0  # browsers let pages that are not looked at run once a minute
    forget: float = 3600.0


class _Choice(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


Choice = TypeVar("Choice", bound=_Choice)
Strength = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Dials(_Choice):
    """How a photograph is restored. `strengths`: corruption -> 0 (clean) to 1. Steps 1 are the one-step student's.

    `tile`: side in pixels of the result; None is the size of training.
    """

    strengths: dict[str, Strength] = Field(default_factory=dict)
    temperature: float = Field(0.15, ge=0, le=1, allow_inf_nan=False)
    steps: Steps = 8
    seed: int = Field(0, ge=0, lt=2**32)
    tile: int | None = Field(None, ge=SMALLEST_TILE, le=LARGEST_TILE)


class PreviewChoice(Dials):
    """A preview of the square around (x, y), pixels of the upright photograph."""

    x: int = Field(ge=0)
    y: int = Field(ge=0)


def parsed(kind: type[Choice], body: bytes) -> Choice:
    """What a request says, in one line what is wrong with it. Raises RequestError."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the request"
        raise RequestError(f"{place}: {first['msg']}") from None
