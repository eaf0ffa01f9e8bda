"""Uncompressed pixels that stop in the middle of a row are damage; black that was photographed is not."""

import io

import numpy as np
import pytest
import tifffile
from file_helpers import tiff
from PIL import Image

from codes.images.bands import open_bands
from codes.images.files import read_image, read_samples
from codes.utils.errors import DataError

HEIGHT, WIDTH = 61, 83
# Bytes of a row, as the formats say.
ROWS = {
    "rgb.bmp": 252, "gray.bmp": 84, "clear.bmp": 332, "palette.bmp": 84, "rgb.ppm": 249, "gray.pgm": 83,
    "deep.pgm": 166, "deep.ppm": 498, "rgb.tif": 249, "gray.tif": 83, "white.tif": 83, "deep.tif": 498,
    "planes.tif": 83, "strips.tif": 249, "tiles.tif": 48, "floats.tif": 996, "clear.tif": 332,
}  # fmt: skip


def samples(channels=3, top=255):
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    waves = np.stack([0.55 + 0.3 * np.sin(x / (4 + c)) * np.cos(y / (5 + c)) for c in range(channels)], -1)
    noise = np.random.default_rng(0).normal(0, 0.02, waves.shape)
    return ((waves + noise).clip(0, 1) * top).astype(np.uint16 if top > 255 else np.uint8)


def pillow(image, kind, **settings):
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def pnm(magic, values, top):
    height, width = values.shape[:2]
    return b"%s\n%d %d\n%d\n" % (magic, width, height, top) + values.astype(">u2" if top > 255 else "u1").tobytes()


def strips(values, **settings):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, photometric="rgb", **settings)
    return buffer.getvalue()


def encoded(name, change=lambda values: values):
    """The bytes of a file, pixels last, whose samples `change` has changed."""
    rgb, gray, deep = change(samples()), change(samples(1)), change(samples(top=65535))
    clear = np.concatenate([rgb, np.full_like(gray, 200)], -1)
    return {
        "rgb.bmp": lambda: pillow(Image.fromarray(rgb), "BMP"),
        "gray.bmp": lambda: pillow(Image.fromarray(gray[..., 0]), "BMP"),
        "palette.bmp": lambda: pillow(Image.fromarray(gray[..., 0]).convert("P"), "BMP"),
        "clear.bmp": lambda: pillow(Image.fromarray(clear), "BMP"),
        "rgb.ppm": lambda: pnm(b"P6", rgb, 255),
        "gray.pgm": lambda: pnm(b"P5", gray, 255),
        "deep.pgm": lambda: pnm(b"P5", deep[..., :1], 65535),
        "deep.ppm": lambda: pnm(b"P6", deep, 65535),
        "rgb.tif": lambda: tiff(rgb, bits=8, photometric=2),
        "gray.tif": lambda: tiff(gray, bits=8),
        "white.tif": lambda: tiff(gray, bits=8, photometric=0),
        "deep.tif": lambda: tiff(deep, bits=16, photometric=2),
        "planes.tif": lambda: tiff(rgb, bits=8, photometric=2, planar=2),
        "strips.tif": lambda: strips(rgb, rowsperstrip=7),
        "tiles.tif": lambda: strips(rgb, tile=(16, 16)),
        "floats.tif": lambda: tiff(rgb.astype(np.float32) / 255, bits=32, photometric=2, kind=3),
        "clear.tif": lambda: tiff(clear, bits=8, photometric=2, extra=(2,)),
    }[name]()


@pytest.mark.parametrize("share", [0.3, 0.5, 0.76])
@pytest.mark.parametrize("name", ROWS)
def test_pixels_that_stop_in_the_middle_of_a_row_are_damage(tmp_path, name, share):
    data = encoded(name)
    rows = int(HEIGHT * (1 - share)) * {"planes.tif": 3, "tiles.tif": 6}.get(name, 1)
    lost = int((rows + 1 / 3) * ROWS[name])
    (tmp_path / name).write_bytes(data)
    assert read_samples(tmp_path / name).shape == (HEIGHT, WIDTH, 3)
    (tmp_path / name).write_bytes(data[:-lost] + bytes(lost))
    for read in (read_image, read_samples):
        with pytest.raises(DataError, match=rf"{name}: damaged: its pixels stop in the middle of a row"):
            read(tmp_path / name)


@pytest.mark.parametrize("name", ["rgb.tif", "strips.tif", "deep.tif"])
def test_bands_of_a_file_whose_pixels_stop_are_refused_when_it_is_opened(tmp_path, name):
    data = encoded(name)
    lost = 20 * ROWS[name] + ROWS[name] // 3
    (tmp_path / name).write_bytes(data)
    assert open_bands(tmp_path / name).shape == (HEIGHT, WIDTH, 3)
    (tmp_path / name).write_bytes(data[:-lost] + bytes(lost))
    with pytest.raises(DataError, match=rf"{name}: damaged: its pixels stop in the middle of a row"):
        open_bands(tmp_path / name)


def half(values):
    values[HEIGHT // 2 :] = 0
    return values


def upper_half(values):
    values[: HEIGHT // 2] = 0
    return values


def night(values):
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    values[y > 20 + 8 * np.sin(x / 9)] = 0
    return values


def corner(values):
    values[-3:, 40:] = 0
    return values


def sparse(values):
    """Stars and their dim light above, nothing below."""
    dim = np.random.default_rng(1).random(values.shape[:2]) < 0.3
    values[~dim] = 0
    values[30, 40:] = 0
    values[31:] = 0
    return values


def frame(values):
    values[:9] = values[-9:] = values[:, :9] = values[:, -9:] = 0
    return values


def slope(values):
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    values[y > 20 + 0.05 * x] = 0
    return values


def nothing(values):
    return values * 0


@pytest.mark.parametrize("change", [half, upper_half, night, corner, sparse, frame, slope, nothing])
@pytest.mark.parametrize("name", ROWS)
def test_black_that_was_photographed_is_read(tmp_path, name, change):
    data = encoded(name, change)
    (tmp_path / name).write_bytes(data)
    assert read_samples(tmp_path / name).shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("name", ["clear.bmp", "clear.tif"])
def test_a_lower_half_that_is_transparent_is_read(tmp_path, name):
    rgb = samples()
    clear = np.concatenate([rgb, np.full_like(rgb[..., :1], 255)], -1)
    clear[30:] = 0
    data = pillow(Image.fromarray(clear), "BMP" if name == "clear.bmp" else "TIFF")
    (tmp_path / name).write_bytes(data)
    assert read_samples(tmp_path / name).shape == (HEIGHT, WIDTH, 3)
