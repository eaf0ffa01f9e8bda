"""Find what registers itself: every module of a package, and the files of the user's own."""

import importlib
import importlib.util
import os
import pkgutil
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from ..utils.errors import ConfigError


def import_submodules(package: str, folder: str) -> None:
    """Import every module of a package, so that its decorated classes enter their registries."""
    for module in pkgutil.iter_modules([folder]):
        importlib.import_module(f"{package}.{module.name}")


def import_plugins(paths: Sequence[str], relative_to: Path) -> None:
    """Import the user's own files. Raises ConfigError with the file and the reason."""
    for text in paths:
        path = relative_to / os.path.expanduser(text)
        name = "tessera_plugin_" + re.sub(r"\W", "_", str(path.resolve()))
        if name in sys.modules:
            continue
        spec = importlib.util.spec_from_file_location(name, path)
        if not path.is_file() or spec is None or spec.loader is None:
            raise ConfigError(f"plugins: no such Python file {path}")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # before it runs: dataclasses look up the module that they stand in
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:  # a file that ends the program is no plugin
            del sys.modules[name]
            raise ConfigError(f"plugins: {path} fails on import ({type(error).__name__}: {error})") from error
