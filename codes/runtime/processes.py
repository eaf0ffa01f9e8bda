"""Which process this is among all others, so that another one can tell whether it still runs."""

import os
import socket
from contextlib import suppress
from pathlib import Path

GONE = "ZX"  # states of a process that has ended and waits for its parent to notice


def process_space() -> str:
    """What processes that see each other's numbers have in common: this boot of the machine, and the container.

    "" where the platform does not tell (no Linux).
    """
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return ""


def started_at(pid: int) -> str:
    """When a process of this space started, in ticks of the machine; "" where there is none of this number.

    A number is given again to later processes; number and start together are one process for ever.
    """
    with suppress(OSError, IndexError):
        # The name of the program stands in brackets and may hold anything, brackets included.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].decode("ascii").split()
        return "" if fields[0] in GONE else fields[19]
    return ""


def host_name() -> str:
    """The name of this machine for people."""
    return socket.gethostname() or "an unnamed machine"
