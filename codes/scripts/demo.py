"""The demo: cut tiles, train a small restorer on them, restore a photograph it has never seen, compare.

    python codes/scripts/demo.py

Needs no data, no network and no GPU; a few minutes on two CPU cores. Everything lands in experiments/ and results/.
"""

import json
import sys
import time
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
TITLES = {"few_steps": "2 steps (fidelity)", "fifty_steps": "50 steps (detail)"}


def main() -> int:
    """Run the demo; the exit code of the first part that fails, else 0."""
    start = time.monotonic()
    setup_logging()
    tiles = ["--samples", "--output", str(TILES), "--tile", "192", "--step", "144", "--min-std", "25"]
    parts = (
        ("cutting the sample photographs into tiles", extract_tiles.main, tiles),
        (
            "training on the tiles",
            train.main,
            ["-opt", str(ROOT / "options/demo_cpu.yml"), "--set", f"datasets.train.paths={TILES}", *sys.argv[1:]],
        ),
        ("restoring a photograph that was not trained on", test.main, ["-opt", str(ROOT / "options/demo_restore.yml")]),
    )
    for number, (title, run, arguments) in enumerate(parts, 1):
        get_logger("demo").info("--- %d of %d: %s", number, len(parts), title)
        code = run(arguments)
        if code:
            return code
    sys.stdout.write(summary(time.monotonic() - start))
    return 0


def summary(seconds: float) -> str:
    """What came out, as a table, and where it lies."""
    found = json.loads((RESULTS / "metrics.json").read_text(encoding="utf-8"))
    means, image = found["mean"], found["images"][0]
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
    lines.append("  during training      experiments/demo/samples/\n")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
