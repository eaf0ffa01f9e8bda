"""Decoded images of one process; it changes the speed, never the items."""

from collections import OrderedDict
from pathlib import Path

import numpy as np

from ..images.files import Alpha, read_samples
from ..utils.errors import DataError


class SampleCache:
    """Keeps decoded images up to a number of bytes, least recently used out first."""

    def __init__(self, limit_bytes: int, max_pixels: int, alpha: Alpha, shortest_side: int | None) -> None:
        self.limit_bytes = limit_bytes
        self.max_pixels = max_pixels
        self.alpha: Alpha = alpha
        self.shortest_side = shortest_side
        self._bytes = 0
        self._kept: OrderedDict[Path, np.ndarray] = OrderedDict()
        self._failed: dict[Path, str] = {}

    def get(self, path: Path) -> np.ndarray:
        """uint8 or uint16 (H, W, 3). Raises DataError when the file cannot be decoded; a second time without trying."""
        if path in self._failed:
            raise DataError(self._failed[path])
        if path in self._kept:
            self._kept.move_to_end(path)
            return self._kept[path]
        try:
            samples = read_samples(path, max_pixels=self.max_pixels, alpha=self.alpha, shortest_side=self.shortest_side)
        except DataError as error:
            self._failed[path] = str(error)
            raise
        self._kept[path] = samples
        self._bytes += samples.nbytes
        while self._bytes > self.limit_bytes and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return samples
