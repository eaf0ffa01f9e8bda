"""How large the result of a call is to be, and bringing what was restored to that size: a part of `restorer.py`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from pydantic import ValidationError
from torch import Tensor

from ..config.options import issues_of
from ..images.canvas import RamCanvas
from ..images.channels import Result
from ..images.files import MAX_PIXELS, to_rgb
from ..images.objects import ImageObject
from ..images.output_size import Framing, SizeOptions, passes_for
from ..images.resampling import Resampled
from ..utils.console import get_logger
from ..utils.errors import ConfigError

logger = get_logger(__name__)


@dataclass(frozen=True)
class ResultSize:
    """What a result shows and how large, and how often the image is restored on the way there."""

    options: SizeOptions
    framing: Framing
    passes: int

    @classmethod
    def asked(
        cls,
        scale: float | None,
        size: str | tuple[int, int] | None,
        output: Mapping[str, Any] | None,
        image: ImageObject,
        network_scale: int,
    ) -> Self:
        """The size of a result by the arguments of a call. Raises ConfigError; several passes are warned of."""
        options = _size_options(scale, size, output)
        framing = _framing(options, image, network_scale)
        height, width = image.rgb.shape[:2]
        passes = passes_for(framing.magnification(height, width), network_scale) if options.resized else 1
        if passes > 1:
            logger.warning(
                "%s: restored %d times in a row; fine detail is invented from invented detail", options.in_words, passes
            )
        return cls(options, framing, passes)

    def shown(self, restored: Sequence[Tensor], wrap: tuple[bool, bool]) -> list[np.ndarray]:
        """float32 (H, W, 3) in [0, 1], of colours and transparency (3, h, w) in [-1, 1]; the latter is no light."""
        return [self._of(image, self.options.linear_light and at == 0, wrap) for at, image in enumerate(restored)]

    def _of(self, image: Tensor, light: bool, wrap: tuple[bool, bool]) -> np.ndarray:
        height, width = image.shape[-2:]
        picture = Result(RamCanvas(image), unit=False, gray=False)
        made = Resampled(picture, height, width, self.framing, self.options.resampling, light, wrap)
        return to_rgb(made.rows(0, self.framing.height), False)


def _size_options(
    scale: float | None, size: str | tuple[int, int] | None, output: Mapping[str, Any] | None
) -> SizeOptions:
    """How large the result is to be. Raises ConfigError, one line."""
    said = f"{size[1]}x{size[0]}" if isinstance(size, tuple) and len(size) == 2 else size
    values = {**(output or {})} | {
        key: value for key, value in {"scale": scale, "size": said}.items() if value is not None
    }
    try:
        return SizeOptions.model_validate(values)
    except ValidationError as error:
        issues = issues_of(SizeOptions, error, values)
        raise ConfigError("; ".join(f"{'.'.join(map(str, issue.path))}: {issue.message}" for issue in issues)) from None


def _framing(asked: SizeOptions, image: ImageObject, scale: int) -> Framing:
    """The result's. Raises ConfigError for one that is absurdly large."""
    height, width = image.rgb.shape[:2]
    framing = asked.framing(height, width, scale=scale)
    if asked.resized and framing.height * framing.width > MAX_PIXELS:
        raise ConfigError(
            f"{asked.in_words}: asks for {framing.width}x{framing.height} pixels, more than {MAX_PIXELS}; ask for less"
        )
    return framing
