"""Writing image files: gray, alpha, depths, bands of rows, EXIF and profiles, what a format cannot hold."""

import io
import tracemalloc

import numpy as np
import pytest
import tifffile
from PIL import ExifTags, Image, ImageCms

from codes.images import tiff as image_tiff
from codes.images.files import open_writer, quantise, read_image, read_samples, write_image, write_picture
from codes.images.profiles import gray_profile, srgb_profile
from codes.utils.errors import DataError

SIZES = [(1, 1), (1, 7), (9, 1), (21, 34), (300, 211)]
LOSSLESS = [(".png", 8), (".png", 16), (".tif", 8), (".tif", 16), (".webp", 8)]
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def samples(height, width, channels, bit_depth=8, seed=0):
    dtype = np.uint16 if bit_depth == 16 else np.uint8
    values = np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, (height, width, channels), dtype)
    # What lies far from the last row and column is smooth, so that compression has something to do.
    values[: height // 2] = (np.arange(width)[:, None] * 3 % np.iinfo(dtype).max).astype(dtype)
    return values


def camera():
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Kamera"
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.XResolution] = 300.0
    exif[ExifTags.IFD.Exif] = {
        ExifTags.Base.DateTimeOriginal: "2020:02:03 04:05:06",
        ExifTags.Base.ExifImageWidth: 4000,
        ExifTags.Base.ExifImageHeight: 3000,
        ExifTags.Base.FNumber: 2.8,
        ExifTags.Base.MakerNote: b"secret of the maker" * 9,
    }
    exif[ExifTags.IFD.GPSInfo] = {ExifTags.GPS.GPSLatitudeRef: "N", ExifTags.GPS.GPSLatitude: (48.0, 30.0, 15.5)}
    return exif.tobytes()


def parsed(exif):
    loaded = Image.Exif()
    loaded.load(exif)
    return loaded


def expected_rgb(values, bit_depth):
    colour = np.repeat(values[..., :1], 3, axis=2) if values.shape[2] < 3 else values[..., :3]
    return quantise(colour / np.float64(np.iinfo(values.dtype).max), bit_depth)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize(("suffix", "bit_depth"), LOSSLESS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_what_is_written_is_read_again(tmp_path, size, suffix, bit_depth, channels):
    values, path = samples(*size, channels, bit_depth), tmp_path / f"a{suffix}"
    alpha = values[..., -1] if channels in (2, 4) else None
    colour = values[..., : channels - (alpha is not None)]
    write_image(path, colour, alpha=alpha, bit_depth=bit_depth, quality=100)
    picture = read_image(path)
    assert picture.bit_depth == bit_depth
    assert picture.gray == (channels < 3 and suffix != ".webp" and (suffix, bit_depth, channels) != (".tif", 16, 2))
    assert np.array_equal(quantise(picture.rgb, bit_depth), expected_rgb(values, bit_depth))
    # A WebP whose alpha is opaque everywhere comes back without it.
    assert (picture.alpha is not None) == (alpha is not None)
    if alpha is not None:
        assert np.array_equal(quantise(picture.alpha, bit_depth), alpha)
    assert read_samples(path).shape == (*size, 3)
    if bit_depth == 8 and suffix != ".webp":
        assert Image.open(path).mode == MODES[channels]


@pytest.mark.parametrize("shape", [(21, 34), (21, 34, 1)])
def test_gray_stays_one_channel_in_every_format(tmp_path, shape):
    ramp = (np.arange(21 * 34) / (21 * 34)).astype(np.float32).reshape(shape)
    for suffix, mode in ((".png", "L"), (".jpg", "L"), (".tiff", "L"), (".webp", "RGB")):
        write_image(tmp_path / f"gray{suffix}", ramp)
        assert Image.open(tmp_path / f"gray{suffix}").mode == mode
        picture = read_image(tmp_path / f"gray{suffix}")
        assert picture.gray == (mode == "L")
        np.testing.assert_allclose(picture.rgb[..., 1], ramp.reshape(21, 34), atol=0.03)
    write_image(tmp_path / "deep.tif", ramp, bit_depth=16)
    assert tifffile.imread(tmp_path / "deep.tif").shape == (21, 34)
    assert np.array_equal(tifffile.imread(tmp_path / "deep.tif"), quantise(ramp.reshape(21, 34), 16))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize(("suffix", "bit_depth"), LOSSLESS)
def test_the_file_does_not_depend_on_the_bands(tmp_path, suffix, bit_depth, channels):
    values = samples(90, 61, channels, bit_depth)
    for name, cuts in (("whole", [90]), ("rows", range(1, 91)), ("bands", [7, 8, 50, 90])):
        with open_writer(tmp_path / f"{name}{suffix}", 90, 61, channels, bit_depth=bit_depth, quality=100) as writer:
            for y0, y1 in zip([0, *cuts], cuts, strict=False):
                writer.write_rows(values[y0:y1])
    results = [read_samples(tmp_path / f"{name}{suffix}", alpha="black") for name in ("whole", "rows", "bands")]
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_strips_and_chunks_of_a_larger_image(tmp_path, suffix):
    values = samples(1100, 1400, 3)  # several strips of 1 MiB, more than one step
    write_image(tmp_path / f"a{suffix}", values)
    assert np.array_equal(read_samples(tmp_path / f"a{suffix}"), values)
    assert np.array_equal(np.asarray(Image.open(tmp_path / f"a{suffix}")), values)


@pytest.mark.parametrize("bit_depth", [8, 16])
def test_bigtiff(tmp_path, monkeypatch, bit_depth):
    monkeypatch.setattr(image_tiff, "_LARGEST_CLASSIC", 100)
    values = samples(300, 400, 4, bit_depth)
    write_image(tmp_path / "big.tif", values[..., :3], alpha=values[..., 3], bit_depth=bit_depth, exif=camera(),
                icc=srgb_profile())  # fmt: skip
    with tifffile.TiffFile(tmp_path / "big.tif") as file:
        assert file.is_bigtiff
        assert np.array_equal(file.asarray(), values)
        assert file.pages[0].tags["ExifTag"].value["FNumber"] == pytest.approx(2.8)
    picture = read_image(tmp_path / "big.tif")
    assert np.array_equal(quantise(picture.rgb, bit_depth), values[..., :3])
    assert parsed(picture.exif)[ExifTags.Base.Make] == "Kamera"
    assert picture.icc == srgb_profile()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("suffix", "bit_depth"), [*LOSSLESS, (".jpg", 8)], ids=str)
