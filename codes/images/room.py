"""What an image file asks for before it is decoded: pixels against its length, and against the memory that is there."""

import os
from contextlib import suppress
from pathlib import Path

from .layers import Refused

# The most pixels that a byte of a file can stand for, with room to spare. Deflate's ratio is at most 1032, and a pixel
# of 1 bit is an eighth of a byte; a block of 64 pixels of a JPEG takes a bit at least; a code of a GIF stands for at
# most 4096 pixels. The others can say "all of it is blue" in a few bytes: four times and more of what their encoders
# reach with 8192 x 8192 pixels of one colour (26,000 in WebP, 66,000 in AVIF, 38,000 in JPEG XL, 275,000 in JPEG 2000).
_MOST_PIXELS_A_BYTE = {
    "PNG": 8 * 1032, "JPEG": 1024, "MPO": 1024, "GIF": 4096,
    "WEBP": 2**17, "AVIF": 2**20, "HEIF": 2**20, "JXL": 2**20, "JPEG2000": 2**20,
}  # fmt: skip
_GIB = 2**30
_SMALL = 2**22  # pixels that need no look at the memory


def check_declared(kind: str, width: int, height: int, length: int) -> None:
    """Raises Refused when a file of `length` bytes cannot hold the pixels that its header declares."""
    most = _MOST_PIXELS_A_BYTE.get(kind)
    if most is not None and width * height > most * length:
        raise Refused(
            f"damaged: its header declares {width} x {height} pixels, more than {length} bytes of {kind} can hold"
        )


def check_memory(width: int, height: int, bytes_a_pixel: int) -> None:
    """Raises Refused when the memory that is available is not enough to decode an image."""
    if width * height <= _SMALL:
        return
    needed, free = width * height * bytes_a_pixel, available_memory()
    if free is not None and needed > free:
        raise Refused(
            f"{width} x {height} pixels take about {needed / _GIB:.1f} GiB of memory to read, and "
            f"{free / _GIB:.1f} GiB are available"
        )


def available_memory() -> int | None:
    """Bytes that this process may still take, by the system and by the limits of its container; None: not known."""
    limits = [value for value in (_of_system(), _of_container()) if value is not None]
    return min(limits) if limits else None


def _of_system() -> int | None:
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    with suppress(OSError, ValueError, AttributeError):  # other Unix systems
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _of_container() -> int | None:
    """What the control group (version 2, then 1) leaves, without what the system can drop from its cache."""
    for limit, used, stat in (
        ("memory.max", "memory.current", "memory.stat"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
    ):
        root = Path("/sys/fs/cgroup")
        with suppress(OSError, ValueError):
            most, now = int((root / limit).read_text()), int((root / used).read_text())
            kept = [line.split() for line in (root / stat).read_text().splitlines()]
            cache = sum(int(words[1]) for words in kept if words[0] in ("inactive_file", "total_inactive_file"))
            return max(most - now + cache, 0)
    return None
