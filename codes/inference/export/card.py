"""What a checkpoint says of itself, for people and for other sites: model cards, config.json, OpenModelDB."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from ...models.diffusion.checkpoints.metadata import CheckpointMetadata
from ...utils.errors import ConfigError

TAGS = ("image-restoration", "super-resolution", "diffusion", "tessera")
ARCHITECTURE = "tessera"
MODEL_ID = re.compile(r"[a-zA-Z0-9]+(-[a-zA-Z0-9]+)*")


def config_of(record: CheckpointMetadata, parameters: int) -> dict[str, Any]:
    """config.json: the record of a checkpoint as plain JSON values. The weights' own record is what is read again."""
    return {
        "model_type": "tessera",
        "tessera_version": record.tessera_version,
        "network": {"which_model": record.which_model, "args": dict(record.network)},
        "process": dict(record.process),
        "data": dict(record.data),
        "kind": record.kind,
        "iteration": record.iteration,
        "num_parameters": parameters,
    }


def model_card(record: CheckpointMetadata, parameters: int, licence: str | None, own: str | None = None) -> str:
    """README.md of a repository of the Hub: its header, how to use the weights, and what is known of them.

    own: a card that somebody wrote for these weights, which then is the description.
    """
    header = ["---", *([f"license: {licence}"] if licence else []), "library_name: tessera"]
    header += ["pipeline_tag: image-to-image", "tags:", *(f"- {tag}" for tag in TAGS), "---", ""]
    described = own if own is not None else "\n".join(_described(record, parameters))
    return "\n".join([*header, described.rstrip(), "", *_usage(record)])


def _described(record: CheckpointMetadata, parameters: int) -> list[str]:
    student = record.process.get("student")
    told = ", ".join(f"`{name}`" for name in record.corruptions or ()) or "none"
    args = record.process.get("diffusion_args", {})
    schedule = record.process.get("beta_schedule", {})
    sort = f"one-step student (temperature up to {student['temperature_max']:g})" if student else "diffusion restorer"
    return [
        f"# {sort.capitalize()}, {record.scale or 1}x",
        "",
        f"- **Network:** `{record.which_model}`, {parameters:,} parameters, trained at "
        f"{record.network.get('image_size', '?')} pixels.",
        f"- **Process:** predicts `{args.get('model_mean_type', '?')}`, schedule "
        f"`{schedule.get('schedule_name', '?')}` of {schedule.get('num_diffusion_timesteps', '?')} steps.",
        f"- **Weights:** {'averaged (EMA)' if record.kind == 'ema' else 'not averaged'}, iteration {record.iteration}, "
        f"written by Tessera {record.tessera_version}.",
        f"- **Strengths that it is told:** {told}; 0 is clean, 1 the strongest of training.",
        "",
        "Data, metrics and limits are not recorded in a checkpoint: whoever publishes it, please write them here.",
    ]


def _usage(record: CheckpointMetadata) -> list[str]:
    names = ", ".join(f'"{name}": 0.2' for name in record.corruptions or ())
    strengths = f", strengths={{{names}}}" if names else ""
    return [
        "## Use",
        "",
        "```python",
        "from PIL import Image",
        "from tessera import Restorer",
        "",
        'restorer = Restorer.from_pretrained("owner/name")  # this repository, or a folder with its files',
        f'restorer(Image.open("photo.jpg"){strengths}).save("photo_{record.scale or 1}x.png")',
        "```",
        "",
    ]


@dataclass(frozen=True)
class Entry:
    """What a file of OpenModelDB says beside the record of the checkpoint; `date` as yyyy-mm-dd."""

    name: str
    author: str
    licence: str | None = None
    description: str = ""
    dataset: str | None = None
    urls: Sequence[str] = ()
    published: date | None = None


def open_model_db(record: CheckpointMetadata, entry: Entry, file: Path) -> dict[str, Any]:
    """The entry of OpenModelDB (data/models/ID.json, its src/lib/schema.ts) for a file of weights, .pth or .onnx.

    Raises ConfigError for a name or author that cannot be part of its identifiers.
    """
    for what, text in (("name", entry.name), ("author", entry.author)):
        if not MODEL_ID.fullmatch(text):
            raise ConfigError(f"{what}: expected letters and digits, with single dashes between them, found {text!r}")
    onnx = file.suffix == ".onnx"
    data = file.read_bytes()
    resource = {
        "platform": "onnx" if onnx else "pytorch",
        "type": "onnx" if onnx else "pth",
        "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "urls": [*entry.urls],
    }
    channels = record.network.get("in_channels", 3)
    optional: Mapping[str, Any] = {
        "trainingIterations": record.iteration or None,
        "trainingHRSize": record.network.get("image_size"),
        "trainingOTF": True if record.corruptions else None,
        "dataset": entry.dataset,
    }
    return {
        "name": entry.name,
        "author": entry.author,
        "license": entry.licence,
        "tags": ["photo", "restoration", *(["jpeg"] if "jpeg" in (record.corruptions or ()) else [])],
        "description": entry.description,
        "date": (entry.published or date.today()).isoformat(),
        "architecture": ARCHITECTURE,
        "size": None,
        "scale": record.scale or 1,
        "inputChannels": channels,
        "outputChannels": channels,
        "resources": [resource],
        **{key: value for key, value in optional.items() if value is not None},
        "images": [],
    }


def as_json(content: Mapping[str, Any]) -> str:
    """Text of a JSON file."""
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
