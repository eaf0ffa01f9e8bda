"""A run after a run: what is finished is not done again, what was interrupted goes on, what changed is redone."""

import itertools
import json
import math
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from command_helpers import (
    RESTORING,
    changed,
    picture,
    restore,
    restore_small,
    restored_files,
    save_picture,
    truncated_jpeg,
)
from PIL import Image

from codes.inference.restoring import measure
from codes.models.diffusion import engine as sampling

PLACE = Path("results/restored/test")
STEPS = "steps.restore.injectors.detail.respaced_timestep_spacing"
pytestmark = pytest.mark.usefixtures("here")


def times():
    return {name: (PLACE / name).stat().st_mtime_ns for name in restored_files()}


def metrics():
    return json.loads(Path("results/restored/metrics.json").read_text())


def killed_child(ready, *overrides):
    """Restore in a child process that is killed, without a chance to clean up, once `ready()`."""
    child = os.fork()
    if child == 0:
        try:
            restore("-opt", "infer.yml", "--set", *overrides)
        finally:
            os._exit(0)  # only where it was not killed in time
    limit = time.monotonic() + 60
    while not ready() and time.monotonic() < limit:
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL, "it was done before it was killed"


def test_nothing_is_done_twice_and_the_page_still_shows_all():
    save_picture("small/deep/b.png", 12, 20, seed=1)
    assert restore_small()[0] == 0
    before, rows = times(), metrics()["images"]
    save_picture("small/new.png", 12, 12)
    code, said = restore_small()
    assert code == 0
    assert "2 of 3 images are restored already (output.skip_existing: same)" in said
    after = times()
    assert {name: after[name] for name in before} == before
    again = metrics()["images"]
    assert [row["file"] for row in again] == ["small/deep/b.png", "small/new.png", "small/ok.png"]
    assert [row["earlier"] for row in again] == [True, False, True]
    assert [row | {"earlier": False} for row in again if row["earlier"]] == rows
    page = Path("results/restored/index.html").read_text(encoding="utf-8")
    assert all(name in page for name in ("deep/b.png", "new.png", "ok.png"))
    assert not Path("results/restored/.resume").exists()


@pytest.mark.parametrize(
    ("override", "redone"),
    [
        ("seed=1", True),
        (f"{STEPS}=3", True),
        ("output.color_fix=mean", True),
        ("datasets.test.fixed_parameters.corruption_entropy=[0.2, 0.6]", True),
        ("precision=bf16", True),
        ("path.pretrain_model_generator=experiments/tiny/models/1_generator_ema.safetensors", True),
        ("output.skip_existing=false", True),
        ("steps.restore.injectors.detail.tile_batch_size=2", False),
        ("datasets.test.n_workers=0", False),
        ("datasets.test.cache_megabytes=1", False),
        ("steps.restore.injectors.detail.canvas=disk", False),
        ("steps.restore.injectors.detail.tile_overlap=4", True),
        ("steps.restore.injectors.detail.noise_type=zero", True),
        ("datasets.test.alpha=black", True),
        ("logger.print_freq=7", False),
    ],
)
def test_what_a_result_depends_on_redoes_it(override, redone):
    assert restore_small()[0] == 0
    before = times()
    assert restore_small(override)[0] == 0
    assert (times() != before) == redone
    if override != "output.skip_existing=false":
        before = times()
        assert restore_small(override)[0] == 0
        assert times() == before


def test_a_changed_image_or_a_lost_result_is_redone():
    save_picture("small/other.png", 12, 12)
    assert restore_small()[0] == 0
    before = times()
    picture(16, 24, seed=5).save("small/ok.png")
    assert restore_small()[0] == 0
    after = times()
    assert after["ok.png"] != before["ok.png"]
    assert after["other.png"] == before["other.png"]
    (PLACE / "other.png").unlink()
    assert restore_small()[0] == 0
    assert times()["ok.png"] == after["ok.png"]
    assert "other.png" in times()


def test_skip_existing_true_takes_whatever_is_there():
    PLACE.mkdir(parents=True)
    Image.new("RGB", (48, 32)).save(PLACE / "ok.png")
    before = times()
    assert restore_small("output.skip_existing=true", "seed=3")[0] == 0
    assert times() == before
    assert metrics()["images"][0]["earlier"]
    assert restore_small("seed=3")[0] == 0  # nothing says how it was made
    assert times() != before


def test_results_that_are_known_to_come_from_another_input_never_count():
    assert restore_small()[0] == 0
    before = times()
    assert restore_small("output.skip_existing=true", "seed=3", f"{STEPS}=3")[0] == 0
    assert times() == before
    picture(16, 24, seed=5).save("small/ok.png")
    assert restore_small("output.skip_existing=true")[0] == 0
    after = times()
    assert after != before
    Path("small/ok.png").unlink()
    picture(16, 24, seed=6).save("small/ok.bmp")  # its result has the same name
    assert restore_small("output.skip_existing=true")[0] == 0
    assert restored_files() == ["ok.png"]
    assert times() != after


