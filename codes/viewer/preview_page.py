"""The preview of a dataset as one HTML file without a script: the pictures lie inside it as lossless PNGs."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.preview import PreviewItem, PreviewPicture, PreviewTable
from ..images.codecs import png_bytes
from .templates import write_page

SMALL = 160  # pixels; items of smaller pictures open at 2x
STYLES = ("theme.css", "preview.css")


def write_preview_page(
    path: Path,
    title: str,
    facts: Mapping[str, str],
    items: Sequence[PreviewItem],
    tables: Sequence[PreviewTable],
) -> None:
    """Write the page to `path`, atomically. `facts`: what holds for all of it, label -> text."""
    widest = max((picture.width for item in items for picture in item.pictures), default=0)
    fields = {
        "title": title,
        "facts": facts,
        "opened": 2 if widest <= SMALL and not tables else 1,
        "items": [_item_fields(item) for item in items],
        "tables": [_table_fields(table) for table in tables],
    }
    write_page(path, "preview.html", fields, STYLES)


def _item_fields(item: PreviewItem) -> dict[str, Any]:
    pictures = [_picture_fields(picture) for picture in item.pictures]
    return {**vars(item), "name": Path(item.path).name, "pictures": pictures}


def _table_fields(table: PreviewTable) -> dict[str, Any]:
    rows = {label: [_picture_fields(picture) for picture in pictures] for label, pictures in table.rows.items()}
    return {**vars(table), "rows": rows}


def _picture_fields(picture: PreviewPicture) -> dict[str, Any]:
    data = base64.b64encode(png_bytes(picture.pixels)).decode("ascii")
    return {**vars(picture), "url": f"data:image/png;base64,{data}"}
