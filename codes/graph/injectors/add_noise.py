"""Noise on images of the state."""

from typing import Any, Self

from pydantic import Field, model_validator

from ...config.options import nested
from ...config.yaml_source import Issue
from ..graph import INJECTORS, Injector, State, StepContext
from .image_keys import OneImageOptions, image_of


class AddNoiseOptions(OneImageOptions):
    """Options of `add_noise`."""

    amplitude: float | tuple[float, float] = Field(
        description="Standard deviation of the noise in the units of the image, or [lowest, highest], from which each "
        "sample draws its own uniformly."
    )

    @model_validator(mode="after")
    def _range(self) -> Self:
        low, high = self.limits
        if not 0 <= low <= high:
            message = f"expected a number from 0 on, or [lowest, highest], found {self.amplitude}"
            raise nested([Issue(("amplitude",), message)])
        return self

    @property
    def limits(self) -> tuple[float, float]:
        return self.amplitude if isinstance(self.amplitude, tuple) else (self.amplitude, self.amplitude)

    def same_size(self) -> dict[str, str]:
        return {self.out: self.in_key}


@INJECTORS.register("add_noise")
class AddNoiseInjector(Injector):
    """Adds white Gaussian noise that depends on (seed, `out`, the sample's position in the run) alone. Not clipped."""

    Options = AddNoiseOptions

    def __init__(self, options: AddNoiseOptions) -> None:
        self.options = options

    def __call__(self, state: State, context: StepContext) -> dict[str, Any]:
        options = self.options
        image = image_of(state, options.in_key, f"add_noise {options.out}")
        low, high = options.limits
        drawn = low + (high - low) * context.uniform(f"amplitude of {options.out}")
        amplitude = drawn.float().to(image.device, non_blocking=True)[:, None, None, None]
        noise = context.normal(f"add_noise {options.out}", image)
        return {options.out: image + amplitude * noise}
