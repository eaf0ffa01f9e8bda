"""Every kind of file trains; what cannot be used is named once, left out and counted."""

import io

import numpy as np
import pytest
from data_helpers import dataset, fill, picture
from PIL import Image, ImageCms

from codes.images.files import read_samples, to_rgb, write_image
from codes.utils.errors import DataError

EIGHT = (picture(1, 30, 44) * 255).round().astype(np.uint8)


def save(path, image, **settings):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **settings)


@pytest.mark.parametrize(
    ("name", "mode", "close"),
    [
        ("gray.png", "L", 90), ("gray.jpg", "L", 90), ("gray alpha.png", "LA", 90), ("palette.png", "P", 40),
        ("palette.gif", "P", 40), ("one bit.png", "1", 160), ("cmyk.jpg", "CMYK", 30), ("cmyk.tif", "CMYK", 30),
        ("rgb.webp", "RGB", 30), ("rgb.bmp", "RGB", 1), ("rgba.png", "RGBA", 1), ("ycc.jpg", "RGB", 30),
        ("bär 写真 📷.png", "RGB", 1), ("name.with.dots.JPG", "RGB", 30),
    ],
)  # fmt: skip
def test_every_mode_and_name_trains(tmp_path, name, mode, close):
    save(tmp_path / "in" / name, Image.fromarray(EIGHT).convert(mode))
    data = dataset(tmp_path / "in", batch_size=1, target_size=30, scale=1, disable_flip=True, fixed_corruptions=())
    item = data.item(0)
    assert item["hq"].shape == (3, 30, 30)
    assert item["HQ_path"].endswith(name)
    top = to_rgb(item["hq"], n1_to_1=False) * 255
    errors = [np.abs(top - EIGHT[:, left : left + 30]).mean() for left in range(15)]
    assert min(errors) < close


@pytest.mark.parametrize("orientation", range(1, 9))
def test_jpegs_are_upright_whichever_decoder_reads_them(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    save(tmp_path / "a.jpg", Image.fromarray(EIGHT), quality=95, exif=exif)
    fast = read_samples(tmp_path / "a.jpg")
    data = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "b.jpg").write_bytes(data + bytes(10_000))  # what follows the end makes Pillow the decoder
    assert np.array_equal(fast, read_samples(tmp_path / "b.jpg"))
    assert fast.shape == ((30, 44, 3) if orientation < 5 else (44, 30, 3))


