"""YAML to located plain data: numbers, bases, overrides, and every way a file can be wrong."""

import os
import threading
import time

import pytest

from codes.config.yaml_source import Issue, Location, format_path, load_source
from codes.utils.errors import ConfigError


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def put(text, name="recipe.yml"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return name

    return put


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("3e-4", 3e-4), ("5e5", 5e5), ("1E3", 1e3), ("+2e2", 200.0), ("-1.5e-3", -1.5e-3), (".5", 0.5), ("2.", 2.0),
        ("1_000.5", 1000.5), ("!!float 3", 3.0), ("!!float 3e-4", 3e-4), (".inf", float("inf")), ("7", 7),
        ("0123", 123), ("010", 10), ("1:30", "1:30"), ("0o17", 15), ("0b11", "0b11"), ("2024-01-01", "2024-01-01"),
        ("on", True), ("No", False), ("=", "="), ("1_", "1_"), ("-0", 0), ("0123.5", 123.5), ("1:30.5", "1:30.5"),
        ("1_000", 1000), ("0x10", 16), ("true", True), ("~", None), ("", None), ("'3e-4'", "3e-4"),
        ("e5", "e5"), ("1e", "1e"), ("3e-4x", "3e-4x"), ("v1.2.3", "v1.2.3"), ("trailing8", "trailing8"),
    ],
)  # fmt: skip
def test_scalars_have_the_type_that_they_look_like(write, written, value):
    read = load_source(write(f"key: {written}\n")).data["key"]
    assert read == value
    assert type(read) is type(value)


def test_every_key_and_list_item_knows_its_line(write):
    source = load_source(write("a:\n  b: 1\n  c:\n    - x\n    - {d: 2}\n"))
    assert source.where(("a", "b")) == Location("recipe.yml", 2)
    assert source.where(("a", "c", 1, "d")) == Location("recipe.yml", 5)
    assert source.where(("a", "nowhere", "deeper")) == Location("recipe.yml", 1)
    assert source.where(()) == Location("recipe.yml", 1)


