"""Image files in and out: depths, modes, orientation, profiles, damage, names."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageCms

from codes.images.codecs import jpeg_round_trip
from codes.images.files import (
    probe_image,
    quantise,
    read_image,
    read_samples,
    resize_area,
    resize_bicubic,
    to_float,
    to_image,
    to_rgb,
    to_tensor,
    write_image,
)
from codes.utils.errors import DataError

HEIGHT, WIDTH = 21, 34


@pytest.fixture
def colours():
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


def save_png_16(path, samples, orientation=1):
    """OpenCV writes 16 bits; an eXIf chunk carries the orientation."""
    data = cv2.imencode(".png", samples[..., ::-1])[1].tobytes()
    exif = Image.Exif()
    exif[0x0112] = orientation
    body = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    path.write_bytes(data[:33] + chunk + data[33:])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once_in_every_format(tmp_path, colours, orientation):
    turned = {
        1: colours,
        2: colours[:, ::-1],
        3: colours[::-1, ::-1],
        4: colours[::-1],
        5: colours.swapaxes(0, 1),
        6: np.rot90(colours, -1),
        7: colours[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(colours),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    deep = colours.astype(np.uint16) * 257
    Image.fromarray(colours).save(tmp_path / "8.png", exif=exif)
    Image.fromarray(colours).save(tmp_path / "8.tif", exif=exif)
    save_png_16(tmp_path / "16.png", deep, orientation)
    tifffile.imwrite(tmp_path / "16.tif", deep, photometric="rgb", extratags=[(274, 3, 1, orientation, True)])
    for name in ("8.png", "8.tif", "16.png", "16.tif"):
        picture = read_image(tmp_path / name)
        assert picture.bit_depth == int(name.split(".")[0])
        np.testing.assert_allclose(picture.rgb, to_float(np.ascontiguousarray(turned)), atol=1e-6, err_msg=name)
        info = probe_image(tmp_path / name)
        assert (info.height, info.width) == picture.rgb.shape[:2], name
        if picture.exif:
            rewritten = tmp_path / "again.png"
            write_image(rewritten, picture.rgb, exif=picture.exif)
            assert read_image(rewritten).rgb.shape == picture.rgb.shape, name


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bits_are_read_and_written_as_16_bits(tmp_path, suffix):
    ramp = np.arange(HEIGHT * WIDTH * 3, dtype=np.uint16).reshape(HEIGHT, WIDTH, 3) * 30
    write_image(tmp_path / f"deep{suffix}", to_float(ramp), bit_depth=16)
    picture = read_image(tmp_path / f"deep{suffix}")
    assert picture.bit_depth == 16
    assert np.array_equal(quantise(picture.rgb, 16), ramp)
    assert read_samples(tmp_path / f"deep{suffix}").dtype == np.uint16
    assert len(np.unique(picture.rgb)) > 256


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_gray_16_bits(tmp_path, suffix):
    ramp = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH) * 90
    Image.fromarray(ramp).save(tmp_path / f"gray{suffix}")
    picture = read_image(tmp_path / f"gray{suffix}")
    assert picture.gray
    assert picture.rgb.shape == (HEIGHT, WIDTH, 3)
    assert np.array_equal(quantise(picture.rgb, 16)[..., 1], ramp)


@pytest.mark.parametrize(
    ("mode", "suffix", "gray", "alpha"),
    [
        ("1", ".png", True, False),
        ("L", ".png", True, False),
        ("LA", ".png", True, True),
        ("P", ".png", False, False),
        ("PA", ".tif", False, True),
        ("RGBA", ".webp", False, True),
        ("CMYK", ".jpg", False, False),
        ("F", ".tif", True, False),
    ],
)
def test_every_mode_becomes_rgb(tmp_path, colours, mode, suffix, gray, alpha):
    smooth = cv2.GaussianBlur(colours, (0, 0), 5)
    source = Image.fromarray(smooth)
    image = source.convert("P").convert("PA") if mode == "PA" else source.convert(mode)
    expected = np.asarray(image.convert("RGB"), np.float32) / 255
    if mode == "RGBA":
        image.putalpha(128)  # WebP forgets an alpha that is opaque everywhere
    if mode == "F":
        image = Image.fromarray(np.asarray(image) / np.float32(255))
    path = tmp_path / f"image{suffix}"
    image.save(path, **({"quality": 100, "subsampling": 0} if mode == "CMYK" else {}))
    picture = read_image(path)
    assert picture.rgb.shape == (HEIGHT, WIDTH, 3)
    assert picture.rgb.dtype == np.float32
    assert picture.gray == gray
    assert (picture.alpha is not None) == alpha
    if suffix != ".webp":
        np.testing.assert_allclose(picture.rgb, expected, atol=0.03)


def test_transparency_is_kept_apart_and_laid_over_white_for_training(tmp_path, colours):
    alpha = np.zeros((HEIGHT, WIDTH), np.uint8)
    alpha[:5] = 255
    for suffix in (".png", ".webp", ".tif"):
        path = tmp_path / f"a{suffix}"
        write_image(path, colours, alpha=alpha, quality=100)
        picture = read_image(path)
        assert np.array_equal(quantise(picture.rgb), colours), suffix
        assert np.array_equal(quantise(picture.alpha), alpha)
        flat = read_samples(path)
        assert (flat[5:] == 255).all()
        assert np.array_equal(flat[:5], colours[:5])
    with pytest.raises(DataError, match="JPEG holds no transparency"):
        write_image(tmp_path / "a.jpg", colours, alpha=alpha)


def test_palette_transparency(tmp_path):
    image = Image.new("P", (WIDTH, HEIGHT), 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.save(tmp_path / "p.png", transparency=1)
    picture = read_image(tmp_path / "p.png")
    assert picture.alpha.max() == 0
    assert picture.rgb[..., 0].min() == 1


def test_a_foreign_profile_is_converted_and_not_kept(tmp_path):
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    # The sRGB profile with its red and green primaries exchanged: red in the file is green on the screen.
    foreign = lab.replace(b"sRGB", b"XRGB").replace("sRGB".encode("utf-16-be"), "XRGB".encode("utf-16-be"))
    swapped = foreign.replace(b"rXYZ", b"tmp_").replace(b"gXYZ", b"rXYZ").replace(b"tmp_", b"gXYZ")
    red = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    red[..., 0] = 255
    Image.fromarray(red).save(tmp_path / "foreign.png", icc_profile=swapped)
    picture = read_image(tmp_path / "foreign.png")
    assert picture.rgb[..., 1].min() > 0.98
    assert picture.rgb[..., 0].max() < 0.02
    write_image(tmp_path / "again.png", picture.rgb, icc=picture.icc)
    np.testing.assert_allclose(read_image(tmp_path / "again.png").rgb, picture.rgb, atol=0.01)


def test_the_srgb_profile_is_kept_as_it_is(tmp_path, colours):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(colours).save(tmp_path / "s.png", icc_profile=profile)
    picture = read_image(tmp_path / "s.png")
    assert picture.icc == profile
    assert np.array_equal(quantise(picture.rgb), colours)


def test_a_broken_profile_is_no_reason_to_refuse_a_picture(tmp_path, colours):
    Image.fromarray(colours).save(tmp_path / "b.png", icc_profile=b"nonsense" * 20)
    picture = read_image(tmp_path / "b.png")
    assert picture.icc is None
    assert np.array_equal(quantise(picture.rgb), colours)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("name", ["8.png", "16.png", "a.jpg", "a.webp", "16.tif"])
def test_truncated_files_are_named(tmp_path, name):
    noise = np.random.default_rng(1).random((60, 80, 3)).astype(np.float32)
    path = tmp_path / name
    write_image(path, noise, bit_depth=16 if name.startswith("16") else 8)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(DataError, match=name):
        read_image(path)


@pytest.mark.parametrize("suffix", ["tif", "ppm", "png"])
def test_truncated_16_bit_files_whose_header_is_whole_are_named(tmp_path, suffix):
    path = tmp_path / f"deep.{suffix}"
    deep = np.random.default_rng(1).integers(0, 65536, (60, 80, 3)).astype(np.uint16)
    if suffix == "tif":
        tifffile.imwrite(path, deep, photometric="rgb", rowsperstrip=8)
    elif suffix == "png":
        save_png_16(path, deep)
    else:
        path.write_bytes(b"P6 80 60 65535\n" + deep.astype(">u2").tobytes())
    assert np.array_equal(read_samples(path), deep)
    path.write_bytes(path.read_bytes()[:-9000])
    with pytest.raises(DataError, match="deep"):
        read_image(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "the file is empty"), (b"just text\n" * 50, "not an image file"), (None, "no such file")],
)
def test_what_is_no_image_says_so(tmp_path, content, reason):
    path = tmp_path / "notes.png"
    if content is not None:
        path.write_bytes(content)
    for read in (read_image, read_samples, probe_image):
        with pytest.raises(DataError, match=reason) as caught:
            read(path)
        assert str(path) in str(caught.value)


def test_the_pixel_limit_is_an_argument(tmp_path, colours):
    write_image(tmp_path / "big.png", colours)
    before = Image.MAX_IMAGE_PIXELS
    for read in (read_image, probe_image):
        with pytest.raises(DataError, match="34 x 21 pixels are more than the limit of 700"):
            read(tmp_path / "big.png", max_pixels=700)
    assert read_image(tmp_path / "big.png", max_pixels=714).rgb.shape == (HEIGHT, WIDTH, 3)
    assert before == Image.MAX_IMAGE_PIXELS


def test_a_limit_above_pillows_own_is_honoured(tmp_path, colours, monkeypatch):
    write_image(tmp_path / "big.png", colours)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert read_image(tmp_path / "big.png").rgb.shape == (HEIGHT, WIDTH, 3)


def test_nothing_wraps_around_and_nan_is_black():
    values = np.array([[[-0.5, 0.0, 0.5], [1.0, 1.004, 300.0], [np.nan, np.inf, -np.inf]]], np.float32)
    assert quantise(values).tolist() == [[[0, 0, 128], [255, 255, 255], [0, 255, 0]]]
    assert quantise(values, 16)[0, 1].tolist() == [65535] * 3
    tensor = torch.tensor(values[:, :2].transpose(2, 0, 1))
    assert to_image(tensor, n1_to_1=False).tolist() == [[[0, 0, 128], [255, 255, 255]]]


@pytest.mark.parametrize("n1_to_1", [False, True])
def test_tensors_and_images_are_inverse(colours, n1_to_1):
    tensor = to_tensor(colours, n1_to_1)
    assert tensor.shape == (3, HEIGHT, WIDTH)
    assert tensor.dtype == torch.float32
    assert tensor.min() == (-1 if n1_to_1 else 0)
    assert tensor.max() == 1
    assert np.array_equal(to_image(tensor, n1_to_1), colours)
    np.testing.assert_allclose(to_rgb(tensor, n1_to_1), to_float(colours), atol=1e-6)
    assert torch.equal(to_tensor(to_float(colours), n1_to_1), tensor)


def test_resizing_keeps_height_before_width(colours):
    image = to_float(colours)
    small = resize_area(image[:20], 10, 17)
    assert small.shape == (10, 17, 3)
    np.testing.assert_allclose(small, image[:20].reshape(10, 2, 17, 2, 3).mean((1, 3)), atol=1e-6)
    assert resize_bicubic(image, 42, 50).shape == (42, 50, 3)
    np.testing.assert_allclose(resize_bicubic(np.full((9, 7, 3), 0.3, np.float32), 18, 21), 0.3, atol=1e-6)
    with pytest.raises(ValueError, match="cannot enlarge 21x34 to 22x34"):
        resize_area(image, 22, 34)
    unchanged = resize_area(image, HEIGHT, WIDTH)
    unchanged[:] = 0
    assert image.max() == 1


def test_jpeg_round_trip_keeps_channels_apart():
    red = np.zeros((HEIGHT, WIDTH, 3), np.float32)
    red[..., 0] = 1.7
    result = jpeg_round_trip(red, 90)
    assert result.shape == red.shape
    assert result[..., 0].min() > 0.9
    assert result[..., 2].max() < 0.1


def test_writing_refuses_what_a_format_cannot_hold(tmp_path, colours):
    with pytest.raises(DataError, match=r"cannot write \.xyz; use one of \.png"):
        write_image(tmp_path / "a.xyz", colours)
    with pytest.raises(DataError, match="JPEG holds 8 bits"):
        write_image(tmp_path / "a.jpg", colours, bit_depth=16)
    assert list(tmp_path.iterdir()) == []


def test_quality_changes_the_size_of_a_file(tmp_path, colours):
    for suffix in (".jpg", ".webp"):
        for quality in (30, 95):
            write_image(tmp_path / f"{quality}{suffix}", colours, quality=quality)
        assert (tmp_path / f"30{suffix}").stat().st_size < (tmp_path / f"95{suffix}").stat().st_size


def test_names_with_unicode_are_read_and_written(tmp_path, colours):
    write_image(tmp_path / "Zoë 写真.png", colours, bit_depth=16)
    assert np.array_equal(quantise(read_image(tmp_path / "Zoë 写真.png").rgb), colours)


def test_16_bit_ppm(tmp_path):
    ramp = np.arange(HEIGHT * WIDTH * 3, dtype=np.uint16).reshape(HEIGHT, WIDTH, 3) * 30
    header = f"P6\n# a comment\n{WIDTH} {HEIGHT}\n65535\n".encode()
    (tmp_path / "a.ppm").write_bytes(header + ramp.astype(">u2").tobytes())
    assert np.array_equal(read_samples(tmp_path / "a.ppm"), ramp)


def test_animated_files_give_their_first_frame(tmp_path):
    frames = [Image.new("RGB", (WIDTH, HEIGHT), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    picture = read_image(tmp_path / "a.gif")
    assert picture.rgb.shape == (HEIGHT, WIDTH, 3)
    assert picture.rgb[0, 0].tolist() == [1, 0, 0]


def test_out_of_range_float_files_are_refused(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(np.full((HEIGHT, WIDTH), 7.5, np.float32)).save(buffer, "TIFF")
    (tmp_path / "f.tif").write_bytes(buffer.getvalue())
    with pytest.raises(DataError, match=r"from 7\.5 to 7\.5; expected 0 to 1"):
        read_image(tmp_path / "f.tif")
