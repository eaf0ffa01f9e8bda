"""Names of files, for every file system at once: what they may hold, how long they may be, and which of them are one.

Windows and macOS take `Photo.png` and `photo.png` for one file, macOS also é in one character and in two, and Windows
drops dots and spaces at an end. A folder that was written on one system may be read or copied to on another.
"""

import os
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path, PurePath

LONGEST = 255  # bytes of a name on nearly every file system
LONGEST_PART = 150  # bytes of what a recipe may contribute to a name: iteration, kind and ending come beside it
FORBIDDEN = frozenset('/\\:*?"<>|')
# Of DOS, and reserved on Windows until today, whatever extension follows.
RESERVED = re.compile(r"^(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)(\..*)?$", re.IGNORECASE)


def one_form(name: str) -> str:
    """A name with every accented letter as one character (Unicode's NFC): equal for names that look equal."""
    return unicodedata.normalize("NFC", name)


def same_file(path: PurePath) -> tuple[str, ...]:
    """The parts of a path as the least distinguishing file system sees them: equal for paths that some disk takes for
    one.
    """
    return tuple(one_form(one_form(part).casefold()).rstrip(". ") for part in path.parts)


def first_free(
    candidates: Iterable[Path], files_of: Callable[[Path], Collection[Path]], taken: set[tuple[str, ...]]
) -> Path:
    """The first candidate none of whose files is taken on any file system; they are taken then.

    There must always be a further candidate. One with two files that are the same on some disk is never free.
    """
    for candidate in candidates:
        files = files_of(candidate)
        keys = {same_file(file) for file in files}
        if len(keys) == len(files) and taken.isdisjoint(keys):
            taken |= keys
            return candidate
    raise AssertionError("the candidates end")


def numbered(stem: str, ending: str) -> Iterator[str]:
    """`stem`, then with the ending of its file, then with numbers: a, a_jpg, a_2, a_3, ..."""
    yield stem
    if ending:
        yield f"{stem}_{ending}"
    number = 2
    while True:
        yield f"{stem}_{number}"
        number += 1


def problem_with_part(text: str) -> str | None:
    """Why a text cannot be part of a file's name, on whatever system; None where it can."""
    if text in ("", ".", "..") or any(sign in FORBIDDEN or not sign.isprintable() for sign in text):
        return f"expected a part of a file's name, without / \\ : * ? \" < > | and line breaks, found {text!r}"
    if text[0] in ". " or text[-1] in ". ":
        return f"a name neither begins nor ends with a dot or a space, found {text!r}"
    if RESERVED.match(text):
        return f"{text!r} is the name of a device on Windows; choose another"
    if len(os.fsencode(text)) > LONGEST_PART:
        return f"a name of at most {LONGEST_PART} bytes is expected, found {len(os.fsencode(text))}: {text[:40]!r}..."
    return None


def problem_with_length(file: Path) -> str | None:
    """Why a file cannot be called so where it is to lie, where names are limited in bytes; None where it can."""
    longest = longest_name(file.parent)
    length = len(os.fsencode(file.name))
    return f"the name {file.name} has {length} bytes, {longest} are possible there" if length > longest else None


def longest_name(folder: Path) -> int:
    """Bytes that a name in a folder may have; of one that is not there yet, in the nearest that is."""
    there = next((place for place in (folder, *folder.parents) if place.is_dir()), Path())
    with suppress(OSError, AttributeError, ValueError):
        return int(os.pathconf(there, "PC_NAME_MAX"))
    return LONGEST


def cut_to_bytes(text: str, most: int) -> str:
    """The beginning of a text that has at most `most` bytes as part of a name; no character is cut in two."""
    return os.fsencode(text)[:most].decode("utf-8", "ignore")
