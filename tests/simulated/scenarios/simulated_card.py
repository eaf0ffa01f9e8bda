"""Makes torch believe in the card of device.cpp. To be imported before torch, in a process of its own.

SIMULATED_CARD=/path/to/library python -c "import simulated_card; ..."
"""

import ctypes
import os
import sys
from types import SimpleNamespace
from typing import Any

assert "torch" not in sys.modules, "the library registers its device while torch is loaded"
_library = ctypes.CDLL(os.environ["SIMULATED_CARD"], mode=ctypes.RTLD_GLOBAL)

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

NAMES = (
    "to_device", "to_device_blocking", "to_host", "to_host_blocking", "reads", "launches", "casts", "in_use", "peak",
)  # fmt: skip


def counts(reset: bool = True) -> SimpleNamespace:
    """What happened since the last call: numbers of copies, reads, launches and casts; bytes in use and at most."""
    _library.simulated_counts.argtypes = [ctypes.POINTER(ctypes.c_int64), ctypes.c_int]
    values = (ctypes.c_int64 * len(NAMES))()
    _library.simulated_counts(values, int(reset))
    return SimpleNamespace(**dict(zip(NAMES, values, strict=True)))


def limit(size: int) -> None:
    """Bytes that the card has; 0 is no limit."""
    _library.simulated_limit(ctypes.c_int64(size))


def doubles(allowed: bool) -> None:
    """Whether the card knows float64, as CUDA does and MPS does not."""
    _library.simulated_doubles(int(allowed))


class _HostGenerator(torch.Generator):
    """A generator of the card draws on the host."""

    def __new__(cls, device: Any = "cpu") -> Any:
        return super().__new__(cls, "cpu" if torch.device(device).type == "cuda" else device)


class _Stream:
    """A stream that is always idle, and an event that has always happened: copies here are done when they return."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __enter__(self) -> None: ...

    def __exit__(self, *_: Any) -> bool:
        return False

    def _nothing(self, *_: Any) -> None: ...

    wait_stream = wait_event = synchronize = record = _nothing


class _NoDevice:
    def __init__(self, *_: Any) -> None: ...

    def __enter__(self) -> None: ...

    def __exit__(self, *_: Any) -> bool:
        return False


def _attention(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> Any:
    """CUDA's fused kernel has no counterpart here; what it computes, in float32, as one launch."""
    _library.simulated_one_launch(1)
    with torch.autocast("cuda", enabled=False):
        weights = torch.softmax(q.float() @ k.float().transpose(-1, -2) * q.shape[-1] ** -0.5, dim=-1)
        result = (weights @ v.float()).to(v.dtype)
    _library.simulated_one_launch(0)
    return result


def _copied(tensor: Any, memo: dict[int, Any]) -> Any:
    """A deep copy: torch would ask CUDA's library for the storage."""
    if not tensor.is_cuda:
        return _deepcopy(tensor, memo)
    memo[id(tensor)] = tensor.detach().clone()
    return memo[id(tensor)]


_deepcopy = torch.Tensor.__deepcopy__


def _install() -> None:
    card = torch.cuda
    torch.Tensor.__deepcopy__ = _copied
    answers = {
        "is_available": True, "device_count": 1, "current_device": 0, "is_bf16_supported": True, "synchronize": None,
        "empty_cache": None, "reset_peak_memory_stats": None, "get_device_name": "simulated", "set_device": None,
        "set_rng_state": None, "is_current_stream_capturing": False, "_lazy_init": None, "is_initialized": True,
        "_exchange_device": 0, "_maybe_exchange_device": 0, "get_device_capability": (9, 0), "_is_in_bad_fork": False,
    }  # fmt: skip
    for name, answer in answers.items():
        setattr(card, name, lambda *_, answer=answer, **__: answer)
    card.get_rng_state = lambda *_: torch.get_rng_state()
    card.max_memory_allocated = lambda *_: counts(reset=False).peak
    card.memory_allocated = lambda *_: counts(reset=False).in_use
    card.mem_get_info = lambda *_: (2**34 - counts(reset=False).in_use, 2**34)
    card.device = _NoDevice
    card.memory_reserved = card.memory_allocated
    card.Stream = card.Event = _Stream
    card.current_stream, card.stream = _Stream, _Stream
    torch.Tensor.record_stream = lambda *_: None
    torch._utils._get_available_device_type = lambda: "cuda"
    F.scaled_dot_product_attention = _attention
    torch.Generator = _HostGenerator


_install()
