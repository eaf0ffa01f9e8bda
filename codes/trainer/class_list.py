"""The classes of a class-conditional run, beside its checkpoints: what the numbers in `y` mean."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..models.diffusion.networks import DiffusionNetwork
from ..utils.errors import ConfigError
from ..utils.files import write_text

FILE = "classes.json"


def record_classes(root: Path, dataset: object, networks: Mapping[str, DiffusionNetwork], write: bool) -> None:
    """Write the names of the dataset's classes, in the order of their numbers, to models/classes.json of a run.

    Does nothing for a dataset without classes; only with `write` (rank 0) the file is read and written. Raises
    ConfigError when a network has fewer classes than the dataset, or when the run being continued was trained with
    others, whose numbers would now mean something else.
    """
    classes: Sequence[str] = getattr(dataset, "classes", ())
    if not classes:
        return
    for name, network in networks.items():
        known = getattr(network.options, "num_classes", None)
        if known is not None and known < len(classes):
            raise ConfigError(
                f"networks.{name}.args.num_classes: is {known}, but the dataset has {len(classes)} classes"
            )
    file = root / "models" / FILE
    if not write:
        return
    if file.is_file():
        before = json.loads(file.read_text(encoding="utf-8"))
        if before != list(classes):
            raise ConfigError(
                f"{file}: this run was trained with {len(before)} classes, not with the {len(classes)} found now; "
                "set datasets.train.classes to the list in this file, or start a run of another name"
            )
    else:
        write_text(file, json.dumps(list(classes), ensure_ascii=False, indent=1) + "\n")
