"""What lets a file of this package be started by its path: `python codes/train.py`, `python codes/scripts/sweep.py`."""

import runpy
import sys
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[2]


def run_as_module(file: str) -> NoReturn:
    """Run a file of this package again, as a module of it, and exit with its code.

    A file started by its path belongs to no package, so it cannot import its neighbours; and its own folder stands
    first in `sys.path`, where test.py would hide Python's `test`.
    """
    sys.path[0] = str(ROOT)
    name = ".".join(Path(file).resolve().relative_to(ROOT).with_suffix("").parts)
    runpy.run_module(name, run_name="__main__", alter_sys=True)
    sys.exit()