def test_exif_and_profile_are_kept_and_fit_the_result(tmp_path, suffix, bit_depth, channels):
    path = tmp_path / f"a{suffix}"
    write_image(path, samples(22, 35, channels), bit_depth=bit_depth, exif=camera(), icc=srgb_profile())
    with Image.open(path) as image:
        assert image.getexif().get(ExifTags.Base.Orientation, 1) == 1
        gray = channels == 1 and suffix != ".webp"
        assert image.info["icc_profile"][16:20] == (b"GRAY" if gray else b"RGB ")
        assert ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"])).profile.profile_description
    picture = read_image(path)
    assert picture.rgb.shape == (22, 35, 3)
    exif = parsed(picture.exif)
    assert exif[ExifTags.Base.Make] == "Kamera"
    assert exif[ExifTags.Base.XResolution] == 300
    details = exif.get_ifd(ExifTags.IFD.Exif)
    assert details[ExifTags.Base.DateTimeOriginal] == "2020:02:03 04:05:06"
    assert details[ExifTags.Base.MakerNote] == b"secret of the maker" * 9
    assert (details[ExifTags.Base.ExifImageWidth], details[ExifTags.Base.ExifImageHeight]) == (35, 22)
    assert float(details[ExifTags.Base.FNumber]) == pytest.approx(2.8)
    assert exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] == (48, 30, 15.5)
    assert not set(exif) & {256, 258, 273, 277, 279, 34675}
    assert picture.icc == srgb_profile()


@pytest.mark.parametrize("bit_depth", [8, 16])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_gray_with_a_profile_goes_round_without_a_change(tmp_path, suffix, bit_depth):
    values = samples(21, 34, 1, bit_depth)
    write_image(tmp_path / f"1{suffix}", values, bit_depth=bit_depth, icc=gray_profile())
    first = read_image(tmp_path / f"1{suffix}")
    assert first.gray
    write_image(tmp_path / f"2{suffix}", first.rgb[..., 0], bit_depth=bit_depth, icc=first.icc)
    second = read_image(tmp_path / f"2{suffix}")
    assert Image.open(tmp_path / f"2{suffix}").info["icc_profile"] == gray_profile()
    assert np.array_equal(quantise(second.rgb, bit_depth)[..., :1], values)


def test_a_foreign_gray_profile_is_converted_in_16_bits(tmp_path):
    place = gray_profile().index(b"curv\0\0\0\0")
    linear = bytearray(gray_profile())
    linear[place + 8 : place + 12] = bytes(4)  # a curve of no points: the values are linear light
    values = np.full((3, 5), 20000, np.uint16)
    Image.fromarray(values).save(tmp_path / "linear.png", icc_profile=bytes(linear))
    picture = read_image(tmp_path / "linear.png")
    light = 20000 / 65535
    assert picture.bit_depth == 16
    np.testing.assert_allclose(picture.rgb, 1.055 * light ** (1 / 2.4) - 0.055, atol=2e-4)
    assert picture.icc == srgb_profile()


