"""Files read by bands of rows have the samples of the whole file, whoever wrote it and in whatever order."""

import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from codes.images import bands as bands_module
from codes.images.bands import Bands, image_rows, open_bands
from codes.images.files import open_writer, read_samples, write_image
from codes.images.profiles import srgb_profile
from codes.utils.errors import DataError

HEIGHT, WIDTH = 53, 37
PARTS = ((0, 5), (5, 53), (20, 21), (17, 30), (26, 40), (36, 53), (0, 53), (52, 53))


@pytest.fixture(autouse=True)
def small_bands(monkeypatch):
    monkeypatch.setattr(bands_module, "BAND_BYTES", 700)  # a few rows


def picture(channels, dtype, height=HEIGHT, width=WIDTH):
    generator = np.random.default_rng(channels)
    smooth = np.linspace(0, np.iinfo(dtype).max / 2, height * width * channels).reshape(height, width, channels)
    return (smooth + generator.integers(0, np.iinfo(dtype).max // 2, smooth.shape)).astype(dtype)


def assert_same(path, **options):
    rows = open_bands(path, **options)
    assert isinstance(rows, Bands)
    whole = read_samples(path, **options)
    assert rows.shape == whole.shape
    for start, stop in PARTS:
        np.testing.assert_array_equal(rows[start:stop], whole[start:stop], err_msg=f"{start}:{stop}")
        assert rows[start:stop].dtype == whole.dtype
    np.testing.assert_array_equal(rows[50:99], whole[50:])


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_our_own_files(tmp_path, suffix, dtype, channels):
    path = tmp_path / f"a{suffix}"
    bits = 8 * np.dtype(dtype).itemsize
    exif = Image.Exif()
    exif[0x010F] = "maker"
    with open_writer(path, HEIGHT, WIDTH, channels, bit_depth=bits, exif=exif.tobytes(), icc=srgb_profile()) as writer:
        writer.write_rows(picture(channels, dtype))
    assert_same(path)
    assert_same(path, alpha="black")


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_pngs_of_others_with_every_filter(tmp_path, mode):
    """libpng chooses a filter for each row of what is smooth, all five of them among the rows of this picture."""
    path, channels = tmp_path / "a.png", len(mode)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    smooth = np.stack([(3 * x + (channel + 1) * y * (y % 7)) % 256 for channel in range(channels)], axis=2)
    Image.fromarray(smooth.astype(np.uint8).squeeze()).save(path, optimize=True)
    assert_same(path)


def test_a_png_of_each_filter_by_hand(tmp_path):
    """Every row of one kind, 16 bits: none, sub, up, average, Paeth (ISO/IEC 15948, 9.2)."""
    samples = picture(3, np.uint16)
    raw = samples.astype(">u2").view(np.uint8).reshape(HEIGHT, -1).astype(int)
    lines = []
    for row in range(HEIGHT):
        above = raw[row - 1] if row else np.zeros(raw.shape[1], int)
        left, corner = np.concatenate([np.zeros(6, int), raw[row, :-6]]), np.concatenate([np.zeros(6, int), above[:-6]])
        estimate = left + above - corner
        distances = np.abs(np.stack([estimate - left, estimate - above, estimate - corner]))
        paeth = np.choose(distances.argmin(axis=0), [left, above, corner])
        predicted = [np.zeros_like(left), left, above, (left + above) // 2, paeth][row % 5]
        lines.append(bytes([row % 5]) + ((raw[row] - predicted) % 256).astype(np.uint8).tobytes())
    write_png(tmp_path / "a.png", b"".join(lines), 16, 2)
    np.testing.assert_array_equal(read_samples(tmp_path / "a.png"), samples)
    assert_same(tmp_path / "a.png")


def write_png(path, filtered, depth, colour, damage=False):
    head = struct.pack(">IIBBBBB", WIDTH, HEIGHT, depth, colour, 0, 0, 0)
    data = zlib.compress(filtered)
    parts = [data[start : start + 500] for start in range(0, len(data), 500)]
    chunks = [(b"IHDR", head), *((b"IDAT", part) for part in parts), (b"IEND", b"")]
    packed = [
        struct.pack(">I4s", len(part), name) + part + struct.pack(">I", zlib.crc32(name + part))
        for name, part in chunks
    ]
    if damage:
        packed[-2] = packed[-2][:-1] + bytes([packed[-2][-1] ^ 1])
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))


def test_other_profiles_are_converted_as_of_the_whole_file(tmp_path):
    exchanged = srgb_profile().replace(b"rXYZ", b"????").replace(b"gXYZ", b"rXYZ").replace(b"????", b"gXYZ")
    path, samples = tmp_path / "a.png", picture(3, np.uint8)
    Image.fromarray(samples).save(path, icc_profile=exchanged)
    assert np.abs(read_samples(path).astype(int) - samples).max() > 50
    assert_same(path)


@pytest.mark.parametrize("options", [{"compression": "zlib", "predictor": True}, {"compression": None}, {"tile": None}])
def test_tiffs_of_others(tmp_path, options):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, picture(3, np.uint16), photometric="rgb", rowsperstrip=7, **options)
    assert_same(path)


