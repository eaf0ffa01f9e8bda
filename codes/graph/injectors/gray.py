"""Gray versions of images of the state."""

from typing import Any, Literal

from pydantic import Field

from ...images.luma import luma
from ...utils.errors import ConfigError
from ..graph import INJECTORS, Injector, State, StepContext
from .image_keys import OneImageOptions, image_of


class GrayOptions(OneImageOptions):
    """Options of `gray`."""

    channels: Literal[1, 3] = Field(3, description="Channels of the result: 1, or 3 equal ones.")

    def same_size(self) -> dict[str, str]:
        return {self.out: self.in_key}


@INJECTORS.register("gray")
class GrayInjector(Injector):
    """The luma of RGB images (ITU-R BT.601), in the range of the image."""

    Options = GrayOptions

    def __init__(self, options: GrayOptions) -> None:
        self.options = options

    def __call__(self, state: State, context: StepContext) -> dict[str, Any]:  # noqa: ARG002
        options = self.options
        image = image_of(state, options.in_key, f"gray {options.out}")
        if image.shape[1] != 3:
            raise ConfigError(f"gray {options.out}: {options.in_key} has {image.shape[1]} channels, expected RGB (3)")
        gray = luma(*image.split(1, dim=1))
        return {options.out: gray.expand(-1, options.channels, -1, -1)}
