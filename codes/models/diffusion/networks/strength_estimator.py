"""A small network that reads the strengths of corruptions from an image, place by place and as a whole.

Its answer at a place is a strength and a precision (one over a variance). A window's strength is the mean of the
strengths in it, weighted by their precisions, so that a sky, which says nothing of blur, does not vote against the
edges beside it; the same rule serves a whole image, a training tile and the neighbourhood of a pixel.
"""

import math
from typing import ClassVar, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from .base import NETWORKS, DiffusionNetwork, NetworkOptions
from .blocks import zero_init

CELL = 8  # input pixels per side of a place; a JPEG's blocks have the same
LEAST_PRECISION = 1.0  # that of a strength known to +-1: nothing
MOST_PRECISION = 1e4
LEAST_SIDE = 32  # input pixels
WINDOW = 11  # places a side of the surroundings in which the grid of a JPEG's blocks is looked for
HARMONICS = 4  # of a period of CELL pixels: 1 / 8, 2 / 8, 3 / 8 and 4 / 8 cycles a pixel
LEVELS = 255  # steps of 8 bits
GRID_FEATURES = 4 * (2 * HARMONICS + 1)  # two kinds of difference in two directions; each has a mean besides
# Traces of compression and blur are a hundredth of the contrast of an image, so the network sees what differs from the
# local means, at about unit size, with large values compressed. From the image itself it learned nothing.
FINE, COARSE = 30.0, 15.0  # gains, for images in [-1, 1]


class StrengthEstimate(NamedTuple):
    """What an image says of K corruptions: strengths in [0, 1], their standard deviations, and how odd the image is.

    `distance` (B,) is the Mahalanobis distance of the image's features from those of training (Lee et al. 2018,
    "A simple unified framework for detecting out-of-distribution samples"), in standard deviations of the distances of
    training: what exceeds about 3 was not trained.
    """

    mean: Tensor  # (B, K)
    spread: Tensor  # (B, K)
    distance: Tensor  # (B,)


