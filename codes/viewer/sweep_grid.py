"""All results of a sweep as one labelled picture."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..images.files import quantise, read_image
from .layers import TRUTH, Pixels
from .sweep_result import SweepResult, SweptCell
from .text import style_of

LARGEST_PIXELS = 40_000_000  # of all pictures together; larger ones are shrunk
PER_LINE = 5  # cells in a line where there is one axis alone
GAP, MARGIN, TEXT = 12, 20, 18  # pixels
BACKGROUND, INK, QUIET = (38, 38, 38), (222, 222, 222), (163, 163, 163)


@dataclass(frozen=True)
class _Captioned:
    title: str
    caption: str
    pixels: Pixels


def sweep_grid(result: SweepResult) -> Pixels:
    """uint8 (H, W, 3): the references, then a line for every combination of all axes but the last."""
    first = read_image(result.cells[0].file).rgb
    count = len(result.cells) + len(result.references)
    scale = min(1.0, math.sqrt(LARGEST_PIXELS / (count * first.shape[0] * first.shape[1])))
    lines = [("", [_reference(result, label, scale) for label in result.references])]
    lines += [(label, [_captioned(result, cell, scale) for cell in cells]) for label, cells in _lines(result)]
    read = ", ".join(f"{axis.name} {axis.read:.2f}" for axis in result.axes if axis.read is not None)
    heading = f"{result.title}   {result.facts['Input']}" + (f"   read from the image: {read}" if read else "")
    return _drawn(lines, heading.replace("×", "x"))


def _lines(result: SweepResult) -> Iterator[tuple[str, Sequence[SweptCell]]]:
    """(what the cells of a line have in common, its cells)."""
    columns = len(result.axes[-1].values) if len(result.axes) > 1 else PER_LINE
    for start in range(0, len(result.cells), columns):
        cells = result.cells[start : start + columns]
        common = [axis.label(place) for axis, place in zip(result.axes[:-1], cells[0].at[:-1], strict=True)]
        yield "\n".join(common), cells


def _reference(result: SweepResult, label: str, scale: float) -> _Captioned:
    reference = result.references[label]
    caption = "" if label == TRUTH else _numbers(reference.metrics)
    return _Captioned(label, caption, _picture(read_image(reference.file).rgb, scale))


def _captioned(result: SweepResult, cell: SweptCell, scale: float) -> _Captioned:
    caption = f"{_numbers(cell.metrics)}   {cell.seconds:.3g} s"
    return _Captioned(result.axes[-1].label(cell.at[-1]), caption, _picture(read_image(cell.file).rgb, scale))


def _numbers(metrics: Mapping[str, float]) -> str:
    """The metric that matters most: PSNR where there is a truth, else how consistent a result is with its input."""
    name = "psnr" if "psnr" in metrics else "consistency"
    style = style_of(name)
    return f"{style.title.removesuffix(' (dB)')} {style.text(metrics[name])} dB"


def _picture(rgb: np.ndarray, scale: float) -> Pixels:
    pixels = quantise(rgb)
    if scale == 1.0:
        return pixels
    size = max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def _drawn(lines: Sequence[tuple[str, Sequence[_Captioned]]], heading: str) -> Pixels:
    font = ImageFont.load_default(TEXT)
    cells = [cell for _, line in lines for cell in line]
    text = max(font.getlength(words) for cell in cells for words in (cell.title, cell.caption))
    width = math.ceil(max(text, *(cell.pixels.shape[1] for cell in cells)))
    height = max(cell.pixels.shape[0] for cell in cells) + 2 * (TEXT + 8)
    common = [word for label, _ in lines for word in label.split("\n")]
    left = MARGIN + math.ceil(max(font.getlength(word) for word in common))
    left += GAP if left > MARGIN else 0
    top = MARGIN + TEXT + 2 * GAP
    columns = max(len(line) for _, line in lines)
    full_width = left + columns * (width + GAP) - GAP + MARGIN
    size = max(full_width, 2 * MARGIN + math.ceil(font.getlength(heading))), top + len(lines) * (height + GAP) + MARGIN
    canvas = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    draw.text((MARGIN, MARGIN), heading, INK, font)
    for row, (label, line) in enumerate(lines):
        y = top + row * (height + GAP)
        draw.multiline_text((MARGIN, y + TEXT + 8), label, INK, font, spacing=6)
        for column, cell in enumerate(line):
            x = left + column * (width + GAP)
            draw.text((x, y), cell.title, INK, font)
            canvas.paste(Image.fromarray(cell.pixels), (x, y + TEXT + 8))
            draw.text((x, y + TEXT + 12 + cell.pixels.shape[0]), cell.caption, QUIET, font)
    return np.asarray(canvas)
