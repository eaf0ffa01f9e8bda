"""The weights that come with the project, found by name: `weights/<name>.safetensors` in the package."""

from pathlib import Path

from ....config.registry import nearest
from ....utils.errors import ConfigError
from .files import SAFETENSORS
from .hub import fetched, is_hub_address

FOLDER = Path(__file__).resolve().parents[3] / "weights"


def shipped_names() -> list[str]:
    """The names of the weights that come with the project."""
    return sorted(file.stem for file in FOLDER.glob(f"*{SAFETENSORS}"))


def weights_file(named: str | Path) -> Path:
    """The file of weights that come with the project by this name, else the file or folder itself that is named.

    A folder stands for the one .safetensors file in it, and "hf://owner/name" for weights of the Hugging Face Hub.
    Raises ConfigError where there is none, or there are several.
    """
    if str(named) in shipped_names():
        return FOLDER / f"{named}{SAFETENSORS}"
    if isinstance(named, str) and is_hub_address(named):
        return fetched(named)
    place = Path(named)
    if place.is_dir():
        files = sorted(place.glob(f"*{SAFETENSORS}"))
        if len(files) != 1:
            names = ", ".join(file.name for file in files[:3]) or "none"
            raise ConfigError(f"{place}: expected one {SAFETENSORS} file in this folder, found {names}; name the file")
        return files[0]
    if not place.is_file():
        close = nearest(str(named), shipped_names())
        hint = f"did you mean {close}? " if close else ""
        known = ", ".join(shipped_names()) or "none"
        raise ConfigError(f"no such file {named} ({hint}names of weights that come with the project: {known})")
    return place