def test_equal_images_leave_no_infinity_in_the_numbers(monkeypatch):
    monkeypatch.setattr(measure, "fidelity", lambda *_: {"psnr": math.inf, "ssim": 1.0})
    save_picture("small/untold.png", 16, 24)
    save_picture("truth/ok.png", 32, 48)
    said = restore_small("datasets.test.ground_truth=truth")[1]
    assert "mean of 1 image, restored: SSIM 1.0000" in said
    told = metrics()["images"][0]["metrics"]["restored"]
    assert told == {"psnr": None, "ssim": 1.0}
    again = restore_small("datasets.test.ground_truth=truth")[1]
    assert "2 of them earlier" in again
    assert " inf " in again  # it is known to be infinite, not to be missing
    for file in Path("results/restored").rglob("*.json"):
        assert "Infinity" not in file.read_text(encoding="utf-8")


def test_a_ground_truth_that_comes_later_is_measured_without_restoring_again():
    assert restore_small()[0] == 0
    before = times()
    save_picture("truth/ok.png", 32, 48)
    assert restore_small("datasets.test.ground_truth=truth")[0] == 0
    assert times() == before
    first = metrics()["images"][0]["metrics"]["restored"]
    assert restore_small("datasets.test.ground_truth=truth")[0] == 0
    assert metrics()["images"][0]["metrics"]["restored"] == first
    save_picture("truth/ok.png", 32, 48, seed=2)
    assert restore_small("datasets.test.ground_truth=truth")[0] == 0
    assert metrics()["images"][0]["metrics"]["restored"] != first


def test_a_kill_in_the_middle_of_a_folder_loses_and_repeats_nothing():
    for number in range(6):
        save_picture(f"small/{number}.png", 24, 40, seed=number)
    settings = (f"{STEPS}=6", "steps.restore.injectors.detail.tile_batch_size=2")
    killed_child(lambda: PLACE.exists() and len(list(PLACE.glob("[0-9].png"))) >= 2, *settings)
    records = len(list(Path("results/restored/.records").glob("[!.]*.json")))
    before = times()
    for name in before:
        if not name.startswith("."):
            np.asarray(Image.open(PLACE / name))  # whole, or this raises
    code, said = restore_small(*settings)
    assert code == 0
    assert f"{records} of 7 images are restored already" in said
    after = times()
    kept = [name for name in before if after.get(name) == before[name]]
    assert len(kept) >= records >= 1
    assert sorted(after) == sorted([*(f"{number}.png" for number in range(6)), "ok.png"])
    assert len(metrics()["images"]) == 7
    results = {name: np.asarray(Image.open(PLACE / name)) for name in after}
    assert restore_small("output.skip_existing=false", *settings)[0] == 0
    assert all(np.array_equal(results[name], np.asarray(Image.open(PLACE / name))) for name in after)


@pytest.mark.parametrize("canvas", ["ram", pytest.param("disk", marks=pytest.mark.slow)])
def test_a_kill_in_the_middle_of_an_image_goes_on_at_that_step(canvas, monkeypatch):
    save_picture("small/ok.png", 32, 56)
    node = {"respaced_timestep_spacing": 16, "canvas": canvas, "resume_seconds": 0}
    text = changed(RESTORING, *((f"steps.restore.injectors.detail.{key}", value) for key, value in node.items()))
    Path("infer.yml").write_text(text)

    def half_of_it_done():
        try:
            (journal,) = Path("results/restored/.resume").rglob("state.json")
            return json.loads(journal.read_text())["steps_done"] >= 8
        except (ValueError, OSError):
            return False

    killed_child(half_of_it_done, "seed=0")
    assert not PLACE.exists()
    calls = []
    denoise = sampling.AutocastDenoiser.__call__

    def counted(self, *arguments):
        calls.append(1)
        return denoise(self, *arguments)

    monkeypatch.setattr(sampling.AutocastDenoiser, "__call__", counted)
    code, said = restore_small()
    assert code == 0
    assert "going on with 1 image where an earlier run was interrupted" in said
    rest = len(calls)
    result = np.asarray(Image.open(PLACE / "ok.png"))
    assert not Path("results/restored/.resume").exists()
    calls.clear()
    assert restore_small("output.skip_existing=false")[0] == 0
    assert rest <= len(calls) / 2
    assert np.array_equal(result, np.asarray(Image.open(PLACE / "ok.png")))