def test_issues_come_in_the_order_of_the_file_and_each_once(write):
    source = load_source(write("a: 1\nb: 2\n"))
    text = str(source.error([Issue(("b",), "two"), Issue(("a",), "one"), Issue(("b",), "two")]))
    assert text == "recipe.yml:1: a: one\nrecipe.yml:2: b: two"
    assert format_path(("a", 0, "b")) == "a.0.b: "
    assert format_path(()) == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: [1, 2\n", "recipe.yml:3: YAML syntax: "),
        ("a: 1\n\tb: 2\n", "recipe.yml:2: YAML syntax: "),
        ("a: @x\n", "recipe.yml:1: YAML syntax: "),
        ("a: *nowhere\n", "recipe.yml:1: YAML syntax: "),
        ("a: 1\n---\nb: 2\n", "recipe.yml:2: YAML syntax: "),
        ("a: 1\nb: \x07\n", "recipe.yml:2: YAML syntax: unacceptable character #x0007"),
        ("- 1\n- 2\n", "recipe.yml:1: expected a mapping of options (key: value), found list"),
        ("just words\n", "recipe.yml:1: expected a mapping of options (key: value), found str"),
        ("a:\n  b: 1\n  b: 2\n", "recipe.yml:3: a.b: this key stands twice; remove one"),
        ("a: 1\nb: 2\na: 3\n", "recipe.yml:3: a: this key stands twice; remove one"),
        ("a: 1\n? [x, y]\n: 2\n", "recipe.yml:2: a key must be a word, found a list or a mapping"),
        ("a: &x\n  b: *x\n", "recipe.yml:1: a.b: YAML syntax: an alias contains itself"),
        ("a: &x\n  <<: *x\n", "recipe.yml:1: a: YAML syntax: an alias contains itself"),
        ("a:\n  <<: 5\n", "recipe.yml:2: a: YAML syntax: a merge key (<<) needs a mapping"),
        ("a: !!python/name:os.system\n", "recipe.yml:1: a: the tag "),
        ("a: !!timestamp now\n", "recipe.yml:1: a: the tag "),
        ("a: 1\nb: !!int ten\n", "recipe.yml:2: b: 'ten' is not what its tag says"),
        ("a: 1\nb: !!bool perhaps\n", "recipe.yml:2: b: 'perhaps' is not what its tag says"),
        (f"a: 1\nb: {10**30}\n", "recipe.yml:2: the number 1000000000000000000000000000000 is too large"),
        (f"a: 1\nb: -{'9' * 4090}\n", "recipe.yml:2: the number -9999"),
        ("a: 1\nb: " + "x" * 5000, "recipe.yml:2: b: a value of 5000 characters"),
        ("a: 1\n? " + "x" * 5000 + "\n: 1\n", "recipe.yml:2: a key of 5000 characters"),
        ("a: 1\nb: " + "[" * 50, "recipe.yml:2: nested deeper than 30 levels"),
        ("a: 1\n" + "#" * 2**17, "recipe.yml:1: longer than 131072 characters"),
        ("a: 1\nb: !!python/object/apply:os.system [ls]\n", "recipe.yml:2: b: the tag "),
        ("a: !mine {x: 1}\n", "recipe.yml:1: a: the tag '!mine' is not read"),
        ("a: !mine 1\n", "recipe.yml:1: a: the tag "),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_names_its_line(write, text, message):
    with pytest.raises(ConfigError) as caught:
        load_source(write(text))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_what_is_no_recipe_file(write, tmp_path):
    write("a: 1\n", "train.yml")
    with pytest.raises(ConfigError, match=r"^tran\.yml: no such recipe file \(did you mean train\.yml\?\)$"):
        load_source("tran.yml")
    with pytest.raises(ConfigError, match=r"no such recipe file \(no folder no/where\)"):
        load_source("no/where/x.yml")
    with pytest.raises(ConfigError, match="cannot be read as a recipe"):
        load_source(tmp_path)
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read as a recipe"):
        load_source("picture.png")


def test_an_empty_file_and_a_byte_order_mark(write, tmp_path):
    assert load_source(write("")).data == {}
    (tmp_path / "bom.yml").write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert load_source("bom.yml").data == {"a": 1}


def test_anchors_and_merge_keys(write):
    source = load_source(write("x: &one {p: 1, q: 2}\ny:\n  <<: *one\n  q: 3\nz: *one\n"))
    assert source.data == {"x": {"p": 1, "q": 2}, "y": {"p": 1, "q": 3}, "z": {"p": 1, "q": 2}}


def test_a_base_is_merged_key_by_key_and_lists_are_replaced(write):
    write("a: {x: 1, y: [1, 2], z: {u: 1}}\nb: 1\n", "bases/base.yml")
    source = load_source(write("base: bases/base.yml\na: {y: [3], z: ~}\nc: 2\n"))
    assert source.data == {"a": {"x": 1, "y": [3], "z": None}, "b": 1, "c": 2}
    assert source.where(("a", "x")) == Location("bases/base.yml", 1)
    assert source.where(("a", "y", 0)) == Location("recipe.yml", 2)
    assert source.where(("a", "z", "u")) == Location("recipe.yml", 2)
    assert source.file == "recipe.yml"


def test_bases_of_bases_lists_of_bases_and_none(write):
    write("a: 1\nb: 1\nc: 1\n", "one.yml")
    write("base: one.yml\nb: 2\n", "two.yml")
    write("c: 3\n", "three.yml")
    assert load_source(write("base: [two.yml, three.yml]\n")).data == {"a": 1, "b": 2, "c": 3}
    assert load_source(write("base: []\nx: 1\n")).data == {"x": 1}
    assert load_source(write("base: ~\nx: 1\n")).data == {"x": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x: 1\nbase: bsae.yml\n", r"^recipe\.yml:2: base: no such file bsae\.yml \(did you mean base\.yml\?\)$"),
        ("base: 5\n", r"^recipe\.yml:1: base: expected a file name or a list of them, found 5$"),
        ("base: [base.yml, 5]\n", r"^recipe\.yml:1: base: expected a file name"),
        ("base: recipe.yml\n", r"in a circle \(recipe\.yml -> recipe\.yml\)"),
        ("base: ring.yml\n", r"in a circle \(recipe\.yml -> ring\.yml -> recipe\.yml\)"),
        ("base: broken.yml\n", r"^broken\.yml:2: YAML syntax"),
    ],
)
def test_bases_that_cannot_be_followed(write, text, message):
    write("a: 1\n", "base.yml")
    write("base: recipe.yml\n", "ring.yml")
    write("a: 1\n  b: 2\n", "broken.yml")
    with pytest.raises(ConfigError, match=message):
        load_source(write(text))


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("a.b=5", ("a", "b"), 5), ("a.b=5e-1", ("a", "b"), 0.5), ("a.b=text", ("a", "b"), "text"),
        ("a.b='5'", ("a", "b"), "5"), ("a.b=~", ("a", "b"), None), ("a.b=[1, x]", ("a", "b"), [1, "x"]),
        ("a.b={c: {d: 1}}", ("a", "b"), {"c": {"d": 1}}), ("a.b=x=y", ("a", "b"), "x=y"),
        ("new.deep.key=true", ("new", "deep", "key"), True), ("a.l.1=9", ("a", "l", 1), 9),
        ("a.l.0.k=9", ("a", "l", 0, "k"), 9), ("empty.k=1", ("empty", "k"), 1), (" a.b =5", ("a", "b"), 5),
        ("a.b=/x/#1: y", ("a", "b"), "/x/#1: y"), ("a.b=x #y", ("a", "b"), "x #y"), ("a.b=C:\\x", ("a", "b"), "C:\\x"),
        ("a.b=*.png", ("a", "b"), "*.png"), ("a.b=&x", ("a", "b"), "&x"), ("a.b=!x", ("a", "b"), "!x"),
        ("a.b=a: 1", ("a", "b"), "a: 1"), ("a.b=- 1", ("a", "b"), "- 1"), ("a.b=x ", ("a", "b"), "x "),
        ("a.b='x #y'", ("a", "b"), "x #y"), ("a.b=''", ("a", "b"), ""), ("a.b=[x] y", ("a", "b"), "[x] y"),
        ("a.b= 5 ", ("a", "b"), 5), ("a.b=0123", ("a", "b"), 123), ("a.b=1:30", ("a", "b"), "1:30"),
        ("a.b=~/x", ("a", "b"), "~/x"), ("a.b=<<", ("a", "b"), "<<"), ("a.b=%x", ("a", "b"), "%x"),
        ("a.b=['/x #1', '/y: 2']", ("a", "b"), ["/x #1", "/y: 2"]), ("a.b=\"it's\"", ("a", "b"), "it's"),
    ],
)  # fmt: skip
def test_overrides_are_typed_and_placed(write, override, path, value):
    source = load_source(write("a: {b: 1, l: [{k: 0}, 2]}\nempty: ~\n"), [override])
    at_path = source.data
    for key in path:
        at_path = at_path[key]
    assert at_path == value
    assert type(at_path) is type(value)
    assert source.where(path) == Location(f"--set {override}", 0)
    assert source.where(("a",)) == Location("recipe.yml", 1)


