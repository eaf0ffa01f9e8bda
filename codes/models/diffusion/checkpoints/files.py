"""Reading and writing weights as files: safe loading only, wrappers taken off, half precision widened."""

import json
import math
import os
import pickle
import pickletools
import re
import stat
import struct
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ....utils.errors import ConfigError, DamagedError
from ....utils.files import atomic_write

SAFETENSORS = ".safetensors"
PICKLES = (".pth", ".pt", ".ckpt", ".bin")
# Where several are present the averaged weights come first: they are the ones to sample from.
WRAPPERS = ("params_ema", "ema_state_dict", "ema", "state_dict", "model_state_dict", "params", "model", "generator")
MOST_SHOWN = 80  # characters of a name
PREFIXES = ("module.", "_orig_mod.")
DEEPEST = 8  # mappings around the weights
# What torch.load raises on files that are cut, damaged or of another kind.
UNREADABLE = (
    OSError, RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError, AssertionError, OverflowError,
    MemoryError, struct.error, zipfile.BadZipFile,
)  # fmt: skip
NAMING_OPCODES = ("GLOBAL", "STACK_GLOBAL", "INST")


class Weights(NamedTuple):
    """What a file of weights holds."""

    state_dict: dict[str, Tensor]
    """Bare parameter names; floating-point tensors in float32, on the CPU."""
    metadata: dict[str, str]
    """The file's own metadata; empty for pickles."""
    precision: str
    """The floating-point type in the file, as in "float16"; several are joined by "+"."""
    wrapper: str
    """The keys that led to the weights, as in "state_dict"; empty when they lay bare."""


def read_weights(path: str | Path) -> Weights:
    """Read .safetensors, or a pickle of tensors (.pth, .pt, .ckpt, .bin), without running anything stored in it.

    Raises ConfigError, one line, on a file that is missing, damaged, of another kind, or that would run code.
    """
    path = Path(path)
    _refuse_unreadable(path)
    if path.suffix == SAFETENSORS:
        content, metadata = _read_safetensors(path)
    elif path.suffix in PICKLES:
        content, metadata = _read_pickle(path), {}
    else:
        raise ConfigError(f"checkpoint {path} ends in {path.suffix!r}, expected {', '.join((SAFETENSORS, *PICKLES))}")
    wrapped, wrapper = _unwrapped(content, path)
    state_dict = _without_prefixes(wrapped)
    _refuse_odd_tensors(state_dict, path)
    kinds = {str(value.dtype).removeprefix("torch.") for value in state_dict.values() if value.is_floating_point()}
    widened = {name: value.float() if value.is_floating_point() else value for name, value in state_dict.items()}
    return Weights(widened, metadata, "+".join(sorted(kinds)), wrapper)


def read_safetensors_header(path: str | Path) -> tuple[dict[str, str], int]:
    """The metadata of a .safetensors file, and how many numbers it holds, without reading them.

    Raises ConfigError on a bad file.
    """
    path = Path(path)
    _refuse_unreadable(path)
    try:
        with safe_open(str(path), framework="pt") as file:
            shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
            return dict(file.metadata() or {}), sum(math.prod(shape) for shape in shapes)
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from None


