"""Images that 8 bits hold exactly, on their way to a device: a quarter of the bytes, and the same numbers there."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class EightBit:
    """Images `levels` (B, C, H, W) uint8 that stand for float32 in [-1, 1] (n1_to_1) or [0, 1]."""

    levels: Tensor
    n1_to_1: bool

    def __len__(self) -> int:
        return len(self.levels)

    def __getitem__(self, rows: slice) -> "EightBit":
        return EightBit(self.levels[rows], self.n1_to_1)

    def pin_memory(self) -> "EightBit":
        """In memory that a device copies from by itself; asked by torch's loader."""
        return EightBit(self.levels.pin_memory(), self.n1_to_1)

    def images(self, levels: Tensor | None = None) -> Tensor:
        """float32 (B, C, H, W), where the levels, or a copy of them that is given, lie.

        By the operations that items are made with (`images.pixels.to_float`, `images.files.to_tensor`), each rounded
        alike on every device.
        """
        values = (self.levels if levels is None else levels).float().mul_(1.0 / 255.0)
        return values.mul_(2.0).sub_(1.0) if self.n1_to_1 else values

    @classmethod
    def of(cls, images: Tensor, n1_to_1: bool) -> Self | None:
        """The images (B, C, H, W) float32 in 8 bits, or None unless every value comes back bit for bit."""
        if images.ndim != 4 or images.dtype != torch.float32:
            return None
        # A few rows of the first image tell almost always, and cost nothing.
        return cls._exactly(images, n1_to_1) if cls._exactly(images[:1, :, :2], n1_to_1) else None

    @classmethod
    def _exactly(cls, images: Tensor, n1_to_1: bool) -> Self | None:
        scaled = images * (127.5 if n1_to_1 else 255.0)
        packed = cls((scaled.add_(127.5) if n1_to_1 else scaled).round_().clamp_(0, 255).to(torch.uint8), n1_to_1)
        return packed if torch.equal(packed.images(), images) else None
