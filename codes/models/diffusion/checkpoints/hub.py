"""Weights of the Hugging Face Hub: `hf://owner/name` or `hf://owner/name@revision` stands for one file there."""

import re
from pathlib import Path

from ....utils.errors import ConfigError
from .files import PICKLES, SAFETENSORS

PREFIX = "hf://"
WEIGHTS = "model.safetensors"
INSTALL = "pip install huggingface_hub"
_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")


def is_hub_address(named: str) -> bool:
    """Whether a text names weights of the Hub."""
    return named.startswith(PREFIX)


def looks_like_hub_id(named: str) -> bool:
    """Whether a text that names no file here may be the `owner/name` of the Hub."""
    return _ID.fullmatch(named) is not None and Path(named).suffix not in (SAFETENSORS, *PICKLES)


def fetched(address: str) -> Path:
    """The file of weights of `hf://owner/name[@revision]`, downloaded where it is not in the Hub's cache yet.

    Raises ConfigError, one line, for an address that is none, without the Hub's client, and for all that it reports.
    """
    parts = _ID.fullmatch(address.removeprefix(PREFIX))
    if parts is None:
        raise ConfigError(f"{address}: expected {PREFIX}owner/name or {PREFIX}owner/name@revision")
    try:
        from huggingface_hub import hf_hub_download
    except ImportError:
        raise ConfigError(f"{address}: the client of the Hub is not installed; {INSTALL}, or name a file") from None
    try:
        return Path(hf_hub_download(parts["repo"], WEIGHTS, revision=parts["revision"]))
    except Exception as error:  # of the client, of the HTTP library that it uses now, and of the operating system
        raise ConfigError(
            f"{address}: cannot fetch {WEIGHTS} from the Hub ({first_line(error)}); check the name, the connection and "
            "`hf auth login`, or name a file"
        ) from error


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
