"""What fits the memory of a device: how to know that it ran out, and how much of a restoration it can hold."""

import torch


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether memory ran out: torch's own class, or a message of the CPU, MPS or CUDA libraries."""
    message = str(error)
    return isinstance(error, torch.OutOfMemoryError) or any(
        # cuDNN finds no engine where none of them gets its workspace.
        sign in message
        for sign in ("out of memory", "DefaultCPUAllocator", "ALLOC_FAILED", "unable to find an engine")
    )
