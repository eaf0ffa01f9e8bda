"""Make of a checkpoint what other sites take: a folder for the Hugging Face Hub, and an entry of OpenModelDB.

    python codes/scripts/publish.py my.safetensors --output published --licence cc-by-4.0
    python codes/scripts/publish.py my.safetensors --output published --name MyPhoto --author me --url https://...
    python codes/scripts/publish.py my.safetensors --push me/my-photo-2x --licence cc-by-4.0

The folder gets model.safetensors, config.json and README.md; with --name and --author also SCALEx-NAME.pth and
SCALEx-NAME.json, the entry of OpenModelDB with its size and checksum.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:
    from as_module import run_as_module

    run_as_module(__file__)

from ..inference.export.card import Entry, as_json, open_model_db
from ..inference.export.hub import licence_of
from ..inference.restorer import Restorer
from ..models.diffusion.checkpoints.files import write_weights
from ..runtime.command_line import main_with, path_argument
from ..utils.console import get_logger
from ..utils.errors import EXIT_OK, ConfigError
from ..utils.files import atomic_write

logger = get_logger("publish")


def run(arguments: argparse.Namespace) -> int:
    """Write the folder, and upload it where that is asked for. Raises ConfigError for what does not fit together."""
    if bool(arguments.name) != bool(arguments.author):
        raise ConfigError("--name and --author belong together: OpenModelDB asks for both")
    restorer = Restorer.from_pretrained(arguments.checkpoint, "cpu")
    if arguments.push:
        logger.info("uploaded: %s", restorer.push_to_hub(arguments.push, arguments.licence, arguments.private or None))
        return EXIT_OK
    logger.info("written: %s", restorer.save_pretrained(arguments.output, arguments.licence))
    if arguments.name:
        logger.info("written: %s", _entry(restorer, arguments))
    return EXIT_OK


def _entry(restorer: Restorer, arguments: argparse.Namespace) -> Path:
    record = restorer.record
    licence = licence_of(record, arguments.licence)
    entry = Entry(
        arguments.name, arguments.author, licence and licence.upper(), arguments.description, None, arguments.url
    )
    weights = Path(arguments.output) / f"{restorer.scale}x-{entry.name}.pth"
    write_weights(weights, restorer.network.state_dict(), {})
    with atomic_write(weights.with_suffix(".json")) as temporary:
        temporary.write_text(as_json(open_model_db(record, entry, weights)), encoding="utf-8")
    return weights.with_suffix(".json")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Make of a checkpoint what other sites take.")
    parser.add_argument(
        "checkpoint", help="a name of weights that come with the project, a .safetensors file or folder"
    )
    parser.add_argument("--output", type=path_argument, default=Path("results/published"), help="the folder")
    parser.add_argument("--licence", help="of the weights, as in cc-by-4.0")
    parser.add_argument("--push", metavar="OWNER/NAME", help="upload to this repository of the Hub instead")
    parser.add_argument("--private", action="store_true", help="a new repository of the Hub is private")
    parser.add_argument("--name", help="OpenModelDB: the name of the model, letters and digits with dashes")
    parser.add_argument("--author", help="OpenModelDB: its author")
    parser.add_argument("--description", default="", help="OpenModelDB: a description")
    parser.add_argument("--url", nargs="*", default=[], help="OpenModelDB: where the .pth file can be downloaded")
    parser.add_argument("--debug", action="store_true", help="show debug messages and the traceback of an error")
    return main_with(parser, run, argv)


if __name__ == "__main__":
    sys.exit(main())
