"""What keeping results to their input does (`consistency`): fidelity, texture, and the ink of text, as one table.

    python benchmarks/consistency.py --images photographs --text pages --crop 96

Every picture is made small and corrupted as in training, then restored by the weights that come with the project, with
and without consistency, at each temperature. Pictures in --text also tell the share of pixels that are ink in the truth
and paper in the result or the other way round, by the truth's Otsu threshold. Prints Markdown, row by row.
"""

import argparse
import itertools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from restorer import CORRUPTIONS, Photograph, photographs
from skimage.filters import threshold_otsu

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from codes import Restorer
from codes.evaluation.metrics import fidelity, mean_fidelity
from codes.images.canvas import RamCanvas
from codes.images.consistency import consistency
from codes.images.files import quantise, to_rgb, to_tensor

WAYS: tuple[dict[str, object], ...] = (
    {},
    {"consistency": "end"},
    {"consistency": "each_step"},
    {"consistency": "end", "consistency_tolerance": 0.0},
    {"consistency": "each_step", "consistency_tolerance": 0.0},
)
COLUMNS = ("psnr", "ssim", "swd", "grain", "consistency", "wrong ink")


def wrong_ink(truth: np.ndarray, image: np.ndarray) -> float:
    """Share of pixels of uint8 (H, W, 3) that are ink in one and paper in the other."""
    dark, made = truth.mean(axis=2), image.mean(axis=2)
    threshold = threshold_otsu(dark)
    return float(((dark < threshold) != (made < threshold)).mean())


def numbers(one: Photograph, result: np.ndarray, text: bool) -> dict[str, float]:
    """All that is measured of a result, float32 (H, W, 3) in [0, 1]."""
    truth, image = quantise(one.truth), quantise(result)
    agreement = consistency(RamCanvas(to_tensor(image, True)), one.low_res)
    ink = {"wrong ink": wrong_ink(truth, image)} if text else {}
    return {**fidelity(truth, image), "consistency": agreement, **ink}


def measured(
    restorer: Restorer,
    group: Sequence[Photograph],
    strengths: tuple[float, ...],
    temperature: float,
    way: Mapping[str, object],
    text: bool,
) -> dict[str, float]:
    """Means over some pictures at one setting."""
    told = dict(zip(CORRUPTIONS, strengths, strict=True))
    results = [restorer(to_rgb(one.low_res, True), told, temperature=temperature, options=way) for one in group]
    return mean_fidelity([numbers(one, result, text) for one, result in zip(group, results, strict=True)])


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print the table; returns the exit code."""
    parser = argparse.ArgumentParser(description="Measure what consistency does to restored pictures.")
    parser.add_argument("--images", type=Path, help="a folder of photographs")
    parser.add_argument("--text", type=Path, help="a folder of pictures of text")
    parser.add_argument("--weights", default="tessera-photo-2x")
    parser.add_argument("--strengths", nargs="+", default=["0.2,0.5", "0.6,0.6"], help="JPEG,blur in [0, 1]")
    parser.add_argument("--temperatures", nargs="+", type=float, default=[0.15, 1.0])
    parser.add_argument("--crop", type=int, help="side of the middle that is taken of each picture")
    parser.add_argument("--most", type=int, help="pictures of each folder, the first")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    restorer = Restorer.from_pretrained(arguments.weights, "cpu")
    sys.stdout.write("| | " + " | ".join(COLUMNS) + " |\n" + "|---" * (len(COLUMNS) + 1) + "|\n")
    folders = [(name, folder) for name in ("images", "text") if (folder := getattr(arguments, name))]
    for given in arguments.strengths:
        strengths = tuple(float(value) for value in given.split(","))
        for name, folder in folders:
            group = photographs(folder, strengths, arguments.crop, arguments.most)
            for temperature, way in itertools.product(arguments.temperatures, WAYS):
                means = measured(restorer, group, strengths, temperature, way, name == "text")
                words = ", ".join(map(str, way.values())) or "none"
                cells = [f"{means[key]:.4g}" if key in means else "-" for key in COLUMNS]
                sys.stdout.write(f"| {name}, {given}, {temperature:g}: {words} | {' | '.join(cells)} |\n")
                sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
