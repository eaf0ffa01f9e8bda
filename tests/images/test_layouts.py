"""More than 8 bits in every layout: files written by hand are their truth to half a step of depth, or refused."""

import imagecodecs
import numpy as np
import pytest
import tifffile
from file_helpers import png, tiff
from PIL import Image

from codes.images.files import probe_image, quantise, read_image, read_samples
from codes.utils.errors import DataError

HEIGHT, WIDTH = 6, 10
GRAY = np.linspace(0, 1, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH, 1)
RGB = np.concatenate([GRAY, GRAY[::-1] ** 2, 1 - GRAY], axis=2)
ALPHA = np.linspace(0.2, 1, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH, 1)


def whole(values, bits):
    return np.rint(values * (2**bits - 1)).astype(np.int64)


def read(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    info = probe_image(tmp_path / name)
    assert (info.height, info.width) == (HEIGHT, WIDTH)
    picture = read_image(tmp_path / name)
    assert picture.rgb.shape == (HEIGHT, WIDTH, 3)
    return picture


def off(picture, truth):
    return np.abs(picture.rgb - np.broadcast_to(truth, (HEIGHT, WIDTH, 3))).max()


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("planar", [1, 2])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16, 32])
@pytest.mark.parametrize("values", [GRAY, RGB], ids=["gray", "rgb"])
def test_tiff_of_every_depth_with_its_channels_together_or_apart(tmp_path, values, bits, planar, compress):
    channels = values.shape[2]
    photometric = 1 if channels == 1 else 2
    data = tiff(whole(values, bits), bits=bits, photometric=photometric, planar=planar, compress=compress)
    picture = read(tmp_path, "a.tif", data)
    assert off(picture, values) <= 0.51 / (2 ** min(bits, 16) - 1) + 1e-5
    assert picture.gray == (channels == 1)
    assert picture.bit_depth == (8 if bits == 8 else 16)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 12, 16])
def test_tiff_whose_white_is_zero(tmp_path, bits):
    picture = read(tmp_path, "a.tif", tiff(2**bits - 1 - whole(GRAY, bits), bits=bits, photometric=0))
    assert off(picture, GRAY) <= 0.51 / (2**bits - 1)
    assert picture.gray


@pytest.mark.parametrize(("extra", "kind"), [(1, "premultiplied"), (2, "plain"), (0, "no transparency")])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("values", [GRAY, RGB], ids=["gray", "rgb"])
def test_tiff_with_transparency(tmp_path, values, bits, extra, kind):
    colours = values * ALPHA if kind == "premultiplied" else values
    planes = whole(np.concatenate([colours, ALPHA], axis=2), bits)
    photometric = 1 if values.shape[2] == 1 else 2
    picture = read(tmp_path, "a.tif", tiff(planes, bits=bits, photometric=photometric, extra=[extra]))
    step = 1 / (2**bits - 1)
    assert off(picture, values) <= (6 if kind == "premultiplied" else 0.51) * step
    if kind == "no transparency":
        assert picture.alpha is None
    else:
        assert np.abs(picture.alpha - ALPHA[..., 0]).max() <= 0.51 * step


def test_tiff_with_separate_planes_and_transparency(tmp_path):
    planes = whole(np.concatenate([RGB, ALPHA], axis=2), 16)
    picture = read(tmp_path, "a.tif", tiff(planes, bits=16, photometric=2, planar=2, extra=[2]))
    assert off(picture, RGB) <= 1e-5
    assert np.abs(picture.alpha - ALPHA[..., 0]).max() <= 1e-5


@pytest.mark.parametrize("bits", [16, 32, 64])
@pytest.mark.parametrize("values", [GRAY, RGB], ids=["gray", "rgb"])
def test_tiff_of_floats(tmp_path, values, bits):
    photometric = 1 if values.shape[2] == 1 else 2
    picture = read(tmp_path, "a.tif", tiff(values, bits=bits, photometric=photometric, kind=3))
    assert off(picture, values) <= (3e-4 if bits == 16 else 1e-5)
    assert picture.bit_depth == 16


@pytest.mark.parametrize("bits", [8, 16])
def test_tiff_of_four_inks(tmp_path, bits):
    black = 0.5 * GRAY
    inks = np.concatenate([1 - RGB, black], axis=2)
    picture = read(tmp_path, "a.tif", tiff(whole(inks, bits), bits=bits, photometric=5))
    assert off(picture, RGB * (1 - black)) <= 2 / (2**bits - 1)
    assert picture.bit_depth == bits


