"""Atomic writing: a reader sees the old file or the new one, never half of one."""

import errno
import json
import math
import os

import pytest

from codes.utils import files
from codes.utils.files import atomic_write, json_text, user_cache_folder, write_json, write_text


def test_a_new_file_appears_whole_with_its_folders(tmp_path):
    path = tmp_path / "a" / "b" / "c.txt"
    write_text(path, "größe\n")
    assert path.read_bytes() == "größe\n".encode()
    assert [entry.name for entry in path.parent.iterdir()] == ["c.txt"]


def test_the_temporary_name_is_hidden_beside_it_and_keeps_the_suffix(tmp_path):
    path = tmp_path / "image.tar.png"
    with atomic_write(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.name.startswith(".")
        assert temporary.suffix == ".png"
        temporary.write_bytes(b"x")
        assert not path.exists()
    assert path.read_bytes() == b"x"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "x.txt"
    path.write_text("old")
    with pytest.raises(error), atomic_write(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.txt"]


def test_a_writer_that_writes_nothing_is_an_error(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), atomic_write(path):
        pass
    assert path.read_text() == "old"


def test_a_disk_that_is_full_at_the_flush_keeps_the_old_file(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "x.txt"
    path.write_text("old")
    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.txt"]


@pytest.mark.parametrize("name", ["x" * 251, "图" * 83, "\U0001f600" * 62])
def test_names_of_the_greatest_length(tmp_path, name):
    path = tmp_path / f"{name}.png"
    assert len(os.fsencode(path.name)) > 250
    write_text(path, "x")
    assert path.read_text() == "x"


def test_a_folder_in_the_place_of_the_file(tmp_path):
    (tmp_path / "x.txt" / "inside").mkdir(parents=True)
    with pytest.raises(OSError):
        write_text(tmp_path / "x.txt", "new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.txt"]


def test_an_error_of_the_disk_says_which_file_it_was(tmp_path):
    with pytest.raises(OSError, match=r"No space") as raised, atomic_write(tmp_path / "x.txt"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert raised.value.filename == str(tmp_path / "x.txt")


def test_numbers_that_json_lacks_are_null(tmp_path):
    write_json(tmp_path / "x.json", {"a": math.inf, "b": [1.5, math.nan, {"c": -math.inf}], "d": "inf", "e": True})
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"a": None, "b": [1.5, None, {"c": None}], "d": "inf", "e": True}
    assert "Infinity" not in text


def test_a_name_that_is_no_text_is_written_and_read_again():
    for name in ("Löwe.png", b"L\xf6we.png".decode("utf-8", "surrogateescape")):
        line = json_text({"file": name})
        assert line.endswith("\n")
        assert json.loads(line.encode("utf-8")) == {"file": name}
    assert "ö" in json_text("Löwe")  # for people


def test_the_cache_is_where_the_platform_wants_it(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    for platform, place in (("linux", ".cache/tessera"), ("darwin", "Library/Caches/tessera")):
        monkeypatch.setattr(files.sys, "platform", platform)
        assert user_cache_folder() == tmp_path / place
