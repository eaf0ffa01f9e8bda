"""What fits the memory of a device: how to know that it ran out, and how much of a restoration it can hold."""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch

Result = TypeVar("Result")

BYTES_A_PIXEL = 40  # of the result: two canvases, the upsampled low_res, and what is computed for a row of tiles
FIRST_BATCH = 4  # tiles that tell what one of them needs
BATCHES = (64, 32, 16, 8, 4, 2, 1)  # tiles at once on a GPU, by what memory holds; 16 keep it busy
SHARE = 0.7  # of what is free that batches may take: convolutions ask for workspaces, too


class Room(NamedTuple):
    """Where canvases lie, and how many tiles are computed at once."""

    canvas: torch.device
    batch: int


def room_on(
    device: torch.device, pixels: int, warm_up: Callable[[int], object], batch: int | None, in_memory: bool
) -> Room:
    """What a restoration of `pixels` of results does with a CUDA device's memory, by what a first batch of tiles takes.

    `warm_up` computes so many tiles. `batch`: the tiles at once that are asked for, None to choose. The canvases lie
    on the device where they take less than half of what is then free and are wanted `in_memory`.
    """
    bytes_a_tile = _bytes_of(warm_up, device) / FIRST_BATCH
    free = free_memory(device)
    needed = BYTES_A_PIXEL * pixels
    fits = in_memory and needed < free / 2
    left = SHARE * (free - needed if fits else free)
    chosen = batch or next((size for size in BATCHES if size * bytes_a_tile <= left), 1)
    return Room(device if fits else torch.device("cpu"), chosen)


def _bytes_of(warm_up: Callable[[int], object], device: torch.device) -> float:
    """What a first batch takes beyond what is in use; a guess beyond all memory where it does not fit."""
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    try:
        warm_up(FIRST_BATCH)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        torch.cuda.empty_cache()
        return float(FIRST_BATCH * free_memory(device))
    return max(torch.cuda.max_memory_allocated(device) - before, 1)


def free_memory(device: torch.device) -> int:
    """Bytes of a CUDA device that this process may still take: what nobody has, and what torch keeps unused."""
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + max(kept, 0)


def attempted(work: Callable[[], Result], device: torch.device) -> Result | None:
    """What `work` returns; None where memory ran out, with all that it held given back."""
    try:
        return work()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    # Only here, with the error and the frames it holds gone, can the tensors of the failed work be freed.
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
    return None


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether memory ran out: torch's own class, or a message of the CPU, MPS or CUDA libraries."""
    message = str(error)
    return isinstance(error, torch.OutOfMemoryError) or any(
        # cuDNN finds no engine where none of them gets its workspace.
        sign in message
        for sign in ("out of memory", "DefaultCPUAllocator", "ALLOC_FAILED", "unable to find an engine")
    )
