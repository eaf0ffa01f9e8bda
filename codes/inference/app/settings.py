"""What a user may choose, and what one user may take of the machine."""

from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar

from pydantic import Field, ValidationError
from pydantic_core import from_json

from ...config.options import Options, issues_of
from ...images.output_size import SizeOptions
from ...models.diffusion.sampling_options import Consistency, Wrap
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

    `result_pixels`: of a result, also before it is resampled, where another size is asked for than the network's. A
    session that is not heard of for `away` seconds lets others pass, after `forget` seconds it is removed.
    """

    file_bytes: int = 256 * MIB
    pixels: int = 50_000_000
    photographs: int = 100
    result_pixels: int = 250_000_000
    sessions: int = 200
    free_bytes: int = 512 * MIB
    away: float = 150.0  # browsers let pages that are not looked at run once a minute
    forget: float = 3600.0


Choice = TypeVar("Choice", bound=Options)
Strength = Annotated[float, Field(ge=0, le=1)]


class Dials(Options):
    """How a photograph is restored. `strengths`: corruption -> 0 (clean) to 1. Steps 1 are the one-step student's.

    `tile`: side in pixels of the result; None is the size of training. `output`: how large, as in recipes; `wrap` and
    `consistency` as there.
    """

    strengths: dict[str, Strength] = Field(default_factory=dict)
    temperature: float = Field(0.15, ge=0, le=1)
    steps: Steps = 8
    seed: int = Field(0, ge=0, lt=2**32)
    tile: int | None = Field(None, ge=SMALLEST_TILE, le=LARGEST_TILE)
    output: SizeOptions = Field(default_factory=SizeOptions)
    wrap: Wrap = "none"
    consistency: Consistency = "none"


class PreviewChoice(Dials):
    """A preview of the square around (x, y), pixels of the upright photograph."""

    x: int = Field(ge=0)
    y: int = Field(ge=0)


def parsed(kind: type[Choice], body: bytes) -> Choice:
    """What a request says, in one line what is wrong with it. Raises RequestError."""
    try:
        data = from_json(body)
    except ValueError as error:
        raise RequestError(f"the request: {error}") from None
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        words = (
            issue.words if issue.path else f"the request: {issue.message}" for issue in issues_of(kind, error, data)
        )
        raise RequestError("; ".join(words)) from None
