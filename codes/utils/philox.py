"""Normal noise from a counter: the same values on every device, in any order, and for any part of a plane.

Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") maps a counter of four 32-bit words
and a key of two to four random words; there is no state. Here it is written in integer tensor operations, which every
device computes alike, and matches the known answers of the authors' library Random123. Box and Muller's transform turns
two words into two normal values in float64 and rounds them to float32: devices whose logarithm or cosine differ in the
last bit of float64 agree but for about one value in 10^8.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
PER_COUNTER = 4  # words, and normal values, of one counter
ROW = 2**12  # counters in a row of `normal_values`
CHUNK = 2**15  # counters at once on a CPU: what is computed between them stays in its cache


Word = int | Tensor


def lacks_float64(device: torch.device) -> bool:
    return device.type == "mps"


def philox4x32(counter: Sequence[Tensor], key: tuple[Word, Word]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four random words of each counter: int64 tensors of one shape that hold numbers from 0 to 2^32 - 1.

    The words of the key are numbers, or tensors that broadcast against the counters.
    """
    a, b, c, d = (word.clone() for word in counter)
    low, high = torch.empty_like(a), torch.empty_like(a)
    first, second = key
    for _ in range(_ROUNDS):
        torch.mul(a, _MULTIPLIERS[0], out=low)  # wraps around 2^64, which leaves both halves right
        torch.mul(c, _MULTIPLIERS[1], out=high)
        torch.bitwise_right_shift(high, 32, out=a).bitwise_and_(WORD).bitwise_xor_(b).bitwise_xor_(first)
        torch.bitwise_right_shift(low, 32, out=c).bitwise_and_(WORD).bitwise_xor_(d).bitwise_xor_(second)
        torch.bitwise_and(high, WORD, out=b)
        torch.bitwise_and(low, WORD, out=d)
        first, second = (first + _WEYL[0]) & WORD, (second + _WEYL[1]) & WORD
    return a, b, c, d


def normal_planes(
    seeds: Sequence[int], channels: int, rows: tuple[int, int], columns: tuple[int, int], device: torch.device
) -> Tensor:
    """float32 (B, channels, rows, columns): for each of B seeds (up to 64 bits) a part of its plane of N(0, 1) values.

    `rows` and `columns` are [start, stop) of an unbounded plane; coordinates may be negative. Values depend on (seed,
    channel, row, column) alone. Every counter gives four values: those of channels 4 g to 4 g + 3 of a pixel.
    """
    worker = torch.device("cpu") if lacks_float64(device) else device
    height, width = rows[1] - rows[0], columns[1] - columns[0]
    field = torch.empty((len(seeds), channels, height, width), dtype=torch.float32, device=worker)
    keys = torch.tensor([[seed & WORD, seed >> 32 & WORD] for seed in seeds], dtype=torch.int64).to(
        worker, non_blocking=True
    )
    first, second = keys[:, 0, None, None], keys[:, 1, None, None]
    x = torch.arange(*columns, device=worker) & WORD
    step = max(CHUNK // (len(seeds) * width), 1) if worker.type == "cpu" else height
    for start in range(0, height, step):
        shape = (len(seeds), min(step, height - start), width)
        y = torch.arange(rows[0] + start, rows[0] + start + shape[1], device=worker) & WORD
        for group in range(-(-channels // PER_COUNTER)):
            constant = torch.full(shape, group, device=worker)
            drawn = philox4x32((x.expand(shape), y[:, None].expand(shape), constant, constant * 0), (first, second))
            chosen = slice(group * PER_COUNTER, (group + 1) * PER_COUNTER)
            _box_muller(drawn, field[:, chosen, start : start + shape[1]])
    return field.to(device)


def normal_values(seeds: Sequence[int], shape: tuple[int, ...], device: torch.device) -> Tensor:
    """float32 N(0, 1) values (B, *shape) for B seeds; value i of a row, in C order, depends on (its seed, i) alone."""
    count = math.prod(shape)
    counters = max(-(-count // PER_COUNTER), 1)
    planes = normal_planes(seeds, PER_COUNTER, (0, -(-counters // ROW)), (0, min(counters, ROW)), device)
    return planes.permute(0, 2, 3, 1).reshape(len(seeds), -1)[:, :count].reshape(len(seeds), *shape)


def _box_muller(words: tuple[Tensor, Tensor, Tensor, Tensor], out: Tensor) -> None:
    """Write as many of the four normal values as `out` (B, 1..4, ...) has channels."""
    for first in range(0, out.shape[1], 2):
        radius = words[first].double().add_(0.5).mul_(2.0**-32).log_().mul_(-2.0).sqrt_()  # of (0, 1): never log 0
        angle = words[first + 1].double().mul_(2.0 * math.pi * 2.0**-32)
        if first + 1 < out.shape[1]:
            out[:, first + 1].copy_(radius * angle.sin())
        out[:, first].copy_(radius.mul_(angle.cos_()))
