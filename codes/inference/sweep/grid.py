"""All results of a sweep as one labelled picture."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ...images.files import quantise, read_image
from ...viewer.html import number_text, style_of
from ...viewer.layers import Pixels
from .axes import spoken
from .run import TRUTH, Finished, SweepResult

LARGEST_PIXELS = 40_000_000  # of all pictures together; larger ones are shrunk
PER_LINE = 5  # cells in a line where there is one axis alone
GAP, MARGIN, TEXT = 12, 20, 18  # pixels
BACKGROUND, INK, QUIET = (38, 38, 38), (222, 222, 222), (163, 163, 163)


@dataclass(frozen=True)
class _Tile:
    title: str
    caption: str
    pixels: Pixels


def sweep_grid(result: SweepResult) -> Pixels:
    """uint8 (H, W, 3): the references, then a line for every combination of all axes but the last."""
    first = read_image(result.finished[0].file).rgb
    count = len(result.finished) + len(result.references)
    scale = min(1.0, math.sqrt(LARGEST_PIXELS / (count * first.shape[0] * first.shape[1])))
    lines = [("", [_reference(result, label, scale) for label in result.references])]
    lines += [(label, [_tile(result, row, scale) for row in rows]) for label, rows in grid_rows(result)]
    return _drawn(lines, f"{result.title}   {result.facts['Input']}".replace("×", "x"))


def grid_rows(result: SweepResult) -> Iterator[tuple[str, Sequence[Finished]]]:
    """(what the cells of a line have in common, its cells)."""
    columns = len(result.axes[-1].values) if len(result.axes) > 1 else PER_LINE
    for start in range(0, len(result.finished), columns):
        rows = result.finished[start : start + columns]
        common = [axis.label(rows[0].cell.values[axis.name]) for axis in result.axes[:-1]]
        yield "\n".join(common), rows


def _reference(result: SweepResult, label: str, scale: float) -> _Tile:
    file, metrics = result.references[label]
    return _Tile(label, "" if label == TRUTH else _numbers(metrics), _picture(read_image(file).rgb, scale))


def _tile(result: SweepResult, row: Finished, scale: float) -> _Tile:
    last = result.axes[-1]
    caption = f"{_numbers(row.metrics)}   {row.seconds:.3g} s"
    title = f"{last.name} {spoken(row.cell.values[last.name])}"
    return _Tile(title, caption, _picture(read_image(row.file).rgb, scale))


def _numbers(metrics: Mapping[str, float]) -> str:
    """The metric that matters most: PSNR where there is a truth, else how consistent a result is with its input."""
    name = "psnr" if "psnr" in metrics else "consistency"
    style = style_of(name)
    return f"{style.title.removesuffix(' (dB)')} {number_text(metrics[name], style.decimals)} dB"


def _picture(rgb: np.ndarray, scale: float) -> Pixels:
    pixels = quantise(rgb)
    if scale == 1.0:
        return pixels
    size = max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def _drawn(lines: Sequence[tuple[str, Sequence[_Tile]]], heading: str) -> Pixels:
    font = ImageFont.load_default(TEXT)
    tiles = [tile for _, line in lines for tile in line]
    text = max(font.getlength(words) for tile in tiles for words in (tile.title, tile.caption))
    width = math.ceil(max(text, *(tile.pixels.shape[1] for tile in tiles)))
    height = max(tile.pixels.shape[0] for tile in tiles) + 2 * (TEXT + 8)
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
        for column, tile in enumerate(line):
            x = left + column * (width + GAP)
            draw.text((x, y), tile.title, INK, font)
            canvas.paste(Image.fromarray(tile.pixels), (x, y + TEXT + 8))
            draw.text((x, y + TEXT + 12 + tile.pixels.shape[0]), tile.caption, QUIET, font)
    return np.asarray(canvas)
