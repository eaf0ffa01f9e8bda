"""Denoisers under mixed precision."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from .denoiser import Denoiser
from .prediction import Prediction, not_finite


class AutocastDenoiser:
    """Runs a denoiser under mixed precision; with `checks`, what is not finite is computed again in float32.

    `on_event` is told of the first such repeat. Raises TesseraError where float32 does not help either: the image
    would be black.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        autocast: Callable[[], AbstractContextManager[Any]],
        on_event: Callable[[str], None] | None = None,
        needs_log_variance: bool = False,
        *,
        checks: bool = True,
    ) -> None:
        self.denoiser = denoiser
        self.checks = checks
        self.autocast = autocast
        self.needs_log_variance = needs_log_variance
        self.on_event = on_event
        self.repeats = 0

    def __call__(self, x_t: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Prediction:
        with self.autocast():
            prediction = self.denoiser(x_t, t, cond)
        if not self.checks or self._finite(prediction):
            return prediction
        self.repeats += 1
        if self.repeats == 1 and self.on_event:
            self.on_event("the network overflowed in this precision: such tiles are computed again in float32")
        with torch.autocast(x_t.device.type, enabled=False):
            prediction = self.denoiser(x_t, t, cond)
        if not self._finite(prediction):
            raise not_finite(int(t.max()))
        return prediction

    def _finite(self, prediction: Prediction) -> bool:
        whole = bool(torch.isfinite(prediction.x_start).all())
        return whole and not (self.needs_log_variance and not bool(torch.isfinite(prediction.log_variance).all()))