def test_what_cannot_be_read_in_parts_is_none(tmp_path):
    rgb = Image.fromarray(picture(3, np.uint8))
    turned = Image.Exif()
    turned[0x0112] = 6
    files = {
        name: tmp_path / name for name in ("a.jpg", "turned.png", "palette.png", "clear.png", "tiled.tif", "z.tif")
    }
    rgb.save(files["a.jpg"])
    rgb.save(files["turned.png"], exif=turned)
    rgb.convert("P").save(files["palette.png"])
    rgb.save(files["clear.png"], transparency=(1, 2, 3))
    tifffile.imwrite(files["tiled.tif"], picture(3, np.uint8), photometric="rgb", tile=(16, 16))
    tifffile.imwrite(files["z.tif"], 255 - picture(1, np.uint8)[..., 0], photometric="miniswhite")
    assert {name: open_bands(path) for name, path in files.items()} == dict.fromkeys(files)


def test_small_files_are_arrays_and_large_ones_bands_with_the_same_rows(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    write_image(path, picture(3, np.uint8))
    whole = image_rows(path)
    assert isinstance(whole, np.ndarray)
    monkeypatch.setattr(bands_module, "LARGE", HEIGHT * WIDTH - 1)
    parts = image_rows(path)
    assert isinstance(parts, Bands)
    np.testing.assert_array_equal(parts[7:9], whole[7:9])
    with pytest.raises(DataError, match="more than the limit of 10"):
        image_rows(path, max_pixels=10)


@pytest.mark.parametrize("kind", ["cut", "checksum", "tiff"])
def test_damage_is_named_where_it_is_met(tmp_path, kind):
    path = tmp_path / ("a.tif" if kind == "tiff" else "a.png")
    filtered = b"".join(b"\0" + row.tobytes() for row in picture(3, np.uint8))
    if kind == "tiff":
        tifffile.imwrite(path, picture(3, np.uint8), photometric="rgb", rowsperstrip=5, compression="zlib")
        data = bytearray(path.read_bytes())
        with tifffile.TiffFile(path) as file:
            start, count = file.pages[0].dataoffsets[-1], file.pages[0].databytecounts[-1]
        data[start : start + count] = bytes(count)
        path.write_bytes(data)
    else:
        write_png(path, filtered[:-99] if kind == "cut" else filtered, 8, 2, damage=kind == "checksum")
    rows = open_bands(path)
    assert rows[0:3].shape == (3, WIDTH, 3)
    with pytest.raises(DataError, match=f"{path.name}: "):
        rows[50:53]


def test_memory_does_not_grow_with_the_height(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(bands_module, "BAND_BYTES", 2**18)
    peaks = []
    for height in (600, 2400):
        path = tmp_path / f"{height}.png"
        write_image(path, np.zeros((height, 1000, 3), np.uint8))  # a kilobyte of it inflates to a megabyte
        rows = open_bands(path)
        assert rows is not None
        tracemalloc.start()
        for y0 in range(0, height, 50):
            assert not rows[y0 : y0 + 50].any()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]
    assert peaks[1] < 4 * 2**20