def write_weights(path: str | Path, state_dict: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write weights atomically: .safetensors with metadata, or a bare .pth/.pt state dict (which holds no metadata)."""
    path = Path(path)
    # Plain layout and storage of their own: safetensors stores neither channels_last nor shared memory.
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state_dict.items()}
    if path.suffix not in (SAFETENSORS, ".pth", ".pt"):
        raise ConfigError(f"cannot write a checkpoint as {path.name}; use the ending .safetensors, .pth or .pt")
    with atomic_write(path) as temporary, disk_errors():
        if path.suffix == SAFETENSORS:
            temporary.touch()  # with the rights that new files have here; safetensors puts a private one in its place
            rights = stat.S_IMODE(temporary.stat().st_mode)
            save_file(tensors, str(temporary), dict(metadata))
            temporary.chmod(rights)
        else:
            with temporary.open("wb") as file:  # of Python, whose errors say why a write failed
                torch.save(tensors, file)


@contextmanager
def disk_errors() -> Iterator[None]:
    """A full disk has three faces: Python's, torch's and that of safetensors. Outside, all are an OSError."""
    try:
        yield
    except OSError:
        raise
    except (RuntimeError, SafetensorError) as error:
        if isinstance(error.__context__, OSError):  # torch talks of positions in its file and keeps the reason beside
            raise error.__context__ from None
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number:
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
        raise OSError((str(error).splitlines() or [type(error).__name__])[0]) from error


def is_cut_short(path: Path) -> bool:
    """Whether a file of weights ends before it should, by its own table of contents; what is in it is not looked at."""
    try:
        if path.suffix != SAFETENSORS:
            return not zipfile.is_zipfile(path)
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            table = json.loads(file.read(min(length, path.stat().st_size)))
        ends = [entry["data_offsets"][1] for name, entry in table.items() if name != "__metadata__"]
        return path.stat().st_size != 8 + length + max(ends, default=0)
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, struct.error, RecursionError):
        return True


def _refuse_unreadable(path: Path) -> None:
    """Raise ConfigError for a file that is not there, or that may not be read: neither is damaged."""
    try:
        if not path.is_file():
            raise ConfigError(f"checkpoint {path} does not exist; check the path")
        with path.open("rb"):
            pass
    except OSError as error:
        raise ConfigError(f"checkpoint {path} cannot be read ({error.strerror or error})") from None


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(str(path), framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from None


def _read_pickle(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            # Old files use pickle protocols that torch warns about; what it cannot read it refuses anyway.
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "GLOBAL" not in str(error) and not _names_code(path):
            raise _damaged(path, error) from None
        raise ConfigError(
            f"checkpoint {path} is refused: it holds more than weights and would run code when loaded; "
            "if you trust its origin, save model.state_dict() alone in its own program and use that file"
        ) from None
    except UNREADABLE as error:
        raise _damaged(path, error) from None


def _names_code(path: Path) -> bool:
    """Whether a bare pickle names a function or class beyond torch's own; read as opcodes, nothing is run."""
    try:
        with path.open("rb") as file:
            named = (str(name) for code, name, _ in pickletools.genops(file) if code.name in NAMING_OPCODES)
            return any(not name.startswith(("torch", "collections ")) for name in named)
    except (ValueError, OSError):
        return False


def _damaged(path: Path, error: Exception) -> DamagedError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
    if other := _what_it_is(path):
        return DamagedError(f"checkpoint {path} is {other}")
    return DamagedError(f"checkpoint {path} is damaged, cut short or no checkpoint ({reason}); fetch it again")


def _what_it_is(path: Path) -> str | None:
    """What a file that is no checkpoint is instead, and what to do."""
    with suppress(OSError), path.open("rb") as file:
        head = file.read(200).lstrip().lower()
        if head.startswith(b"version https://git-lfs"):
            return "a pointer of Git LFS, not the file itself; fetch it with `git lfs pull`"
        if head.startswith((b"<!doctype", b"<html", b"<?xml")):
            return "a web page, not a checkpoint; fetch the file itself"
    return None


def _unwrapped(content: Any, path: Path) -> tuple[dict[str, Tensor], str]:
    """The innermost mapping of names to tensors, and the keys that led to it."""
    trail: list[str] = []
    while isinstance(content, Mapping) and len(trail) <= DEEPEST:  # a mapping may hold itself
        key = next((key for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if key is None:
            tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
            if not tensors:
                break
            return tensors, ".".join(trail)
        trail.append(key)
        content = content[key]
    raise ConfigError(
        f"checkpoint {path} holds no weights: expected a mapping of names to tensors, bare or under one of "
        f"{', '.join(WRAPPERS)}"
    )


def _refuse_odd_tensors(state_dict: Mapping[str, Tensor], path: Path) -> None:
    """Tensors that no network of ours holds, and those that would grow when they are copied."""
    for name, value in state_dict.items():
        plain = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
        whole = plain and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
        if not whole or value.is_complex():
            raise ConfigError(
                f"checkpoint {path} is refused: {name[:MOST_SHOWN]} is no plain tensor of numbers; save "
                "model.state_dict() of its own program again"
            )


def _without_prefixes(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take off what DataParallel and torch.compile put before every name."""
    names = dict(state_dict)
    prefix = next((p for p in PREFIXES if all(name.startswith(p) for name in names)), None)
    while prefix is not None:
        names = {name.removeprefix(prefix): value for name, value in names.items()}
        prefix = next((p for p in PREFIXES if all(name.startswith(p) for name in names)), None)
    return names
