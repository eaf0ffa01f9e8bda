"""Ctrl-C, SIGTERM and a closing terminal (SIGHUP): finish the iteration, save, leave. A second signal stops at once."""

import signal
import time
from types import FrameType, TracebackType
from typing import Any

from ..utils.console import get_logger

logger = get_logger(__name__)
OF_SYSTEMS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
SIGNALS = (signal.SIGINT, *OF_SYSTEMS)
ECHO = 0.5  # seconds: a job manager signals every process, and torchrun passes its own signal on to its children


class StopRequest:
    """Context manager that turns the first signal into `requested` and restores the handlers afterwards."""

    def __init__(self) -> None:
        self.requested = False
        self._first = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        # What nohup ignores stays ignored.
        heard = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN or number not in OF_SYSTEMS]
        self._before = {number: signal.signal(number, self._handle) for number in heard}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self.requested:
            if number in OF_SYSTEMS and time.monotonic() - self._first < ECHO:
                return
            raise KeyboardInterrupt
        self.requested, self._first = True, time.monotonic()
        logger.warning("%s: finishing this step, then saving; once more stops at once", signal.Signals(number).name)