def test_overrides_apply_in_order_and_leave_the_rest(write):
    source = load_source(write("a: {b: 1, c: 2}\n"), ["a.b=2", "a.b=3", "a.d.e=4"])
    assert source.data == {"a": {"b": 3, "c": 2, "d": {"e": 4}}}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("a.b", "--set a.b: expected KEY.PATH=VALUE, for example --set train.niter=1000"),
        ("=5", "--set =5: expected KEY.PATH=VALUE"),
        ("a..b=5", "--set a..b=5: expected KEY.PATH=VALUE"),
        ("a.b=[1", "--set a.b=[1: [ without ]"),
        ("a.b=[1, ]]", "--set a.b=[1, ]]:1: YAML syntax: "),
        ("a.b=", "--set a.b=: no value; is a variable of the shell unset?"),
        ("a.b=  ", "--set a.b=  : no value; is a variable of the shell unset?"),
        (f"a.b={10**30}", f"--set a.b={10**30}:1: the number {10**30} is too large"),
        ("a.l.2=1", "--set a.l.2=1: '2' is not a position in a list of 2"),
        ("a.l.x=1", "--set a.l.x=1: 'x' is not a position in a list of 2"),
        ("a.l.-1=1", "--set a.l.-1=1: '-1' is not a position in a list of 2"),
        ("a.b.c=1", "--set a.b.c=1: 'c' lies below 1, which holds no keys"),
        ("a.b=[!!python/object/apply:os.getcwd []]", "--set a.b=[!!python/object/apply:os.getcwd []]:1: 0: the tag "),
    ],
)
def test_overrides_that_cannot_be_placed(write, override, message):
    with pytest.raises(ConfigError) as caught:
        load_source(write("a: {b: 1, l: [{k: 0}, 2]}\n"), [override])
    assert str(caught.value).startswith(message)


