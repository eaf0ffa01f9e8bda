"""A plain forward pass of a network as an injector, for restorers that need no diffusion."""

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field

from ...config.yaml_source import Issue, KeyPath
from ...models.diffusion.networks.base import DiffusionNetwork
from ..graph import INJECTORS, Injector, State, StepContext
from .gaussian_diffusion import conditioning_problems
from .image_keys import OneImageOptions, image_of

NEEDED = ("low_res", "y")  # inputs that a network that takes them cannot do without


class GeneratorOptions(OneImageOptions):
    """Options of `generator`."""

    generator: str = Field(description="Name of the network that is run.")
    model_input_keys: dict[str, str] = Field({}, description="Further network argument -> state key, e.g. low_res: lq.")
    timestep: int = Field(
        0, ge=0, description="The timestep that the network is told, the same for all; 0 for one that restores at once."
    )

    def reads(self) -> dict[KeyPath, str]:
        return {**super().reads(), **{("model_input_keys", name): key for name, key in self.model_input_keys.items()}}

    def same_size(self) -> dict[str, str]:
        return {self.out: self.in_key}

    def network_inputs(self) -> dict[str, str]:
        return {self.generator: self.in_key}

    def problems(self, networks: Mapping[str, DiffusionNetwork]) -> list[Issue]:
        return plain_network_problems(self.generator, self.model_input_keys, networks)


def plain_network_problems(
    generator: str, model_input_keys: Mapping[str, str], networks: Mapping[str, DiffusionNetwork]
) -> list[Issue]:
    """What keeps a network from being run once, from images to images."""
    issues = conditioning_problems(generator, model_input_keys, networks)
    if generator not in networks:
        return issues
    network = networks[generator]
    for name in NEEDED:
        if name in network.cond_names and name not in model_input_keys:
            issues.append(Issue(("model_input_keys", name), f"missing; {generator} takes {name}"))
    if network.learns_variance:
        message = f"{generator} learns a variance, which nothing reads here; set its out_channels {network.in_channels}"
        issues.append(Issue(("generator",), message))
    return issues


@INJECTORS.register("generator")
class GeneratorInjector(Injector):
    """Runs a network once on the images `in` and writes its output (B, C, H, W), float32."""

    Options = GeneratorOptions

    def __init__(self, options: GeneratorOptions) -> None:
        self.options = options

    def __call__(self, state: State, context: StepContext) -> dict[str, Any]:
        options = self.options
        image = image_of(state, options.in_key, f"generator {options.out}")
        cond = {name: state[key] for name, key in options.model_input_keys.items()}
        timesteps = torch.full((len(image),), options.timestep, dtype=torch.int64, device=image.device)
        with context.autocast():
            output = context.networks[options.generator](image, timesteps, **cond)
        return {options.out: output.float()}
