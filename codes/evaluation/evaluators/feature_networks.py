"""Networks that turn images into features, for FID, KID and LPIPS: TorchScript files of the user's.

The project ships none. A recipe names a file, an address with the SHA-256 of what lies there, or one of KNOWN, which is
downloaded once into the user's cache folder.
"""

import hashlib
import http.client
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema
from torch import Tensor

from ...config.options import Options
from ...config.paths import UserPath
from ...config.yaml_source import Issue
from ...utils.console import get_logger
from ...utils.errors import ConfigError
from ...utils.files import atomic_write, user_cache_folder
from ..blocks import image_blocks

logger = get_logger(__name__)

Kind = Literal["auto", "stylegan", "plain", "pair"]
NVIDIA = "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/"
TIMEOUT = 30.0  # seconds without an answer
BLOCK = 2**20  # bytes


class Remote(NamedTuple):
    """A file somewhere, and what it must be."""

    url: str
    sha256: str


# The files of NVIDIA's StyleGAN metrics (NVIDIA Source Code License: for non-commercial use). The hashes are those that
# other public projects check when they download the same files.
KNOWN: dict[str, Remote] = {
    "inception": Remote(
        NVIDIA + "inception-2015-12-05.pt", "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"
    ),
    "vgg16_lpips": Remote(NVIDIA + "vgg16.pt", "b437eb095feaeb0b83eb3fa11200ebca4548ee39a07fb944a417ddc516cc07c3"),
}


class FeatureNetworkOptions(Options):
    """A feature network: a mapping, or just the text of `network`."""

    network: UserPath = Field(
        description="A TorchScript file, an https address (with sha256), or a name of what is downloaded once: "
        "inception (for FID and KID), vgg16_lpips (for LPIPS)."
    )
    sha256: Annotated[str, Field(pattern="^[0-9a-fA-F]{64}$")] | None = Field(
        None, description="SHA-256 of the file, 64 hexadecimal digits: required for an address, checked for a file."
    )
    kind: Kind = Field(
        "auto",
        description="How the network is called. stylegan: net(images 0..255, return_features=True), or "
        "net(images 0..255, resize_images=False, return_lpips=True); plain: net(images in [-1, 1]) gives features; "
        "pair (LPIPS): net(image, image) in [-1, 1] gives the distance; auto looks at its arguments.",
    )

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"network": value} if isinstance(value, str) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """For editors: the text alone will do."""
        return {"anyOf": [{"type": "string"}, super().__get_pydantic_json_schema__(core, handler)]}

    @property
    def is_address(self) -> bool:
        return self.network.startswith(("https://", "http://"))

    def problems(self) -> list[Issue]:
        """What can be said before anything is downloaded."""
        if self.is_address and self.sha256 is None:
            return [Issue(("sha256",), "missing; an address needs the SHA-256 of the file that lies there")]
        if self.is_address or self.network in KNOWN or Path(self.network).is_file():
            return []
        return [
            Issue(
                ("network",) if self.model_fields_set != {"network"} else (),
                f"no such file {self.network}; name a TorchScript file, an https address with sha256, or one of "
                f"{', '.join(KNOWN)} (downloaded once)",
            )
        ]


