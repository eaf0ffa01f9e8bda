"""The one type of every option that names a file or a folder."""

import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

MOST_CHARACTERS = 4096  # of a path on Linux, macOS and Windows


def user_path(text: str) -> str:
    """A path as its user means it: ~ and ~name are home folders. Raises ValueError for what names nothing."""
    if not text.strip():
        raise ValueError("an empty path; name a file or a folder, or remove the key")
    if "\0" in text or len(text) > MOST_CHARACTERS:
        raise ValueError("no path: it holds a zero byte, or more characters than paths have")
    expanded = os.path.expanduser(text)
    if expanded.startswith("~") and not os.path.lexists(expanded):
        raise ValueError(f"{text!r}: there is no such home folder; for a file of that name write {f'./{text}'!r}")
    return expanded


UserPath = Annotated[str, AfterValidator(user_path)]
"""The path of a file or folder, absolute or from the working directory; `~` is the home folder."""


def recipe_file(path: Path) -> Path:
    """The recipe itself, or where no file is called so here, that of the same name in the installed package.

    `recipes/diffusion/infer.yml` and `options/train_sr_128.yml` are thus found from every folder.
    """
    installed = Path(__file__).resolve().parents[1] / path
    return installed if not path.exists() and not path.is_absolute() and installed.is_file() else path
