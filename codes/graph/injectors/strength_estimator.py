"""Reading the strengths of corruptions from images, in training and in use."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from ...config.yaml_source import Issue, KeyPath
from ...models.diffusion.networks.base import DiffusionNetwork
from ...models.diffusion.networks.strength_estimator import StrengthEstimator
from ..graph import INJECTORS, Injector, State, StepContext
from ..node_options import InjectorOptions
from .image_keys import image_of


class StrengthEstimatorInjectorOptions(InjectorOptions):
    """Options of `strength_estimator`."""

    in_key: str = Field("lq", validation_alias="in", description="State key of the corrupted images, (B, C, H, W).")
    generator: str = Field(description="Name of the network, of which_model_G: strength_estimator.")
    out: str = Field("estimated_entropy", description="State key of the strengths that are written, (B, K) in [0, 1].")
    out_spread: str = Field("estimated_spread", description="State key of their standard deviations, (B, K).")
    out_map: str | None = Field(
        None, description="State key of the strengths of every place of 8 pixels, (B, K, h, w); ~ writes none."
    )

    def reads(self) -> dict[KeyPath, str]:
        return {("in",): self.in_key}

    def writes(self) -> dict[KeyPath, str]:
        places: dict[KeyPath, str] = {("out_map",): self.out_map} if self.out_map is not None else {}
        return {("out",): self.out, ("out_spread",): self.out_spread, **places}

    def network_inputs(self) -> dict[str, str]:
        return {self.generator: self.in_key}

    def problems(self, networks: Mapping[str, DiffusionNetwork]) -> list[Issue]:
        if self.generator not in networks:
            known = ", ".join(networks) or "none"
            return [Issue(("generator",), f"no network {self.generator!r} (there are: {known})")]
        if not isinstance(networks[self.generator], StrengthEstimator):
            return [Issue(("generator",), f"{self.generator} estimates no strengths; use a strength_estimator")]
        return []


@INJECTORS.register("strength_estimator")
class StrengthEstimatorInjector(Injector):
    """Runs the network; in training it also keeps the statistics by which an odd image is known later."""

    Options = StrengthEstimatorInjectorOptions

    def __init__(self, options: StrengthEstimatorInjectorOptions) -> None:
        self.options = options

    def __call__(self, state: State, context: StepContext) -> dict[str, Any]:
        options = self.options
        image = image_of(state, options.in_key, f"strength_estimator {options.out}")
        network = context.networks[options.generator]
        assert isinstance(network, StrengthEstimator), "the recipe's checks refuse other networks"
        with context.autocast():
            features = network.features(image)
        if network.training:
            network.observe(features)
        local = network.local(features)
        mean, spread = local.pooled()
        written = {options.out: mean, options.out_spread: spread}
        return written if options.out_map is None else {**written, options.out_map: local.strength}
