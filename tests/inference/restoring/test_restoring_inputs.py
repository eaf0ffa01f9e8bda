"""Restoring by command: odd images, broken files, wrong checkpoints, full disks. Named and counted, no traceback."""

import errno
import json
import os
import shutil
from html import unescape
from pathlib import Path

import pytest
from command_helpers import picture, restore, restore_small, restored_files, save_picture, truncated_jpeg
from PIL import Image

from codes.images import file_canvas
from codes.inference.restoring import job, output, report
from codes.inference.restoring import run as restoring_run

FACTOR = 2


@pytest.mark.usefixtures("here")
def test_a_folder_of_images_becomes_results_and_a_page():
    code, said = restore_small()
    assert code == 0
    with Image.open("results/restored/test/ok.png") as image:
        assert image.size == (48, 32)
    numbers = json.loads(Path("results/restored/metrics.json").read_text())
    assert [row["file"] for row in numbers["images"]] == ["small/ok.png"]
    assert numbers["failed"] == []
    assert "ok.png" in Path("results/restored/index.html").read_text(encoding="utf-8")
    assert "1 image restored" in said


@pytest.mark.usefixtures("here")
def test_auto_takes_the_newest_averaged_weights_and_says_which():
    code, said = restore_small()
    assert code == 0
    assert "EMA weights from experiments/tiny/models/2_generator_ema.safetensors" in said
    # Newest by number, not by name: 10 comes after 9.
    models = Path("experiments/tiny/models")
    for number in (9, 10):
        shutil.copy(models / "1_generator_ema.safetensors", models / f"{number}_generator_ema.safetensors")
    assert "models/10_generator_ema.safetensors" in restore_small()[1]
    for file in models.glob("*_ema.safetensors"):
        file.unlink()
    code, said = restore_small()
    assert code == 0
    assert "weights (not averaged) from experiments/tiny/models/2_generator.safetensors" in said


@pytest.mark.usefixtures("here")
def test_the_same_image_gives_the_same_result_whatever_lies_beside_it():
    assert restore_small()[0] == 0
    alone = Path("results/restored/test/ok.png").read_bytes()
    save_picture("small/also.png", 20, 16, seed=1)
    assert restore_small()[0] == 0
    assert Path("results/restored/test/ok.png").read_bytes() == alone


@pytest.mark.usefixtures("here")
def test_broken_files_are_named_and_counted_and_the_rest_goes_on():
    truncated_jpeg("small/cut.jpg", 40, 40)
    Path("small/zero.png").touch()
    Path("small/words.png").write_text("hello")
    Path("small/notes.txt").write_text("no image and never said so")
    code, said = restore_small()
    assert code == 1
    assert restored_files() == ["ok.png"]
    assert "1 image restored, 3 failed" in said
    for name in ("cut.jpg: ", "zero.png: the file is empty", "words.png: not an image file"):
        assert f"small/{name}" in said
    failed = json.loads(Path("results/restored/metrics.json").read_text())["failed"]
    assert len(failed) == 3
    assert not any("notes.txt" in line for line in failed)


@pytest.mark.usefixtures("here")
def test_a_text_file_that_never_claimed_to_be_an_image_fails_nothing():
    Path("small/notes.txt").write_text("x")
    code, said = restore_small()
    assert code == 0
    assert "notes.txt: not an image by its extension" in said


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("kind", ["empty", "text", "missing", "one broken"])
def test_a_place_without_images_is_refused_before_anything_is_written(kind):
    place = Path("place")
    if kind != "missing":
        place.mkdir()
    if kind == "text":
        for number in range(12):
            (place / f"{number}.txt").write_text("x")
    if kind == "one broken":
        (place / "x.jpg").touch()
    code, said = restore_small("datasets.test.paths=place")
    assert code == 2
    assert "place" in said
    if kind == "text":
        assert "none of the 12 files can be used" in said
        assert "skipped 2 more" in said
    assert not Path("results").exists()


