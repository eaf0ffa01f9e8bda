"""The preview as one HTML file with no script and nothing to fetch: the pictures lie inside it as lossless PNGs."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from ..data.preview import Card, Grid, Tile
from ..images.codecs import png_bytes

ZOOMS = (1, 2, 3)
SMALL = 160  # pixels; items of smaller pictures open at 2x

# Neutral grays only: a tint around a photograph changes how its colours are judged.
STYLE = """
:root { color-scheme: dark; --line: #454545; --quiet: #a3a3a3;
  font: 15px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, Arial, "DejaVu Sans", sans-serif; }
* { box-sizing: border-box; }
body { margin: 0; padding: 28px 24px 60px; background: #262626; color: #dedede; }
h1 { margin: 0 0 10px; font-size: 26px; font-weight: 600; color: #fff; overflow-wrap: anywhere; }
h2 { width: 0; min-width: 100%; margin: 0 0 10px; font-size: 14px; font-weight: 600; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 3px 18px; margin: 0 0 18px; }
dt, figcaption, th, .zoom { color: var(--quiet); }
dd { margin: 0; overflow-wrap: anywhere; }
section { margin-bottom: 14px; padding: 14px; border: 1px solid var(--line); border-radius: 6px; overflow-x: auto; }
.cards { display: flex; flex-wrap: wrap; gap: 14px; align-items: flex-start; }
.cards section { margin: 0; max-width: 100%; }
.pictures { display: flex; gap: 10px; }
figure { margin: 0; }
figcaption { width: 0; min-width: 100%; padding-top: 4px; font-size: 13px; font-variant-numeric: tabular-nums; }
figcaption b { color: #dedede; font-weight: 600; }
img { display: block; image-rendering: pixelated; background: #1d1d1d; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th { padding: 0 10px 6px 0; font-size: 13px; font-weight: 400; text-align: left; white-space: nowrap; }
td { padding: 0 8px 8px 0; vertical-align: top; }
.strengths { margin-top: 10px; width: 100%; font-size: 13px; }
.strengths th, .strengths td { padding: 1px 10px 1px 0; vertical-align: middle; }
.strengths th { width: 1%; }
.strengths td:last-child { width: 1%; padding-right: 0; text-align: right; }
svg { display: block; width: 100%; min-width: 60px; height: 8px; border-radius: 2px; background: #1d1d1d; }
rect { fill: #b8b8b8; }
.zoom { margin-bottom: 14px; font-size: 13px; }
.zoom label { margin-left: 10px; cursor: pointer; }
:focus-visible { outline: 2px solid #fff; outline-offset: 2px; }
""" + "".join(f"body:has(#zoom{zoom}:checked) img {{ zoom: {zoom}; }}\n" for zoom in ZOOMS)


def render(title: str, facts: Mapping[str, str], cards: Sequence[Card], grids: Sequence[Grid]) -> str:
    """The whole page. `facts`: what holds for all of it, label -> text."""
    widest = max((tile.width for card in cards for tile in card.tiles), default=0)
    opened = 2 if widest <= SMALL and not grids else 1
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode("ascii")
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    zooms = "".join(
        f"<label><input type=radio name=zoom id=zoom{zoom}{' checked' if zoom == opened else ''}> {zoom}×</label>"
        for zoom in ZOOMS
    )
    head = (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{escape(title)}</title>\n<link rel="icon" href="data:,">\n<style>{STYLE}</style>\n</head>\n<body>\n'
    )
    body = f"<h1>{escape(title)}</h1>\n{_facts(facts)}\n<div class=zoom>Size{zooms}</div>\n"
    shown = "\n".join([*map(_grid, grids), f"<div class=cards>\n{''.join(map(_card, cards))}</div>"])
    return f"{head}{body}{shown}\n</body>\n</html>\n"


def _facts(facts: Mapping[str, str]) -> str:
    rows = "".join(f"<dt>{escape(label)}</dt><dd>{escape(text)}</dd>" for label, text in facts.items())
    return f"<dl>{rows}</dl>"


def _card(card: Card) -> str:
    pictures = "".join(map(_figure, card.tiles))
    rows = "".join(
        f"<tr><th scope=row>{escape(name)}</th><td>{_bar(value)}</td><td>{value:.2f}</td></tr>"
        for name, value in card.strengths.items()
    )
    notes = "".join(
        f"<tr><th scope=row>{escape(name)}</th><td colspan=2>{escape(text)}</td></tr>"
        for name, text in card.notes.items()
    )
    table = f"<table class=strengths>{rows}{notes}</table>" if rows or notes else ""
    heading = f'<h2 title="{escape(card.path)}">{card.position}: {escape(Path(card.path).name)}</h2>'
    return f"<section>{heading}<div class=pictures>{pictures}</div>{table}</section>\n"


def _bar(value: float) -> str:
    width = 100 * min(max(value, 0.0), 1.0)
    rectangle = f'<rect width="{width:.1f}" height="8"/>'
    return f'<svg viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">{rectangle}</svg>'


def _grid(grid: Grid) -> str:
    columns = "".join(f"<th scope=col>{escape(label)}</th>" for label in grid.columns)
    body = "".join(_row(label, tiles) for label, tiles in grid.rows.items())
    table = f"<table><tr><th>{escape(grid.corner)}</th>{columns}</tr>{body}</table>"
    return f"<section><h2>{escape(grid.name)}</h2>{table}</section>"


def _row(label: str, tiles: Sequence[Tile]) -> str:
    cells = "".join(f"<td>{_figure(tile)}</td>" for tile in tiles)
    return f"<tr><th scope=row>{escape(label)}</th>{cells}</tr>"


def _figure(tile: Tile) -> str:
    data = base64.b64encode(png_bytes(tile.pixels)).decode("ascii")
    image = (
        f'<img src="data:image/png;base64,{data}" width="{tile.width}" height="{tile.height}" '
        f'alt="{escape(tile.title or tile.quality)}">'
    )
    title = f"<b>{escape(tile.title)}</b> {escape(tile.size)}<br>" if tile.title else ""
    return f"<figure>{image}<figcaption>{title}{escape(tile.quality)}</figcaption></figure>"
