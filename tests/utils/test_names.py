"""Names that hold on every file system."""

import os
import unicodedata
from pathlib import Path

import pytest

from codes.utils.names import (
    LONGEST_PART,
    cut_to_bytes,
    first_free,
    longest_name,
    numbered,
    problem_with_length,
    problem_with_part,
    same_file,
)

NFC, NFD = (unicodedata.normalize(form, "Zürich é") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(
    "text",
    [
        *("", ".", "..", "../x", "a/b", "a\\b", "a\0", "a\nb", "a\x1b[2J", "C:", "a*", "what?", 'a"b', "<a>", "/etc"),
        *(".hidden", "a.", "a ", " a", "con", "NUL", "aux.txt", "COM1", "lpt9.png", "é" * LONGEST_PART, "a\udcff"),
    ],
)
def test_what_cannot_be_part_of_a_name_is_told(text):
    problem = problem_with_part(text)
    assert problem
    assert "\n" not in problem


@pytest.mark.parametrize("text", ["a", "x_start", "Zürich é", "a.b", "a b", "console", "com10", "日本語", "a-b+c=1,2"])
def test_what_can(text):
    assert problem_with_part(text) is None


@pytest.mark.parametrize(
    ("first", "second"),
    [("a/Photo.png", "A/photo.PNG"), (NFC, NFD), ("a./b", "a/b"), ("a/b ", "a/b"), ("a /b.", "a/b"), ("ß", "SS")],
)
def test_paths_that_some_disk_takes_for_one(first, second):
    assert same_file(Path(first)) == same_file(Path(second))
    assert same_file(Path(first)) != same_file(Path(f"{second}x"))


def test_the_first_free_name_is_taken_with_all_its_files():
    taken: set[tuple[str, ...]] = set()

    def chosen(stem, ending):
        return first_free(map(Path, numbered(stem, ending)), lambda path: [path, Path(f"{path}_spread")], taken).name

    assert [chosen("a", "png"), chosen("A", "jpg"), chosen("a", "jpg"), chosen("a", "jpg")] == [
        "a",
        "A_jpg",
        "a_2",
        "a_3",
    ]
    assert chosen("a_spread", "png") == "a_spread_png"


def test_lengths_are_counted_in_bytes(tmp_path):
    assert longest_name(tmp_path / "not" / "there") == os.pathconf(tmp_path, "PC_NAME_MAX")
    most = longest_name(tmp_path)
    (tmp_path / ("é" * (most // 2))).touch()
    assert problem_with_length(tmp_path / ("é" * (most // 2))) is None
    assert f"has {most + 1} bytes, {most} are possible" in problem_with_length(tmp_path / ("é" * (most // 2) + "ab"))
    assert cut_to_bytes("aéé", 4) == "aé"
    assert cut_to_bytes("日本", 7) == "日本"
