"""Classes by name: what is found, what is ambiguous, what is nearest, and the files that hold names."""

import json
import unicodedata
from pathlib import Path

import pytest

from codes.recipe.class_list import ClassList, classes_beside, read_class_names
from codes.utils.errors import ConfigError
from codes.utils.names import problem_with_part, same_file

NAMES = ("tench, Tinca tinca", "crane", "goldfish, Carassius auratus", "crane", "cock")
FISH = ClassList(6, NAMES)


@pytest.mark.parametrize(
    ("wanted", "index"),
    [(5, 5), (0, 0), ("tench", 0), ("Tinca Tinca", 0), ("TENCH, tinca tinca", 0), ("cock", 4), ("goldfish", 2)],
)
def test_a_class_by_number_or_by_any_of_its_names(wanted, index):
    assert FISH.index(wanted) == index


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (6, r"no class 6; there are 6, numbered 0 to 5"),
        ("crane", r"'crane' is the name of the classes 1, 3; give the number"),
        ("goldfsh", r"no class 'goldfsh' \(did you mean goldfish, Carassius auratus \(2\)\?\)"),
        ("zzzz", r"no class 'zzzz' \(known: tench, Tinca tinca, crane, "),
    ],
)
def test_what_is_no_class_is_told_with_the_nearest(wanted, said):
    with pytest.raises(ValueError, match=said):
        FISH.index(wanted)


def test_a_name_equals_more_than_a_part_of_another():
    assert ClassList(2, ("bird, crane", "crane")).index("crane") == 1


def test_folders_differ_and_are_safe_names():
    classes = ClassList(7, ("a/b", "crane", "Crane", "größe x", "..", "n01440764"))
    assert classes.folders == ("a_b", "crane-1", "Crane-2", "größe_x", "class-4", "n01440764", "6")
    assert len({name.casefold() for name in classes.folders}) == 7


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("a.txt", "one\n\n two, deux \n"),
        ("a.json", json.dumps(["one", "two, deux"])),
        ("a.json", json.dumps({"1": "two, deux", "0": "one"})),
        ("a.json", json.dumps({"0": ["n0001", "one"], "1": ["n0002", "two, deux"]})),
    ],
)
def test_files_of_names(tmp_path, file, text):
    (tmp_path / file).write_text(text, encoding="utf-8")
    assert read_class_names(tmp_path / file) == ("one", "two, deux")


@pytest.mark.parametrize("text", ["", "{", "3", '{"0": "a", "2": "b"}', "[1, 2]", '{"x": "a"}', "[]"])
def test_files_that_hold_no_names(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ConfigError, match="holds no class names; expected one a line"):
        read_class_names(tmp_path / "a.json")


def test_names_beside_the_weights(tmp_path):
    assert classes_beside(tmp_path / "1_net.safetensors") == ()
    (tmp_path / "classes.json").write_text('["ölfaß", "b"]', encoding="utf-8")
    assert classes_beside(tmp_path / "1_net.safetensors") == ("ölfaß", "b")


@pytest.mark.parametrize(
    "names",
    [
        ("a b", "a_b", "a_b-0", "A_B-1"),
        ("con", "NUL", "con-0"),
        tuple(unicodedata.normalize(form, "Zürich") for form in ("NFC", "NFD")),
        ("日本" * 60, "日本" * 61, "x"),
        ("", "class-0", "..", "/"),
    ],
)
def test_folders_are_told_apart_on_every_file_system(names):
    folders = ClassList(len(names), names).folders
    assert len({same_file(Path(folder)) for folder in folders}) == len(names)
    assert not [problem for folder in folders if (problem := problem_with_part(folder))]


def test_where_all_classes_are_called_by_numbers_a_number_is_such_a_name():
    """Folders 0 ... 11 are numbered in the order of text: 0, 1, 10, 11, 2."""
    names = tuple(sorted(map(str, range(12))))
    classes = ClassList(12, names)
    assert [classes.index(number) for number in (0, 2, 10)] == [0, 4, 2]
    assert classes.index("2") == 4
    assert ClassList(2, ("001", "002")).index(2) == 1
    with pytest.raises(ValueError, match="no class called 12; its classes are called 0, 1, 10, 11, 2"):
        classes.index(12)
    assert ClassList(3, ("7", "cat", "dog")).index(1) == 1