class LocalStrengths(NamedTuple):
    """Strengths in [0, 1] and precisions of every place, each (B, K, h, w); a place is CELL pixels wide and high."""

    strength: Tensor
    precision: Tensor

    def pooled(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the whole image, each (B, K).

        The errors of neighbouring places are alike, so precisions are averaged, not summed: twice the area does not
        make an answer more certain.
        """
        weight = self.precision.mean((2, 3))
        mean = (self.precision * self.strength).mean((2, 3)) / weight
        return mean, weight.rsqrt()


class StrengthEstimatorOptions(NetworkOptions):
    """Options of `strength_estimator`."""

    num_corruptions: int = Field(gt=0, le=64, description="Strengths that it tells: as many as fixed_corruptions.")
    in_channels: int = Field(3, gt=0, le=64, description="Channels of the image.")
    model_channels: int = Field(
        32, gt=0, le=1024, description="Channels at half the size; 2 and 3 times as many below."
    )
    image_size: int = Field(96, ge=LEAST_SIDE, description="Side of the images in training, in pixels.")


class _Residual(nn.Module):
    """x + conv(SiLU(conv(SiLU(x)))), without normalisation, which would hide how strong the traces are."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect")
        self.second = zero_init(nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect"))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.second(F.silu(self.first(F.silu(x))))
        return result


@NETWORKS.register("strength_estimator")
class StrengthEstimator(DiffusionNetwork):
    """Images (B, C, H, W) in [-1, 1] of any size -> (B, 2 K, ceil(H / 8), ceil(W / 8)): strengths, then precisions."""

    Options: ClassVar[type[StrengthEstimatorOptions]] = StrengthEstimatorOptions
    options: StrengthEstimatorOptions
    feature_mean: Tensor
    feature_second: Tensor
    distance_moments: Tensor

    def __init__(self, options: StrengthEstimatorOptions) -> None:
        super().__init__()
        self.options = options
        self.num_strengths = options.num_corruptions
        self.in_channels, self.out_channels = options.in_channels, 2 * options.num_corruptions
        self.learns_variance, self.image_size, self.minimum_size, self.multiple_of = False, options.image_size, 1, 1
        self.low_res_upsampling, self.null_label = "bicubic", None
        self.cond_names, self.use_checkpoint = frozenset(), False
        width = options.model_channels
        self.body = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(8 * options.in_channels, width, 3, padding=1, padding_mode="reflect"),
            _Residual(width),
            nn.SiLU(),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1, padding_mode="reflect"),
            _Residual(2 * width),
            nn.SiLU(),
            nn.Conv2d(2 * width, 3 * width, 4, stride=2, padding=1, padding_mode="reflect"),
            _Residual(3 * width),
            nn.SiLU(),
        )
        self.num_features = 3 * width + GRID_FEATURES
        self.head = nn.Sequential(
            nn.Conv2d(self.num_features, 3 * width, 1),
            nn.SiLU(),
            nn.Conv2d(3 * width, 3 * width, 1),
            nn.SiLU(),
            nn.Conv2d(3 * width, self.out_channels, 1),
        )
        self.register_buffer("feature_mean", torch.zeros(self.num_features))
        self.register_buffer("feature_second", torch.eye(self.num_features))
        self.register_buffer("distance_moments", torch.tensor([1.0, 2.0]))  # of the log-distance: mean, mean square

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor | None = None,  # noqa: ARG002 - one signature for all networks
        low_res: Tensor | None = None,
        corruption_factor: Tensor | None = None,
        y: Tensor | None = None,
    ) -> Tensor:
        """See the class; the arguments of diffusion are not taken. Raises ValueError for them."""
        if low_res is not None or corruption_factor is not None or y is not None:
            raise ValueError("strength_estimator takes an image alone")
        local = self.local(self.features(x))
        return torch.cat(local, dim=1)

    def features(self, x: Tensor) -> Tensor:
        """(B, D, ceil(H / 8), ceil(W / 8)), float32; images of other sizes are continued by reflection.

        What is looked at are the 8 bits that a file has. Without them an image that was blurred last keeps traces below
        a level, so that training would teach to read what no file holds, and to take rounding for noise.
        """
        whole = _padded(_rounded(x))
        features: Tensor = self.body(_bands(whole))
        return torch.cat([features.float(), block_grid(whole)], dim=1)

    def local(self, features: Tensor) -> LocalStrengths:
        """What every place says, from `features`."""
        strength, precision = self.head(features).float().chunk(2, dim=1)
        return LocalStrengths(torch.sigmoid(strength), _precision(precision))

    def estimate(self, x: Tensor) -> StrengthEstimate:
        """What a batch of images (B, C, H, W) says as a whole."""
        features = self.features(x)
        return StrengthEstimate(*self.local(features).pooled(), self.distance(features))

    @torch.no_grad()
    def observe(self, features: Tensor, momentum: float = 0.01) -> None:
        """Take the features of a training batch into the statistics that `distance` compares with."""
        pooled = features.detach().float().mean((2, 3))
        self.feature_mean.lerp_(pooled.mean(0), momentum)
        centred = pooled - self.feature_mean
        self.feature_second.lerp_(centred.T @ centred / len(pooled), momentum)
        logs = self._log_distance(pooled)
        self.distance_moments.lerp_(torch.stack([logs.mean(), logs.square().mean()]), momentum)

    @torch.no_grad()
    def distance(self, features: Tensor) -> Tensor:
        """How far images lie from those of training, see `StrengthEstimate`; (B,)."""
        mean, square = self.distance_moments.unbind()
        deviation = (square - mean.square()).clamp(min=1e-4).sqrt()
        return (self._log_distance(features.float().mean((2, 3))) - mean) / deviation

    def _log_distance(self, pooled: Tensor) -> Tensor:
        size = len(self.feature_second)
        scale = self.feature_second.diagonal().mean().clamp(min=1e-12)
        matrix = self.feature_second + 1e-3 * scale * torch.eye(size, device=pooled.device)
        centred = pooled - self.feature_mean
        # Never singular, so nothing need be checked, for which the host would wait for the device.
        solved = torch.linalg.solve_ex(matrix, centred.T, check_errors=False)[0]
        squared = (centred * solved.T).sum(1) / size
        return 0.5 * squared.clamp(min=1e-12).log()