def test_a_folder_of_all_kinds_of_files_twice():
    picture(16, 12).convert("RGBA").save("small/rgba.png")
    picture(16, 12).convert("LA").save("small/la.png")
    picture(16, 12).convert("P").save("small/palette.gif")
    picture(16, 12).convert("CMYK").save("small/cmyk.jpg")
    picture(16, 12).convert("I;16").save("small/deep.png")
    save_picture("small/one.png", 1, 1)
    truncated_jpeg("small/cut.jpg", 40, 40)
    Path("small/notes.txt").write_text("no image and never said so")
    Path("small/words.jpg").write_text("no image, whatever its name says")
    for again in (False, True):
        before = times() if again else None
        code, said = restore_small()
        assert code == 1
        assert "7 images restored, 2 failed" in said
        for line in ("cut.jpg: damaged", "words.jpg: not an image file"):
            assert f"small/{line}" in said
        assert restored_files() == ["cmyk.png", "deep.png", "la.png", "ok.png", "one.png", "palette.png", "rgba.png"]
        assert before in (None, times())
        assert len(metrics()["failed"]) == 2


def test_leftovers_of_other_options_and_of_cut_off_writes_are_removed():
    stale = Path("results/restored/.resume/0123/0-colour")
    stale.mkdir(parents=True)
    (stale / "a.raw").write_bytes(b"x" * 100)
    PLACE.mkdir(parents=True)
    (PLACE / ".ok.0123abcd.tmp.png").write_bytes(b"half")
    assert restore_small()[0] == 0
    assert not Path("results/restored/.resume").exists()
    assert [path.name for path in PLACE.iterdir()] == ["ok.png"]


def test_an_interrupt_keeps_what_is_finished_and_the_next_run_goes_on(monkeypatch):
    save_picture("small/z.png", 40, 60)
    calls = []
    denoise = sampling.AutocastDenoiser.__call__

    def interrupted(self, *arguments):
        calls.append(1)
        if len(calls) == 6:
            os.kill(os.getpid(), signal.SIGINT)
        return denoise(self, *arguments)

    monkeypatch.setattr(sampling.AutocastDenoiser, "__call__", interrupted)
    code, said = restore_small("steps.restore.injectors.detail.tile_batch_size=1")
    assert code == 130
    assert "stopped after 1 image; what is finished or begun is kept in results/restored" in said
    assert restored_files() == ["ok.png"]
    assert len(metrics()["images"]) == 1
    before = times()
    assert restore_small("steps.restore.injectors.detail.tile_batch_size=1")[0] == 0
    assert times()["ok.png"] == before["ok.png"]
    assert len(metrics()["images"]) == 2


def test_a_canvas_on_disk_gives_the_same_result_as_one_in_memory():
    save_picture("small/a.png", 40, 30)
    assert restore_small()[0] == 0
    results = {name: np.asarray(Image.open(PLACE / name)) for name in restored_files()}
    on_disk = "steps.restore.injectors.detail.canvas=disk"
    before = times()
    assert restore_small(on_disk)[0] == 0
    assert times() == before  # nothing is redone to get the same
    assert restore_small(on_disk, "output.skip_existing=false")[0] == 0
    assert all(np.array_equal(results[name], np.asarray(Image.open(PLACE / name))) for name in results)


def test_a_result_that_somebody_replaced_stays_off_the_page():
    assert restore_small()[0] == 0
    Image.new("RGB", (5, 5)).save(PLACE / "ok.png")
    code, said = restore_small()
    assert code == 0
    assert "ok.png: 5x5 pixels, expected 48x32; not on the page" in said


def test_an_input_that_was_damaged_later_keeps_its_result():
    save_picture("small/other.png", 12, 12)
    assert restore_small()[0] == 0
    shutil.rmtree("results/restored/.records")  # so nothing says what the results were made from
    before = times()
    whole = Path("small/ok.png").read_bytes()
    Path("small/ok.png").write_bytes(whole[:60] + bytes(200) + whole[-12:])  # header and end mark are fine
    save_picture("truth/ok.png", 32, 48)
    code, said = restore_small("output.skip_existing=true", "datasets.test.ground_truth=truth")
    assert code == 0
    assert "small/ok.png: damaged" in said
    assert times() == before
    assert len(metrics()["images"]) == 2
    code, said = restore_small()
    assert code == 1
    assert "small/ok.png: not restored: damaged" in said
    assert (PLACE / "ok.png").stat().st_mtime_ns == before["ok.png"]


def test_images_of_one_name_in_several_folders_have_noise_of_their_own_that_the_others_do_not_change():
    picture(16, 24).save("small/ok.png")
    for place in ("small/deep/ok.png", "other/ok.png"):
        Path(place).parent.mkdir(exist_ok=True)
        shutil.copy("small/ok.png", place)
    assert restore_small("datasets.test.paths=[small, other]")[0] == 0
    assert restored_files() == ["deep/ok.png", "ok.png", "ok_png.png"]
    together = {name: np.asarray(Image.open(PLACE / name)) for name in restored_files()}
    pairs = itertools.combinations(together.values(), 2)
    assert all(np.abs(one.astype(int) - other).mean() > 1 for one, other in pairs)
    shutil.rmtree("results")
    shutil.move("small", "moved")
    Path("moved/ok.png").unlink()
    assert restore_small("datasets.test.paths=moved")[0] == 0
    assert np.array_equal(np.asarray(Image.open(PLACE / "deep/ok.png")), together["deep/ok.png"])
