"""Mutated recipes: read, or refused by our own errors with file and line, each within seconds."""

import copy
import random
import re
import time
from pathlib import Path

import pytest
import yaml
from command_helpers import RESTORING, TRAINING

from codes.config.yaml_source import load_source
from codes.recipe.checks import check_training
from codes.recipe.recipe import read_recipe, settled
from codes.recipe.remarks import remarks_of
from codes.utils.errors import ConfigError

VALUES = [
    None, True, 0, -1, 1, 2, 7, 10**6, 10**9, 2**31, 10**12, 2**62, 10**40, -(10**40), 0.5, -0.5, 1e-30, 1e30, 1e308,
    float("inf"), float("-inf"), float("nan"), "", " ", "x", "auto", "~", "../..", "a/b", "\0", "\x1b[31m", "\n",
    "é" * 300, "x" * 5000, [], [1], [0], [-1], [1, 2, 3], [None], ["x"], [[1]], [10**9] * 5, [1] * 3000, {}, {"x": 1},
    {"type": "x"}, {"type": "direct"}, {"start": 1}, "linear0.00001", "trailing1", "ddim0", "karras8",
]  # fmt: skip
SIGNS = "[]{}:,#&*!|>'\"%@`-?~ \n\t0123456789abx\\\x07\u2028"
SECONDS = 5.0  # of this process, whatever else the machine does
FOUND = (1424, 2036, 3125, 5906, 6453, 6455)  # of the ten thousand, before they were refused by name
LOCATED = re.compile(r"^[^\n]*(\.yml:\d+: |--set [^\n]*)")


def paths(data, path=()):
    if path:
        yield path
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield from paths(value, (*path, key))


def mutated(text, rng):
    """The text of a recipe with one to three mutations of its values, keys, structure or characters."""
    if rng.random() < 0.25:
        for _ in range(rng.randint(1, 3)):
            place = rng.randrange(len(text))
            cut = rng.choice([0, 0, 1, 5])
            text = text[:place] + "".join(rng.choices(SIGNS, k=rng.randint(0, 3))) + text[place + cut :]
        return text
    data = copy.deepcopy(yaml.safe_load(text))
    for _ in range(rng.randint(1, 3)):
        mutate(data, rng)
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)


def mutate(data, rng):
    path = rng.choice([*paths(data)])
    place = data
    for key in path[:-1]:
        place = place[key]
    kind = rng.random()
    if kind < 0.6:
        place[path[-1]] = copy.deepcopy(rng.choice(VALUES))
    elif kind < 0.75:
        del place[path[-1]]
    elif isinstance(place, dict):
        name = rng.choice(["x", "every", "weight", f"{path[-1]}s", "type", "base", "plugins", "generate"])
        place[name] = place.pop(path[-1]) if kind < 0.85 else copy.deepcopy(rng.choice(VALUES))


def read(kind, text):
    """Everything that is done with a recipe before data or weights are read."""
    file = Path("r.yml")
    file.write_text(text, encoding="utf-8")
    source = load_source(file)
    check = (lambda recipe: check_training(recipe, source)) if kind == "train" else (lambda _: None)
    recipe = read_recipe(source, check)
    settled(source).to_yaml()
    list(remarks_of(recipe))


def outcome(kind, text):
    start = time.process_time()
    try:
        read(kind, text)
        wrong = None
    except ConfigError as error:
        unlocated = [line for line in str(error).splitlines() if not LOCATED.match(line)]
        wrong = f"without a line: {unlocated[0][:200]}" if unlocated else None
    except Exception as error:
        wrong = f"{type(error).__name__}: {str(error)[:200]}"
    seconds = time.process_time() - start
    return wrong or (f"took {seconds:.1f} s" if seconds > SECONDS else None)


def check(seeds):
    failures = {}
    for seed in seeds:
        rng = random.Random(seed)
        kind, text = rng.choice([("train", TRAINING), ("test", RESTORING)])
        changed = mutated(text, rng)
        if wrong := outcome(kind, changed):
            failures[seed] = f"{wrong}\n{changed[:1500]}"
    assert not failures, f"{len(failures)} of {len(seeds)}: " + "\n---\n".join(
        f"{s}: {t}" for s, t in [*failures.items()][:5]
    )


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_mutated_recipes_are_read_or_refused_with_file_and_line():
    check([*range(300), *FOUND])


@pytest.mark.slow
def test_ten_thousand_mutated_recipes_are_read_or_refused_with_file_and_line():
    check(range(1000, 11000))
