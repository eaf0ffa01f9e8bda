"""Text that a terminal and a log show as one line, whatever a file's name holds."""

import re

# Control characters, line ends of Unicode, marks that turn the direction of writing, and bytes that are no text.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""The text with what could forge lines or move the cursor written out: a line break as \n, escape as \x1b."""
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape", "surrogatepass").decode("ascii"), text)
