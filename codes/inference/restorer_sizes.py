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
    """What a result shows and how large, and how often the image is restored on the way there.

    `restored`: (height, width) after that, before it is resampled.
    """

    options: SizeOptions
    framing: Framing
    passes: int
    restored: tuple[int, int]

    @classmethod
    def of(cls, options: SizeOptions, height: int, width: int, network_scale: int) -> Self:
        """For an image of (height, width). Raises ConfigError for a result that is absurdly large."""
        framing = options.framing(height, width, scale=network_scale)
        passes = passes_for(framing.magnification(height, width), network_scale) if options.resized else 1
        scale = network_scale**passes
        for down, across in (framing.size, (height * scale, width * scale)) if options.resized else ():
            if down * across > MAX_PIXELS:
                raise ConfigError(
                    f"{options.in_words}: asks for {across}x{down} pixels, more than {MAX_PIXELS}; ask for less"
                )
        return cls(options, framing, passes, (height * scale, width * scale))

    @classmethod
    def asked(
        cls,
        scale: float | None,
        size: str | tuple[int, int] | None,
        output: SizeOptions | Mapping[str, Any] | None,
        image: ImageObject,
        network_scale: int,
    ) -> Self:
        """The size of a result by the arguments of a call. Raises ConfigError; what `warnings` holds is logged."""
        height, width = image.rgb.shape[:2]
        wanted = cls.of(_size_options(scale, size, output), height, width, network_scale)
        for warning in wanted.warnings:
            logger.warning("%s: %s", wanted.options.in_words, warning)
        return wanted

    @property
    def warnings(self) -> tuple[str, ...]:
        """What one should know of the detail of a result that is larger than the network makes it at once."""
        warnings = []
        if self.passes > 1:
            warnings.append(f"restored {self.passes} times in a row; fine detail is invented from invented detail")
        if self.options.resized and self.framing.interpolates(*self.restored):
            warnings.append("more than the network gives; enlarged by interpolation for the rest")
        return tuple(warnings)

    def shown(self, restored: Sequence[Tensor], wrap: tuple[bool, bool]) -> list[np.ndarray]:
        """float32 (H, W, 3) in [0, 1], of colours and transparency (3, h, w) in [-1, 1]; the latter is no light."""
        return [self._of(image, self.options.linear_light and at == 0, wrap) for at, image in enumerate(restored)]

    def _of(self, image: Tensor, light: bool, wrap: tuple[bool, bool]) -> np.ndarray:
        height, width = image.shape[-2:]
        picture = Result(RamCanvas(image), unit=False, gray=False)
        made = Resampled(picture, height, width, self.framing, self.options.resampling, light, wrap)
        return to_rgb(made.rows(0, self.framing.height), False)


def _size_options(
    scale: float | None, size: str | tuple[int, int] | None, output: SizeOptions | Mapping[str, Any] | None
) -> SizeOptions:
    """How large the result is to be. Raises ConfigError, one line."""
    said = f"{size[1]}x{size[0]}" if isinstance(size, tuple) and len(size) == 2 else size
    given = {key: value for key, value in {"scale": scale, "size": said}.items() if value is not None}
    if isinstance(output, SizeOptions):
        if not given:
            return output
        output = output.given_for({})
    values = {**(output or {}), **given}
    try:
        return SizeOptions.model_validate(values)
    except ValidationError as error:
        raise ConfigError("; ".join(issue.words for issue in issues_of(SizeOptions, error, values))) from None
