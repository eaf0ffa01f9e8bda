"""Colour profiles: judged by what they do, not by their names, and exact to 16 bits."""

import io
import logging
import zlib

import numpy as np
import pytest
from file_helpers import ADOBE, SRGB, png, profile, srgb_curve, tiff
from PIL import Image, ImageCms

from codes.images.files import quantise, read_image, write_image
from codes.images.profiles import gray_profile, is_srgb, srgb_profile

RAMP = np.linspace(0, 1, 256)
COLOURS = np.stack([RAMP, RAMP[::-1], 0.25 + RAMP / 2], axis=-1)[None].repeat(3, 0)


def with_profile(samples, icc, colour=2, bits=16):
    return png(samples, colour, bits=bits, chunks=[(b"iCCP", b"w\0\0" + zlib.compress(icc))])


def expected(values, primaries, gamma):
    """The transform by its definition: gamma, primaries to XYZ, XYZ to sRGB's primaries, curve."""
    light = values ** (gamma or 1)
    return srgb_curve(light @ np.array(primaries) @ np.linalg.inv(np.array(SRGB)))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("name", ["Linear sRGB", "sRGB IEC61966-2.1", "something"])
@pytest.mark.parametrize(("primaries", "gamma"), [(SRGB, None), (SRGB, 1.8), (ADOBE, 563 / 256), (ADOBE, None)])
def test_a_name_with_srgb_in_it_is_no_srgb(tmp_path, bits, name, primaries, gamma):
    top = 2**bits - 1
    icc = profile(name, primaries, gamma)
    assert not is_srgb(icc)
    stored = np.rint(COLOURS * top)
    (tmp_path / "a.png").write_bytes(with_profile(stored, icc, bits=bits))
    picture = read_image(tmp_path / "a.png")
    assert picture.bit_depth == bits
    assert picture.icc == srgb_profile()
    error = np.abs(picture.rgb - expected(stored / top, primaries, gamma))
    assert error.max() < (0.012 if bits == 8 else 0.003)


def test_16_bits_of_a_wide_gamut_stay_16_bits(tmp_path):
    ramp = np.rint(np.linspace(20000, 24000, 1000))[None, :, None].repeat(3, 2) + np.array([0, 300, 9000])
    for name, data in {
        "a.png": with_profile(ramp, profile("Wide", ADOBE, 2.2)),
        "plain.tif": tiff(ramp.astype(int), bits=16, photometric=2),
    }.items():
        (tmp_path / name).write_bytes(data)
        picture = read_image(tmp_path / name)
        assert picture.bit_depth == 16
        assert len(np.unique(quantise(picture.rgb, 16)[..., 1])) > 900


def test_srgb_is_recognised_under_any_name_and_kept():
    assert is_srgb(srgb_profile())
    renamed = srgb_profile().replace("sRGB".encode("utf-16-be"), "abcd".encode("utf-16-be"))
    assert renamed != srgb_profile()
    assert is_srgb(renamed)
    assert not is_srgb(gray_profile())
    assert not is_srgb(b"nonsense" * 40)


@pytest.mark.parametrize("bits", [8, 16])
def test_gray_with_a_profile_of_rgb_is_converted_as_its_rgb_twin(tmp_path, bits):
    stored = np.rint(RAMP[None, :, None].repeat(3, 0) * (2**bits - 1))
    icc = profile("Linear sRGB", SRGB, None)
    (tmp_path / "gray.png").write_bytes(with_profile(stored, icc, colour=0, bits=bits))
    (tmp_path / "rgb.png").write_bytes(with_profile(stored.repeat(3, 2), icc, bits=bits))
    gray, rgb = read_image(tmp_path / "gray.png"), read_image(tmp_path / "rgb.png")
    assert gray.gray
    assert gray.bit_depth == bits
    assert np.array_equal(gray.rgb, rgb.rgb)
    assert np.abs(gray.rgb[0, :, 0] - srgb_curve(stored[0, :, 0] / (2**bits - 1))).max() < 0.005


def test_transparency_is_not_converted(tmp_path):
    stored = np.concatenate([np.rint(COLOURS * 65535), np.rint(RAMP * 65535)[None, :, None].repeat(3, 0)], axis=2)
    (tmp_path / "a.png").write_bytes(with_profile(stored, profile("w", ADOBE, None), colour=6))
    picture = read_image(tmp_path / "a.png")
    assert np.abs(picture.alpha - RAMP).max() < 1e-5
    assert np.abs(picture.rgb - expected(COLOURS, ADOBE, None)).max() < 0.003


def test_a_profile_of_another_kind_is_told_and_left_out(tmp_path, caplog):
    logging.getLogger("tessera").propagate = True
    (tmp_path / "a.png").write_bytes(with_profile(np.rint(COLOURS * 65535), gray_profile()))
    with caplog.at_level("WARNING", logger="tessera"):
        picture = read_image(tmp_path / "a.png")
    assert "its colour profile cannot be used (it is for GRAY pixels of another kind)" in caplog.text
    assert picture.icc is None
    assert np.abs(picture.rgb - COLOURS).max() < 1e-5


def test_what_was_converted_is_written_with_the_profile_that_it_has(tmp_path):
    (tmp_path / "a.png").write_bytes(with_profile(np.rint(COLOURS * 65535), profile("w", ADOBE, 2.2)))
    picture = read_image(tmp_path / "a.png")
    write_image(tmp_path / "b.png", picture.rgb, bit_depth=16, icc=picture.icc)
    again = read_image(tmp_path / "b.png")
    assert np.abs(again.rgb - picture.rgb).max() < 1e-4
    with Image.open(tmp_path / "b.png") as file:
        ImageCms.ImageCmsProfile(io.BytesIO(file.info["icc_profile"]))
