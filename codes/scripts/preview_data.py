"""See what a recipe makes of your photographs, before anything is trained.

    python codes/scripts/preview_data.py -opt recipes/diffusion/train_sr.yml --count 16 --output page.html
    python codes/scripts/preview_data.py -opt recipes/diffusion/train_sr.yml --sweep jpeg gaussian_blur

Writes one self-contained HTML page: hq, lq and the strengths of the first items, exactly as training will draw them;
with --sweep the named corruptions at rising strengths instead.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if not __package__:
    from as_module import run_as_module

    run_as_module(__file__)

from ..data.corruptions.all import CORRUPTIONS
from ..data.corruptions.options import CorruptionOptions
from ..data.datasets import DATASETS
from ..data.imagefolder_options import ImageFolderOptions
from ..data.preview import PreviewItem, PreviewTable, items, preview_item, sweep_tables
from ..recipe.recipe import Recipe, read_recipe
from ..runtime.command_line import common_arguments, main_with, path_argument, source_of
from ..utils.console import get_logger
from ..utils.errors import ConfigError
from ..viewer.preview_page import write_preview_page

logger = get_logger(__name__)

DEFAULT_COUNT = 16
DEFAULT_SWEPT = 2  # photographs of a sweep
STRENGTHS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)


def run(arguments: argparse.Namespace) -> int:
    """Read the recipe, make the items, write the page."""
    if arguments.count is not None and arguments.count < 1:
        raise ConfigError(f"--count {arguments.count}: expected at least 1 item to show")
    recipe = read_recipe(source_of(arguments))
    phase, options = _chosen(recipe, arguments.phase)
    shuffle = phase == "datasets.train" and recipe.train is not None
    dataset = DATASETS.get(options.mode)(options, seed=recipe.seed_in_use, shuffle=shuffle)
    shown_items: list[PreviewItem] = []
    tables: list[PreviewTable] = []
    if arguments.sweep is None:
        shown_items = [
            preview_item(position, item, options) for position, item in items(dataset, arguments.count or DEFAULT_COUNT)
        ]
    else:
        names = _swept(options, arguments.sweep)
        for _, item in items(dataset, arguments.count or DEFAULT_SWEPT):
            tables += sweep_tables(item, options, options.scale, options.rgb_n1_to_1, names, STRENGTHS)
    facts = _facts(arguments.opt, phase, options, shown_items)
    write_preview_page(arguments.output, f"{recipe.name}: {phase}", facts, shown_items, tables)
    logger.info("preview: %s", arguments.output)
    return 0


def _chosen(recipe: Recipe, wanted: str | None) -> tuple[str, Any]:
    """The dataset to show, with its place in the recipe. Raises ConfigError when there is none of that name."""
    places: dict[str, Any] = {f"datasets.{phase}": options for phase, options in recipe.datasets.items()}
    for name, evaluator in recipe.eval.evaluators.items():
        if evaluator.held_out is not None:
            places[f"eval.evaluators.{name}.dataset"] = evaluator.held_out
    if not places:
        raise ConfigError("the recipe has no dataset to show; add a section datasets.train")
    if wanted is None:
        place = "datasets.train" if "datasets.train" in places else next(iter(places))
        return place, places[place]
    names = {place.removesuffix(".dataset").rpartition(".")[2]: place for place in reversed(places)}
    if wanted not in names:
        raise ConfigError(f"--phase {wanted}: no such dataset in the recipe (there are: {', '.join(sorted(names))})")
    return names[wanted], places[names[wanted]]


def _swept(options: Any, names: Sequence[str]) -> Sequence[str]:
    """The corruptions to sweep: those named, else the recipe's. Raises ConfigError for unknown ones or none at all."""
    if not isinstance(options, CorruptionOptions):
        raise ConfigError(f"--sweep: datasets of mode {options.mode} corrupt nothing; use one of mode imagefolder")
    swept = tuple(dict.fromkeys(names or (*options.fixed_corruptions, *options.random_corruptions)))
    if not swept:
        raise ConfigError(f"--sweep: the recipe lists no corruptions; name some of {', '.join(CORRUPTIONS.names())}")
    for name in swept:
        CORRUPTIONS.get(name)
    return swept


def _facts(recipe: str, phase: str, options: Any, shown_items: Sequence[PreviewItem]) -> dict[str, str]:
    facts = {"Recipe": recipe, "Dataset": f"{phase}, mode {options.mode}"}
    if isinstance(options, ImageFolderOptions):
        facts |= _making(options)
    for name in shown_items[0].strengths if shown_items else ():
        drawn = [shown.strengths[name] for shown in shown_items if name in shown.strengths]
        facts[name.capitalize() if name.startswith("strength ") else f"Strength of {name}"] = _spread(drawn)
    if any(len(shown.pictures) > 1 for shown in shown_items):
        facts["Pictures"] = "lq is drawn as large as hq; dB: PSNR of its bicubic enlargement against hq"
    if not shown_items:
        facts["Pictures"] = "dB: PSNR against the picture without corruption"
    return facts


def _spread(values: Sequence[float]) -> str:
    low, high, mean = min(values), max(values), sum(values) / len(values)
    return f"{low:.2f}" if low == high else f"{low:.2f} to {high:.2f}, mean {mean:.2f}"


def _making(options: ImageFolderOptions) -> dict[str, str]:
    """How lq comes about, in words."""
    kernels = " or ".join(options.downsample_kernels)
    steps = [f"shrunk by {options.scale} ({kernels})", ", ".join(options.fixed_corruptions) or "nothing"]
    if options.corrupt_before_downsize:
        steps.reverse()
    facts = {} if options.skip_lq else {"lq": ", then ".join(steps)}
    if options.corruption_order == "physical":
        facts["Order"] = "physical: optics, sensor, processing, resizing, compression"
    if options.random_probabilities:
        pairs = zip(options.random_corruptions, options.random_probabilities, strict=True)
        facts["Random"] = ", ".join(f"{name} ({chance:.0%})" for name, chance in pairs)
    elif options.num_corrupts_per_image:
        facts["Random"] = f"{options.num_corrupts_per_image} of {', '.join(options.random_corruptions)}"
    if options.second_order_probability:
        facts["Second order"] = f"{options.second_order_probability:.0%} are resized and corrupted again"
    return facts


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = common_arguments("Show what a recipe makes of the photographs, as one HTML page.")
    parser.add_argument(
        "--count", type=int, metavar="N", help=f"items to show (default: {DEFAULT_COUNT}; 2 of a sweep)"
    )
    parser.add_argument(
        "--output", type=path_argument, default=Path("preview.html"), help="the page (default: preview.html)"
    )
    parser.add_argument("--phase", metavar="NAME", help="which dataset or evaluator (default: train)")
    parser.add_argument(
        "--sweep", nargs="*", metavar="NAME", help="corruptions at rising strengths (default: those of the recipe)"
    )
    return main_with(parser, run, argv)


if __name__ == "__main__":
    sys.exit(main())
