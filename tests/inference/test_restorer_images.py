"""Images given to a Restorer: any kind in, the same kind out."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from restorer_helpers import KNOWN, STRENGTHS, picture, write_weights

from codes import DataError, Restorer
from codes.images.objects import take_apart
from codes.images.profiles import srgb_profile


@pytest.fixture(scope="module")
def restorer(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    return Restorer.from_checkpoint(write_weights(path, KNOWN), device="cpu")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float16, np.float32, np.float64, ">u2"])
@pytest.mark.parametrize("channels", [0, 1, 2, 3, 4])
def test_arrays_keep_their_dtype_and_channels(restorer, dtype, channels):
    image = picture(channels=max(channels, 1))
    top = 1 / 255 if np.dtype(dtype).kind == "f" else 257 if np.dtype(dtype).itemsize == 2 else 1
    given = (image.astype(np.float64) * top).astype(dtype)
    given = given[..., 0] if channels == 0 else given
    before = given.copy()
    result = restorer(given, STRENGTHS, steps=1)
    assert result.dtype == given.dtype
    assert result.shape == (36, 54, *given.shape[2:])
    assert result.std() > 0
    assert np.array_equal(given, before)


def test_depths_agree(restorer):
    eight = restorer(picture(), STRENGTHS, steps=2)
    sixteen = restorer(picture().astype(np.uint16) * 257, STRENGTHS, steps=2)
    floats = restorer(picture() / 255, STRENGTHS, steps=2)
    assert np.abs(eight / 255 - floats).max() <= 0.51 / 255
    assert np.abs(sixteen / 65535 - floats).max() <= 0.6 / 65535
    assert len(np.unique(sixteen % 257)) > 50  # the low byte is not made up


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
def test_tensors_keep_dtype_and_order(restorer, dtype):
    image = torch.from_numpy(picture()).permute(2, 0, 1)
    given = image if dtype == torch.uint8 else (image / 255).to(dtype)
    result = restorer(given, STRENGTHS, steps=1)
    assert result.dtype == dtype
    assert result.shape == (3, 36, 54)
    top = 255 if dtype == torch.uint8 else 1
    as_array = restorer(given.float().permute(1, 2, 0).numpy() / top, STRENGTHS, steps=1)
    assert np.abs(result.float().permute(1, 2, 0).numpy() / top - as_array).max() < 0.005


@pytest.mark.parametrize(
    ("mode", "out"),
    [("1", "L"), ("L", "L"), ("LA", "LA"), ("La", "LA"), ("P", "RGB"), ("PA", "RGBA"), ("RGB", "RGB"), ("RGBA", "RGBA"),
     ("RGBX", "RGB"), ("CMYK", "RGB"), ("YCbCr", "RGB"), ("HSV", "RGB"), ("I", "I"), ("I;16", "I;16"), ("F", "F")],
)  # fmt: skip
def test_pillow_modes(restorer, mode, out):
    image = Image.fromarray(picture())
    if mode in ("I;16", "F"):
        gray = picture(channels=1)[..., 0]
        image = Image.fromarray(gray.astype(np.uint16) * 257 if mode == "I;16" else gray.astype(np.float32) / 255)
    else:
        for step in {"La": ("LA", "La"), "PA": ("P", "PA")}.get(mode, (mode,)):
            image = image.convert(step)
    result = restorer(image, STRENGTHS, steps=1)
    assert result.mode == out
    assert result.size == (54, 36)


def test_a_pillow_image_keeps_profile_and_exif_and_stands_upright(restorer):
    image = Image.fromarray(picture(18, 26))
    exif = image.getexif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    profile = srgb_profile()
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif, icc_profile=profile)
    result = restorer(Image.open(buffer), STRENGTHS, steps=1)
    assert result.size == (36, 52)
    assert result.info["icc_profile"] == profile
    kept = Image.Exif()
    kept.load(result.info["exif"])
    assert kept[0x010F] == "maker"
    assert kept.get(0x0112, 1) == 1
    upright = restorer(np.rot90(picture(18, 26), -1), STRENGTHS, steps=1)
    assert np.array_equal(np.asarray(result), upright)


def test_alpha_is_restored_beside_the_colours(restorer):
    rgba = np.dstack([picture(), picture(seed=1)[..., 0]])
    result = restorer(rgba, STRENGTHS, steps=2)
    assert np.array_equal(result[..., :3], restorer(rgba[..., :3], STRENGTHS, steps=2))
    assert np.array_equal(result[..., 3], restorer(rgba[..., 3], STRENGTHS, steps=2))
    opaque = restorer(np.dstack([picture(), np.full((18, 27), 200, np.uint8)]), STRENGTHS, steps=1)
    assert (opaque[..., 3] == 200).all()


@pytest.mark.parametrize(
    ("image", "error", "said"),
    [
        ("photo.png", TypeError, "found str"),
        ([[1, 2]], TypeError, "found list"),
        (np.zeros((4, 4, 3), np.int64), TypeError, "found int64"),
        (np.zeros((4, 4), bool), TypeError, "found bool"),
        (np.zeros((4, 4, 5), np.uint8), ValueError, r"found shape \(4, 4, 5\)"),
        (np.zeros((2, 4, 4, 3), np.uint8), ValueError, r"found shape \(2, 4, 4, 3\)"),
        (np.zeros((0, 4, 3), np.uint8), ValueError, "at least 1 pixel"),
        (np.full((4, 4), np.nan), ValueError, "found nan"),
        (np.full((4, 4), 255.0), ValueError, "found 255 to 255; pass 0..255 as uint8"),
        (np.full((4, 4), -0.5), ValueError, "found -0.5"),
        (torch.zeros(1, 3, 4, 4), ValueError, "one image at a time"),
        (Image.new("RGB", (0, 4)), ValueError, "at least 1 pixel"),
        (Image.fromarray(np.full((4, 4), 70_000, np.int32)), ValueError, "expected 0 to 65535"),
    ],
)
def test_unsuitable_images_are_refused_in_one_line(restorer, image, error, said):
    with pytest.raises(error, match=said) as raised:
        restorer(image, STRENGTHS, steps=1)
    assert "\n" not in str(raised.value)


def test_a_truncated_pillow_image_is_a_data_error(restorer):
    buffer = io.BytesIO()
    Image.fromarray(picture(64, 64)).save(buffer, "JPEG")
    with pytest.raises(DataError, match="cannot decode it"):
        restorer(Image.open(io.BytesIO(buffer.getvalue()[:-200])), STRENGTHS, steps=1)


def test_one_pixel_is_enough(restorer):
    assert restorer(np.zeros((1, 1, 3), np.uint8), STRENGTHS, steps=1).shape == (2, 2, 3)


def jpeg(path=None, side=160, quality=12):
    """A photograph-like JPEG, in memory or as a file, opened by Pillow and not decoded yet."""
    y, x = np.mgrid[:side, :side]
    waves = np.stack([127 + 90 * np.sin(x / 9), 127 + 90 * np.cos(y / 7), 127 + 90 * np.sin((x + y) / 11)], -1)
    noise = np.random.default_rng(0).normal(0, 20, waves.shape)
    target = path or io.BytesIO()
    Image.fromarray((waves + noise).clip(0, 255).astype(np.uint8)).save(target, "JPEG", quality=quality)
    return Image.open(target)


def shrunk(image):
    image.thumbnail((64, 64))
    return image


def drafted(image):
    image.draft("RGB", (64, 64))
    return image


def painted(image):
    image.paste((255, 0, 0), (0, 0, 100, 100))
    return image


def loaded(image):
    image.load()
    return image


def resized(image):
    return image.resize((64, 64))


@pytest.mark.parametrize("change", [shrunk, drafted, painted, resized])
@pytest.mark.parametrize("from_file", [False, True])
def test_tables_of_a_jpeg_are_not_those_of_other_pixels(tmp_path, change, from_file):
    image = change(jpeg(tmp_path / "a.jpg" if from_file else None))
    assert take_apart(image).jpeg_table is None


def test_tables_of_a_jpeg_are_those_of_its_own_pixels(tmp_path):
    wanted = np.array(jpeg().quantization[0]).reshape(8, 8)
    for image in (jpeg(), jpeg(tmp_path / "a.jpg"), loaded(jpeg(tmp_path / "a.jpg"))):
        for _ in range(2):  # the second call says what the first did
            assert np.array_equal(take_apart(image).jpeg_table, wanted)
    untouched = jpeg()
    take_apart(untouched)
    assert untouched.tile  # still not decoded