def test_the_srgb_profile_changes_nothing(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    save(tmp_path / "srgb.jpg", Image.fromarray(EIGHT), icc_profile=profile.tobytes())
    save(tmp_path / "plain.jpg", Image.fromarray(EIGHT))
    assert np.array_equal(read_samples(tmp_path / "srgb.jpg"), read_samples(tmp_path / "plain.jpg"))


def test_a_jpeg_that_is_shrunk_anyway_may_be_decoded_smaller(tmp_path):
    image = picture(3, 240, 320)
    write_image(tmp_path / "in" / "a.jpg", image, quality=95)
    assert read_samples(tmp_path / "in" / "a.jpg", shortest_side=60).shape == (60, 80, 3)
    assert read_samples(tmp_path / "in" / "a.jpg", shortest_side=61).shape == (120, 160, 3)
    assert read_samples(tmp_path / "in" / "a.jpg").shape == (240, 320, 3)
    settings = {"tile": "none", "batch_size": 1, "disable_flip": True, "fixed_corruptions": (), "scale": 1}
    fast = dataset(tmp_path / "in", **settings).item(0)["hq"]
    write_image(tmp_path / "png" / "a.png", read_samples(tmp_path / "in" / "a.jpg"))
    assert (fast - dataset(tmp_path / "png", **settings).item(0)["hq"]).abs().max() < 0.03


def test_transparency_is_composited_or_cropped_as_asked(tmp_path):
    alpha = np.zeros((30, 44), np.float32)
    alpha[4:26, 10:34] = 1
    write_image(tmp_path / "in" / "a.png", picture(0, 30, 44), alpha=alpha)
    whole = {"shuffle": False, "target_size": None, "tile": "none", "scale": 1, "skip_lq": True}
    white, black, cut = (
        to_rgb(dataset(tmp_path / "in", alpha=name, **whole).item(0)["hq"], n1_to_1=False)
        for name in ("white", "black", "crop")
    )
    assert white[0, 0].tolist() == [1, 1, 1]
    assert black[0, 0].tolist() == [0, 0, 0]
    assert cut.shape == (22, 24, 3)
    assert np.array_equal(cut, white[4:26, 10:34])
    assert np.array_equal(cut, black[4:26, 10:34])


def test_what_cropping_leaves_too_small_or_empty_is_left_out(tmp_path):
    fill(tmp_path / "in", 4)
    for name, size in (("small.png", 5), ("nothing.png", 0)):
        alpha = np.zeros((30, 44), np.float32)
        alpha[:size, :size] = 1
        write_image(tmp_path / "in" / name, picture(0, 30, 44), alpha=alpha)
    data = dataset(tmp_path / "in", alpha="crop")
    names = {data.item(position)["HQ_path"] for position in range(12)}
    assert len(names) == 4
    assert {path.name: reason for path, reason in data.unreadable.items()} == {
        "small.png": "5x5 visible pixels, at least 16x16 needed",
        "nothing.png": "nothing in it is visible (alpha is 0 everywhere)",
    }


def test_folders_behind_links_are_searched(tmp_path):
    fill(tmp_path / "elsewhere", 3)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "in" / "broken.png").symlink_to(tmp_path / "gone.png")
    data = dataset(tmp_path / "in", batch_size=2)
    assert len(data.files) == 3
    assert [(entry.path.name, entry.reason) for entry in data.report().rejected] == [("broken.png", "a broken link")]


def test_huge_files_are_left_out_by_an_option(tmp_path):
    fill(tmp_path / "in", 3)
    write_image(tmp_path / "in" / "huge.png", np.zeros((100, 200, 3), np.uint8))
    data = dataset(tmp_path / "in", max_pixels=10_000, batch_size=2)
    (entry,) = data.report().failed
    assert str(entry).endswith("huge.png: 200x100 pixels are more than the limit of 10000 (max_pixels)")
    assert len(dataset(tmp_path / "in", batch_size=2).files) == 4


def test_a_bomb_is_refused_by_its_header_alone(tmp_path):
    """A PNG of 60 bytes that claims 30000 x 30000 pixels."""
    file = io.BytesIO()
    Image.new("L", (3, 2)).save(file, "PNG")
    data = bytearray(file.getvalue())
    data[16:24] = (30_000).to_bytes(4, "big") * 2
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "bomb.png").write_bytes(data)
    with pytest.raises(DataError, match=r"bomb\.png: "):
        dataset(tmp_path / "in")


def test_flat_tiles_are_drawn_again(tmp_path):
    image = np.full((64, 128, 3), 0.5, np.float32)
    image[:, :40] = picture(0, 64, 40)
    write_image(tmp_path / "in" / "a.png", image)
    settings = {"fixed_corruptions": (), "batch_size": 4}
    lively = [dataset(tmp_path / "in", min_tile_std=5.0, **settings).item(number)["hq"] for number in range(40)]
    plain = dataset(tmp_path / "in", **settings)
    flat = [float(tile.std()) < 0.01 for tile in lively], [float(plain.item(n)["hq"].std()) < 0.01 for n in range(40)]
    assert sum(flat[1]) > 15
    assert sum(flat[0]) < 5
    again = dataset(tmp_path / "in", min_tile_std=5.0, **settings)
    assert all((again.item(number)["hq"] == lively[number]).all() for number in (39, 3, 17))
    write_image(tmp_path / "flat" / "a.png", np.full((40, 60, 3), 0.5, np.float32))
    assert dataset(tmp_path / "flat", min_tile_std=5.0, batch_size=1).item(0)["hq"].shape == (3, 16, 16)
