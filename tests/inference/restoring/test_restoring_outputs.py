"""What results are like: format, depth, transparency, metadata, samples, names; strengths and truths by image."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from command_helpers import picture, restore_small, restored_files, save_picture
from PIL import Image, ImageCms

PLACE = Path("results/restored/test")
pytestmark = pytest.mark.usefixtures("here")


def pixels(name):
    return np.asarray(Image.open(PLACE / name))


def metrics():
    return json.loads(Path("results/restored/metrics.json").read_text())


def see_through(height=16, width=12):
    """RGBA with a hidden corner, a visible one and all shades between."""
    image = picture(height, width).convert("RGBA")
    alpha = np.tile(np.linspace(-60, 315, width).clip(0, 255).astype(np.uint8), (height, 1))
    image.putalpha(Image.fromarray(alpha))
    return image


def test_results_take_after_their_files():
    see_through().save("small/rgba.png")
    see_through().convert("LA").save("small/la.png")
    picture(16, 12).convert("L").save("small/gray.png")
    picture(16, 12).convert("P").save("small/palette.png")
    picture(16, 12).convert("CMYK").save("small/cmyk.jpg")
    deep = np.random.default_rng(0).integers(0, 65536, (14, 18, 3), np.uint16)
    cv2.imwrite("small/deep.png", deep)
    cv2.imwrite("small/deepgray.tif", deep[..., 0])
    code, said = restore_small("output.format=same")
    assert code == 0, said
    modes = {name: Image.open(PLACE / name).mode for name in restored_files()}
    assert modes == {
        "cmyk.jpg": "RGB", "deep.png": "RGB", "deepgray.tif": "I;16", "gray.png": "L", "la.png": "LA", "ok.png": "RGB",
        "palette.png": "RGB", "rgba.png": "RGBA",
    }  # fmt: skip
    written = cv2.imread(str(PLACE / "deep.png"), cv2.IMREAD_UNCHANGED)
    assert written.dtype == np.uint16
    assert written.shape == (28, 36, 3)
    assert (written % 257 != 0).mean() > 0.3  # not 8 bits made wide


def test_orientation_is_honoured_and_metadata_kept():
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture(16, 40).save("small/turned.jpg", exif=exif, icc_profile=profile)
    code, said = restore_small("output.format=same")
    assert code == 0, said
    with Image.open(PLACE / "turned.jpg") as image:
        assert image.size == (32, 80)
        assert image.getexif().get(0x0112, 1) == 1
        assert image.getexif()[0x010F] == "a camera"
        assert (
            "srgb" in ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))).lower()
        )
        assert image.info["icc_profile"]


@pytest.mark.parametrize(("form", "suffix"), [("jpg", ".jpg"), ("webp", ".webp"), ("tiff", ".tif")])
def test_formats(form, suffix):
    cv2.imwrite("small/deep.png", np.zeros((8, 10, 3), np.uint16))
    assert restore_small(f"output.format={form}")[0] == 0
    assert restored_files() == [f"deep{suffix}", f"ok{suffix}"]
    assert Image.open(PLACE / f"ok{suffix}").size == (48, 32)


def test_formats_that_cannot_be_written_become_png():
    picture(8, 10).save("small/a.bmp")
    picture(8, 10).save("small/b.JPG")
    assert restore_small("output.format=same")[0] == 0
    assert restored_files() == ["a.png", "b.JPG", "ok.png"]


def test_transparency_is_restored_as_a_gray_image_with_the_strengths_of_the_colours():
    image = see_through()
    image.save("small/a.png")
    assert restore_small()[0] == 0
    alpha = pixels("a.png")[..., 3]
    image.getchannel("A").save("small/a.png")
    assert restore_small()[0] == 0
    assert np.array_equal(alpha, pixels("a.png"))


def test_hidden_colours_do_not_bleed_into_visible_ones():
    values = np.asarray(see_through()).copy()
    Image.fromarray(values).save("small/a.png")
    assert restore_small()[0] == 0
    first = pixels("a.png")
    values[values[..., 3] == 0, :3] = 255 - values[values[..., 3] == 0, :3]
    Image.fromarray(values).save("small/a.png")
    assert restore_small()[0] == 0
    assert np.array_equal(first, pixels("a.png"))


def test_transparency_can_be_enlarged_or_dropped():
    see_through().save("small/a.png")
    assert restore_small("output.alpha=bicubic")[0] == 0
    alpha = pixels("a.png")[..., 3].astype(int)
    expected = np.asarray(see_through().getchannel("A").resize((24, 32), Image.Resampling.BICUBIC)).astype(int)
    assert abs(alpha - expected).max() <= 1
    assert restore_small("output.alpha=drop")[0] == 0
    assert Image.open(PLACE / "a.png").mode == "RGB"


def test_an_opaque_alpha_stays_opaque():
    picture(8, 12).convert("RGBA").save("small/a.png")
    assert restore_small()[0] == 0
    assert (pixels("a.png")[..., 3] == 255).all()


def test_jpeg_holds_no_transparency_and_it_is_said():
    see_through().save("small/a.png")
    code, said = restore_small("output.format=jpg")
    assert code == 0
    assert said.count("small/a.png: JPEG holds no transparency, so it is laid over white") == 1
    assert Image.open(PLACE / "a.jpg").mode == "RGB"


def test_a_result_that_no_file_of_the_format_can_hold_fails_before_it_is_sampled():
    save_picture("small/wide.png", 2, 8200)
    code, said = restore_small("output.format=webp")
    assert code == 1
    assert "wide.png: not restored: its result of 16400x4 pixels is larger than WEBP holds" in said
    assert restored_files() == ["ok.webp"]


def test_several_samples_their_mean_and_their_spread():
    code, said = restore_small("output.num_samples=3", "output.write=[samples, mean, spread]")
    assert code == 0, said
    assert restored_files() == ["ok_1.png", "ok_2.png", "ok_3.png", "ok_mean.png", "ok_spread.png"]
    samples = np.stack([pixels(f"ok_{number}.png") for number in (1, 2, 3)]).astype(float)
    assert not np.array_equal(samples[0], samples[1])
    assert abs(samples.mean(axis=0) - pixels("ok_mean.png")).max() <= 1
    spread = pixels("ok_spread.png")
    expected = 4 * np.sqrt(samples.var(axis=0, ddof=1).mean(axis=2))
    assert spread.shape == (32, 48)
    assert abs(expected.clip(0, 255) - spread).max() <= 4
    row = metrics()["images"][0]
    assert list(row["results"]) == ["restored 1", "restored 2", "restored 3", "restored mean", "restored spread"]
    assert list(row["consistency"]) == ["restored 1", "restored 2", "restored 3"]
    restore_small()
    assert np.array_equal(pixels("ok.png"), samples[0])  # the first sample is the one that a single run gives


def test_only_the_mean_with_transparency():
    see_through().save("small/a.png")
    assert restore_small("output.num_samples=2", "output.write=[mean]", "output.suffix=_x")[0] == 0
    assert restored_files() == ["a_x_mean.png", "ok_x_mean.png"]
    assert Image.open(PLACE / "a_x_mean.png").mode == "RGBA"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("output.suffix=../x", "output.suffix: expected a part of a file's name, without / "),
        ("output.write=[mean]", "output.write.0: mean needs num_samples of 2 or more, found 1"),
        ("output.write=[]", "output.write: name each of samples, mean, spread at most once"),
        ("output.quality=80", "output.quality: is for jpg and webp, but format is png; remove it"),
        ("output.format=gif", "output.format: expected 'png', 'jpg', 'webp', 'tiff' or 'same', found 'gif'"),
        ("datasets.test.ground_truth=gone", "gone: no such file or folder"),
        ("datasets.test.fixed_parameters.corruption_entropy=[{map: gone.png}, 0]", "gone.png: no such file or folder"),
        (
            "datasets.test.fixed_parameters.corruption_entropy={jpeg: 0.2, gaussian_blur: 0.5}",
            "strengths by name need the names in fixed_corruptions, which is empty",
        ),
        (
            "datasets.test.fixed_parameters.corruption_entropy=[0.1, 0.2, 0.3]",
            "2_generator_ema.safetensors was trained with jpeg, gaussian_blur alone",
        ),
    ],
)
def test_options_that_do_not_fit_are_exit_2(override, message):
    code, said = restore_small(override)
    assert code == 2, said
    assert message in said


def test_names_that_collide_after_the_suffix_of_the_file_changed():
    picture(8, 10).save("small/a.png")
    picture(8, 12).save("small/a.jpg")
    picture(8, 14).save("small/a_1.png")
    assert restore_small("output.num_samples=2")[0] == 0
    sizes = {name: Image.open(PLACE / name).size for name in restored_files()}
    assert len(sizes) == 8
    assert sorted(sizes.values()) == sorted([(20, 16), (24, 16), (28, 16), (48, 32)] * 2)


def test_images_that_share_batches_come_out_as_they_do_alone():
    for number in range(5):
        save_picture(f"small/{number}.png", 12 + 3 * number, 40 - 5 * number, seed=number)
    save_picture("small/large.png", 40, 60)
    assert restore_small("steps.restore.injectors.detail.tile_batch_size=16")[0] == 0
    together = {name: pixels(name) for name in restored_files()}
    assert restore_small("output.skip_existing=false", "steps.restore.injectors.detail.tile_batch_size=1")[0] == 0
    for name, shared in together.items():
        assert abs(shared.astype(int) - pixels(name)).max() <= 1, name


def test_an_image_that_fails_in_a_group_fails_alone(monkeypatch):
    from codes.inference.restoring import output

    write = output.write_channels

    def failing(path, *rest):
        if "bad" in path.name:
            raise ValueError("an odd picture")
        write(path, *rest)

    monkeypatch.setattr(output, "write_channels", failing)
    save_picture("small/bad.png", 8, 8)
    save_picture("small/good.png", 8, 8)
    code, said = restore_small()
    assert code == 1
    assert restored_files() == ["good.png", "ok.png"]
    assert "small/bad.png: not restored: an odd picture" in said
    assert "2 images restored, 1 failed" in said


def test_metrics_against_a_folder_of_ground_truths():
    save_picture("small/deep/b.png", 16, 24, seed=1)
    save_picture("small/none.png", 12, 12)
    save_picture("small/odd.png", 12, 14)
    picture(32, 48).resize((48, 32)).save(save_picture("truth/ok.webp", 2, 2))
    save_picture("truth/deep/b.png", 32, 48)
    save_picture("truth/odd.png", 10, 10)
    code, said = restore_small("datasets.test.ground_truth=truth")
    assert code == 0
    assert "small/none.png: no ground truth of this name in truth; not measured" in said
    assert "small/odd.png: its ground truth is 10x10 pixels, the result 28x24; not measured" in said
    rows = {row["file"]: row for row in metrics()["images"]}
    assert set(rows["small/ok.png"]["metrics"]) == {"input (bicubic)", "restored"}
    assert set(rows["small/deep/b.png"]["metrics"]["restored"]) == {"psnr", "ssim", "swd", "grain"}
    assert rows["small/none.png"]["metrics"] == rows["small/odd.png"]["metrics"] == {}
    lines = [line for line in said.splitlines() if " deep/b.png  24x16" in line]
    assert len(lines) == 1
    assert f"{rows['small/deep/b.png']['metrics']['restored']['psnr']:.2f}" in lines[0]


def test_a_ground_truth_equal_to_the_result_is_perfect():
    assert restore_small()[0] == 0
    Path("truth").mkdir()
    (PLACE / "ok.png").rename("truth/ok.png")
    assert restore_small("datasets.test.ground_truth=truth/ok.png")[0] == 0
    perfect = {"psnr": None, "ssim": pytest.approx(1.0), "swd": 0.0, "grain": 1.0}
    assert metrics()["images"][0]["metrics"]["restored"] == perfect
    save_picture("small/other.png", 12, 12)
    code, said = restore_small("datasets.test.ground_truth=truth/ok.png")
    assert code == 2
    assert "ground_truth is one file (truth/ok.png), but there are 2 images" in said


def test_a_map_of_one_shade_is_that_strength_and_another_is_not():
    named = "datasets.test.fixed_parameters.corruption_entropy"
    assert restore_small(f"{named}=[1.0, 0.5]")[0] == 0
    plain = pixels("ok.png")
    Image.new("L", (7, 5), 255).save("flat.png")
    assert restore_small(f"{named}=[{{map: flat.png}}, 0.5]")[0] == 0
    assert np.array_equal(plain, pixels("ok.png"))
    assert restore_small(f"{named}=[{{map: flat.png, white: 0.3}}, 0.5]")[0] == 0
    assert not np.array_equal(plain, pixels("ok.png"))
    half = Image.new("L", (24, 16), 255)
    half.paste(0, (0, 0, 12, 16))
    Path("maps").mkdir()
    half.save("maps/ok.png")
    save_picture("small/without.png", 12, 12)
    code, said = restore_small(f"{named}=[{{map: maps}}, 0.5]")
    assert code == 1
    assert "small/without.png: not restored: no strength map of this name in maps" in said
    assert not np.array_equal(plain, pixels("ok.png"))
    assert metrics()["images"][0]["strengths"] == "0.00 to 1.00 (map), 0.5"


def test_strengths_by_name_are_those_by_order():
    assert restore_small()[0] == 0
    plain = pixels("ok.png")
    named = (
        "datasets.test.fixed_corruptions=[jpeg, gaussian_blur]",
        "datasets.test.fixed_parameters.corruption_entropy={gaussian_blur: 0.5, jpeg: 0.2}",
    )
    assert restore_small("output.skip_existing=false", *named)[0] == 0
    assert np.array_equal(plain, pixels("ok.png"))


def test_colours_can_be_taken_from_the_input():
    assert restore_small()[0] == 0
    before = metrics()["images"][0]["consistency"]["restored"]
    for kind in ("mean", "lowfreq", "wavelet"):
        assert restore_small(f"output.color_fix={kind}")[0] == 0
        assert metrics()["images"][0]["consistency"]["restored"] > before
    assert before == pytest.approx(metrics()["mean_consistency"]["restored"], rel=1)
