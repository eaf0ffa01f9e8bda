"""Files that stop before their end or hold a hole are refused; what lies behind the end, and flat pictures, are not."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from codes.images.endings import check_ending
from codes.images.files import looks_whole, read_image, read_samples
from codes.images.layers import Refused
from codes.utils.errors import DataError

HEIGHT, WIDTH = 90, 120


def photograph():
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    waves = np.stack([127 + 90 * np.sin(x / 9), 127 + 90 * np.cos(y / 7), 127 + 90 * np.sin((x + y) / 11)], -1)
    noise = np.random.default_rng(0).normal(0, 12, waves.shape)
    return Image.fromarray((waves + noise).clip(0, 255).astype(np.uint8))


def encoded(kind, image=None, **settings):
    buffer = io.BytesIO()
    (image or photograph()).save(buffer, kind, **settings)
    return buffer.getvalue()


FILES = {
    "a.jpg": ("JPEG", {"quality": 90}),
    "progressive.jpg": ("JPEG", {"quality": 90, "progressive": True}),
    "gray.jpg": ("JPEG", {"quality": 90, "image": "L"}),
    "inks.jpg": ("JPEG", {"quality": 90, "image": "CMYK"}),
    "a.png": ("PNG", {}),
    "a.webp": ("WEBP", {"quality": 90}),
    "clear.webp": ("WEBP", {"quality": 90, "image": "RGBA"}),
    "lossless.webp": ("WEBP", {"lossless": True}),
    "a.avif": ("AVIF", {"quality": 85, "speed": 10}),
    "a.gif": ("GIF", {}),
    "a.jp2": ("JPEG2000", {}),
    "lzw.tif": ("TIFF", {"compression": "tiff_lzw"}),
    "deflate.tif": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    "zstd.tif": ("TIFF", {"compression": "zstd"}),
}


@pytest.fixture(scope="module")
def files():
    made = {}
    for name, (kind, settings) in FILES.items():
        others = {key: value for key, value in settings.items() if key != "image"}
        image = photograph().convert(settings.get("image", "RGB"))
        if image.mode == "RGBA":
            image.putalpha(Image.linear_gradient("L").resize(image.size))
        made[name] = encoded(kind, image, **others)
    return made


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(("start", "end"), [(0.55, 1.0), (0.55, 0.8), (0.3, 0.5), (0.9, 1.0)])
def test_a_run_of_zeros_is_damage(tmp_path, files, name, start, end):
    data = bytearray(files[name])
    first, last = int(len(data) * start), int(len(data) * end)
    data[first:last] = bytes(last - first)
    (tmp_path / name).write_bytes(data)
    for read in (read_image, read_samples):
        with pytest.raises(DataError, match=name):
            read(tmp_path / name)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95])
def test_a_file_that_was_cut_off_is_damage(tmp_path, files, name, kept):
    data = files[name]
    (tmp_path / name).write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(DataError, match=name):
        read_image(tmp_path / name)


@pytest.mark.parametrize(("name", "mark"), [("a.jpg", 2), ("gray.jpg", 2), ("a.png", 12), ("a.gif", 1), ("a.jp2", 2)])
def test_the_end_mark_itself_may_not_be_missing(tmp_path, files, name, mark):
    (tmp_path / name).write_bytes(files[name][:-mark])
    with pytest.raises(DataError, match=rf"{name}: damaged: its end is missing"):
        read_image(tmp_path / name)


@pytest.mark.parametrize(
    "behind", [bytes(10_000), b"MotionPhoto_Data" + bytes(range(256)) * 30, b"\xff\xd8\xff\xe1 and more"]
)
@pytest.mark.parametrize("name", [name for name in FILES if not name.endswith("tif")])
def test_data_behind_the_end_is_allowed(tmp_path, files, name, behind):
    (tmp_path / f"whole_{name}").write_bytes(files[name])
    (tmp_path / name).write_bytes(files[name] + behind)
    whole, longer = read_image(tmp_path / f"whole_{name}"), read_image(tmp_path / name)
    assert np.array_equal(whole.rgb, longer.rgb)


def test_a_second_picture_behind_a_jpeg_is_allowed(tmp_path):
    photograph().save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[photograph().rotate(90)])
    assert read_image(tmp_path / "a.jpg").rgb.shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("JPEG", {"optimize": True}), ("JPEG", {"progressive": True}), ("PNG", {}), ("GIF", {}), ("WEBP", {}),
        ("WEBP", {"lossless": True, "method": 0}), ("AVIF", {"speed": 10}), ("JPEG2000", {}),
        ("TIFF", {"compression": "tiff_lzw"}), ("TIFF", {"compression": "packbits"}),
    ],
)  # fmt: skip
def test_flat_pictures_are_no_damage(kind, settings):
    for picture in (np.zeros((900, 600, 3), np.uint8), np.full((900, 600, 3), 200, np.uint8)):
        half = picture.copy()
        half[:50] = np.random.default_rng(0).integers(0, 256, half[:50].shape)
        for content in (picture, half):
            if kind == "AVIF":
                content = content[:400, :400]
            check_ending(encoded(kind, Image.fromarray(content), **settings), kind)


def test_a_hole_in_the_transparency_of_a_webp_is_damage(tmp_path):
    image = photograph().convert("RGBA")
    image.putalpha(photograph().convert("L"))
    data = bytearray(encoded("WEBP", image, quality=20))
    start = data.find(b"ALPH") + 8
    length = int.from_bytes(data[start - 4 : start], "little")
    data[start + length // 3 : start + length // 2] = bytes(length // 2 - length // 3)
    (tmp_path / "a.webp").write_bytes(data)
    with pytest.raises(DataError, match=r"a\.webp: (damaged|cannot be decoded)"):
        read_image(tmp_path / "a.webp")


def test_padding_in_front_of_the_end_of_a_jpeg_is_harmless(tmp_path):
    data = encoded("JPEG")
    for padding in (b"\0" * 3, b"\x12" * 16, b"\xff" * 9):
        (tmp_path / "a.jpg").write_bytes(data[:-2] + padding + data[-2:])
        assert read_image(tmp_path / "a.jpg").rgb.shape == (HEIGHT, WIDTH, 3)


def test_a_jpeg_of_very_many_scans_is_refused():
    scan = b"\xff\xda" + struct.pack(">H", 8) + bytes(6) + b"x"
    with pytest.raises(Refused, match="more than 500 scans"):
        check_ending(b"\xff\xd8" + scan * 501 + b"\xff\xd9", "JPEG")


def test_a_glance_never_calls_a_broken_file_whole(tmp_path, files):
    for name, data in files.items():
        path = tmp_path / name
        path.write_bytes(data)
        assert looks_whole(path), name
        if not name.endswith("tif"):
            path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
            assert not looks_whole(path), name
