"""Restoring a real folder: what stands for a picture and is not restored makes the exit code 1 and is in test.log."""

import io
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from command_helpers import restore_small, restored_files
from file_helpers import tiff
from PIL import Image

from codes.images import decode, room, search
from codes.images.readers import read_layers

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


def bombs(folder):
    """A JPEG, a GIF and a TIFF that declare far more than they hold, and one above Pillow's own limit that is whole."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG")
    data = bytearray(buffer.getvalue())
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", 30000, 30000)
    (folder / "a.jpg").write_bytes(data)
    buffer = io.BytesIO()
    Image.new("P", (8, 8)).save(buffer, "GIF")
    (folder / "b.gif").write_bytes(buffer.getvalue()[:6] + struct.pack("<HH", 20000, 20000) + buffer.getvalue()[10:])
    data = bytearray(tiff(np.zeros((4, 4, 1), int), bits=8))
    for tag in (256, 257):
        place = data.index(struct.pack("<HHI", tag, 4, 1)) + 8
        data[place : place + 4] = struct.pack("<I", 20000)
    (folder / "c.tif").write_bytes(data)


@pytest.mark.usefixtures("here")
def test_bombs_and_whatever_a_decoder_raises_fail_alone(monkeypatch):
    bombs(Path("small"))
    Path("small/odd.bmp").write_bytes(b"BM" + bytes(60))
    monkeypatch.setattr(room, "available_memory", lambda: 2**40)  # whatever this machine has at the moment
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow's own limit, which raises an error of its own
    Image.fromarray(np.zeros((20, 24, 3), np.uint8)).save("small/large.tif")
    code, said = restore_small()
    assert code == 1
    assert restored_files() == ["large.png", "ok.png"]
    assert "2 images restored, 4 failed" in said
    for name in ("a.jpg", "b.gif", "c.tif"):
        assert f"small/{name}: damaged: its header declares" in said
    assert "small/odd.bmp: " in said


@pytest.mark.usefixtures("here")
def test_whatever_a_decoder_raises_is_that_images_failure(monkeypatch):
    class Odd(Exception):
        pass

    def raising(header, data, shortest_side=None):
        if header.format == "BMP":
            raise Odd("something nobody thought of")
        return read_layers(header, data, shortest_side)

    monkeypatch.setattr(decode, "read_layers", raising)
    Image.new("RGB", (24, 16)).save("small/odd.bmp")
    code, said = restore_small()
    assert code == 1
    assert restored_files() == ["ok.png"]
    assert "small/odd.bmp: not restored: cannot be decoded (something nobody thought of)" in said
