"""Reading the strengths of corruptions from images of any size with a trained `strength_estimator`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from ..data.corruptions.strength import Estimate
from ..data.findings.all import unexplained
from ..images.bands import Rows
from ..images.pixels import to_float
from ..models.diffusion.checkpoints.metadata import load_into, network_of, read_metadata
from ..models.diffusion.networks.base import DiffusionNetwork
from ..models.diffusion.networks.strength_estimator import CELL, LocalStrengths, StrengthEstimator
from ..utils.errors import ConfigError

BLOCK = 512  # input pixels a side that the network sees at once
MARGIN = 64  # pixels around a block that it sees besides; more than it reaches
MOST_BLOCKS = 16  # of a large image, evenly spread, where one number for the whole is asked for
# Deviations of the distance from which on an image is unlike everything in training: 168 photographs, whole, halved and
# corrupted, have 2.3 at most; screens with text 3.5 and more, drawings in 95 % of 42.
FAR = 3.0
UNSURE = 0.24  # spread from which on a strength is hardly more than a guess, whose spread is 0.29
PIECE, MOST_PIECES = 256, 16  # pixels a side, and how many: what the findings look at
SMOOTHING = 6.0  # of maps: deviation of the Gaussian, in places of CELL pixels


@dataclass(frozen=True)
class StrengthReading:
    """What an image says of each corruption by name."""

    names: tuple[str, ...]
    mean: np.ndarray  # (K,)
    spread: np.ndarray  # (K,)
    distance: float
    local: LocalStrengths  # of the places that were looked at, (1, K, h, w)
    size: tuple[int, int]
    found: tuple[str, ...] = ()  # in the pixels, that none of the corruptions explains

    @property
    def strange(self) -> bool:
        """Whether the image is unlike everything that the estimator was trained on."""
        return self.distance > FAR

    @property
    def unexplained(self) -> tuple[str, ...]:
        """What the image holds that none of the corruptions explains, in words."""
        far = (f"content unlike all of its training ({self.distance:.1f} deviations)",) if self.strange else ()
        return (*self.found, *far)

    def estimate(self, name: str, default: float) -> Estimate:
        """The strength to restore with, and why. An odd image is taken as clean, and no guess is a strong one."""
        mean, spread = (float(values[self.names.index(name)]) for values in (self.mean, self.spread))
        if self.strange:
            return Estimate(0.0, f"unlike the images of training ({self.distance:.1f} deviations), so taken as clean")
        if spread > UNSURE or self.found:
            why = f"the image holds {self.found[0]}" if self.found else "unsure"
            reason = f"{why}: {mean:.2f} +- {spread:.2f}, so at most auto_default"
            return Estimate(min(mean, default), reason, sure=False)
        return Estimate(mean, f"estimated, +- {spread:.2f}")

    def map(self, name: str, default: float) -> np.ndarray:
        """float32 (H, W): the strength of every pixel, each the mean of its surroundings weighted by their precision.

        Where the image as a whole says little, so do its places: the map is then the one number of `estimate`.
        """
        whole = self.estimate(name, default).strength
        index = self.names.index(name)
        if self.strange or self.found or self.spread[index] > UNSURE:
            return np.full(self.size, whole, np.float32)
        strength, precision = (values[0, index].numpy() for values in self.local)
        # A place with nothing to say counts as much as a guess does, and then says what the whole image says.
        prior = 1.0 / UNSURE**2
        weighted = _blurred(precision * strength + prior * whole) / _blurred(precision + prior)
        height, width = self.size
        large = cv2.resize(
            weighted, (weighted.shape[1] * CELL, weighted.shape[0] * CELL), interpolation=cv2.INTER_CUBIC
        )
        return np.clip(large[:height, :width], 0.0, 1.0).astype(np.float32)


class StrengthReader:
    """A trained estimator and the names of what it tells."""

    def __init__(self, network: DiffusionNetwork, names: Sequence[str], device: torch.device) -> None:
        """Raises ConfigError for a network that estimates nothing, or names that are not as many as its strengths."""
        if not isinstance(network, StrengthEstimator):
            raise ConfigError(f"{type(network).__name__} estimates no strengths; name a trained strength_estimator")
        if len(names) != network.options.num_corruptions:
            raise ConfigError(
                f"the estimator tells {network.options.num_corruptions} strengths, but its checkpoint names "
                f"{len(names)} corruptions ({', '.join(names) or 'none'})"
            )
        self.network = network.to(device).eval().requires_grad_(False)
        self.names = tuple(names)
        self.device = device

    @classmethod
    def of_weights(cls, network: DiffusionNetwork, file: Path, device: torch.device) -> "StrengthReader":
        """A network with the weights of a checkpoint, which knows the names. Raises ConfigError."""
        metadata = read_metadata(file)
        names = [str(name) for name in (metadata.data.get("corruptions") or ())] if metadata else []
        try:
            return cls(network, names, device)
        except ConfigError as error:
            raise ConfigError(f"{file}: {error}") from None

    @classmethod
    def from_checkpoint(cls, path: str | Path, device: torch.device) -> "StrengthReader":
        """The estimator in a .safetensors checkpoint. Raises ConfigError, one line."""
        file = Path(path).expanduser()
        metadata = read_metadata(file)
        if metadata is None:
            raise ConfigError(f"{file}: does not say what network it holds; use a .safetensors file of tessera-train")
        network = network_of(metadata)
        load_into(network, file, strict=True)
        return cls.of_weights(network, file, device)

    @torch.no_grad()
    def read(self, rgb: Rows, everywhere: bool = False) -> StrengthReading:
        """What an image says, float32 (H, W, 3) in [0, 1] or integer samples, whose rows may lie in a file.

        `everywhere` looks at all of it, for maps.
        """
        height, width = rgb.shape[:2]
        blocks = list(_blocks(height, width))
        if not everywhere and len(blocks) > MOST_BLOCKS:
            chosen = np.linspace(0, len(blocks) - 1, MOST_BLOCKS).round().astype(int)
            blocks = [blocks[int(number)] for number in chosen]
        cells = (-(-height // CELL), -(-width // CELL))
        count = len(self.names)
        strength, precision = torch.zeros(1, count, *cells), torch.zeros(1, count, *cells)
        pooled, seen = torch.zeros(1, self.network.num_features, 1, 1), 0
        pieces = Pieces(len(blocks))
        for y0, y1, x0, x1 in blocks:
            top, left, part = _part(rgb, y0, y1, x0, x1)
            pieces.take(part[y0 - top : y1 - top, x0 - left : x1 - left])
            features = self._features(part, (y1 - y0, x1 - x0), (y0 - top, x0 - left))
            rows, columns = (slice(a // CELL, -(-b // CELL)) for a, b in ((y0, y1), (x0, x1)))
            estimate = self.network.local(features)
            strength[:, :, rows, columns], precision[:, :, rows, columns] = (values.cpu() for values in estimate)
            places = features.shape[2] * features.shape[3]
            pooled += features.sum((2, 3), keepdim=True).cpu()
            seen += places
        local = LocalStrengths(strength, precision)
        mean, spread = _pooled_where_seen(local)
        distance = float(self.network.distance((pooled / seen).to(self.device)))
        found = tuple(one.words for one in unexplained(pieces.taken, self.names))
        return StrengthReading(self.names, mean, spread, distance, local, (height, width), found)

    def _features(self, part: np.ndarray, size: tuple[int, int], at: tuple[int, int]) -> torch.Tensor:
        """Features (1, D, h, w) of a block of `size` pixels, which begins at a place of the part around it."""
        image = torch.from_numpy(part).permute(2, 0, 1)[None].to(self.device) * 2 - 1
        features = self.network.features(image)
        (row, column), (height, width) = ([-(-length // CELL) for length in pair] for pair in (at, size))
        return features[:, :, row : row + height, column : column + width]


class Pieces:
    """What is looked at for findings: squares of PIECE pixels out of the blocks, MOST_PIECES in all, evenly spread."""

    def __init__(self, blocks: int) -> None:
        self._every, self._number = -(-blocks // MOST_PIECES), 0
        self._each = max(MOST_PIECES // blocks, 1)
        self.taken: list[np.ndarray] = []

    def take(self, block: np.ndarray) -> None:
        """Keep copies of what is to be looked at of the next block, float32 (h, w, 3)."""
        if self._number % self._every == 0:
            corners = [(y, x) for y in range(0, block.shape[0], PIECE) for x in range(0, block.shape[1], PIECE)]
            self.taken += [block[y : y + PIECE, x : x + PIECE].copy() for y, x in corners[: self._each]]
        self._number += 1


def _part(rgb: Rows, y0: int, y1: int, x0: int, x1: int) -> tuple[int, int, np.ndarray]:
    """Top and left of a block with what surrounds it, and that as float32 (h, w, 3) in [0, 1]."""
    top, left = max(y0 - MARGIN, 0), max(x0 - MARGIN, 0)
    part = np.array(rgb[top : min(y1 + MARGIN, rgb.shape[0])][:, left : x1 + MARGIN])
    return top, left, part if part.dtype == np.float32 else to_float(part)


def _pooled_where_seen(local: LocalStrengths) -> tuple[np.ndarray, np.ndarray]:
    """Mean and spread (K,) of the places that were looked at: where the precision is not 0."""
    weight = local.precision.sum((2, 3))
    mean = (local.precision * local.strength).sum((2, 3)) / weight
    seen = (local.precision > 0).sum((2, 3)).clamp(min=1)
    return mean[0].numpy(), (weight / seen).rsqrt()[0].numpy()


def _blocks(height: int, width: int) -> Iterator[tuple[int, int, int, int]]:
    for y0 in range(0, height, BLOCK):
        for x0 in range(0, width, BLOCK):
            yield y0, min(y0 + BLOCK, height), x0, min(x0 + BLOCK, width)


def _blurred(values: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(values.astype(np.float32), (0, 0), SMOOTHING, borderType=cv2.BORDER_REFLECT)