def _rounded(x: Tensor) -> Tensor:
    """Values of [-1, 1] at the 256 levels of 8 bits, in the dtype of x."""
    levels = ((x.float() + 1) * (LEVELS / 2)).clamp(0, LEVELS).round()
    return (levels * (2 / LEVELS) - 1).to(x.dtype)


def _bands(x: Tensor) -> Tensor:
    """The finest details of an image (B, C, H, W) and those about three pixels wide, (B, 2 C, H, W)."""
    mean = _local_mean(x)
    wider = _local_mean(_local_mean(mean))
    return torch.cat([torch.asinh(FINE * (x - mean)), torch.asinh(COARSE * (mean - wider))], dim=1)


def block_grid(x: Tensor) -> Tensor:
    """How far differences of neighbours repeat every CELL pixels: (B, C, H, W) -> (B, GRID_FEATURES, H / 8, W / 8).

    Where blocks meet, the differences are larger, wherever the grid begins and however the image was blurred after
    compression. After Wang, Bovik and Evans 2000, "Blind measurement of blocking artifacts in images": the spectrum of
    the absolute differences at the harmonics of one cycle a block, here in the surroundings of each place, over their
    mean and by themselves. Convolutions alone hardly learned it for blurred blocks.
    """
    grey = x.float().mean(1, keepdim=True)
    return torch.cat([_repeats(grey), _repeats(grey.transpose(2, 3)).transpose(2, 3)], dim=1)


def _repeats(grey: Tensor) -> Tensor:
    """`block_grid` along rows alone, (B, 1, H, W) -> (B, GRID_FEATURES / 2, H / 8, W / 8)."""
    wide = F.pad(grey, (1, 1, 0, 0), mode="reflect")
    first = (wide[..., 1:-1] - wide[..., :-2]).abs()
    second = (wide[..., 2:] - 2 * wide[..., 1:-1] + wide[..., :-2]).abs()
    sizes = torch.asinh(FINE * torch.cat([first, second], dim=1))
    mean = _surroundings(sizes)
    angle = torch.arange(grey.shape[-1], device=grey.device) * (2 * math.pi / CELL)
    waves = [
        torch.hypot(_surroundings(sizes * (k * angle).cos()), _surroundings(sizes * (k * angle).sin()))
        for k in range(1, HARMONICS + 1)
    ]
    sizes_of_waves = torch.cat([mean, *waves], dim=1).add(1e-3).log()
    ratios = torch.asinh(FINE * torch.cat([wave / (mean + 1e-3) for wave in waves], dim=1))
    return torch.cat([sizes_of_waves, ratios], dim=1)


def _surroundings(values: Tensor) -> Tensor:
    """Means of the places of CELL pixels, then of WINDOW x WINDOW places, fewer at an edge."""
    places = F.avg_pool2d(values, CELL)
    return F.avg_pool2d(places, WINDOW, stride=1, padding=WINDOW // 2, count_include_pad=False)


def _local_mean(x: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), 3, stride=1)


def _precision(raw: Tensor) -> Tensor:
    return (LEAST_PRECISION + F.softplus(raw).square()).clamp(max=MOST_PRECISION)


def _padded(x: Tensor) -> Tensor:
    """Continued by reflection, as often as needed, to multiples of CELL and at least LEAST_SIDE pixels."""
    for dim in (-2, -1):
        length = x.shape[dim]
        wanted = max(-(-length // CELL) * CELL, LEAST_SIDE)
        period = max(2 * (length - 1), 1)
        folded = torch.arange(wanted, device=x.device) % period
        x = x.index_select(dim, torch.where(folded < length, folded, period - folded))
    return x
