"""Small valid files of every format with bytes changed at random: read, or refused by an error that names them."""

import io
import resource
import sys
import time
import warnings

import imagecodecs
import numpy as np
import pytest
import tifffile
from file_helpers import ADOBE, profile, tiff
from PIL import Image

from codes.images.files import count_frames, jpeg_table, probe_image, read_image, read_samples
from codes.utils.errors import DataError

HEIGHT, WIDTH = 24, 32
SECONDS, MEGABYTES = 5.0, 1500


def seeds():
    """Name -> bytes of small valid files."""
    rng = np.random.default_rng(0)
    eight = rng.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    deep = rng.integers(0, 65536, (HEIGHT, WIDTH, 3)).astype(np.uint16)
    picture = Image.fromarray(eight)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    icc = profile("wide", ADOBE, 2.2)
    files = {}
    for name, kind, settings in (
        ("a.jpg", "JPEG", {"exif": exif, "icc_profile": icc}), ("p.jpg", "JPEG", {"progressive": True}),
        ("a.png", "PNG", {"icc_profile": icc, "exif": exif}), ("a.webp", "WEBP", {"exif": exif, "icc_profile": icc}),
        ("l.webp", "WEBP", {"lossless": True}), ("a.gif", "GIF", {}), ("a.bmp", "BMP", {}), ("a.ppm", "PPM", {}),
        ("a.jp2", "JPEG2000", {}), ("a.avif", "AVIF", {"exif": exif, "icc_profile": icc, "speed": 10}),
        ("a.tif", "TIFF", {"icc_profile": icc}), ("l.tif", "TIFF", {"compression": "tiff_lzw"}),
        ("j.tif", "TIFF", {"compression": "jpeg"}),
    ):  # fmt: skip
        buffer = io.BytesIO()
        picture.save(buffer, kind, **settings)
        files[name] = buffer.getvalue()
    for name, settings in (
        ("t.tif", {"compression": "zlib", "predictor": True, "tile": (16, 16)}),
        ("d.tif", {"planarconfig": "separate"}),
    ):
        buffer = io.BytesIO()
        planes = np.moveaxis(deep, 2, 0) if "planarconfig" in settings else deep
        tifffile.imwrite(buffer, planes, photometric="rgb", **settings)
        files[name] = buffer.getvalue()
    files["packed.tif"] = tiff((deep >> 4).astype(int), bits=12, photometric=2)
    files["deep.png"] = imagecodecs.png_encode(deep)
    files["deep.pgm"] = b"P5 # remark\n32 24\n4095\n" + (deep[..., 0] >> 4).astype(">u2").tobytes()
    files["deep.jp2"] = imagecodecs.jpeg2k_encode(deep, level=0, reversible=True, codecformat="jp2")
    files["deep.avif"] = imagecodecs.avif_encode(deep >> 6, bitspersample=10, level=90)
    return files


SEEDS = seeds()


def mutated(data, rng):
    """Bytes changed, cut, doubled, zeroed, or a number of the header made extreme."""
    result = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        # Headers are small and decide most.
        reach = min(len(result), 200) if rng.random() < 0.6 else len(result)
        place, kind = int(rng.integers(0, max(reach, 1))), int(rng.integers(0, 6))
        length = int(rng.integers(1, 40))
        if kind == 0:
            result[place : place + 1] = bytes([int(rng.integers(0, 256))])
        elif kind == 1:
            result[place : place + 4] = [b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\0\0\x40\0"][
                length % 4
            ]
        elif kind == 2:
            del result[place:]
        elif kind == 3:
            del result[place : place + length]
        elif kind == 4:
            result[place:place] = result[place : place + length]
        else:
            result[place : place + length] = bytes(length)
    return bytes(result)


def read_all(path):
    """What each reader says: its result, or our error, which names the file. Anything else is raised."""
    for read in (read_image, read_samples, probe_image, count_frames, jpeg_table):
        try:
            result = read(path)
        except DataError as error:
            says = str(error)
            if str(path) not in says or len(says) > 1000:
                raise AssertionError(f"a message that names no file, or is too long: {says}") from error
            continue
        if read is read_image:
            assert result.rgb.dtype == np.float32
            assert result.rgb.shape[2] == 3
            assert np.isfinite(result.rgb).all()
            assert result.rgb.min() >= 0
            assert result.rgb.max() <= 1


def fuzz(folder, name, numbers):
    for number in numbers:
        path = folder / name
        path.write_bytes(mutated(SEEDS[name], np.random.default_rng((number, *name.encode()))))
        start = time.monotonic()
        try:
            read_all(path)
        except BaseException as error:
            raise AssertionError(f"mutation {number} of {name}: {type(error).__name__}: {error}") from error
        assert time.monotonic() - start < SECONDS, f"mutation {number} of {name} took too long"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 2**20)
    assert peak < BEFORE + MEGABYTES, f"mutations of {name} took {peak:.0f} MB"


BEFORE = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 2**20)


@pytest.mark.parametrize("name", SEEDS)
def test_the_files_themselves_are_read(tmp_path, name):
    (tmp_path / name).write_bytes(SEEDS[name])
    assert sorted(read_image(tmp_path / name).rgb.shape[:2]) == [HEIGHT, WIDTH]


@pytest.mark.parametrize("name", SEEDS)
def test_a_mutation_is_read_or_refused_by_name(tmp_path, name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, about tags
        fuzz(tmp_path, name, range(20))


@pytest.mark.slow
@pytest.mark.parametrize("name", SEEDS)
def test_ten_thousand_mutations(tmp_path, name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fuzz(tmp_path, name, range(10_000 // len(SEEDS) + 1))
