"""Bombs are refused by what they declare, before memory is taken; large honest files are read."""

import io
import struct

import numpy as np
import pytest
import tifffile
from file_helpers import chunk, png
from PIL import Image

from codes.images import decode, room
from codes.images.files import probe_image, read_image, read_samples
from codes.images.room import available_memory, check_declared
from codes.utils.errors import DataError


def with_size(data, width, height, place, form):
    return data[:place] + struct.pack(form, height, width) + data[place + struct.calcsize(form) :]


def test_a_jpeg_of_some_hundred_bytes_that_asks_for_gigabytes(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (9, 99, 200)).save(buffer, "JPEG")
    data = buffer.getvalue()
    (tmp_path / "bomb.jpg").write_bytes(with_size(data, 30000, 30000, data.index(b"\xff\xc0") + 5, ">HH"))
    for read in (read_image, read_samples):
        with pytest.raises(DataError, match=r"bomb\.jpg: damaged: its header declares 30000 x 30000 pixels, more than"):
            read(tmp_path / "bomb.jpg")


def test_a_gif_that_declares_a_huge_canvas(tmp_path):
    buffer = io.BytesIO()
    Image.new("P", (8, 8)).save(buffer, "GIF")
    data = buffer.getvalue()
    (tmp_path / "bomb.gif").write_bytes(data[:6] + struct.pack("<HH", 20000, 20000) + data[10:])
    with pytest.raises(DataError, match=r"bomb\.gif: damaged: its header declares 20000 x 20000 pixels"):
        read_image(tmp_path / "bomb.gif")


def test_a_png_that_declares_more_than_it_holds(tmp_path):
    data = png(np.zeros((2, 3, 1)), 0, bits=8)
    head = struct.pack(">IIBBBBB", 30000, 30000, 8, 0, 0, 0, 0)
    (tmp_path / "bomb.png").write_bytes(data[:8] + chunk(b"IHDR", head) + data[33:])
    with pytest.raises(DataError, match=r"bomb\.png: damaged: its header declares"):
        read_image(tmp_path / "bomb.png")


def test_a_lossless_webp_of_some_bytes_that_asks_for_gigabytes(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (9, 99, 200)).save(buffer, "WEBP", lossless=True)
    data = bytearray(buffer.getvalue())
    place = data.index(b"VP8L") + 9
    data[place : place + 4] = (16382 | 16382 << 14).to_bytes(4, "little")
    (tmp_path / "bomb.webp").write_bytes(data)
    with pytest.raises(DataError, match=r"bomb\.webp: damaged: its header declares 16383 x 16383 pixels"):
        read_image(tmp_path / "bomb.webp")


def test_a_tiff_whose_jpeg_is_smaller_than_it_declares(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (9, 99, 200)).save(buffer, "TIFF", compression="jpeg")
    data = bytearray(buffer.getvalue())
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        tags = [file.pages[0].tags[name] for name in ("ImageWidth", "ImageLength", "RowsPerStrip")]
    for tag in tags:
        size = 2 if tag.dtype == 3 else 4
        data[tag.valueoffset : tag.valueoffset + size] = (20000).to_bytes(size, "little")
    (tmp_path / "bomb.tif").write_bytes(data)
    with pytest.raises(DataError, match=r"bomb\.tif: damaged: its header declares 20000 x 20000 pixels"):
        read_image(tmp_path / "bomb.tif")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "JPEG2000"])
@pytest.mark.parametrize("mode", ["1", "L"])
def test_the_emptiest_honest_pictures_are_not_taken_for_bombs(kind, mode):
    image = Image.new(mode, (4000, 3000))
    settings = {"optimize": True, "progressive": True} if kind == "JPEG" else {}
    buffer = io.BytesIO()
    settings |= {"lossless": True} if kind == "WEBP" else {}
    (image.convert("L") if kind.startswith("JPEG") and mode == "1" else image).save(buffer, kind, **settings)
    check_declared(kind, 4000, 3000, len(buffer.getvalue()))


def test_an_image_for_which_there_is_no_memory_is_refused_by_name(tmp_path, monkeypatch):
    Image.new("L", (2100, 2100)).save(tmp_path / "a.png")
    assert read_samples(tmp_path / "a.png").shape == (2100, 2100, 3)
    monkeypatch.setattr(room, "available_memory", lambda: 2**25)
    with pytest.raises(
        DataError, match=r"a\.png: 2100 x 2100 pixels take about 0\.\d GiB of memory to read, and 0\.0 GiB"
    ):
        read_samples(tmp_path / "a.png")
    assert probe_image(tmp_path / "a.png").height == 2100
    monkeypatch.setattr(decode, "available_memory", lambda: 100)
    with pytest.raises(DataError, match=r"a\.png: a file of \d+ bytes, and 100 bytes of memory are available"):
        read_samples(tmp_path / "a.png")


def test_memory_is_asked_of_the_system():
    free = available_memory()
    assert free is None or 2**20 < free < 2**50


@pytest.mark.parametrize("bits", [8, 16])
def test_a_tiff_above_pillows_limit_is_read_like_a_png(tmp_path, monkeypatch, bits):
    """14000 x 14000 in small: Pillow's limit is lowered instead."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    values = np.arange(30 * 40).reshape(30, 40).astype(f"u{bits // 8}")
    tifffile.imwrite(tmp_path / "a.tif", values, compression="zlib")
    assert np.array_equal(read_samples(tmp_path / "a.tif")[..., 0], values)
    assert probe_image(tmp_path / "a.tif").width == 40
    assert Image.MAX_IMAGE_PIXELS == 100


def test_the_limit_is_far_above_what_cameras_make():
    assert decode.MAX_PIXELS == 1_000_000_000
