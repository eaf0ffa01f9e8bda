"""Typed options: what is refused, in which words and at which key path."""

import time
from typing import Annotated, Literal, Self

import pytest
from pydantic import AliasChoices, Field, ValidationError, model_validator

from codes.config.options import OneOf, Options, nested, parse
from codes.config.registry import Registry
from codes.config.yaml_source import Issue, load_source
from codes.utils.errors import ConfigError

SHAPES: Registry = Registry("shape")


class Shape(Options):
    type: str


class SquareOptions(Shape):
    side: int = Field(1, ge=1)
    corners: tuple[int, ...] = ()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.corners and len(self.corners) != 4:
            raise nested([Issue(("corners",), f"a square has 4 corners, found {len(self.corners)}")])
        return self


@SHAPES.register("square", "box")
class Square:
    Options = SquareOptions


class Inner(Options):
    count: int = 1
    rate: float = 1.0
    mode: Literal["linear", "cosine"] = "linear"
    size: int | str | None = None
    names: tuple[str, ...] = ()


class Outer(Options):
    needed: str
    inner: Inner = Inner()
    many: dict[str, Inner] = Field({})
    shapes: dict[str, Annotated[Shape, OneOf(SHAPES, "type")]] = Field({})
    maybe: Inner | None = None
    switch: bool = False
    new_name: int = Field(0, validation_alias=AliasChoices("new_name", "old_name"))

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.switch and self.inner.count == 13:
            raise ValueError("switch and a count of 13 contradict each other")
        return self


@pytest.fixture
def read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def parsed(text, *overrides):
        (tmp_path / "r.yml").write_text(text, encoding="utf-8")
        return parse(Outer, load_source("r.yml", overrides))

    return parsed


def test_a_good_file_becomes_frozen_objects(read):
    options = read("needed: x\ninner: {count: 5e1, rate: 2, size: ten, names: [a, b]}\nold_name: 4\nmany: {a: {}}\n")
    assert (options.inner.count, options.inner.rate, options.inner.size) == (50, 2.0, "ten")
    assert options.inner.names == ("a", "b")
    assert options.new_name == 4
    assert type(options.inner.count) is int
    with pytest.raises(ValidationError):
        options.needed = "y"


def test_a_registered_name_chooses_the_class(read):
    options = read("needed: x\nshapes: {s: {type: box, side: 3, corners: [1, 2, 3, 4]}}\n")
    assert options.shapes["s"] == SquareOptions(type="box", side=3, corners=(1, 2, 3, 4))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "r.yml:1: needed: missing; this key is required"),
        ("needed: x\nneded: y", "r.yml:2: neded: unknown key (did you mean needed?)"),
        ("needed: x\nzzz: y", "r.yml:2: zzz: unknown key (known here: needed, inner, many, shapes, maybe, switch, "
         "new_name, old_name)"),
        ("needed: x\ninner:\n  cuont: 2", "r.yml:3: inner.cuont: unknown key (did you mean count?)"),
        ("needed: x\nmany:\n  a:\n    rat: 2", "r.yml:4: many.a.rat: unknown key (did you mean rate?)"),
        ("needed: x\nmaybe: {cuont: 2}", "r.yml:2: maybe.cuont: unknown key (did you mean count?)"),
        ("needed: x\nod_name: 2", "r.yml:2: od_name: unknown key (did you mean old_name?)"),
        ("needed: [5]", "r.yml:1: needed: expected text, found [5]"),
        ("needed: ~", "r.yml:1: needed: expected text, found nothing (~)"),
        ("needed: x\ninner: 5", "r.yml:2: inner: expected a mapping (key: value), found 5"),
        ("needed: x\nmany: [1]", "r.yml:2: many: expected a mapping (key: value), found [1]"),
        ("needed: x\ninner: {count: two}", "r.yml:2: inner.count: expected a whole number, found 'two'"),
        ("needed: x\ninner: {count: '2'}", "r.yml:2: inner.count: expected a whole number, found '2'"),
        ("needed: x\ninner: {count: 2.5}", "r.yml:2: inner.count: expected a whole number, found 2.5"),
        ("needed: x\ninner: {count: true}", "r.yml:2: inner.count: expected a whole number, found True"),
        ("needed: x\ninner: {rate: fast}", "r.yml:2: inner.rate: expected a number, found 'fast'"),
        ("needed: x\ninner: {rate: .nan}", "r.yml:2: inner.rate: expected a finite number, found nan"),
        ("needed: x\nswitch: 1", "r.yml:2: switch: expected true or false, found 1"),
        ("needed: x\ninner: {names: a}", "r.yml:2: inner.names: expected a list, found 'a'"),
        ("needed: x\ninner:\n  names:\n  - a\n  - ~", "r.yml:5: inner.names.1: expected text, found nothing (~)"),
        ("needed: x\ninner: {mode: cosin}",
         "r.yml:2: inner.mode: expected 'linear' or 'cosine', found 'cosin' (did you mean cosine?)"),
        ("needed: x\ninner: {size: [1]}", "r.yml:2: inner.size: expected a whole number, found [1] or expected text, "
         "found [1]"),
        ("needed: x\nshapes: {s: 5}", "r.yml:2: shapes.s: expected a mapping with a key `type`, found 5"),
        ("needed: x\nshapes: {s: {side: 1}}", "r.yml:2: shapes.s.type: missing (one of: box, square)"),
        ("needed: x\nshapes: {s: {type: sqare}}",
         "r.yml:2: shapes.s.type: unknown shape 'sqare' (did you mean square? known: box, square)"),
        ("needed: x\nshapes: {s: {type: [1]}}", "r.yml:2: shapes.s.type: unknown shape (1,) (known: box, square)"),
        ("needed: x\nshapes:\n  s:\n    type: box\n    sdie: 2",
         "r.yml:5: shapes.s.sdie: unknown key (did you mean side?)"),
        ("needed: x\nshapes: {s: {type: box, side: 0}}",
         "r.yml:2: shapes.s.side: expected greater than or equal to 1, found 0"),
        ("needed: x\nshapes: {s: {type: box, corners: [1]}}",
         "r.yml:2: shapes.s.corners: a square has 4 corners, found 1"),
        ("needed: x\nswitch: true\ninner: {count: 13}", "r.yml:1: switch and a count of 13 contradict each other"),
    ],
)  # fmt: skip
def test_each_mistake_in_its_own_words(read, text, message):
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert str(caught.value) == message


