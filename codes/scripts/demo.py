"""The demo: restore a photograph with the weights that come with the project, and compare.

    python codes/scripts/demo.py
    python codes/scripts/demo.py --train

With --train it first cuts the sample photographs into tiles and trains a small restorer on them, a few minutes on two
CPU cores, and restores with that one. Needs no data and no GPU. Everything lands in experiments/ and results/.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

if not __package__:
    from as_module import run_as_module

    run_as_module(__file__)

from .. import test, train
from ..utils.console import format_seconds, get_logger, setup_logging
from . import extract_tiles

ROOT = Path(__file__).resolve().parents[2]
TILES = Path("experiments/demo_tiles")
RESULTS = Path("results/demo")
Part = tuple[str, Callable[[list[str]], int], list[str]]
TITLES = {"one_step": "1 step (the mean)", "eight_steps": "8 steps (detail)"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; the exit code of the first part that fails, else 0."""
    parser = argparse.ArgumentParser(description="Restore a photograph with the weights that come with the project.")
    parser.add_argument("--train", action="store_true", help="train a small restorer first, and use that one")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="changes to the training recipe")
    arguments = parser.parse_args(argv)
    if arguments.set and not arguments.train:
        parser.error("--set changes the training; add --train")
    start = time.monotonic()
    setup_logging()
    parts = training_parts(arguments.set) if arguments.train else []
    own = ["--set", "path.pretrain_model_generator=auto", "path.experiment=demo"] if arguments.train else []
    restoring = ["-opt", str(ROOT / "options/demo_restore.yml"), *own]
    parts.append(("restoring a photograph that was not trained on", test.main, restoring))
    for number, (title, run, given) in enumerate(parts, 1):
        get_logger("demo").info("--- %d of %d: %s", number, len(parts), title)
        code = run(given)
        if code:
            return code
    sys.stdout.write(summary(time.monotonic() - start, arguments.train))
    return 0


def training_parts(overrides: Sequence[str]) -> list[Part]:
    """What comes before restoring with a network of one's own."""
    tiles = ["--samples", "--output", str(TILES), "--tile", "192", "--step", "144", "--min-std", "25"]
    recipe = ["-opt", str(ROOT / "options/demo_cpu.yml"), "--set", f"datasets.train.paths={TILES}", *overrides]
    return [
        ("cutting the sample photographs into tiles", extract_tiles.main, tiles),
        ("training on the tiles", train.main, recipe),
    ]


def summary(seconds: float, trained: bool) -> str:
    """What came out, as a table, and where it lies."""
    metrics = json.loads((RESULTS / "metrics.json").read_text(encoding="utf-8"))
    means, image = metrics["mean"], metrics["images"][0]
    baseline = means["input (bicubic)"]
    lines = [f"\nDone in {format_seconds(seconds)}. The held-out photograph, restored 2x:\n"]
    lines.append(f"  {'':26s} {'PSNR':>9s} {'SSIM':>8s}   PSNR against bicubic")
    for label, values in means.items():
        gain = values["psnr"] - baseline["psnr"]
        against = "" if label == "input (bicubic)" else f"{gain:+.2f} dB"
        lines.append(f"  {TITLES.get(label, label):26s} {values['psnr']:6.2f} dB {values['ssim']:8.4f}   {against}")
    lines.append("\nLook at it:")
    lines += [f"  {TITLES.get(key, key):20s} {file}" for key, file in image["results"].items()]
    lines.append(f"  before and after     {RESULTS / 'index.html'}   (open it in a browser)")
    if trained:
        lines.append("  during training      experiments/demo/samples/")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.exit(main())
