"""The pictures of README and docs/restoring.md, made anew: run it when the weights that come with the project change.

    python benchmarks/pictures.py [--weights tessera-photo-2x] [--student tessera-photo-2x-fast] [--output docs]

demo.png: input, result at the default setting and truth of a photograph that the weights have not seen. dial.png: what
temperature, steps, strengths and blend do to a part of it, four pictures of each. Both are at 100 %, not resized.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from restorer import CORRUPTIONS, Photograph, bicubic, photographs

from codes import Restorer
from codes.data.samples import held_out_photograph
from codes.images.files import quantise, to_rgb
from codes.images.picture_grid import picture_grid
from codes.utils.errors import TesseraError
from codes.utils.files import atomic_write

Picture = npt.NDArray[np.uint8]
STRENGTHS = (0.2, 0.5)  # JPEG and blur of the input
DEMO_SIDE, DIAL_SIDE = 224, 168  # pixels of a part
DEMO_PARTS = ((16, 120), (284, 64))  # y, x: face and badge of the held-out photograph
DIAL_PART = (32, 144)
LABEL_HEIGHT = 16
MEAN = {"steps": 1}


class Cell(NamedTuple):
    """One picture of dial.png: what is written above it, and how it is restored."""

    label: str
    options: dict[str, Any]
    strengths: tuple[float, ...] = STRENGTHS
    student: bool = False


ROWS = (
    tuple(Cell(f"temperature {value:g}", {"temperature": value}) for value in (0.0, 0.15, 0.5, 1.0)),
    (
        Cell("1 step: the mean", MEAN),
        Cell("4 steps", {"steps": 4}),
        Cell("8 steps", {"steps": 8}),
        Cell("1 step: the student", {}, student=True),
    ),
    tuple(Cell(f"told {told[0]:g}, {told[1]:g}", {}, told) for told in ((0.0, 0.0), STRENGTHS, (0.5, 0.8), (1.0, 1.0))),
    tuple(Cell(f"blend {value:g}", {"blend": value}) for value in (0.0, 0.3, 0.6, 1.0)),
)


def part(image: npt.NDArray[np.float32], corner: tuple[int, int], side: int) -> Picture:
    """The part of float (H, W, 3) in [0, 1] below and right of a corner (y, x), in 8 bits."""
    y, x = corner
    return quantise(image[y : y + side, x : x + side])


def labelled(picture: Picture, text: str) -> Picture:
    """The picture under a line of text."""
    height, width = picture.shape[:2]
    canvas = Image.new("RGB", (width, height + LABEL_HEIGHT), "white")
    canvas.paste(Image.fromarray(picture), (0, LABEL_HEIGHT))
    ImageDraw.Draw(canvas).text((2, 1), text, fill="black", font=ImageFont.load_default(12))
    return np.asarray(canvas)


def demo(photograph: Photograph, restorer: Restorer) -> Picture:
    """Rows of input, result and truth."""
    told = dict(zip(CORRUPTIONS, STRENGTHS, strict=True))
    images = {
        "input": bicubic(photograph.low_res, STRENGTHS),
        "restored": restorer(to_rgb(photograph.low_res, True), told),
        "truth": photograph.truth,
    }
    return picture_grid(
        [[labelled(part(image, at, DEMO_SIDE), name) for name, image in images.items()] for at in DEMO_PARTS]
    )


def dial(photograph: Photograph, restorer: Restorer, student: Restorer) -> Picture:
    """ROWS, of one part. It is restored with what lies around it, so that no border is in the picture."""
    low_res = to_rgb(photograph.low_res, True)
    rows = []
    for row in ROWS:
        pictures = []
        for cell in row:
            told = dict(zip(CORRUPTIONS, cell.strengths, strict=True))
            image = (student if cell.student else restorer)(low_res, told, **cell.options)
            pictures.append(labelled(part(image, DIAL_PART, DIAL_SIDE), cell.label))
        rows.append(pictures)
    return picture_grid(rows)


def write(path: Path, picture: Picture) -> None:
    with atomic_write(path) as temporary:
        Image.fromarray(picture).save(temporary, "PNG", optimize=True)
    sys.stderr.write(f"{path}: {picture.shape[1]}x{picture.shape[0]}, {path.stat().st_size // 1024} KB\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Make both pictures; returns the exit code."""
    parser = argparse.ArgumentParser(description="Make the pictures of README and docs/restoring.md.")
    parser.add_argument("--weights", default="tessera-photo-2x", help="name or file of a diffusion network")
    parser.add_argument("--student", default="tessera-photo-2x-fast", help="name or file of its student")
    parser.add_argument("--output", type=Path, default=Path(__file__).resolve().parents[1] / "docs")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    try:
        restorer, student = (Restorer.from_pretrained(name, "cpu") for name in (arguments.weights, arguments.student))
        [photograph] = photographs(held_out_photograph(), STRENGTHS, None, None)
        write(arguments.output / "demo.png", demo(photograph, restorer))
        write(arguments.output / "dial.png", dial(photograph, restorer, student))
    except TesseraError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
