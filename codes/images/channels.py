"""Results on their way into files: canvases of any size in [0, 1], combined and written by bands of rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from .bands import Rows
from .canvas import Canvas
from .files import open_writer, quantise, resample, to_float
from .output_size import Framing
from .resampling import Resampled

SPREAD_GAIN = 4.0  # gray levels of a spread picture for one level of standard deviation
MARGIN = 4  # low-resolution pixels around a band, more than bicubic interpolation reads


class Channels(Protocol):
    """Rows in [0, 1], from top to bottom, of a picture of some channels."""

    @property
    def channels(self) -> int:
        """One for gray, three for RGB."""

    def rows(self, y0: int, y1: int) -> Tensor:
        """float32 (channels, y1 - y0, width)."""


@dataclass(frozen=True)
class Result:
    """What an injector wrote, in [-1, 1] or with `unit` in [0, 1], clipped; gray is the mean of its channels."""

    canvas: Canvas
    unit: bool
    gray: bool

    @property
    def channels(self) -> int:
        return 1 if self.gray else self.canvas.channels

    def rows(self, y0: int, y1: int) -> Tensor:
        values = self.canvas.rows(y0, y1)
        values = (values if self.unit else (values + 1) / 2).clamp(0, 1)
        return values.mean(dim=0, keepdim=True) if self.gray else values


@dataclass(frozen=True)
class Mean:
    """The mean of several samples, which is closer to the truth than any of them."""

    samples: Sequence[Channels]

    @property
    def channels(self) -> int:
        return self.samples[0].channels

    def rows(self, y0: int, y1: int) -> Tensor:
        total = self.samples[0].rows(y0, y1).clone()
        for sample in self.samples[1:]:
            total += sample.rows(y0, y1)
        return total / len(self.samples)


@dataclass(frozen=True)
class Spread:
    """One channel: the standard deviation of several samples, times SPREAD_GAIN.

    The unbiased variance, averaged over the channels.
    """

    samples: Sequence[Channels]
    channels: int = 1

    def rows(self, y0: int, y1: int) -> Tensor:
        mean = Mean(self.samples).rows(y0, y1)
        total = torch.zeros_like(mean)
        for sample in self.samples:
            total += (sample.rows(y0, y1) - mean) ** 2
        variance = (total / (len(self.samples) - 1)).mean(dim=0, keepdim=True)
        return (SPREAD_GAIN * variance.sqrt()).clamp(0, 1)


@dataclass(frozen=True)
class Bicubic:
    """A small image (h, w, C), floats in [0, 1] or integer samples, enlarged by `scale` as it is read."""

    small: Rows
    scale: int

    @property
    def channels(self) -> int:
        return int(self.small.shape[2])

    def rows(self, y0: int, y1: int) -> Tensor:
        top, bottom = max(y0 // self.scale - MARGIN, 0), -(-y1 // self.scale) + MARGIN
        part = self.small[top:bottom]
        part = to_float(part) if np.issubdtype(part.dtype, np.integer) else part
        large = resample(part, len(part) * self.scale, self.small.shape[1] * self.scale, "bicubic")
        start = y0 - top * self.scale
        return torch.from_numpy(large[start : start + y1 - y0].transpose(2, 0, 1))


def enlarged(small: Rows, framing: Framing) -> Channels:
    """A small image (h, w, C) by bicubic interpolation, as `framing` shows it."""
    height, width = small.shape[:2]
    scale = framing.height // height
    if scale and framing == Framing(height * scale, width * scale):
        return Bicubic(small, scale)
    return Resampled(Bicubic(small, 1), height, width, framing, "bicubic")


def pixels_of(picture: Channels, y0: int, y1: int, bit_depth: int = 8) -> np.ndarray:
    """Integer samples (y1 - y0, W, C) of some rows."""
    return quantise(picture.rows(y0, y1).permute(1, 2, 0).numpy(), bit_depth)


@dataclass(frozen=True)
class FileOptions:
    """How a picture is written: what `open_writer` takes."""

    height: int
    width: int
    bit_depth: int
    quality: int
    exif: bytes | None
    icc: bytes | None
    dpi: tuple[float, float] | None = None


def write_channels(path: Path, parts: Sequence[Channels], options: FileOptions, band_rows: int) -> None:
    """Write the channels of all parts as one file, atomically, `band_rows` rows at a time."""
    channels = sum(part.channels for part in parts)
    with open_writer(
        path, options.height, options.width, channels,
        bit_depth=options.bit_depth, quality=options.quality, exif=options.exif, icc=options.icc, dpi=options.dpi,
    ) as writer:  # fmt: skip
        for y0 in range(0, options.height, band_rows):
            y1 = min(y0 + band_rows, options.height)
            rows = torch.cat([part.rows(y0, y1) for part in parts])
            writer.write_rows(quantise(rows.permute(1, 2, 0).numpy(), options.bit_depth))
