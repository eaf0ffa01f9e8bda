"""No result takes the place of another, and a name that cannot be written is known before anything is sampled."""

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from command_helpers import RESTORING, changed, picture, restore_small, restored_files, save_picture
from PIL import Image

from codes.images.files import ImageInfo
from codes.inference.restoring.results import OutputNames
from codes.recipe.output_options import OutputOptions
from codes.utils.errors import ConfigError
from codes.utils.names import same_file

NFC, NFD = (unicodedata.normalize(form, "Zürich") for form in ("NFC", "NFD"))
ROOT = Path("results")
DETAIL = "steps.restore.injectors.detail"


@pytest.mark.parametrize(
    "names",
    [
        ("Photo.png", "photo.jpg", "PHOTO.bmp"),
        (f"{NFC}.png", f"{NFD}.png", f"{NFD}.jpg"),
        ("a.png", "a.jpg", "a_jpg.png", "a_png.png", "a_2.png", "a.bmp"),
        ("x/a.png", "X/a.png", "x./a.png", "x /A.png"),
        ("a_1.png", "a.png", "a_mean.png", "A_MEAN.jpg"),
    ],
)
@pytest.mark.parametrize("samples", [1, 2])
def test_results_are_told_apart_on_every_file_system(names, samples):
    files = [Path("/in") / name for name in names]
    infos = [ImageInfo(8, 8, "RGB", "PNG")] * len(files)
    options = OutputOptions(num_samples=samples, write=("samples", "mean") if samples > 1 else ("samples",))
    namer = OutputNames(options, ("out", "other"))
    names_made = [
        file for target in namer.targets(Path("/out"), files, infos, ["/in"]) for file in namer.files(target).values()
    ]
    assert len(names_made) == len(files) * (1 if samples == 1 else 3) * 2
    assert len(set(map(same_file, names_made))) == len(names_made)


def test_two_results_of_one_image_that_share_a_file_are_refused():
    with pytest.raises(ConfigError, match=r"a_Detail\.png, a_detail\.png\); rename an `out`"):
        OutputNames(OutputOptions(), ("first", "Detail", "detail"))


@pytest.mark.usefixtures("here")
def test_both_forms_of_a_letter_and_both_cases_in_one_folder_give_a_result_each():
    Path("small/ok.png").unlink()
    for number, name in enumerate((f"{NFC}.png", f"{NFD}.png", "Photo.png", "photo.jpg")):
        save_picture(f"small/{name}", 16, 24, number)
    for _ in range(2):  # the second time nothing is left to do, nor to mix up
        code, said = restore_small()
        assert code == 0, said
        assert len(restored_files()) == 4
        assert len({same_file(Path(name)) for name in restored_files()}) == 4
    contents = [Image.open(Path("results/restored/test") / name).tobytes() for name in restored_files()]
    assert len(set(contents)) == 4
    assert len(json.loads(Path("results/restored/metrics.json").read_text())["images"]) == 4


@pytest.mark.usefixtures("here")
def test_a_truth_is_found_whatever_form_its_letters_have():
    Path("small/ok.png").unlink()
    save_picture(f"small/{NFD}.png", 16, 24)
    save_picture(f"truth/{NFC}.png", 32, 48)
    code, said = restore_small("datasets.test.ground_truth=truth")
    assert code == 0, said
    (image,) = json.loads(Path("results/restored/metrics.json").read_text())["images"]
    assert "psnr" in str(image)


@pytest.mark.usefixtures("here")
def test_a_name_without_room_fails_by_itself_and_before_it_is_sampled(monkeypatch):
    save_picture("small/" + "é" * 124 + ".png", 16, 24)
    code, said = restore_small("output.suffix=_larger")
    assert code == 1
    assert "has 259 bytes, 255 are possible there; shorten its name, or output.suffix" in said
    assert restored_files() == ["ok_larger.png"]
    assert not Path("results/restored/.resume").exists()
    code, said = restore_small("output.suffix=_larger", options=("--dry_run",))
    assert "would fail: the name" in said
    sampled = []
    monkeypatch.setattr("codes.models.diffusion.engine.Engine.restore", lambda *_: sampled.append(1))
    assert restore_small("output.suffix=_larger")[0] == 1
    assert not sampled


@pytest.mark.usefixtures("here")
def test_two_results_with_their_canvases_on_disk_do_not_write_into_each_other():
    recipe = changed(RESTORING, (f"{DETAIL}.out", "one"), (f"{DETAIL}.resume_seconds", 0))
    other = changed(RESTORING, (f"{DETAIL}.out", "two"), (f"{DETAIL}.eta", 0.0), (f"{DETAIL}.sampler", "ddim"))
    lines = other[other.index("      detail:") :].replace("detail:", "second:", 1)
    Path("infer.yml").write_text(recipe + lines)
    results = {}
    for canvas in ("ram", "disk"):
        code, said = restore_small(
            f"name={canvas}", f"{DETAIL}.canvas={canvas}", f"steps.restore.injectors.second.canvas={canvas}"
        )
        assert code == 0, said
        results[canvas] = [np.asarray(Image.open(f"results/{canvas}/test/{name}")) for name in ("ok.png", "ok_two.png")]
    assert not np.array_equal(*results["ram"])
    for one, other in zip(results["ram"], results["disk"], strict=True):
        assert np.array_equal(one, other)


def test_the_helper_draws_different_pictures():
    assert picture(16, 24, 0).tobytes() != picture(16, 24, 1).tobytes()


def names(*files, **options):
    infos = [ImageInfo(8, 8, "RGB", {"jpg": "JPEG"}.get(file.suffix[1:], "PNG")) for file in files]
    output_names = OutputNames(OutputOptions(**options), ("out", "other"))
    return [
        sorted(file.name for file in output_names.files(target).values())
        for target in output_names.targets(ROOT, files, infos, ())
    ]


def test_no_two_images_share_any_of_their_files():
    named = names(*map(ROOT.joinpath, ("a.png", "a.jpg", "a_other.png", "a.bmp", "a.tmp.bmp")))
    assert named[0] == ["a.png", "a_other.png"]
    assert named[1] == ["a_jpg.png", "a_jpg_other.png"]
    assert named[2] == ["a_other_png.png", "a_other_png_other.png"]
    every = [file for some in named for file in some]
    assert len(set(every)) == len(every) == 10


def test_names_of_samples_and_suffixes():
    (named,) = names(ROOT / "a.jpg", num_samples=2, write=("samples", "mean", "spread"), suffix="_x", format="same")
    assert named == sorted(
        f"a_x{key}_{part}" for key in ("", "_other") for part in ("1.jpg", "2.jpg", "mean.jpg", "spread.png")
    )