@pytest.mark.usefixtures("here")
def test_names_and_sizes_of_all_kinds():
    shapes = {
        "图 ü%s.png": (12, 20),
        "<script>.png": (9, 33),
        "a.b.c.png": (17, 5),
        "-set.png": (8, 8),
        "tall.png": (70, 6),
    }
    for name, (height, width) in shapes.items():
        save_picture(f"small/deep/{name}", height, width)
    os.rename("small/deep/a.b.c.png", os.fsencode("small/deep/") + b"\xff.png")
    code, said = restore_small()
    assert code == 0, said
    for name, (height, width) in shapes.items():
        result = b"\xff.png" if name == "a.b.c.png" else os.fsencode(name)
        with Image.open(os.fsdecode(b"results/restored/test/deep/" + result)) as image:
            assert image.size == (width * FACTOR, height * FACTOR)
    page = Path("results/restored/index.html").read_text(encoding="utf-8")
    assert "<script>.png" not in page
    assert "<script>.png" in unescape(page)


@pytest.mark.usefixtures("here")
def test_an_image_of_one_pixel_is_restored():
    save_picture("small/one.png", 1, 1)
    save_picture("small/line.png", 1, 40)
    code, said = restore_small()
    assert code == 0, said
    for name, size in (("one", (2, 2)), ("line", (2, 80))):
        with Image.open(f"results/restored/test/{name}.png") as image:
            assert sorted(image.size) == sorted(size)


@pytest.mark.usefixtures("here")
def test_an_animation_says_that_only_its_first_frame_is_restored():
    first, second = picture(16, 24), picture(16, 24).rotate(180)
    first.save("small/moving.gif", save_all=True, append_images=[second])
    code, said = restore_small()
    assert code == 0
    assert "moving.gif: holds 2 frames or pages; only the first is restored" in said
    assert "ok.png: holds" not in said


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("datasets.test.paths=nowhere", "datasets.test.paths: nowhere: no such file or folder"),
        ("datasets.test.ground_truth=nowhere", "datasets.test.ground_truth: nowhere: no such file or folder"),
        ("steps.restore.injectors.detail.tile_overlap=400", ".tile_overlap: is 400 for tiles of 32 pixels; use 0 to"),
        (
            "steps.restore.injectors.detail.respaced_timestep_spacing=trailng5",
            ".respaced_timestep_spacing: respaced_timestep_spacing 'trailng5' is not understood",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_its_key(override, line):
    code, said = restore_small(override)
    assert code == 2
    assert line in said


@pytest.mark.usefixtures("here")
def test_inputs_of_the_same_stem_do_not_overwrite_each_other():
    picture(16, 24).save("small/ok.jpg")
    picture(20, 24).save("small/ok.webp")
    code, _ = restore_small()
    assert code == 0
    files = restored_files()
    assert len(files) == 3
    assert {Image.open(f"results/restored/test/{file}").size for file in files} == {(48, 32), (48, 40)}


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("place", ["small", "small/results", "./small/../small/out"])
def test_results_inside_the_input_folder_are_refused(place):
    code, said = restore_small(f"path.results={place}")
    assert code == 2
    assert "would be written into the input folder small" in said
    assert [path.name for path in Path("small").iterdir()] == ["ok.png"]


@pytest.mark.usefixtures("here")
def test_pictures_of_every_mode():
    for mode in ("L", "LA", "RGBA", "P", "1"):
        picture(16, 12).convert(mode).save(f"small/{mode}.png")
    picture(16, 12).convert("CMYK").save("small/cmyk.jpg")
    code, said = restore_small()
    assert code == 0, said
    assert len(restored_files()) == 7


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("path.pretrain_model_generator=gone.pth", "path.pretrain_model_generator: no such file gone.pth"),
        ("path.pretrain_model_generator=~", "path.pretrain_model_generator: missing"),
        ("path.experiment=nonesuch", "no trained experiment 'nonesuch' (in experiments/ there are: tiny)"),
        ("path.experiment=~", "no trained experiment 'restored' (in experiments/ there are: tiny)"),
        ("path.pretrain_model_genrator=auto", "path.pretrain_model_genrator: no network 'genrator' is used"),
        ("eval.output_state=restord", "eval.output_state: no sampling injector writes 'restord'"),
        ("datasets.test.fixed_parameters.corruption_entropy=[0.5]", "found 1 strengths"),
        ("steps.restore.injectors.detail.respaced_timestep_spacing=0", "respaced_timestep_spacing"),
        ("steps.restore.injectors.detail.respaced_timestep_spacing=101", "ask for 1..100"),
        ("steps.restore.injectors.detail.model_input_keys.low_res=lq", "nothing writes the state key 'lq'"),
        ("steps.restore.injectors.detail.sampler=ddmi", "unknown sampler 'ddmi' (did you mean ddim?"),
        ("steps.restore.injectors.detail.eta=0.5", "eta belongs to the sampler ddim"),
        ("steps.restore.injectors.detail.generator=gen", "path.pretrain_model_gen: missing"),
    ],
)  # fmt: skip
def test_options_that_do_not_fit_are_exit_2(override, message):
    code, said = restore_small(override)
    assert code == 2, said
    assert message in said


