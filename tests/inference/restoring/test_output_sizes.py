"""Results of the size asked for, in recipes: files, metadata, passes, metrics, resuming, errors."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from command_helpers import picture, restore_small, save_picture
from PIL import Image

PLACE = Path("results/restored/test")
pytestmark = pytest.mark.usefixtures("here")


def see_through(height=16, width=12):
    image = picture(height, width).convert("RGBA")
    alpha = np.tile(np.linspace(-60, 315, width).clip(0, 255).astype(np.uint8), (height, 1))
    image.putalpha(Image.fromarray(alpha))
    return image


def size(name):
    return Image.open(PLACE / name).size


def metrics():
    return json.loads(Path("results/restored/metrics.json").read_text())


@pytest.mark.parametrize(
    ("wish", "expected"),
    [
        (["output.scale=1.5"], (36, 24)),
        (["output.size=30x30"], (30, 20)),
        (["output.size=30x30", "output.size_mode=fill"], (30, 30)),
        (["output.size=31x17", "output.size_mode=exact"], (31, 17)),
        (["output.megapixels=0.0006"], (30, 20)),
        (["output.scale=0.5", "output.resampling=area", "output.linear_light=true"], (12, 8)),
    ],
)
def test_results_have_the_size_asked_for(wish, expected):
    code, said = restore_small(*wish)
    assert code == 0, said
    assert size("ok.png") == expected
    row = metrics()["images"][0]
    assert row["size"] == {"input": "24x16", "restored": "48x32", "result": f"{expected[0]}x{expected[1]}"}
    assert Path("results/restored/index.html").is_file()
    assert "times in a row" not in said


@pytest.mark.parametrize("canvas", ["ram", "disk"])
def test_a_result_is_the_restored_image_resampled(canvas):
    assert restore_small()[0] == 0
    whole = np.asarray(Image.open(PLACE / "ok.png"))
    code, _ = restore_small("output.scale=1.25", f"steps.restore.injectors.detail.canvas={canvas}")
    assert code == 0
    planes = [
        Image.fromarray(whole[..., c].astype(np.float32)).resize((30, 20), Image.Resampling.LANCZOS) for c in range(3)
    ]
    expected = np.stack([np.asarray(plane) for plane in planes], axis=2).clip(0, 255)
    assert np.abs(np.asarray(Image.open(PLACE / "ok.png")) - expected).max() <= 2  # of the 8 bits in between


def test_depth_transparency_gray_and_metadata_are_kept():
    see_through().save("small/rgba.png", dpi=(300, 300))
    picture(16, 12).convert("L").save("small/gray.png")
    cv2.imwrite("small/deep.png", np.random.default_rng(0).integers(0, 65536, (14, 18, 3), np.uint16))
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    exif.get_ifd(0x8769)[0xA002], exif.get_ifd(0x8769)[0xA003] = 20, 16
    picture(16, 20).save("small/dense.jpg", exif=exif, dpi=(240, 120))
    picture(16, 20).save("small/strips.tif", dpi=(150, 150))
    for alpha in ("restore", "bicubic"):
        code, said = restore_small("output.scale=1.5", "output.format=same", f"output.alpha={alpha}")
        assert code == 0, said
        with Image.open(PLACE / "rgba.png") as image:
            assert (image.mode, image.size) == ("RGBA", (18, 24))
            assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
            assert np.ptp(np.asarray(image)[..., 3]) > 200
    assert Image.open(PLACE / "gray.png").mode == "L"
    deep = cv2.imread(str(PLACE / "deep.png"), cv2.IMREAD_UNCHANGED)
    assert (deep.dtype, deep.shape) == (np.uint16, (21, 27, 3))
    assert (deep % 257 != 0).mean() > 0.3  # not 8 bits made wide
    with Image.open(PLACE / "dense.jpg") as image:
        assert image.size == (30, 24)
        assert image.info["dpi"] == (240, 120)
        assert image.getexif()[0x010F] == "a camera"
        inner = image.getexif().get_ifd(0x8769)
        assert (inner[0xA002], inner[0xA003]) == (30, 24)
    with Image.open(PLACE / "strips.tif") as image:
        assert image.info["dpi"] == pytest.approx((150, 150))


def test_what_one_pass_does_not_reach_is_restored_again_with_a_warning():
    code, said = restore_small("output.scale=4", options=["--dry_run"])
    assert code == 0, said
    assert "24x16 -> 96x64 in 2 passes" in said
    assert "1 image restored up to 2 times in a row" in said
    code, said = restore_small("output.scale=4", "output.num_samples=2", "output.write=[samples,mean,spread]")
    assert code == 0, said
    assert "fine detail is not to be trusted" in said
    assert "infer.yml: output.scale 4:" in said
    assert size("ok_1.png") == size("ok_mean.png") == size("ok_spread.png") == (96, 64)
    first, second = (np.asarray(Image.open(PLACE / f"ok_{n}.png")).astype(int) for n in (1, 2))
    assert np.abs(first - second).mean() > 1
    assert metrics()["images"][0]["size"]["restored"] == "96x64"
    assert list(metrics()["mean_consistency"])  # of the result against its input, over both passes


def test_dry_run_says_both_sizes_and_counts_the_work_of_every_pass():
    code, said = restore_small("output.scale=3", options=["--dry_run"])
    assert code == 0, said
    assert "24x16 -> 96x64 in 2 passes -> 72x48" in said
    assert not PLACE.exists()


@pytest.mark.parametrize("canvas", ["ram", "disk"])
def test_an_interruption_in_the_second_pass_goes_on_there(canvas, monkeypatch):
    from codes.models.diffusion.tiling import canvas_sampling

    wish = ["output.scale=4", f"steps.restore.injectors.detail.canvas={canvas}"]
    assert restore_small(*wish, "path.results=whole")[0] == 0
    real, calls = canvas_sampling.sample_images, []

    def cut(images, *rest):
        calls.append([image.store.steps_done for image in images])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(images, *rest)

    monkeypatch.setattr("codes.models.diffusion.engine.sample_images", cut)
    assert restore_small(*wish)[0] == 130
    code, said = restore_small(*wish)
    assert code == 0, said
    assert calls == [[0], [0], [2], [0]]  # the first pass was done: both of its steps
    assert (PLACE / "ok.png").read_bytes() == Path("whole/test/ok.png").read_bytes()


def test_a_finished_image_is_skipped_until_another_size_is_asked_for():
    assert restore_small("output.scale=1.5")[0] == 0
    assert "1 of 1 images are restored already" in restore_small("output.scale=1.5")[1]
    code, said = restore_small("output.scale=1.25")
    assert code == 0
    assert "restored already" not in said
    assert size("ok.png") == (30, 20)


def test_a_truth_of_another_size_is_brought_to_that_of_the_result_and_this_is_said():
    save_picture("truths/ok.png", 32, 48)
    code, said = restore_small("output.scale=1.5", "datasets.test.ground_truth=truths")
    assert code == 0, said
    row = metrics()["images"][0]
    assert row["compared"] == "with the ground truth of 48x32 pixels brought to 36x24 by lanczos"
    assert row["compared"] in said
    assert {"psnr", "ssim"} <= row["metrics"]["restored"].keys()
    assert "input (bicubic)" in row["metrics"]
    save_picture("truths/ok.png", 24, 36)
    assert restore_small("output.scale=1.5", "datasets.test.ground_truth=truths")[0] == 0
    assert metrics()["images"][0]["compared"] == ""
    save_picture("truths/ok.png", 32, 40)
    code, said = restore_small("output.scale=1.5", "datasets.test.ground_truth=truths")
    assert "its ground truth is 40x32 pixels, the result 36x24; not measured" in said
    assert metrics()["images"][0]["metrics"] == {}


def test_a_truth_that_is_restored_exactly_scores_as_such():
    """The truth goes the way of the result: where both are one image, nothing differs."""
    assert restore_small()[0] == 0
    Path("truths").mkdir()
    Path("truths/ok.png").write_bytes((PLACE / "ok.png").read_bytes())
    for mode in ("fit", "fill"):
        code, said = restore_small("output.size=30x30", f"output.size_mode={mode}", "datasets.test.ground_truth=truths")
        assert code == 0, said
        assert metrics()["images"][0]["metrics"]["restored"]["psnr"] > 48  # the rounding of the truth's 8 bits


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        (["output.scale=2", "output.megapixels=1"], "output.megapixels: says how large a result is, and so does scale"),
        (["output.size=wide"], "output.size: expected WIDTHxHEIGHT"),
        (["output.scale=0"], "output.scale"),
        (["output.size=100000x100000", "output.size_mode=exact"], "output.size: 10000.0 megapixels are more than"),
        (
            ["output.megapixels=2", "datasets.test.max_pixels=1000000"],
            "output.megapixels: 2.0 megapixels are more than",
        ),
    ],
)
def test_sizes_that_cannot_be_are_refused_with_their_place(wish, said):
    code, told = restore_small(*wish)
    assert code == 2
    assert said in told


def test_a_size_that_turns_out_absurd_for_an_image_fails_that_image():
    code, said = restore_small("output.scale=40", "datasets.test.max_pixels=400000")
    assert code == 1
    assert "asks for 960x640 pixels, more than max_pixels of its dataset, 400000" in said


def test_what_says_how_to_resize_without_a_size_is_told():
    code, said = restore_small("output.resampling=area")
    assert code == 0
    assert "output.resampling: has no effect here: it needs scale or size or megapixels" in said
