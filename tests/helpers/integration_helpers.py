"""The checkout as the installed package `tessera`, which is what the integrations import."""

import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def installed(folder):
    """`import tessera` finds codes/ here. The copy of the modules stays, as that of an installed package would."""
    link = folder / "tessera"
    if not link.exists():
        link.symlink_to(ROOT / "codes", target_is_directory=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield patch
    assert Path(sys.modules["tessera"].__file__).name == "__init__.py"