def test_all_mistakes_of_a_file_at_once_in_its_order(read):
    text = "inner: {count: x, cuont: 1}\nswitch: 3\nshapes:\n  s: {type: cube}\n  t: {type: box, side: 0}\nmany: 5\n"
    with pytest.raises(ConfigError) as caught:
        read(text)
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[1] for line in lines if line.startswith("r.yml")] == [
        "needed", "inner.count", "inner.cuont", "switch", "shapes.s.type", "shapes.t.side", "many"]  # fmt: skip


def test_a_mistake_on_the_command_line_names_it(read):
    with pytest.raises(ConfigError, match=r"^--set inner\.cuont=1: inner\.cuont: unknown key \(did you mean count\?\)"):
        read("needed: x\n", "inner.cuont=1")


def test_long_values_are_cut(read):
    with pytest.raises(ConfigError) as caught:
        read(f"needed: x\ninner: {{count: {'y' * 500}}}")
    assert len(str(caught.value)) < 150


@pytest.mark.parametrize(
    ("written", "text"),
    [("007", "007"), ("on", "on"), ("No", "No"), ("1e-4", "1e-4"), ("2024-01-01", "2024-01-01"), ("'7'", "7")],
)
def test_a_word_is_text_as_it_was_typed_where_text_is_expected(read, written, text):
    options = read(f"needed: {written}\ninner: {{names: [a, {written}]}}\nshapes: {{s: {{type: box}}}}\n")
    assert options.needed == text
    assert options.inner.names == ("a", text)


def test_a_file_with_thousands_of_mistakes_names_the_first_fifty(read):
    start = time.process_time()
    with pytest.raises(ConfigError) as caught:
        read("needed: x\n" + "".join(f"key{number}: 1\n" for number in range(4000)))
    assert time.process_time() - start < 5
    assert len(str(caught.value).splitlines()) == 51
    assert "and 3950 more problems of this kind" in str(caught.value)


def test_thousands_of_bare_words_where_text_is_wanted_are_text_at_once(tmp_path):
    words = [f"0{number}" for number in range(3000)]
    (tmp_path / "r.yml").write_text(f"needed: 7\ninner: {{names: [{', '.join(words)}]}}\n")
    start = time.process_time()
    parsed = parse(Outer, load_source(tmp_path / "r.yml"))
    assert (parsed.needed, parsed.inner.names) == ("7", tuple(words))
    assert time.process_time() - start < 5


def test_of_thousands_of_mistakes_the_first_are_told_and_the_others_counted(tmp_path):
    (tmp_path / "r.yml").write_text(f"needed: x\ninner: {{names: [{'[1], ' * 3000}]}}\n")
    with pytest.raises(ConfigError) as caught:
        parse(Outer, load_source(tmp_path / "r.yml"))
    lines = str(caught.value).splitlines()
    assert len(lines) < 250
    assert "and 2800 more problems of this kind" in str(caught.value)
