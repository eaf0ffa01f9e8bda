"""One type for every option that names a file or a folder."""

import argparse
import os
from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin

import pytest

from codes.config.options import FilePart, Options, parse
from codes.config.paths import UserPath, user_path
from codes.config.yaml_source import load_source
from codes.recipe.recipe import Recipe, import_registered
from codes.runtime.command_line import path_argument
from codes.utils.errors import ConfigError

# Text that a description speaks of in the words of files, though it names none.
# "PathOptions.pretrain" is a mapping, whose values the third test reads.
NO_PATHS = {
    "PathOptions.pretrain", "FixedParameters.corruption_entropy", "OutputOptions.format", "OutputOptions.suffix",
    "PairedOptions.lq_suffix", "FeatureNetworkOptions.sha256", "LabelledOptions.classes",
}  # fmt: skip


def all_options(cls: type = Options) -> Iterator[type[Options]]:
    for child in cls.__subclasses__():
        if child.__module__.startswith("codes."):
            yield child
        yield from all_options(child)


def texts_of(annotation: Any, marks: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The marks of every plain text in an annotation."""
    if annotation is str:
        yield marks
    elif get_origin(annotation) is Annotated:
        inner, *own = get_args(annotation)
        yield from texts_of(inner, (*marks, *own))
    else:
        for part in get_args(annotation):
            if isinstance(part, type) or get_origin(part) is not None:
                yield from texts_of(part, marks)


def test_every_option_that_names_a_file_or_folder_is_a_path():
    """So that ~ means the home folder in all of them, a plugin's own among them when it follows the example."""
    import_registered()
    path, name_of_file = get_args(UserPath)[1], get_args(FilePart)[1]
    checked, wrong = 0, []
    for options in set(all_options()):
        for name, field in options.model_fields.items():
            words = field.description or ""
            if f"{options.__name__}.{name}" in NO_PATHS or not ("file" in words or "older" in words):
                continue
            for marks in texts_of(field.annotation, tuple(field.metadata)):
                checked += 1
                if path not in marks and name_of_file not in marks:
                    wrong.append(f"{options.__name__}.{name}: {words[:80]}")
    assert checked >= 10
    assert not wrong


def test_the_home_folder_and_what_is_no_path(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert user_path("~/in") == "/home/somebody/in"
    assert user_path("a/~/b") == "a/~/b"
    assert user_path("/a b #c") == "/a b #c"
    with pytest.raises(ValueError, match=r"no such home folder; for a file of that name write '\./~nobody_at_all/x'"):
        user_path("~nobody_at_all/x")
    os.mkdir("~nobody_at_all")
    assert user_path("~nobody_at_all") == "~nobody_at_all"
    for text in ("", "  ", "a\0b", "x" * 5000):
        with pytest.raises(ValueError, match="path"):
            user_path(text)
    assert str(path_argument("~/x")) == "/home/somebody/x"
    with pytest.raises(argparse.ArgumentTypeError, match="an empty path"):
        path_argument("")


def test_paths_of_a_recipe_know_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    (tmp_path / "r.yml").write_text(
        "name: x\nplugins: [~/p.py]\nnetworks: {}\n"
        "path: {pretrain_model_a: ~/a.pth, pretrain_model_b: auto, results: ~/out, experiment: ~/e,\n"
        "       resume_state: ~/s}\n"
        "datasets: {test: {mode: imagefolder, paths: [~/in, in], skip_lq: true, ground_truth: ~/t}}\n"
    )
    recipe = parse(Recipe, load_source("r.yml"))
    assert recipe.plugins == ("/home/somebody/p.py",)
    assert recipe.path.pretrain == {"a": "/home/somebody/a.pth", "b": "auto"}
    assert (recipe.path.results, recipe.path.experiment) == ("/home/somebody/out", "/home/somebody/e")
    assert recipe.path.resume_state == "/home/somebody/s"
    assert recipe.datasets["test"].path_list == ("/home/somebody/in", "in")
    assert recipe.datasets["test"].ground_truth == "/home/somebody/t"


@pytest.mark.parametrize("key", ["datasets.test.paths", "path.results", "path.pretrain_model_a", "path.experiment"])
def test_an_empty_path_is_refused_at_its_key(monkeypatch, tmp_path, key):
    """An unset variable within quotes must not mean the sample photographs, or the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yml").write_text("name: x\ndatasets: {test: {mode: imagefolder}}\n")
    with pytest.raises(ConfigError, match=f"^--set {key}='': {key}: an empty path"):
        parse(Recipe, load_source("r.yml", [f"{key}=''"]))