def test_an_override_replaces_a_bad_value_and_its_location(write):
    source = load_source(write("a: [1, 2, 3]\n"), ["a=[9]"])
    assert source.where(("a", 0)).file == "--set a=[9]"
    assert source.where(("a", 2)).file == "--set a=[9]"


def test_what_yaml_repeats_counts_each_time(write):
    """Ten aliases to ten aliases to ... would be ten thousand million values."""
    lines = ["a0: &a0 [1]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 11))]
    with pytest.raises(ConfigError, match=r"^recipe\.yml:\d: a\d[.0-9]*: more than 10000 values"):
        load_source(write("\n".join(lines)))
    merges = [
        "a0: &a0 {x: 1, y: 2}",
        *(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, 11)),
    ]
    assert load_source(write("\n".join(merges))).data["a10"] == {"x": 1, "y": 2}


def test_of_merge_keys_the_own_key_wins_then_the_first(write):
    source = load_source(write("x: &x {p: 1, q: 1}\ny: &y {q: 2, r: 2}\nz:\n  r: 3\n  <<: [*x, *y]\n"))
    assert source.data["z"] == {"p": 1, "q": 1, "r": 3}
    assert source.where(("z", "r")).line == 4


def test_thousands_of_keys_take_no_longer_each(write):
    """Time grows with the number of keys, not with its square: bases and overrides of 3,000 keys are read at once."""
    write("".join(f"k{n}: {{a: {n}, b: [1, 2]}}\n" for n in range(1500)), "base.yml")
    start = time.process_time()
    source = load_source(write("base: base.yml\n" + "".join(f"k{n}: {{a: 0}}\n" for n in range(1500))), ["k7.a=1"])
    assert time.process_time() - start < 5
    assert source.data["k7"] == {"a": 1, "b": [1, 2]}
    assert source.where(("k8", "b", 1)).file == "base.yml"
    assert source.where(("k8", "a")) == Location("recipe.yml", 10)


def test_a_file_that_many_inherit_is_read_once(write):
    """Each of 30 files inherits twice from the one before: 2 ** 30 readings if each were read anew."""
    write("a: 1\n", "r0.yml")
    for number in range(1, 31):
        write(f"base: [r{number - 1}.yml, r{number - 1}.yml]\nb: {number}\n", f"r{number}.yml")
    assert load_source("r30.yml").data == {"a": 1, "b": 30}
    many = write(f"base: [{', '.join(['r0.yml'] * 51)}]\n")
    with pytest.raises(ConfigError, match=r"recipe\.yml:1: base: more than 50 files"):
        load_source(many)


def test_the_home_folder_in_a_base(write, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    write("a: 1\n", "home/base.yml")
    assert load_source(write("base: ~/base.yml\nb: 2\n")).data == {"a": 1, "b": 2}


def test_a_source_knows_how_its_words_were_typed_and_is_written_as_plain_yaml(write):
    source = load_source(write("a: 007\nb: on\nc: {d: [1e-4, 'no', '007']}\ne: ~\n"), ["f=0x1F"])
    assert source.typed() == {("a",): "007", ("b",): "on", ("c", "d", 0): "1e-4", ("f",): "0x1F"}
    assert source.to_yaml() == "a: 7\nb: true\nc:\n  d:\n  - 0.0001\n  - 'no'\n  - '007'\ne: null\nf: 31\n"


def test_a_pipe_that_nobody_writes_into_is_an_empty_recipe(tmp_path):
    os.mkfifo(tmp_path / "pipe.yml")
    assert load_source(tmp_path / "pipe.yml").data == {}


def test_what_somebody_writes_into_a_pipe_is_read():
    reading, writing = os.pipe()
    threading.Timer(0.2, lambda: (os.write(writing, b"name: x\n"), os.close(writing))).start()
    assert load_source(f"/dev/fd/{reading}").data == {"name": "x"}
    os.close(reading)


def test_a_folder_is_no_base(tmp_path, write):
    (tmp_path / "others").mkdir()
    with pytest.raises(ConfigError, match=r"recipe.yml:1: base: .*others is a folder; name a recipe file"):
        load_source(write("base: others\nname: x\n"))
