"""Tessera: diffusion restoration of photographs, trained on tiles and run on images of any size.

As a library: `from tessera import Restorer`. What it needs is imported at its first use, so `import tessera` is cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .version import __version__

if TYPE_CHECKING:
    from .inference.restorer import Restorer
    from .models.diffusion.sampling_options import SamplingOptions
    from .utils.errors import ConfigError, DataError, TesseraError

__all__ = ["ConfigError", "DataError", "Restorer", "SamplingOptions", "TesseraError", "__version__"]

_HOMES = {
    "Restorer": ".inference.restorer",
    "SamplingOptions": ".models.diffusion.sampling_options",
    "ConfigError": ".utils.errors",
    "DataError": ".utils.errors",
    "TesseraError": ".utils.errors",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