def test_the_gray_profile_is_the_srgb_curve():
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    source, target = (ImageCms.ImageCmsProfile(io.BytesIO(data)) for data in (gray_profile(), srgb_profile()))
    converted = np.asarray(ImageCms.profileToProfile(ramp, source, target, outputMode="RGB"))
    assert np.array_equal(converted, np.repeat(np.arange(256)[None, :, None], 3, axis=2))
    assert srgb_profile() == srgb_profile.__wrapped__()  # no date of today in it


def test_malformed_exif_is_left_out(tmp_path):
    write_image(tmp_path / "a.png", samples(4, 5, 3), exif=b"Exif\0\0no directory at all")
    assert read_image(tmp_path / "a.png").exif is None


def test_exif_that_no_jpeg_holds_is_left_out_with_a_warning(tmp_path, caplog):
    exif = Image.Exif()
    exif[ExifTags.IFD.Exif] = {ExifTags.Base.MakerNote: bytes(70000)}
    write_image(tmp_path / "a.png", samples(4, 5, 3), exif=exif.tobytes())
    assert len(read_image(tmp_path / "a.png").exif) > 70000
    write_image(tmp_path / "a.jpg", samples(4, 5, 3), exif=exif.tobytes())
    assert read_image(tmp_path / "a.jpg").exif is None
    assert "EXIF are left out: JPEG holds 65533" in caplog.text


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg", ".webp"])
def test_a_failure_leaves_nothing_and_keeps_what_was_there(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"before")
    with pytest.raises(RuntimeError, match="lost"), open_writer(path, 50, 40, 3) as writer:  # noqa: PT012
        writer.write_rows(samples(20, 40, 3))
        raise RuntimeError("lost")
    with pytest.raises(ValueError, match="only 20 of 50 rows"), open_writer(path, 50, 40, 3) as writer:
        writer.write_rows(samples(20, 40, 3))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == b"before"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros((2, 40, 4), np.uint8), r"expected rows \(n, 40, 3\) uint8, found \(2, 40, 4\) uint8"),
        (np.zeros((2, 41, 3), np.uint8), "expected rows"),
        (np.zeros((2, 40, 3), np.uint16), "found .* uint16"),
        (np.zeros((2, 40), np.uint8), "expected rows"),
        (np.zeros((51, 40, 3), np.uint8), "51 rows for an image of 50"),
    ],
)
def test_rows_that_do_not_fit_are_refused(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message), open_writer(tmp_path / "a.png", 50, 40, 3) as writer:
        writer.write_rows(rows)


@pytest.mark.parametrize(("name", "size", "limit"), [("a.jpg", (2, 65501), 65500), ("a.webp", (16384, 3), 16383)])
def test_what_a_format_cannot_hold_says_so_before_any_work(tmp_path, name, size, limit):
    with (
        pytest.raises(DataError, match=rf"{name}: \w+ holds sides of at most {limit} pixels, found .*; write PNG"),
        open_writer(tmp_path / name, *size, 3),
    ):
        raise AssertionError("the block must not run")
    with pytest.raises(DataError, match="JPEG holds no transparency"), open_writer(tmp_path / "a.jpg", 4, 5, 2):
        pass
    with pytest.raises(ValueError, match="an image of 0x5"), open_writer(tmp_path / "a.png", 0, 5, 3):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_largest_jpeg_is_written(tmp_path):
    write_image(tmp_path / "a.jpg", np.full((2, 65500), 90, np.uint8))
    assert read_samples(tmp_path / "a.jpg").shape == (2, 65500, 3)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_memory_does_not_grow_with_the_height(tmp_path, suffix):
    band = samples(64, 1024, 3)
    peaks = []
    for bands in (16, 160):
        tracemalloc.start()
        with open_writer(tmp_path / f"a{suffix}", 64 * bands, 1024, 3) as writer:
            for _ in range(bands):
                writer.write_rows(band)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 200_000  # the image itself grew by 28 MB


@pytest.mark.parametrize("suffix", ["png", "jpg", "tiff"])
def test_a_picture_written_again_keeps_its_dots_an_inch(tmp_path, suffix):
    Image.fromarray(np.zeros((5, 7, 3), np.uint8)).save(tmp_path / "given.png", dpi=(300, 150))
    write_picture(tmp_path / f"again.{suffix}", read_image(tmp_path / "given.png"))
    again = read_image(tmp_path / f"again.{suffix}")
    assert again.dpi == pytest.approx((300, 150), abs=0.1)
    assert again.rgb.shape == (5, 7, 3)
