"""The pages' template engine: Jinja2, which escapes every value; each page names its own style and script and no other.

`templates/base.html` is what all pages share, `templates/interactive.html` what those with a script share, and
`templates/parts.html` holds the parts that several use, the viewer with its slider between two layers among them.
Styles and scripts lie in `assets/` and become part of the page, so that a page is one file.
"""

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ..utils.files import atomic_write

ASSETS = Path(__file__).with_name("assets")
# A name that a template uses and nobody gave is an error, not an empty string.
TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def write_page(
    path: Path,
    template: str,
    fields: Mapping[str, Any],
    styles: Sequence[str],
    scripts: Sequence[str] = (),
    uses_files: bool = False,
) -> None:
    """Write a page to `path`, atomically. `fields`: what its template asks for, the rest is as of `page_parts`."""
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", errors="replace", newline="\n") as file:
        file.writelines(page_parts(template, fields, styles, scripts, uses_files))


def page_parts(
    template: str,
    fields: Mapping[str, Any],
    styles: Sequence[str],
    scripts: Sequence[str] = (),
    uses_files: bool = False,
) -> Iterator[str]:
    """The text of a page, piece by piece, because one with its pictures inside is large.

    `styles`, `scripts`: names of assets, in their order. `uses_files`: whether its pictures lie in files beside it.
    """
    style, script = _joined(styles), _joined(scripts)
    frame = {"policy": policy(style, script, uses_files), "style": style, "script": script}
    return TEMPLATES.get_template(template).generate({**fields, **frame})


def served_page(
    template: str, fields: Mapping[str, Any], styles: Sequence[str], scripts: Sequence[str]
) -> tuple[str, str]:
    """The policy, also for the header of the answer, and the text of a page that a server gives: it may ask that server
    alone. The rest is as of `page_parts`.
    """
    style, script = _joined(styles), _joined(scripts)
    rules = policy(style, script, uses_files=False, served=True)
    frame = {"policy": rules, "style": style, "script": script}
    # Only a header may say who shows a page in a frame.
    return f"{rules}; frame-ancestors 'none'", TEMPLATES.get_template(template).render({**fields, **frame})


def asset(name: str) -> str:
    """The text of a style or script."""
    return (ASSETS / name).read_text(encoding="utf-8").strip("\n")


def policy(style: str, script: str, uses_files: bool, served: bool = False) -> str:
    """A content security policy: this style and this script, pictures inside the page or of its folder, nothing else.

    Browsers disagree on whether 'self' covers a page opened from the disk, so files are named as well. `served`: the
    page comes from a server, and gets its pictures and data from there.
    """
    pictures = "data: 'self'" if served else "data: 'self' file:" if uses_files else "data:"
    scripts = f"script-src '{_digest(script)}'; " if script else ""
    requests = "connect-src 'self'; " if served else ""
    return (
        f"default-src 'none'; img-src {pictures}; style-src '{_digest(style)}'; {scripts}{requests}"
        "base-uri 'none'; form-action 'none'"
    )


def _joined(names: Sequence[str]) -> Markup:
    return Markup("\n\n".join(map(asset, names)))


def _digest(text: str) -> str:
    """The name of an inline style or script in a content security policy."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"
