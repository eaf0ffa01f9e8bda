"""How far two images are from each other in the features of a network of the user's."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from ...config.options import nested
from ...config.paths import UserPath
from ...config.yaml_source import Issue
from ...models.diffusion.networks.base import DiffusionNetwork
from ...utils.errors import ConfigError
from ..graph import LOSSES, Loss, State, StepContext
from .pixel import PairLossOptions, pair_of

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
TRIED_SIZE = (2, 3, 96, 64)  # B, C, H, W of the images that a network is tried with before training


class PerceptualLossOptions(PairLossOptions):
    """Options of `perceptual`."""

    network: UserPath = Field(
        description="A TorchScript file: images (B, 3, H, W) of any size -> features, a tensor (B, ...) or a list of "
        "such tensors, e.g. the layers of a classifier."
    )
    arguments: dict[str, bool | int | float] = Field(
        {},
        description="Further arguments of the network by name, e.g. {resize_images: false, return_lpips: true} with "
        "mean 0 and std 1/255 for vgg16.pt of NVIDIA's StyleGAN metrics.",
    )
    layers: tuple[int, ...] = Field((), description="Which tensors of the list are compared, from 0; [] takes all.")
    layer_weights: tuple[float, ...] = Field((), description="Weight of each of them; [] weights all alike with 1.")
    kind: Literal["l1", "l2"] = Field("l1", description="Mean of |difference| or of its square over a tensor.")
    rgb_n1_to_1: bool = Field(True, description="The images of the state are in [-1, 1] (else in [0, 1]).")
    mean: tuple[float, float, float] = Field(
        IMAGENET_MEAN, description="Taken from the images in [0, 1] before they enter the network."
    )
    std: tuple[float, float, float] = Field(IMAGENET_STD, description="By which they are then divided.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        issues = []
        if self.layers and self.layer_weights and len(self.layers) != len(self.layer_weights):
            message = f"found {len(self.layer_weights)} for {len(self.layers)} layers; give one for each"
            issues.append(Issue(("layer_weights",), message))
        if min(self.std) <= 0:
            issues.append(Issue(("std",), f"must be greater than 0, found {list(self.std)}"))
        if issues:
            raise nested(issues)
        return self

    def problems(self, networks: Mapping[str, DiffusionNetwork]) -> list[Issue]:  # noqa: ARG002
        try:
            PerceptualLoss(self)
        except ConfigError as error:
            return [Issue(("network",), str(error))]
        return []


@LOSSES.register("perceptual")
class PerceptualLoss(Loss):
    """Compares features of a fixed network (Johnson et al., arXiv 1603.08155, equation 2, with a mean over each layer).

    Its weights learn nothing and it is always in evaluation mode; gradients pass through it into the image alone.
    Raises ConfigError when it is built and the file is missing or does not answer as it must.
    """

    Options = PerceptualLossOptions

    def __init__(self, options: PerceptualLossOptions) -> None:
        self.options = options
        self.network = _load(Path(options.network))
        self.device = torch.device("cpu")
        self.mean, self.std = (torch.tensor(values)[:, None, None] for values in (options.mean, options.std))
        self._try_out()

    def __call__(self, state: State, context: StepContext) -> Tensor:
        image, target = pair_of(state, self.options, "perceptual")
        if self.device != context.device:
            self.network.to(context.device)
            self.mean, self.std = self.mean.to(context.device), self.std.to(context.device)
            self.device = context.device
        features = self._features(image)
        with torch.no_grad():
            wanted = self._features(target)
        weights = self.options.layer_weights or [1.0] * len(features)
        terms = [
            weight * self._distance(a, b).flatten(1).mean(dim=1)
            for weight, a, b in zip(weights, features, wanted, strict=True)
        ]
        return torch.stack(terms).sum(dim=0)

    def _distance(self, features: Tensor, wanted: Tensor) -> Tensor:
        difference = features.float() - wanted.float()
        return difference.abs() if self.options.kind == "l1" else difference.square()

    def _features(self, image: Tensor) -> Sequence[Tensor]:
        """The layers that are compared, of images as the state holds them."""
        options = self.options
        unit = (image + 1) / 2 if options.rgb_n1_to_1 else image
        output = self.network((unit - self.mean) / self.std, **options.arguments)
        layers = [output] if isinstance(output, Tensor) else list(output)
        return [layers[index] for index in options.layers] if options.layers else layers

    def _try_out(self) -> None:
        """Raise ConfigError unless the network gives features that can be compared."""
        try:
            with torch.no_grad():
                features = self._features(torch.zeros(TRIED_SIZE))
        except IndexError:
            raise ConfigError(f"{self.options.network} gives fewer tensors than `layers` names") from None
        except (RuntimeError, TypeError, ValueError) as error:
            lines = [line for line in str(error).splitlines() if line.strip()]
            reason = lines[-1].strip() if lines else type(error).__name__
            raise ConfigError(f"{self.options.network} cannot be run on images {TRIED_SIZE} ({reason})") from None
        wrong = [
            item for item in features if not isinstance(item, Tensor) or item.ndim < 2 or len(item) != TRIED_SIZE[0]
        ]
        if wrong or not features:
            shape = tuple(wrong[0].shape) if wrong and isinstance(wrong[0], Tensor) else "no tensor"
            raise ConfigError(
                f"{self.options.network} gives {shape} for {TRIED_SIZE[0]} images, expected (B, ...) each"
            )
        if self.options.layer_weights and len(self.options.layer_weights) != len(features):
            raise ConfigError(
                f"{self.options.network} gives {len(features)} tensors, layer_weights {len(self.options.layer_weights)}"
            )


def _load(file: Path) -> Any:
    """A TorchScript network on the CPU, frozen. Raises ConfigError."""
    if not file.is_file():
        raise ConfigError(f"no such file {file}; name a TorchScript file (torch.jit.save)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # newer torch prefers another format, but reads this
            network = torch.jit.load(file, map_location="cpu")
    except (RuntimeError, ValueError, EOFError):
        raise ConfigError(f"{file} is no TorchScript network (torch.jit.save)") from None
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    return network.eval()
