"""Colours named by number: PNG's cICP, gAMA and cHRM, AVIF's nclx."""

import struct

import imagecodecs
import numpy as np
import pytest
from file_helpers import png, srgb_curve
from PIL import Image

from codes.images.files import read_image
from codes.images.profiles import srgb_profile
from codes.utils.errors import DataError

RAMP = np.linspace(0, 1, 200)
GRAY = np.rint(RAMP * 65535)[None, :, None].repeat(2, 0)


def gama(value):
    return (b"gAMA", struct.pack(">I", round(value * 100000)))


def chrm(*corners):
    return (b"cHRM", struct.pack(">8I", *(round(value * 100000) for value in corners)))


BT709 = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
P3 = (0.3127, 0.3290, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06)


def read(tmp_path, chunks, samples=GRAY, colour=0, bits=16):
    (tmp_path / "a.png").write_bytes(png(samples, colour, bits=bits, chunks=chunks))
    return read_image(tmp_path / "a.png")


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(("chunks", "gamma"), [([gama(1)], 1), ([(b"cICP", bytes([1, 8, 0, 1]))], 1), ([gama(0.5)], 2)])
def test_light_that_is_named_linear_is_converted(tmp_path, chunks, gamma, bits):
    stored = np.rint(RAMP * (2**bits - 1))
    picture = read(tmp_path, chunks, stored[None, :, None].repeat(2, 0), bits=bits)
    assert picture.gray
    assert picture.bit_depth == bits
    wanted = srgb_curve((stored / (2**bits - 1)) ** gamma)
    assert np.abs(picture.rgb[0, :, 0] - wanted).max() < (0.01 if bits == 8 else 0.002)
    assert picture.icc == srgb_profile()


@pytest.mark.parametrize(
    "chunks",
    [
        [gama(0.45455)], [gama(0.45455), chrm(*BT709)], [(b"cICP", bytes([1, 13, 0, 1]))], [gama(1), (b"sRGB", b"\0")],
        [chrm(*P3)], [gama(0.0)], [(b"cICP", bytes([2, 2, 0, 1]))],
    ],
)  # fmt: skip
def test_what_means_srgb_or_nothing_changes_nothing(tmp_path, chunks):
    picture = read(tmp_path, chunks)
    assert np.abs(picture.rgb[0, :, 0] - RAMP).max() < 1e-5
    assert picture.icc is None


@pytest.mark.parametrize("chunks", [[gama(0.45455), chrm(*P3)], [(b"cICP", bytes([12, 13, 0, 1]))]])
def test_display_p3_is_converted(tmp_path, chunks):
    samples = np.rint(np.array([[[0.6, 0.3, 0.2], [0.5, 0.5, 0.5]]]) * 65535)
    picture = read(tmp_path, chunks, samples, 2)
    # 0.6, 0.3, 0.2 of Display P3 in sRGB, by the matrices of both (CSS Color 4).
    assert picture.rgb[0, 0] == pytest.approx([0.646, 0.278, 0.169], abs=0.004)
    assert picture.rgb[0, 1] == pytest.approx([0.5, 0.5, 0.5], abs=0.005)


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_hdr_is_refused_by_name(tmp_path, transfer, name):
    with pytest.raises(DataError, match=rf"a\.png: PNG in the HDR curve {name}, which is not read; convert it to SDR"):
        read(tmp_path, [(b"cICP", bytes([9, transfer, 0, 1]))])
    samples = np.rint(RAMP * 1023).astype(np.uint16)[None, :, None].repeat(16, 0).repeat(3, 2)
    data = bytearray(imagecodecs.avif_encode(samples, bitspersample=10, level=90))
    place = data.index(b"nclx")
    data[place + 6 : place + 8] = struct.pack(">H", transfer)
    (tmp_path / "a.avif").write_bytes(data)
    with pytest.raises(DataError, match=rf"a\.avif: AVIF in the HDR curve {name}"):
        read_image(tmp_path / "a.avif")


def test_an_avif_in_linear_light_is_converted(tmp_path):
    samples = np.rint(RAMP * 1023).astype(np.uint16)[None, :, None].repeat(16, 0).repeat(3, 2)
    data = bytearray(imagecodecs.avif_encode(samples, bitspersample=10, level=100))
    place = data.index(b"nclx")
    data[place + 6 : place + 8] = struct.pack(">H", 8)
    (tmp_path / "a.avif").write_bytes(data)
    picture = read_image(tmp_path / "a.avif")
    assert picture.bit_depth == 16
    assert np.abs(picture.rgb[0, :, 0] - srgb_curve(samples[0, :, 0] / 1023)).max() < 0.01
    eight = Image.fromarray((samples >> 2).astype(np.uint8))
    eight.save(tmp_path / "b.avif", quality=100, speed=10)
    assert np.abs(read_image(tmp_path / "b.avif").rgb[0, :, 0] - RAMP).max() < 0.02
