"""Ctrl-C and SIGTERM: finish the iteration, save, leave. A second signal stops at once."""

import signal
from types import FrameType, TracebackType
from typing import Any

from ..utils.console import get_logger

logger = get_logger(__name__)
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Context manager that turns the first signal into `requested` and restores the handlers afterwards."""

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        logger.warning("%s: finishing this step, then saving; once more stops at once", signal.Signals(number).name)