@pytest.mark.parametrize(("photometric", "bits"), [(8, 8), (8, 16), (9, 8), (9, 16)])
def test_tiff_of_lab(tmp_path, photometric, bits):
    # sRGB red, gray and blue in CIE L*a*b* of D50 (Bruce Lindbloom's calculator).
    lab = {(1, 0, 0): (54.29, 80.81, 69.89), (0.46633,) * 3: (50, 0, 0), (0, 0, 1): (29.57, 68.30, -112.03)}
    values = np.array(list(lab.values()))[None].repeat(2, 0)
    one = 1 if bits == 8 else 256
    light = values[..., :1] * ((255 if bits == 8 else 65535 if photometric == 8 else 65280) / 100)
    opponents = values[..., 1:] * one if photometric == 8 else (values[..., 1:] + 128) * one
    stored = np.rint(np.concatenate([light, opponents], axis=2)).astype(np.int64) % 2**bits
    (tmp_path / "a.tif").write_bytes(tiff(stored, bits=bits, photometric=photometric))
    picture = read_image(tmp_path / "a.tif")
    assert np.abs(picture.rgb[0] - np.array(list(lab))).max() < (0.03 if bits == 8 else 0.01)


@pytest.mark.parametrize("bits", [4, 8])
def test_tiff_with_a_palette(tmp_path, bits):
    entries = np.linspace(0, 65535, 3 * 2**bits).astype(int)
    numbers = whole(GRAY, bits)
    picture = read(tmp_path, "a.tif", tiff(numbers, bits=bits, photometric=3, colormap=list(entries)))
    truth = entries.reshape(3, -1)[:, numbers[..., 0]].transpose(1, 2, 0) / 65535
    assert off(picture, truth) <= 1 / 255


@pytest.mark.parametrize(
    ("planes", "settings", "reason"),
    [
        (whole(GRAY, 15), {"bits": 16, "kind": 2}, "16-bit signed integers"),
        (whole(GRAY, 7), {"bits": 8, "kind": 2}, "8-bit signed integers"),
        (whole(GRAY, 12), {"bits": 32}, "32-bit samples of up to 4095: which value is white is not known"),
        (RGB * 7.5, {"bits": 32, "photometric": 2, "kind": 3}, "from 0 to 7.5; expected 0 to 1"),
        (np.full((HEIGHT, WIDTH, 1), np.nan), {"bits": 32, "kind": 3}, "from nan to nan"),
        (whole(RGB, 16), {"bits": 16, "photometric": 10}, "itulab"),
        (whole(RGB, 16), {"bits": 16, "photometric": 6}, "ycbcr"),
        (whole(GRAY, 16), {"bits": 16, "photometric": 32803}, "cfa"),
    ],
)
def test_what_cannot_be_read_right_is_refused_by_name(tmp_path, planes, settings, reason):
    (tmp_path / "odd.tif").write_bytes(tiff(planes, **settings))
    for reader in (read_image, read_samples):
        with pytest.raises(DataError, match=r"odd\.tif: .*convert it") as caught:
            reader(tmp_path / "odd.tif")
        assert reason in str(caught.value)


@pytest.mark.parametrize("comment", ["", "# scanned\n"])
@pytest.mark.parametrize("top", [1, 7, 100, 255, 256, 1023, 4095, 65535])
@pytest.mark.parametrize("kind", ["P2", "P3", "P5", "P6"])
def test_pnm_with_any_maximum_and_comments(tmp_path, kind, top, comment):
    values = GRAY if kind in ("P2", "P5") else RGB
    stored = np.rint(values * top).astype(int)
    binary = stored.astype(">u2" if top > 255 else "u1").tobytes()
    text = " ".join(map(str, stored.reshape(-1))).encode() + b"\n"
    head = f"{kind} {comment}{WIDTH} {HEIGHT} {comment}{top}\n".encode()
    picture = read(tmp_path, "a.pnm", head + (binary if kind in ("P5", "P6") else text))
    assert off(picture, values) <= 0.51 / top + 0.51 / (255 if top < 256 else 65535)
    assert picture.gray == (kind in ("P2", "P5"))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"P5 10 6 4095\n" + bytes(50), "50 of 120 bytes"),
        (b"P5 10 6 100\n" + bytes([101] * 60), "samples of up to 101, but its header says that 100 is white"),
        (b"P2 10 6 9\n1 2 3", "3 of 60 samples"),
        (b"P2 2 1 9\n1 x", "no numbers"),
        (b"P5 10 6 70000\n" + bytes(120), "a maximum of 70000"),
        (b"P6 10 six 255\n", "no width, height and maximum"),
    ],
)
def test_damaged_pnm_is_named(tmp_path, data, reason):
    (tmp_path / "a.pnm").write_bytes(data)
    with pytest.raises(DataError, match=rf"a\.pnm: .*({reason}|cannot be)"):
        read_image(tmp_path / "a.pnm")


