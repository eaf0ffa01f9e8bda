"""The networks of the app: one for 4 and 8 steps, its one-step student, and the reader of strengths."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ...data.corruptions.strength import Estimate
from ...images.files import Picture
from ...models.diffusion.checkpoints.shipped import weights_file
from ...runtime.devices import Precision
from ...utils.errors import ConfigError
from ..restorer import Progress, Restorer
from .settings import Dials

FULL, FAST, ESTIMATOR = "tessera-photo-2x", "tessera-photo-2x-fast", "tessera-photo-strengths"


@dataclass(frozen=True)
class Models:
    """`full` takes 4 or 8 steps, `fast` one; both enlarge alike and are told the same strengths."""

    full: Restorer
    fast: Restorer

    def __post_init__(self) -> None:
        for what in ("scale", "corruptions"):
            ours, others = getattr(self.full, what), getattr(self.fast, what)
            if ours != others:
                raise ConfigError(f"the one-step network's {what} is {others}, that of the other network {ours}")
        if self.full.num_strengths and self.full.corruptions is None:
            raise ConfigError("the checkpoint does not record the names of its corruptions, which the sliders need")

    @classmethod
    def load(cls, full: str | Path, fast: str | Path, estimator: str | Path, device: str, precision: Precision) -> Self:
        """By files or by the names of weights that come with the project. Raises ConfigError."""
        reader = weights_file(estimator)
        slow = Restorer.from_checkpoint(weights_file(full), device, precision=precision, estimator=reader)
        return cls(slow, Restorer.from_checkpoint(weights_file(fast), device, precision=precision))

    @property
    def scale(self) -> int:
        return self.full.scale

    @property
    def corruptions(self) -> tuple[str, ...]:
        """The names of the strengths, in the order of training."""
        return self.full.corruptions or ()

    def strengths(self, picture: Picture) -> dict[str, Estimate]:
        """What a photograph says of its strengths; 0 of those that cannot be read."""
        unread = Estimate(0.0, "cannot be read from a photograph", sure=False)
        return dict.fromkeys(self.corruptions, unread) | self.full.read_strengths(picture)

    def restore(
        self, picture: Picture, dials: Dials, progress: Progress, options: dict[str, Any] | None = None
    ) -> Picture:
        """The picture, as large as `dials.output` says. `options`: further keys of the sampling injector."""
        restorer = self.fast if dials.steps == 1 else self.full
        return restorer(
            picture,
            dict(dials.strengths) if self.corruptions else None,
            steps=dials.steps,
            temperature=dials.temperature,
            seed=dials.seed,
            options={**_sampling(dials), **(options or {})},
            output=dials.output,
            progress=progress,
        )


def _sampling(dials: Dials) -> dict[str, Any]:
    """The dials that are keys of the sampling injector."""
    tile = {} if dials.tile is None else {"tile": dials.tile}
    return {**tile, "wrap": dials.wrap, "consistency": dials.consistency}