@pytest.mark.usefixtures("here")
def test_strengths_that_are_not_set_are_taken_as_clean_and_it_is_said():
    code, said = restore_small("datasets.test.fixed_parameters={}")
    assert code == 0
    assert said.count("no strengths are set (fixed_parameters), so 0 (clean) is assumed") == 1
    told = Path("results/restored/test/ok.png").read_bytes()
    assert restore_small("datasets.test.fixed_parameters={corruption_entropy: [0, 0]}")[0] == 0
    assert Path("results/restored/test/ok.png").read_bytes() == told


@pytest.mark.usefixtures("here")
def test_a_checkpoint_that_does_not_fit_names_keys_and_shapes():
    network = (
        "networks.generator={which_model_G: unet_diffusion, args: {image_size: 32, in_channels: 3, out_channels: 6, "
        "patch_size: 4, num_corruptions: 2, model_channels: 32, channel_mult: [1, 2], num_res_blocks: 1, "
        "attention_resolutions: [], num_heads: 2}}"
    )
    code, said = restore_small(network)
    assert code == 2
    assert "2_generator_ema.safetensors does not fit the network: " in said
    assert "unexpected (" in said
    assert "of another shape (" in said
    assert "found [16, " in said or "found [64, " in said
    assert "inspect_checkpoint.py" in said


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("content", [b"", b"hello", b"\x00" * 100, None])
def test_a_damaged_checkpoint_is_one_line(content):
    file = Path("experiments/tiny/models/2_generator_ema.safetensors")
    file.write_bytes(file.read_bytes()[:2000] if content is None else content)
    code, said = restore_small()
    assert code == 2
    assert "is damaged, cut short or no checkpoint" in said


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "No space left on device; free some space and run again"),
        (errno.EACCES, "Permission denied"),
        (errno.EROFS, "Read-only file system"),
    ],
)
def test_a_disk_that_takes_nothing_ends_the_run_with_one_line(monkeypatch, number, message):
    def full(path, *_):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(output, "write_channels", full)
    save_picture("small/other.png", 16, 20)
    code, said = restore_small()
    assert code == 1
    assert said.count(f"results/restored/test/ok.png: {message}") == 1
    assert "other.png" not in said  # the next image would fail as well


@pytest.mark.usefixtures("here")
def test_a_page_that_cannot_be_written_keeps_the_images(monkeypatch):
    def full(path, _):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(report, "write_json", full)
    code, said = restore_small()
    assert code == 1
    assert "No space left on device; free some space and run again" in said
    assert restored_files() == ["ok.png"]


