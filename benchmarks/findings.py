"""How often images are said to hold what no trained corruption explains: one table in Markdown.

    python benchmarks/findings.py --images held set14 large photos

Of every image, the middle 512 pixels as they are, halved (which is what the rest is made from), with the corruptions of
the starter weights, and with damage that these were not trained on.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.restorer import CORRUPTIONS
from benchmarks.strengths import STRANGERS
from codes.data.corruptions.all import CORRUPTIONS as REGISTERED
from codes.data.corruptions.all import CorruptionSettings
from codes.data.findings.all import FINDINGS, unexplained
from codes.images.files import find_images, quantise, read_image, resample, resize_area
from codes.images.luma import luma_of
from codes.images.pixels import to_float
from codes.inference.strength_reader import PIECE
from codes.utils.rng import numpy_generator

SIDE, SCALE = 512, 2
SOURCE = 300  # pixels of a side that are enlarged
Make = Callable[[np.ndarray], np.ndarray]


def corrupted(strengths: Mapping[str, float], bits: int = 8) -> Make:
    """The halved image with corruptions of these strengths, saved."""

    def make(image: np.ndarray) -> np.ndarray:
        small = half(image)
        for name, strength in strengths.items():
            if strength > 0:
                small = REGISTERED.get(name)(CorruptionSettings())(small, strength, numpy_generator(0, name))
        return saved(small, bits)

    return make


def noisy(deviation: float, channels: int = 3) -> Make:
    """The halved image with Gaussian noise, in 255ths."""

    def make(image: np.ndarray) -> np.ndarray:
        small = half(image)
        drawn = numpy_generator(0, "noise").normal(0, deviation / 255, (*small.shape[:2], channels))
        return saved(small + drawn.astype(np.float32))

    return make


def salted(share: float) -> Make:
    """The halved image with black and white pixels."""

    def make(image: np.ndarray) -> np.ndarray:
        small = half(image)
        drawn = numpy_generator(0, "impulses").random((*small.shape[:2], 1))
        return np.where(drawn < share / 2, 0, np.where(drawn > 1 - share / 2, 1, small)).astype(np.float32)

    return make


def enlarged(factor: float, kernel: str) -> Make:
    """A part of the halved image, enlarged."""

    def make(image: np.ndarray) -> np.ndarray:
        small = half(image)[:SOURCE, :SOURCE]
        height, width = (int(side * factor) for side in small.shape[:2])
        if kernel == "nearest":
            return cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)
        return saved(resample(small, height, width, kernel))

    return make


def half(image: np.ndarray) -> np.ndarray:
    """As most photographs are found: shrunk and saved."""
    return saved(resize_area(image, image.shape[0] // SCALE, image.shape[1] // SCALE))


def saved(image: np.ndarray, bits: int = 8) -> np.ndarray:
    """What a file holds of an image."""
    return to_float(quantise(image, bits))


def few_levels(levels: int) -> Make:
    """The halved image at so many levels a channel."""
    return lambda image: (np.rint(half(image) * (levels - 1)) / np.float32(levels - 1)).astype(np.float32)


KINDS: dict[str, Make] = {
    "as it is": lambda image: image,
    "halved": half,
    "halved, gray": lambda image: saved(np.repeat(luma_of(half(image)), 3, axis=2)),
    "halved, 96 pixels of it": lambda image: half(image)[64:160, 64:160],
    **{
        f"jpeg {jpeg}, blur {blur}": corrupted({"jpeg": jpeg, "gaussian_blur": blur})
        for jpeg, blur in ((0.3, 0.2), (0.8, 0.6), (0.5, 0.0), (0.0, 0.5), (0.0, 1.0))
    },
    "blur 0.3, then jpeg 0.5": corrupted({"gaussian_blur": 0.3, "jpeg": 0.5}),
    "jpeg 0.3, blur 0.2, 16 bits": corrupted({"jpeg": 0.3, "gaussian_blur": 0.2}, 16),
    **{f"noise {deviation}": noisy(deviation) for deviation in (5, 10, 25, 50)},
    **{f"noise {deviation}, the same on all channels": noisy(deviation, 1) for deviation in (5, 10, 25)},
    **{f"salt and pepper {100 * share:.0f} %": salted(share) for share in (0.01, 0.02, 0.05)},
    "16 levels a channel": few_levels(16),
    **{f"enlarged {factor} times, {kernel}": enlarged(factor, kernel) for factor in (1.5, 2, 4) for kernel in
       ("nearest", "bilinear", "bicubic", "lanczos")},
    "flat colours with outlines": STRANGERS["flat colours with outlines"],
    "screen with text": STRANGERS["screen with text"],
}  # fmt: skip


def table(images: Sequence[np.ndarray]) -> Iterator[str]:
    """A row for each kind: the share of images of which something is said, and what of how many."""
    yield "| image | anything | " + " | ".join(FINDINGS.names()) + " | said of the first |"
    yield "|---" * (len(FINDINGS.names()) + 3) + "|"
    for title, make in KINDS.items():
        made = [pieces_of(make(image)) for image in images]
        told = [unexplained(pieces, CORRUPTIONS) for pieces in made]
        each = [np.mean([FINDINGS.get(name)(pieces) is not None for pieces in made]) for name in FINDINGS.names()]
        shares = " | ".join(f"{100 * share:.0f} %" for share in (np.mean([bool(one) for one in told]), *each))
        first = next((one[0].words for one in told if one), "")
        yield f"| {title} | {shares} | {first} |"


def pieces_of(image: np.ndarray) -> list[np.ndarray]:
    """As the reader of strengths cuts them."""
    height, width = image.shape[:2]
    return [image[y : y + PIECE, x : x + PIECE] for y in range(0, height, PIECE) for x in range(0, width, PIECE)]


def middles(folders: Sequence[Path], most: int | None) -> list[np.ndarray]:
    """The middle of the first images of each folder, with sides that 4 divides."""
    found = []
    for folder in folders:
        for file in find_images(folder).files[:most]:
            image = read_image(file).rgb
            (top, rows), (left, columns) = (
                (max(side - SIDE, 0) // 2, min(side, SIDE) // 4 * 4) for side in image.shape[:2]
            )
            found.append(image[top : top + rows, left : left + columns])
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """The table on standard output."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--images", nargs="+", type=Path, required=True, help="folders of photographs")
    parser.add_argument("--most", type=int, help="images of a folder")
    arguments = parser.parse_args(argv)
    images = middles(arguments.images, arguments.most)
    sys.stdout.write(f"{len(images)} images\n\n")
    for line in table(images):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