@pytest.mark.parametrize(("values", "colour"), [(GRAY, 0), (RGB, 2)], ids=["gray", "rgb"])
def test_png_of_16_bits(tmp_path, values, colour):
    picture = read(tmp_path, "a.png", png(whole(values, 16), colour))
    assert off(picture, values) <= 1e-5
    assert picture.bit_depth == 16
    assert picture.gray == (colour == 0)
    planes = whole(np.concatenate([values, ALPHA], axis=2), 16)
    picture = read(tmp_path, "b.png", png(planes, colour + 4))
    assert off(picture, values) <= 1e-5
    assert np.abs(picture.alpha - ALPHA[..., 0]).max() <= 1e-5
    assert picture.gray == (colour == 0)


@pytest.mark.parametrize(("values", "colour"), [(GRAY, 0), (RGB, 2)], ids=["gray", "rgb"])
def test_png_of_16_bits_with_a_transparent_colour(tmp_path, values, colour):
    stored = whole(values, 16)
    key = stored[2, 3].astype(">u2").tobytes()
    (tmp_path / "a.png").write_bytes(png(stored, colour, chunks=[(b"tRNS", key)]))
    picture = read_image(tmp_path / "a.png")
    assert off(picture, values) <= 1e-5
    assert picture.alpha is not None
    assert np.argwhere(picture.alpha == 0).tolist() == [[2, 3]]


@pytest.mark.parametrize("bits", [9, 12, 16])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_jpeg_2000_of_more_than_8_bits(tmp_path, channels, bits):
    values = {1: GRAY, 3: RGB, 4: np.concatenate([RGB, ALPHA], axis=2)}[channels]
    stored = whole(values, bits).astype(np.uint16)
    stored = stored[..., 0] if channels == 1 else stored
    data = imagecodecs.jpeg2k_encode(stored, level=0, reversible=True, codecformat="jp2", bitspersample=bits)
    picture = read(tmp_path, "a.jp2", data)
    assert off(picture, values[..., :3]) <= 0.51 / (2**bits - 1)
    assert (picture.alpha is not None) == (channels == 4)
    assert picture.bit_depth == 16


@pytest.mark.parametrize("bits", [10, 12])
def test_avif_of_more_than_8_bits(tmp_path, bits):
    data = imagecodecs.avif_encode(whole(RGB, bits).astype(np.uint16), bitspersample=bits, level=100)
    picture = read(tmp_path, "a.avif", data)
    assert off(picture, RGB) <= 0.51 / (2**bits - 1)
    assert picture.bit_depth == 16


def test_16_bits_say_what_their_8_bit_twin_says(tmp_path):
    deep = read(tmp_path, "deep.tif", tiff(whole(RGB, 16), bits=16, photometric=2))
    twin = read(tmp_path, "twin.tif", tiff(whole(RGB, 8), bits=8, photometric=2))
    assert np.abs(quantise(deep.rgb).astype(int) - quantise(twin.rgb)).max() <= 1


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
def test_a_tiff_that_pillow_does_not_open_keeps_its_turn_and_its_profile(tmp_path, order, big):
    linear = imagecodecs.cms_profile(
        "rgb", whitepoint=(0.3127, 0.329), primaries=(0.64, 0.33, 0.3, 0.6, 0.15, 0.06), gamma=1.0
    )
    values = whole(RGB, 16).astype(np.uint16)
    tags = [(274, "H", 1, 6, True), (271, "s", 0, "Camera", True)]
    tifffile.imwrite(
        tmp_path / "a.tif", values.transpose(2, 0, 1).copy(), photometric="rgb", planarconfig="separate",
        bigtiff=big, byteorder=order, iccprofile=linear, extratags=tags,
    )  # fmt: skip
    picture = read_image(tmp_path / "a.tif")
    light = values / 65535
    curve = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    assert np.abs(picture.rgb - curve.swapaxes(0, 1)[:, ::-1]).max() < 4e-4  # 6: the left side is to be the top
    exif = Image.Exif()
    exif.load(picture.exif)
    assert exif[271] == "Camera"
