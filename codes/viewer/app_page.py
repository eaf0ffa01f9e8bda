"""The page of the app: photographs, dials, a preview, and the viewer of the comparison page."""

from collections.abc import Mapping
from typing import Any

from .layers import BICUBIC
from .templates import served_page

STYLES = ("theme.css", "page.css", "comparison.css", "app.css")
SCRIPTS = ("frame.js", "comparison.js", "app_photograph.js", "app_output.js", "app.js")


def app_page(facts: Mapping[str, Any]) -> tuple[str, str]:
    """(content security policy, HTML). `facts`: what the script is told once: the names of the strengths, the limits,
    the endings of files that can be read, the dials as they stand at first.
    """
    fields = {"title": "Tessera", "options": "", "facts": facts, "layers": [BICUBIC, "restored"]}
    return served_page("app.html", fields, STYLES, SCRIPTS)
