"""The strength of a corruption, read from a file that is to be restored: `corruption_entropy: [auto, ...]`."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from ...images.bands import Rows
from .all import CORRUPTIONS, Jpeg
from .jpeg_quality import quality_of_pixels, quality_of_table

STEPS = 1000  # strengths that are tried, evenly spaced over [0, 1]


class Estimate(NamedTuple):
    """A strength in [0, 1], where it comes from, for the log, and whether that says much.

    `unexplained`: what else the image holds that no corruption of the estimator explains, in words.
    """

    strength: float
    reason: str
    sure: bool = True
    unexplained: tuple[str, ...] = ()


class Reading(Protocol):
    """What an image says of the strengths of corruptions."""

    @property
    def unexplained(self) -> tuple[str, ...]:
        """What it holds that no corruption of the estimator explains, in words."""
        ...

    def estimate(self, name: str, default: float) -> Estimate:
        """The strength of a corruption; `default` is the most that is told where the image says little."""
        ...

    def map(self, name: str, default: float) -> np.ndarray:
        """float32 (H, W): the strength of every pixel."""
        ...


class Reader(Protocol):
    """Reads images: a trained estimator, which the data do not know."""

    @property
    def names(self) -> tuple[str, ...]:
        """The corruptions that it knows."""
        ...

    def read(self, rgb: Rows, everywhere: bool = False) -> Reading:
        """What an image says, float32 (H, W, 3) in [0, 1] or integer samples, whose rows may lie in a file.

        `everywhere` looks at all of it, for maps.
        """
        ...


def estimators() -> tuple[str, ...]:
    """The corruptions whose strength can be read from a file without a trained estimator."""
    return tuple(name for name in CORRUPTIONS.names() if issubclass(CORRUPTIONS.get(name), Jpeg))


def strength_of_quality(corruption: type[Jpeg], quality: int) -> float:
    """The strength at which a corruption saves with a JPEG quality, or comes nearest to it.

    Several strengths share a quality; the middle one is taken. Qualities beyond the corruption's range give 0 or 1.
    """
    strengths = np.linspace(0.0, 1.0, STEPS + 1)
    qualities = np.array([corruption.quality(float(strength)) for strength in strengths])
    if quality >= qualities.max() or quality <= qualities.min():
        return float(quality < qualities.max())
    return float(strengths[np.abs(qualities - quality) == np.abs(qualities - quality).min()].mean())


def told_strength(
    corruption: str, default: float, table: np.ndarray | None, samples: Rows, reading: Reading | None
) -> Estimate:
    """What `auto` is for an image: a JPEG's tables where there are some, else what a trained estimator read of it.

    Where that is unsure of a JPEG's strength, or there is none, the traces in the pixels are asked. `table` and
    `samples` are as in `strength_of_image`.
    """
    if reading is None:
        return strength_of_image(table, samples, corruption, default)
    compressed = corruption in estimators()
    read = reading.estimate(corruption, default)
    if compressed and (table is not None or not read.sure):
        traces = strength_of_image(table, samples, corruption, default)
        read = traces if traces.sure else read
    return read._replace(unexplained=reading.unexplained)


def in_words(unexplained: Sequence[str]) -> str:
    """What an image holds that no trained corruption explains, as a sentence for the log and pages; empty for none."""
    if not unexplained:
        return ""
    return f"holds what the estimator was not trained on: {'; '.join(unexplained)}; so strengths are taken with care"


def strength_of_image(table: np.ndarray | None, samples: Rows, corruption: str, default: float) -> Estimate:
    """The strength of a JPEG corruption by the file's luminance table (8, 8), else by its pixels, uint8 or uint16.

    The pixels may be the rows of a file.
    """
    kind = CORRUPTIONS.get(corruption)
    assert issubclass(kind, Jpeg), f"{corruption} leaves no trace in a file; the options should have refused it"
    if table is not None:
        quality, exact = quality_of_table(table)
        reason = f"quality {quality} from its quantisation tables" + ("" if exact else ", which are not standard ones")
        return Estimate(strength_of_quality(kind, quality), reason)
    seen = quality_of_pixels(samples)
    if seen is None:
        return Estimate(default, "no sure trace of JPEG compression, so auto_default is taken", sure=False)
    return Estimate(strength_of_quality(kind, seen), f"about quality {seen} by the 8x8 blocks of its pixels")
