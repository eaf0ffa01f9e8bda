"""HEIC and JPEG XL, where the packages that read them are installed: their depth, their turn, damage and bombs."""

import io

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from codes.images.files import probe_image, read_image
from codes.images.jpeg_xl import jpeg_xl_header
from codes.utils.errors import DataError

HEIGHT, WIDTH = 24, 40
Y, X = np.mgrid[:HEIGHT, :WIDTH]
RGB = np.stack([X / (WIDTH - 1), Y / (HEIGHT - 1), (X + Y) / (WIDTH + HEIGHT - 2)], axis=2)
ALPHA = np.full((HEIGHT, WIDTH, 1), 0.6)


def whole(values, bits):
    return np.rint(values * (2**bits - 1)).astype(np.uint8 if bits == 8 else np.uint16)


def read(path):
    info = probe_image(path)
    assert (info.height, info.width) == (HEIGHT, WIDTH)
    return read_image(path)


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize(
    "planes", [RGB[..., :1], RGB, np.concatenate([RGB, ALPHA], axis=2)], ids=["gray", "rgb", "rgba"]
)
def test_a_jpeg_xl_keeps_every_bit(tmp_path, planes, bits):
    pytest.importorskip("pillow_jxl")
    values = whole(planes, bits)
    data = imagecodecs.jpegxl_encode(values.squeeze(), lossless=True, bitspersample=bits)
    (tmp_path / "a.jxl").write_bytes(data)
    picture = read(tmp_path / "a.jxl")
    # The encoder marks what has more than 8 bits as linear light, which the curve of sRGB steepens in the shadows.
    light = values[..., : 1 if planes.shape[2] == 1 else 3] / (2**bits - 1)
    curve = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    truth = light if bits == 8 else curve
    assert np.abs(picture.rgb - truth).max() < 4e-4
    assert picture.bit_depth == (8 if bits == 8 else 16)
    assert picture.gray == (planes.shape[2] == 1)
    assert (picture.alpha is not None) == (planes.shape[2] == 4)


def test_a_jpeg_xl_made_of_a_turned_jpeg_stands_upright(tmp_path):
    pytest.importorskip("pillow_jxl")
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Camera"
    Image.fromarray(whole(RGB.swapaxes(0, 1), 8)).save(tmp_path / "a.jpg", exif=exif.tobytes(), quality=95)
    Image.open(tmp_path / "a.jpg").save(tmp_path / "a.jxl", lossless_jpeg=True)
    picture, twin = read(tmp_path / "a.jxl"), read(tmp_path / "a.jpg")
    assert np.abs(picture.rgb - twin.rgb).mean() < 0.01
    kept = Image.Exif()
    kept.load(picture.exif)
    assert (kept.get(0x0112, 1), kept[0x010F]) == (1, "Camera")


def test_a_jpeg_xl_says_its_size_before_it_is_decoded(tmp_path, monkeypatch):
    data = bytearray(imagecodecs.jpegxl_encode(np.zeros((HEIGHT, 1000, 3), np.uint8), lossless=True))
    assert jpeg_xl_header(bytes(data))[:2] == (HEIGHT, 1000)
    (tmp_path / "a.jxl").write_bytes(data)
    monkeypatch.setattr(Image, "open", lambda *_: pytest.fail("opened by its plugin, which decodes it"))
    with pytest.raises(DataError, match="max_pixels"):
        read_image(tmp_path / "a.jxl", max_pixels=HEIGHT * 999)


@pytest.mark.parametrize("part", [14, 25, 42])
def test_the_header_of_a_jpeg_xl_that_is_cut_off_is_damage(tmp_path, part):
    (tmp_path / "a.jxl").write_bytes(imagecodecs.jpegxl_encode(whole(RGB, 16), lossless=True)[:part])
    with pytest.raises(DataError, match=r"a\.jxl: damaged"):
        probe_image(tmp_path / "a.jxl")


def heic(tmp_path, planes, bits, monkeypatch):
    package = pytest.importorskip("pillow_heif")
    monkeypatch.setattr(package.options, "SAVE_HDR_TO_12_BIT", bits == 12)
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[planes.shape[2]] + ("" if bits == 8 else ";16")
    data = whole(planes, 8 if bits == 8 else 16).tobytes()
    buffer = io.BytesIO()
    package.from_bytes(mode=mode, size=(WIDTH, HEIGHT), data=data).save(buffer, quality=-1, chroma=444)
    (tmp_path / "a.heic").write_bytes(buffer.getvalue())
    return tmp_path / "a.heic"


@pytest.mark.parametrize("bits", [8, 10, 12])
@pytest.mark.parametrize(
    "planes", [RGB[..., :1], RGB, np.concatenate([RGB, ALPHA], axis=2)], ids=["gray", "rgb", "rgba"]
)
def test_a_heic_keeps_its_depth(tmp_path, monkeypatch, planes, bits):
    picture = read(heic(tmp_path, planes, bits, monkeypatch))
    colours = planes[..., : 1 if planes.shape[2] == 1 else 3]
    assert np.abs(picture.rgb - colours).max() < 3 / 2**bits  # its colours are stored as luma and chroma
    assert picture.bit_depth == (8 if bits == 8 else 16)
    assert picture.gray == (planes.shape[2] == 1)
    if planes.shape[2] == 4:
        assert picture.alpha == pytest.approx(0.6, abs=0.01)


@pytest.mark.parametrize(("start", "end"), [(0.6, 0.8), (0.6, 1.0)])
@pytest.mark.parametrize("name", ["a.heic", "a.jxl"])
def test_a_part_of_zeros_is_damage(tmp_path, monkeypatch, name, start, end):
    noise = np.random.default_rng(0).random((HEIGHT, WIDTH, 3))
    if name == "a.heic":
        heic(tmp_path, noise, 8, monkeypatch)
    else:
        pytest.importorskip("pillow_jxl")
        (tmp_path / name).write_bytes(imagecodecs.jpegxl_encode(whole(noise, 8), lossless=True))
    data = bytearray((tmp_path / name).read_bytes())
    a, b = round(len(data) * start), round(len(data) * end)
    data[a:b] = bytes(b - a)
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError):
        read_image(tmp_path / name)
