"""Restoring a real folder: what stands for a picture and is not restored makes the exit code 1 and is in test.log."""

import os
from pathlib import Path

import pytest
from door_helpers import restore_small, restored_files

from codes.images import search

LOG = Path("results/restored/test.log")


@pytest.mark.usefixtures("here")
def test_links_that_lead_nowhere_and_closed_folders_are_in_the_log(monkeypatch):
    os.symlink("nowhere.png", "small/gone.png")
    Path("small/closed").mkdir()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "closed" and access(path, mode))
    code, said = restore_small()
    assert code == 1
    assert restored_files() == ["ok.png"]
    for text in (said, LOG.read_text()):
        assert "1 image restored, 2 failed" in text
        assert "small/gone.png: a broken link" in text
        assert "small/closed: cannot be reached (Permission denied)" in text


@pytest.mark.usefixtures("here")
def test_a_phones_folder_on_a_nas(monkeypatch):
    monkeypatch.setattr(search, "EXTENSIONS", search.READABLE)
    Path("small/IMG_0001.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    thumbnail = Path("small/@eaDir/ok.png/SYNOPHOTO_THUMB_M.png")
    thumbnail.parent.mkdir(parents=True)
    thumbnail.write_bytes(Path("small/ok.png").read_bytes())
    code, said = restore_small()
    assert code == 1
    assert restored_files() == ["ok.png"]
    assert "small/IMG_0001.HEIC: .heic files are not read; install pillow-heif" in LOG.read_text()
    assert "1 hidden or system entry inside passed over (@eaDir)" in said


@pytest.mark.usefixtures("here")
def test_a_pipe_is_refused_before_anything_is_read():
    os.mkfifo("pipe.png")
    code, said = restore_small("datasets.test.paths=pipe.png")
    assert code == 2
    assert "pipe.png: a pipe; expected an image file or a folder" in said


@pytest.mark.usefixtures("here")
def test_names_forge_no_lines_of_the_log():
    name = "a\n00:00:00 I done: 9 images restored\x1b[2J.png"
    os.rename("small/ok.png", f"small/{name}")
    Path("small/b\n.png").write_text("no image")
    code, said = restore_small()
    assert code == 1
    for text in (said, LOG.read_text()):
        assert "\x1b" not in text
        assert not any(line.startswith("00:00:00") for line in text.splitlines())
        assert r"b\n.png: not an image file" in text
