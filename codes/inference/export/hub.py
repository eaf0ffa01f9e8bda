"""Restorers as folders and repositories of the Hugging Face Hub: model.safetensors, config.json and a model card."""

import shutil
from dataclasses import replace
from pathlib import Path

from ...models.diffusion.checkpoints.hub import (
    INSTALL,
    PREFIX,
    WEIGHTS,
    fetched,
    first_line,
    is_hub_address,
    looks_like_hub_id,
)
from ...models.diffusion.checkpoints.metadata import CheckpointMetadata, save_checkpoint
from ...models.diffusion.checkpoints.shipped import FOLDER, shipped_names, weights_file
from ...models.diffusion.networks.base import DiffusionNetwork
from ...models.diffusion.process_options import ProcessOptions
from ...utils.errors import ConfigError, TesseraError
from ...utils.files import atomic_write
from .card import as_json, config_of, model_card

CONFIG, CARD, ATTRIBUTION = "config.json", "README.md", "ATTRIBUTION.tsv"
SHIPPED_LICENCE = "cc-by-sa-4.0"


def pretrained_file(named: str | Path) -> Path:
    """The file of weights of a shipped name, a file, a folder, or the Hub: "owner/name", with or without hf://.

    What exists here comes first. Raises ConfigError for what is nowhere.
    """
    text = str(named)
    if isinstance(named, str) and (is_hub_address(text) or (looks_like_hub_id(text) and not Path(text).exists())):
        return fetched(text)
    return weights_file(named)


def save_pretrained(network: DiffusionNetwork, record: CheckpointMetadata, folder: Path, licence: str | None) -> Path:
    """Write the three files, each atomically, and for weights that come with the project whom they are owed to."""
    folder.mkdir(parents=True, exist_ok=True)
    parameters = sum(value.numel() for value in network.parameters())
    own = None
    if record.file and is_shipped(record.file):
        own = record.file.with_suffix(".md").read_text(encoding="utf-8")
        shutil.copyfile(FOLDER / ATTRIBUTION, folder / ATTRIBUTION)
    save_checkpoint(folder / WEIGHTS, network.state_dict(), record)
    _write(folder / CONFIG, as_json(config_of(record, parameters)))
    _write(folder / CARD, model_card(record, parameters, licence_of(record, licence), own))
    return folder


def record_of(
    network: DiffusionNetwork,
    process: ProcessOptions | None,
    read: CheckpointMetadata | None,
    scale: int,
    corruptions: tuple[str, ...] | None,
) -> CheckpointMetadata:
    """What a checkpoint of a network says of itself; `read`: what that which it was loaded from said."""
    names = {} if corruptions is None else {"corruptions": [*corruptions]}
    data = {**(read.data if read else {}), "scale": scale, **names}
    plain = process.model_dump(mode="json") if process else {}
    made = CheckpointMetadata.of(network, read.kind if read else "ema", read.iteration if read else 0, plain, data)
    return replace(made, file=read.file if read else None)


def is_shipped(file: Path) -> bool:
    """Whether a file of weights comes with the project."""
    return file.parent == FOLDER and file.stem in shipped_names()


def licence_of(record: CheckpointMetadata, told: str | None) -> str | None:
    """The licence that is told, else that of the weights that come with the project; None where nobody knows it."""
    return told or (SHIPPED_LICENCE if record.file and is_shipped(record.file) else None)


def push_to_hub(
    network: DiffusionNetwork, record: CheckpointMetadata, repo_id: str, licence: str | None, private: bool | None
) -> str:
    """Upload by the Hub's own mixin; returns the address of the commit. Raises ConfigError or TesseraError."""
    try:
        from huggingface_hub import ModelHubMixin
    except ImportError:
        raise ConfigError(f"{repo_id}: the client of the Hub is not installed; {INSTALL}") from None
    if not looks_like_hub_id(repo_id):
        raise ConfigError(f"{repo_id}: expected the owner and the name of a repository, as in me/my-photo-2x")

    class Published(ModelHubMixin):
        """What the mixin asks of a model: to write itself into a folder."""

        def _save_pretrained(self, save_directory: Path) -> None:
            save_pretrained(network, record, save_directory, licence)

    try:
        return str(Published().push_to_hub(repo_id, private=private, commit_message="Weights, config and model card"))
    except (ConfigError, TesseraError):
        raise
    except Exception as error:  # of the client, of the HTTP library that it uses now, and of the operating system
        raise TesseraError(
            f"{PREFIX}{repo_id}: cannot be uploaded to the Hub ({first_line(error)}); check the connection and "
            "`hf auth login`, or write a folder by save_pretrained and upload that"
        ) from error


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