@pytest.mark.usefixtures("here")
def test_a_place_where_nothing_may_be_written(monkeypatch):
    Path("results").write_text("a file in the place of the folder")
    code, said = restore_small()
    assert code == 1
    assert "results" in said
    Path("results").unlink()

    def forbidden(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(restoring_run, "log_to_file", forbidden)
    code, said = restore_small()
    assert code == 1
    assert "results/restored/test.log: Permission denied" in said


@pytest.mark.usefixtures("here")
def test_debug_shows_the_traceback_and_only_debug(monkeypatch):
    code, said = restore_small("path.experiment=nonesuch")
    assert code == 2
    code, said = restore("-opt", "infer.yml", "--debug", "--set", "path.experiment=nonesuch")
    assert code == 2
    assert "Traceback (most recent call last)" in said
    assert "ConfigError" in said

    def bug(*_):
        raise KeyError("a mistake of ours\nin two lines")

    monkeypatch.setattr(restoring_run, "write_report_files", bug)
    code, said = restore_small()
    assert code == 1
    assert "KeyError: " in said
    assert "run again with --debug" in said
    code, said = restore("-opt", "infer.yml", "--debug")
    assert code == 1
    assert "Traceback" in said


@pytest.mark.usefixtures("here")
def test_weights_of_folders_are_for_training():
    code, said = restore_small("datasets.test.paths=[small]", "datasets.test.weights=[2]")
    assert code == 2
    assert "datasets.test: 2 items of 1 images; here each is restored once, so remove weights" in said


@pytest.mark.usefixtures("here")
def test_flags_that_exclude_each_other():
    code, said = restore_small(options=("--dry_run", "--launcher", "pytorch"))
    assert code == 2
    assert "--dry_run estimates for one process; leave --launcher out" in said
    code, said = restore_small(options=("--launcher", "pytorch"))
    assert code == 2
    assert "--launcher pytorch needs torchrun" in said


@pytest.mark.usefixtures("here")
def test_a_pair_whose_low_resolution_changed_is_restored_again():
    save_picture("hq/a.png", 32, 48)
    save_picture("lq/a.png", 16, 24)
    pairs = "datasets.test={mode: paired, paths: hq, paths_lq: lq, rgb_n1_to_1: true}"
    low_res = "steps.restore.injectors.detail.model_input_keys={low_res: lq}"
    for seed, done in ((0, False), (0, True), (1, False)):
        save_picture("lq/a.png", 16, 24, seed=seed)
        code, said = restore_small(pairs, low_res)
        assert code == 0, said
        assert ("1 of 1 images are restored already" in said) == done
    assert json.loads(Path("results/restored/metrics.json").read_text())["images"][0]["metrics"]["restored"]


@pytest.mark.usefixtures("here")
def test_a_large_file_is_read_by_rows_with_the_same_result(monkeypatch):
    save_picture("small/ok.png", 40, 58)
    node = "steps.restore.injectors.detail"
    monkeypatch.setattr(file_canvas, "LARGE", 100)
    seen = []
    rows = file_canvas.FileCanvas.rows

    def counted(canvas, y0, y1):
        seen.append(y1 - y0)
        return rows(canvas, y0, y1)

    monkeypatch.setattr(file_canvas.FileCanvas, "rows", counted)
    assert restore_small(f"{node}.canvas=disk", f"{node}.tile=32", "name=rows")[0] == 0
    assert restore_small(f"{node}.tile=32", "name=ram")[0] == 0
    assert seen
    assert len(seen) > 3
    assert min(seen) < 20
    files = [Path(f"results/{name}/test/ok.png") for name in ("rows", "ram")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (("steps.restore.injectors.detail.consistency=end",), "consistency"),
        (("output.scale=1.5",), "output.scale"),
        (("datasets.test.fixed_parameters={corruption_entropy: [0.2, {map: mask.png}]}",), "maps of strengths"),
        (("datasets.test.paths=small/ok.jpg",), "its format, layout or transparency"),
    ],
)
def test_why_a_large_file_is_in_memory_as_a_whole_is_told(monkeypatch, settings, reason):
    save_picture("small/ok.png", 40, 58)
    save_picture("small/ok.jpg", 40, 58)
    Image.new("L", (58, 40), 99).save("mask.png")
    monkeypatch.setattr(file_canvas, "LARGE", 100)
    monkeypatch.setattr(job, "LARGE", 100)
    one = ("datasets.test.paths=small/ok.png", "steps.restore.injectors.detail.canvas=disk")
    code, said = restore_small(*one, *settings)
    assert code == 0, said
    assert f"in memory as a whole, because of {reason}" in said
    assert "as a whole" not in restore_small(*one, "name=rows")[1]
    assert "as a whole" not in restore_small("datasets.test.paths=small/ok.jpg", "name=ram")[1]
