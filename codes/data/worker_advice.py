"""Why worker processes end or cannot be started, and what to change."""

import errno
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

SHARED = Path("/dev/shm")
_UNWRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOSYS)


@dataclass(frozen=True)
class Advice:
    """Messages about workers that are called `one` and `several`; `fewer` and `none` say how to have fewer, or none."""

    one: str
    several: str
    fewer: str
    none: str

    def not_started(self, error: OSError) -> str:
        """Of what the system said when workers were to be started."""
        text = f"{self.several} cannot be started ({error.strerror or error})"
        if error.errno == errno.ENOSPC:
            return f"{text}: {self.more_shared()}"
        if error.errno in _UNWRITABLE:
            return f"{text}: {shared_memory()} must be writable; or {self.none}"
        return f"{text}; {self.fewer}, or {self.none}"

    def obituary(self, process: int | None, exit_code: int | None) -> str:
        """Of a worker that has ended, though nobody asked it to."""
        number = -(exit_code or 0)
        what = f"was killed by {signal.Signals(number).name}" if number > 0 else f"ended with exit code {exit_code}"
        text = f"{self.one} (process {process}) {what}"
        if number == signal.SIGBUS:
            return f"{text}: {self.more_shared()}"
        if number == signal.SIGKILL:
            return f"{text}, as systems do when memory runs out; {self.fewer}"
        return f"{text}; {self.none} to see what is wrong"

    def more_shared(self) -> str:
        """What to do about too little shared memory."""
        return f"{shared_memory()} is too small; give the container more (docker run --shm-size=1g), or {self.none}"


def shared_memory() -> str:
    """How much shared memory this machine or container has, in words."""
    if not SHARED.is_dir():
        return "shared memory"
    usage = shutil.disk_usage(SHARED)
    return f"shared memory ({SHARED}: {usage.free / 2**20:.0f} of {usage.total / 2**20:.0f} MiB free)"
