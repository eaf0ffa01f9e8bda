"""What a denoiser says about a noised image, computed no further than it is asked for."""

from collections.abc import Callable, Iterator

from torch import Tensor

from ...utils.errors import TesseraError

Lazy = Tensor | Callable[[], Tensor]


class Prediction:
    """What a denoiser says about a noised image, each (B, C, H, W).

    x_start and eps describe one point: x_t = sqrt(abar) x_start + sqrt(1 - abar) eps. log_variance is that of
    p(x_{t-1} | x_t). eps and log_variance may be given as functions, which are called when somebody first asks:
    most samplers need only one of the two or neither, and either costs as much as a small network.

    unguided: the x_start that guidance started from, where somebody asked guidance to keep it.
    """

    __slots__ = ("_eps", "_log_variance", "unguided", "x_start")

    def __init__(self, x_start: Tensor, eps: Lazy, log_variance: Lazy, unguided: Tensor | None = None) -> None:
        self.x_start = x_start
        self.unguided = unguided
        self._eps = eps
        self._log_variance = log_variance

    @property
    def eps(self) -> Tensor:
        if not isinstance(self._eps, Tensor):
            self._eps = self._eps()
        return self._eps

    @property
    def log_variance(self) -> Tensor:
        if not isinstance(self._log_variance, Tensor):
            self._log_variance = self._log_variance()
        return self._log_variance

    def __iter__(self) -> Iterator[Tensor]:
        yield from (self.x_start, self.eps, self.log_variance)

    def at(self, x_start: Tensor, eps: Lazy) -> "Prediction":
        """The same variance about another point."""
        return Prediction(x_start, eps, lambda: self.log_variance, self.unguided)

    def each(self, change: Callable[[Tensor], Tensor]) -> "Prediction":
        """`change` applied to everything, to eps and the log-variance when they are asked for."""
        unguided = None if self.unguided is None else change(self.unguided)
        return Prediction(change(self.x_start), lambda: change(self.eps), lambda: change(self.log_variance), unguided)


def not_finite(t: int) -> TesseraError:
    """The error of a prediction that no image can be made of."""
    return TesseraError(
        f"the network's answer is not finite at t={t} even in float32; its weights are broken, "
        "or the input holds values that are not finite"
    )
