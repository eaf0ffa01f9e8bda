"""Randomness is an argument: every draw comes from a generator derived from (run seed, purpose, position).

Nothing in the project touches a global generator, so a resumed run equals the uninterrupted one, the number of
workers or ranks changes nothing, and the noise of a tile depends on where it lies, not on when it runs.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from .philox import normal_values


def derive_seed(seed: int, *position: int | str) -> int:
    """A 63-bit seed from a run seed and a position such as ("noise", iteration, sample).

    BLAKE2b of the written-out position: stable across processes, platforms and Python versions, unlike `hash`.
    A part may be a file name, so names that are no valid UTF-8 are taken by their bytes.
    """
    text = "/".join([str(int(seed)), *(f"{type(part).__name__[0]}{part}" for part in position)])
    digest = hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def image_seed(seed: int, image: int | str | None, sample: int = 0) -> int:
    """The seed of the noise that an image is sampled with: of its name, or of its number where it has none.

    None is one seed for all images. Further samples (from 1 on) of the same image have seeds of their own.
    """
    which = () if image is None else (image,)
    return derive_seed(seed, "sample", *which, *((sample,) if sample else ()))


def numpy_generator(seed: int, *position: int | str) -> np.random.Generator:
    """A NumPy generator for one position."""
    return np.random.Generator(np.random.Philox(derive_seed(seed, *position)))


def torch_generator(device: torch.device | str, seed: int, *position: int | str) -> torch.Generator:
    """A torch generator on `device` for one position. On the CPU it distinguishes only 2^32 seeds: see `normal`."""
    return torch.Generator(device=device).manual_seed(derive_seed(seed, *position))


def normal(shape: tuple[int, ...], device: torch.device, seed: int, *position: int | str) -> torch.Tensor:
    """Standard normal float32 values for one position, the same on every device."""
    return normal_values((derive_seed(seed, *position),), shape, device)[0]


@contextmanager
def torch_globals_at(device: torch.device | str, seed: int, *position: int | str) -> Iterator[None]:
    """For code that can only draw from torch's own generators: initialisers inside torch.nn layers, dropout.

    Inside the block the CPU's generator, and that of a CUDA `device`, stand at the given position; afterwards they are
    put back.
    """
    device = torch.device(device)
    cuda = device.type == "cuda"
    before, before_cuda = torch.get_rng_state(), torch.cuda.get_rng_state(device) if cuda else None
    torch.set_rng_state(torch_generator("cpu", seed, *position).get_state())
    if cuda:
        torch.cuda.set_rng_state(torch_generator(device, seed, *position).get_state(), device)
    try:
        yield
    finally:
        torch.set_rng_state(before)
        if before_cuda is not None:
            torch.cuda.set_rng_state(before_cuda, device)
