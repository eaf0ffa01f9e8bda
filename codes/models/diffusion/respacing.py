"""Which timesteps of a schedule a respaced one keeps: sections, DDIM strides, named spacings and Karras' sigmas.

Every function returns an ascending tuple of indices in [0, num_timesteps).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_NAMED = re.compile(r"(ddim|leading|linspace|trailing|karras)(\d+)")
_FORMS = "a count, a comma string of counts per section, ddimN, leadingN, linspaceN, trailingN or karrasN"
RHO = 7.0  # of EDM


@dataclass(frozen=True)
class Karras:
    """`count` steps whose sigma = sqrt((1 - abar) / abar) falls from sigma_max to sigma_min by the rule of EDM.

    sigma_i^(1/7) is spaced evenly (Karras et al. 2022, eq. 5 with rho = 7), which puts most steps at little noise. Each
    takes the nearest timestep of the schedule in log sigma. Sigmas beyond the schedule's are its own ends.
    """

    count: int
    sigma_max: float = 1.0
    sigma_min: float = 0.01

    def sigmas(self) -> npt.NDArray[np.float64]:
        """float64 (count,), descending."""
        first, last = self.sigma_max ** (1 / RHO), self.sigma_min ** (1 / RHO)
        return np.linspace(first, last, self.count) ** RHO

    def kept(self, schedule: npt.NDArray[np.float64]) -> tuple[int, ...]:
        """The timesteps, of a schedule whose sigmas are given, ascending. Raises ValueError unless all are distinct."""
        low, high = float(schedule[0]), float(schedule[-1])
        limited = Karras(self.count, min(max(self.sigma_max, low), high), min(max(self.sigma_min, low), high))
        gaps = np.abs(np.log(schedule) - np.log(limited.sigmas())[:, None])
        kept = sorted({int(index) for index in gaps.argmin(axis=1)})
        if len(kept) < self.count:
            raise ValueError(
                f"respaced_timestep_spacing 'karras{self.count}' falls on {len(kept)} timesteps only, between sigma "
                f"{limited.sigma_min:.3g} and {limited.sigma_max:.3g} of a schedule of {len(schedule)}; ask for fewer "
                "steps, or set sigma_min and sigma_max further apart"
            )
        return tuple(kept)


Respacing = int | str | Sequence[int] | Karras


def check_spacing(spec: Respacing) -> None:
    """Raises ValueError for what `kept_timesteps` understands at no number of timesteps."""
    named = _NAMED.fullmatch(spec.strip()) if isinstance(spec, str) else None
    if not isinstance(spec, Karras) and (named is None or int(named[2]) < 1):
        _section_counts(spec)


def single_step(spec: Respacing) -> bool:
    """Whether `spec` is a plain count of one, 1 or '1' or [1], of which the section rule keeps timestep 0."""
    return (
        not isinstance(spec, Karras)
        and not (isinstance(spec, str) and _NAMED.fullmatch(spec.strip()))
        and (_section_counts(spec) == (1,))
    )


def karras_count(spec: Respacing | None) -> int | None:
    """N of 'karrasN', None for any other spacing."""
    named = _NAMED.fullmatch(spec.strip()) if isinstance(spec, str) else None
    return int(named[2]) if named and named[1] == "karras" else None


def kept_timesteps(spec: Respacing, num_timesteps: int) -> tuple[int, ...]:
    """Indices that `spec` keeps of `num_timesteps` steps, ascending.

    `spec` is an int or '50' (one section), '10,10,30' or [10, 10, 30] (counts per equal section, Improved DDPM),
    'ddim50' (integer stride from 0, Song et al. 2021) or a spacing named as in Lin et al. 2023, table 2: 'leading8'
    contains 0, 'trailing8' contains T-1, 'linspace8' both. ('karras8' needs the schedule's sigmas: see
    `NoiseSchedule.respaced`.) Raises ValueError when the text is none of these or the counts do not fit.
    """
    assert not isinstance(spec, Karras), "a schedule keeps these by its sigmas"
    if isinstance(spec, str) and (named := _NAMED.fullmatch(spec.strip())):
        assert named[1] != "karras", "a schedule keeps these by its sigmas"
        return _named_spacing(named[1], int(named[2]), num_timesteps)
    return _sections(_section_counts(spec), num_timesteps)


def _section_counts(spec: int | str | Sequence[int]) -> tuple[int, ...]:
    parts: Sequence[int | str] = spec.split(",") if isinstance(spec, str) else [spec] if isinstance(spec, int) else spec
    try:
        counts = tuple(int(part) for part in parts)
    except (TypeError, ValueError):
        counts = ()
    if not counts or min(counts) < 1:
        raise ValueError(
            f"respaced_timestep_spacing {spec!r} is not understood; write {_FORMS}, every count at least 1"
        )
    return counts


def _sections(counts: tuple[int, ...], num_timesteps: int) -> tuple[int, ...]:
    """Each section spreads its count evenly between its own first and last step (Nichol & Dhariwal 2021)."""
    size, longer = divmod(num_timesteps, len(counts))
    kept: list[int] = []
    first = 0
    for section, count in enumerate(counts):
        length = size + (section < longer)
        if count > length:
            raise ValueError(
                f"respaced_timestep_spacing asks for {count} steps in section {section + 1} of {len(counts)}, "
                f"which holds {length} of the {num_timesteps} timesteps; ask for 1..{length}"
            )
        stride = (length - 1) / (count - 1) if count > 1 else 1.0
        # The position is summed, not multiplied: the last bit decides ties, and other tools' respacings sum it.
        position = 0.0
        for _ in range(count):
            kept.append(first + round(position))
            position += stride
        first += length
    return tuple(kept)


def _named_spacing(name: str, count: int, num_timesteps: int) -> tuple[int, ...]:
    if not 1 <= count <= num_timesteps:
        raise ValueError(
            f"respaced_timestep_spacing '{name}{count}' asks for {count} steps of a schedule with {num_timesteps}; "
            f"ask for 1..{num_timesteps}"
        )
    if name == "ddim":
        return _ddim(count, num_timesteps)
    if name == "leading":
        return tuple(i * num_timesteps // count for i in range(count))
    if name == "trailing":
        return tuple((2 * i * num_timesteps + count) // (2 * count) - 1 for i in range(1, count + 1))
    if count == 1:  # one step starts at noise, so of the two ends it is the noisy one
        return (num_timesteps - 1,)
    gaps = count - 1
    return tuple((2 * i * (num_timesteps - 1) + gaps) // (2 * gaps) for i in range(count))


def _ddim(count: int, num_timesteps: int) -> tuple[int, ...]:
    possible = {-(-num_timesteps // stride): stride for stride in range(num_timesteps, 0, -1)}
    if count not in possible:
        below = max((n for n in possible if n < count), default=1)
        above = min((n for n in possible if n > count), default=num_timesteps)
        raise ValueError(
            f"respaced_timestep_spacing 'ddim{count}' fits no whole stride over {num_timesteps} timesteps; "
            f"the nearest counts are ddim{below} and ddim{above}, or take leading{count}, which fits any count"
        )
    return tuple(range(0, num_timesteps, possible[count]))