class FeatureNetwork:
    """A network that was loaded and tried out; it stays on the CPU outside of `on`.

    Raises ConfigError, naming `key`, for a file that is missing, cannot be downloaded, has another hash or does not
    answer as its kind must.
    """

    def __init__(self, options: FeatureNetworkOptions, key: str, *, lpips: bool = False) -> None:
        self.key = key
        self.file = find_file(options, key)
        self.network = _load(self.file, key)
        self.kind = _kind(self.network, options.kind, lpips)
        self.device = torch.device("cpu")
        self._lpips = lpips
        self._try_out()

    @contextmanager
    def on(self, device: torch.device) -> Iterator[None]:
        """The network on a device, back in host memory afterwards, so that a training run has the device to itself."""
        self.device = device
        self.network.to(device)
        try:
            yield
        finally:
            self.device = torch.device("cpu")
            self.network.to(self.device)

    @torch.no_grad()
    def features(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """(B, D) of (B, H, W, 3) uint8 images."""
        pixels = self._pixels(images)
        stylegan = self.kind == "stylegan"
        output = self.network(pixels, return_features=True) if stylegan else self.network(_signed(pixels))
        return output.float().flatten(1).cpu().numpy()

    @torch.no_grad()
    def distance(self, truth: npt.NDArray[np.uint8], image: npt.NDArray[np.uint8]) -> float:
        """LPIPS of two uint8 images (H, W, 3); one with more than 1024 pixels a side is compared in equal blocks."""
        total = 0.0
        for rows, columns in image_blocks(*truth.shape[:2]):
            pair = np.stack([truth[rows, columns], image[rows, columns]])
            total += self._distance(self._pixels(pair)) * pair[0, ..., 0].size
        return total / (truth.shape[0] * truth.shape[1])

    def _distance(self, pair: Tensor) -> float:
        if self.kind == "pair":
            signed = _signed(pair)
            return float(self.network(signed[:1], signed[1:]).mean())
        if self.kind == "stylegan":
            features = self.network(pair.float(), resize_images=False, return_lpips=True)
        else:
            features = self.network(_signed(pair))
        return float((features[0] - features[1]).float().square().sum())

    def _pixels(self, images: npt.NDArray[np.uint8]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).to(self.device)

    def _try_out(self) -> None:
        images = np.zeros((2, 64, 48, 3), np.uint8)
        try:
            if self._lpips:
                self.distance(images[0], images[1])
                return
            features = self.features(images)
        except (RuntimeError, TypeError, IndexError, AttributeError, ValueError) as error:
            first = (str(error).strip().splitlines() or ["no reason given"])[0]
            raise ConfigError(
                f"{self.key}: {self.file} cannot be called as a network of kind {self.kind} ({first}); set `kind`, or "
                "name another file"
            ) from None
        if features.ndim != 2 or len(features) != len(images):
            raise ConfigError(f"{self.key}: {self.file} gives {features.shape} for 2 images, expected one row for each")


def find_file(options: FeatureNetworkOptions, key: str) -> Path:
    """The file of a network, downloaded where it has to be. Raises ConfigError that names `key`."""
    remote = KNOWN.get(options.network)
    if options.is_address:
        if options.sha256 is None:
            raise ConfigError(f"{key}: sha256 is missing; an address needs the SHA-256 of the file that lies there")
        remote = Remote(options.network, options.sha256.lower())
    if remote is not None:
        return _download(remote, key)
    file = Path(options.network)
    if not file.is_file():
        raise ConfigError(f"{key}: no such file {file}; or write one of {', '.join(KNOWN)} to have it downloaded once")
    if options.sha256 is not None and (digest := _hash(file)) != options.sha256.lower():
        raise ConfigError(f"{key}: {file} has SHA-256 {digest}, expected {options.sha256.lower()}")
    return file


def cached_file(remote: Remote) -> Path:
    """Where the download of a file is kept; the name holds its hash, so that no two files share one."""
    name = remote.url.split("?")[0].rstrip("/").rpartition("/")[2] or "network"
    return user_cache_folder() / "networks" / f"{remote.sha256[:12]}-{name}"


def _download(remote: Remote, key: str) -> Path:
    file = cached_file(remote)
    if file.is_file() and _hash(file) == remote.sha256:
        return file
    logger.info("%s: downloading %s to %s (once)", key, remote.url, file)
    try:
        with atomic_write(file) as temporary:
            _fetch(remote.url, temporary)
            digest = _hash(temporary)
            if digest != remote.sha256:
                raise ConfigError(
                    f"{key}: {remote.url} has SHA-256 {digest}, expected {remote.sha256}; it is not used. Name a file "
                    "that you trust instead"
                )
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise ConfigError(
            f"{key}: could not download {remote.url} to {file} ({reason}); get it on a machine that is online and name "
            "the file here, or put it at that place"
        ) from None
    return file


def _fetch(url: str, target: Path) -> None:
    with urllib.request.urlopen(url, timeout=TIMEOUT) as answer, target.open("wb") as file:
        while block := answer.read(BLOCK):
            file.write(block)


def _hash(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _load(file: Path, key: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # newer torch prefers another format, and reads this one
            network = torch.jit.load(file, map_location="cpu")
    except (RuntimeError, ValueError, EOFError) as error:
        hint = "a .pkl holds a pickle; the same network as .pt is TorchScript" if file.suffix == ".pkl" else "damaged?"
        raise ConfigError(f"{key}: {file} is no TorchScript network ({hint})") from error
    return network.eval()


def _kind(network: Any, wanted: Kind, lpips: bool) -> Kind:
    """How to call a network: as wanted, else by the names and defaults of its arguments."""
    if wanted != "auto":
        return wanted
    arguments: Mapping[str, Any] = {argument.name: argument for argument in network.forward.schema.arguments[1:]}
    if ("return_lpips" if lpips else "return_features") in arguments:
        return "stylegan"
    required = [name for name, argument in arguments.items() if not argument.has_default_value()]
    return "pair" if lpips and len(required) == 2 else "plain"


def _signed(pixels: Tensor) -> Tensor:
    """uint8 to float32 in [-1, 1]."""
    return pixels.float() / 127.5 - 1
