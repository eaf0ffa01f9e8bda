"""Wrappers that turn a denoiser into another: guidance, clipping, experts and epsilon scaling.

They compose in any order. Each returns a Prediction whose x_start and eps describe the same point. Guidance and epsilon
scaling extrapolate, so build the `NetworkDenoiser` below them with clip_denoised=False and put `Clipped` outside. What
looks at a whole image is none of these: see `tiling/whole_image.py`.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .denoiser import Denoiser
from .prediction import Prediction
from .process import GaussianDiffusion
from .schedule import DeviceTable, NoiseSchedule, expert_index


def null_condition(
    cond: Mapping[str, Tensor], num_classes: int | None, low_res_strength: float = 1.0
) -> dict[str, Tensor]:
    """The conditioning of the null pass of classifier-free guidance.

    y (B,) becomes the null label num_classes. low_res stays, as a restorer without its image would guide away from
    nothing, but is scaled by low_res_strength (0 is mid-grey in [-1, 1]). All else stays.
    Raises ValueError when there are classes but no num_classes, or when nothing would differ from the conditional pass.
    """
    null = dict(cond)
    if "y" in cond:
        if num_classes is None:
            raise ValueError("guidance on class labels needs num_classes, whose value is the null label")
        null["y"] = torch.full_like(cond["y"], num_classes)
    if "low_res" in cond and low_res_strength != 1.0:
        null["low_res"] = cond["low_res"] * low_res_strength
    if all(null[key] is cond[key] for key in cond):
        raise ValueError(
            "guidance has nothing to leave out: give class labels (y), or low_res with low_res_strength below 1"
        )
    return null


class ClassifierFree:
    """Classifier-free guidance (Ho & Salimans 2022, eq. 6): eps_null + scale * (eps - eps_null).

    Linear in eps whatever the network predicts; the variance is that of the conditional pass. scale 1 is off;
    otherwise both passes are one call of twice the batch. keep_unguided: the prediction carries the x_start of the
    conditional pass as `unguided`. The null pass sees `null_condition(cond, num_classes, low_res_strength)`.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        process: GaussianDiffusion,
        scale: float,
        *,
        num_classes: int | None = None,
        low_res_strength: float = 1.0,
        keep_unguided: bool = False,
    ) -> None:
        if not 0.0 <= low_res_strength <= 1.0:
            raise ValueError(f"low_res_strength must lie in [0, 1], got {low_res_strength}")
        self.denoiser = denoiser
        self.process = process
        self.scale = scale
        self.num_classes = num_classes
        self.low_res_strength = low_res_strength
        self.keep_unguided = keep_unguided

    def __call__(self, x_t: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Prediction:
        if self.scale == 1.0:
            return self.denoiser(x_t, t, cond)
        unconditional = null_condition(cond, self.num_classes, self.low_res_strength)
        told = {name: torch.cat([value, unconditional[name]]) for name, value in cond.items()}
        both = self.denoiser(torch.cat([x_t, x_t]), torch.cat([t, t]), told)
        given, null = both.each(lambda value: value[: len(x_t)]), both.each(lambda value: value[len(x_t) :])
        # Extrapolated as x_start too, not recovered from eps: where little signal is left that would amplify rounding.
        x_start = null.x_start + self.scale * (given.x_start - null.x_start)
        guided = given.at(x_start, lambda: null.eps + self.scale * (given.eps - null.eps))
        guided.unguided = given.x_start if self.keep_unguided else None
        return guided


class Clipped:
    """Limits x_start to [-1, 1]; eps follows."""

    def __init__(self, denoiser: Denoiser, process: GaussianDiffusion) -> None:
        self.denoiser = denoiser
        self.process = process

    def __call__(self, x_t: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Prediction:
        prediction = self.denoiser(x_t, t, cond)
        x_start = prediction.x_start.clamp(-1.0, 1.0)
        return prediction.at(x_start, lambda: self.process.eps_from_x_start(x_t, t, x_start))


class EpsilonScaled:
    """Divides eps by `scale`, x_start follows (Ning et al. 2024, epsilon scaling). About 1.005 is usual, 1 is off."""

    def __init__(self, denoiser: Denoiser, process: GaussianDiffusion, scale: float) -> None:
        if scale <= 0.0:
            raise ValueError(f"the epsilon scale must be positive, got {scale}")
        if not process.schedule.alphas_cumprod.all():
            raise ValueError("epsilon scaling needs some signal at every step; this schedule ends in beta = 1")
        self.denoiser = denoiser
        self.process = process
        self.scale = scale

    def __call__(self, x_t: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Prediction:
        prediction = self.denoiser(x_t, t, cond)
        if self.scale == 1.0:
            return prediction
        eps = prediction.eps / self.scale
        return prediction.at(self.process.x_start_from_eps(x_t, t, eps), eps)


class SplitDenoiser:
    """Experts by signal-to-noise ratio: each serves the steps `expert_index` gives it. A batch may mix steps.

    Who is asked is read from the device once for each tensor `t`: a sampler that hands in the same one for all tiles of
    a step makes the host wait once a step. Raises ValueError unless there is one denoiser more than splits.
    """

    def __init__(self, denoisers: Sequence[Denoiser], splits: Sequence[float], schedule: NoiseSchedule) -> None:
        if len(denoisers) != len(splits) + 1:
            raise ValueError(f"{len(splits)} snr_splits need {len(splits) + 1} networks, got {len(denoisers)}")
        self.denoisers = tuple(denoisers)
        self._expert = DeviceTable(expert_index(schedule, splits))
        self._last: tuple[Tensor, int, list[int]] | None = None  # t, its version, and the experts that it asks

    def __call__(self, x_t: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Prediction:
        present = self._present(t)
        if len(present) == 1:
            return self.denoisers[present[0]](x_t, t, cond)
        expert = self._expert.on(t.device, torch.int64)[t]
        order = [(expert == k).nonzero().squeeze(1) for k in present]
        parts = [
            self.denoisers[k](x_t[rows], t[rows], {key: value[rows] for key, value in cond.items()})
            for k, rows in zip(present, order, strict=True)
        ]
        back = torch.cat(order).argsort()
        unguided = [part.unguided for part in parts if part.unguided is not None]
        return Prediction(
            torch.cat([part.x_start for part in parts])[back],
            lambda: torch.cat([part.eps for part in parts])[back],
            lambda: torch.cat([part.log_variance for part in parts])[back],
            torch.cat(unguided)[back] if unguided else None,
        )

    def _present(self, t: Tensor) -> list[int]:
        """The experts that a batch asks, ascending."""
        if self._last is None or self._last[0] is not t or self._last[1] != t._version:
            present = self._expert.on(t.device, torch.int64)[t].unique().tolist()
            self._last = (t, t._version, present)
        return self._last[2]
