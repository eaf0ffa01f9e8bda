"""Which device, which arithmetic, which rank."""

import math
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from ..utils.console import get_logger
from ..utils.errors import ConfigError

try:
    import resource
except ImportError:  # only where there is no Unix
    resource = None  # type: ignore[assignment]

logger = get_logger(__name__)
Precision = Literal["auto", "fp32", "tf32", "bf16", "fp16"]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
PATIENCE = timedelta(hours=2)  # the other ranks wait while rank 0 saves and evaluates


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        return self.rank == 0


def is_first(launcher: str) -> bool:
    """Whether this process is rank 0 of those that torchrun started, or alone; known before they join."""
    return _alone(launcher) or os.environ.get("RANK", "0") == "0"


def _alone(launcher: str) -> bool:
    return launcher == "none" or (launcher == "auto" and "TORCHELASTIC_RUN_ID" not in os.environ)


def join_ranks(launcher: str, cuda: bool) -> Ranks:
    """Join the process group that torchrun describes in the environment; alone without a launcher.

    `launcher`: none, pytorch, or auto, which is pytorch where torchrun started this process. Raises ConfigError.
    """
    if _alone(launcher):
        return Ranks()
    missing = [
        name for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ
    ]
    if missing:
        raise ConfigError(
            f"--launcher pytorch needs torchrun (not set: {', '.join(missing)}); start with "
            "`torchrun --nproc_per_node=N codes/train.py -opt RECIPE --launcher pytorch` (or codes/test.py)"
        )
    dist.init_process_group("nccl" if cuda else "gloo", timeout=PATIENCE)
    return Ranks(dist.get_rank(), dist.get_world_size(), int(os.environ["LOCAL_RANK"]))


def leave_ranks(ranks: Ranks) -> None:
    if ranks.world_size > 1 or dist.is_initialized():
        dist.destroy_process_group()


def several_ranks() -> bool:
    """Whether this process trains together with others."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def choose_device(name: str, gpu_ids: Sequence[int] | None = None, local_rank: int | None = None) -> torch.device:
    """The device a recipe asks for. Raises ConfigError when it asks by name for one that is not there."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    kind = next(kind for kind in available if available[kind]) if name == "auto" else name
    if not available[kind]:
        raise ConfigError(f"device: {name} is asked for but not available here; use device: auto")
    if kind != "cuda":
        return torch.device(kind)
    index = local_rank if local_rank is not None else gpu_ids[0] if gpu_ids else 0
    if index >= torch.cuda.device_count():
        raise ConfigError(f"gpu_ids: no CUDA device {index}; there are {torch.cuda.device_count()} (0 is the first)")
    torch.cuda.set_device(index)  # NCCL and whatever allocates without being told a device use the current one
    return torch.device("cuda", index)


def precision_in_use(device: torch.device, precision: Precision) -> Literal["fp32", "tf32", "bf16", "fp16"]:
    """What `auto` is on a device: bf16 where the hardware computes in it, else fp32."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported() else "fp32"


def use_tensor_cores(precision: Precision) -> None:
    """Let CUDA round float32 to TF32 (10 bits of mantissa) in convolutions and products exactly where it is asked for.

    torch's own default is TF32 in convolutions alone, so that fp32 would mean two things at once.
    """
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"


def autocast_for(device: torch.device, precision: Precision) -> Callable[[], AbstractContextManager[Any]]:
    """A factory of autocast contexts; float16 becomes bfloat16 on a CPU, where float16 is slow and overflows."""
    precision = precision_in_use(device, precision)
    use_tensor_cores(precision)
    if precision in ("fp32", "tf32"):
        return nullcontext
    if precision == "fp16" and device.type == "cpu":
        logger.info("fp16 is for GPUs; this CPU computes in bf16 instead")
        precision = "bf16"
    return partial(torch.autocast, device.type, DTYPES[precision])


def to_device(value: Any, device: torch.device) -> Any:
    """Tensors to the device (images in channels_last), anything else as it is."""
    if not isinstance(value, Tensor):
        return value
    if value.ndim == 4 and device.type != "mps":
        return value.to(device, non_blocking=True, memory_format=torch.channels_last)
    return value.to(device, non_blocking=True)


def sum_over_ranks(values: Sequence[Tensor], ranks: Ranks) -> None:
    """Replace every tensor by its sum over the ranks, in one exchange."""
    if ranks.world_size == 1 or not values:
        return
    flat = _exchangeable(torch.cat([value.reshape(-1).float() for value in values]))
    dist.all_reduce(flat)
    offset = 0
    for value in values:
        value.copy_(flat[offset : offset + value.numel()].view_as(value))
        offset += value.numel()


def _exchangeable(value: Tensor) -> Tensor:
    """Where the ranks exchange it: NCCL takes tensors of the GPU alone."""
    return value.to(torch.device("cuda", torch.cuda.current_device())) if dist.get_backend() == "nccl" else value


def any_over_ranks(flag: bool, device: torch.device, ranks: Ranks) -> bool:
    """Whether the flag is set on any rank; every rank must ask, and none goes on before all have."""
    if ranks.world_size == 1:
        return flag
    return bool(flag_over_ranks(flag, device, ranks) > 0)


def flag_over_ranks(flag: bool, device: torch.device, ranks: Ranks) -> Tensor:
    """(1,): on how many ranks the flag is set; every rank must ask. The host does not wait for a GPU to know it."""
    total = torch.full((1,), float(flag), device=device)  # nothing is copied, as a number of the host would be
    if ranks.world_size > 1:
        total = _exchangeable(total)
        dist.all_reduce(total)
    return total


def gather_over_ranks(value: Tensor, ranks: Ranks) -> Tensor:
    """The tensors (N, ...) of all ranks joined in rank order; all ranks must hold the same shape."""
    if ranks.world_size == 1:
        return value
    given = _exchangeable(value.contiguous())
    parts = [torch.empty_like(given) for _ in range(ranks.world_size)]
    dist.all_gather(parts, given)
    return torch.cat(parts).to(value.device)


def copy_from_first(values: Sequence[Tensor], ranks: Ranks) -> None:
    """Replace every tensor by that of rank 0: machines of different kinds may round an initialisation differently."""
    if ranks.world_size == 1:
        return
    for value in (value.detach() for value in values):
        whole = value.contiguous()
        dist.broadcast(whole, src=0)
        value.copy_(whole)


def agree_over_ranks(number: int, device: torch.device, ranks: Ranks) -> bool:
    """Whether all ranks say the same number."""
    if ranks.world_size == 1:
        return True
    numbers = gather_over_ranks(torch.tensor([number], device=device), ranks)
    return bool((numbers == number).all())


def peak_memory(device: torch.device) -> float:
    """GiB: the most that this process held so far, of the GPU's memory or, on a CPU, of the machine's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    if resource is None:
        return math.nan
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak) / (2**30 if sys.platform == "darwin" else 2**20)
