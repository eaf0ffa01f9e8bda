"""The sweep's command line, from a network trained for two steps to the grid and the page."""

import json
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
from command_helpers import RESTORING, TRAINING, changed, command, restore, save_picture, train
from PIL import Image

from codes.config.yaml_source import load_source
from codes.graph.injectors.gaussian_diffusion_inference import GaussianDiffusionInferenceInjector
from codes.inference.sweep.axes import Axis, parse_values, read_axes
from codes.inference.sweep.run import Sweep
from codes.inference.sweep.subject import Subject, SweepRequest
from codes.recipe.recipe import read_recipe
from codes.scripts import sweep as sweep_command
from codes.utils.errors import ConfigError

RECIPE = changed(
    RESTORING,
    ("datasets.test.fixed_corruptions", ["jpeg", "gaussian_blur"]),
    ("steps.restore.injectors.detail.sampler", "ddim"),
    ("steps.restore.injectors.detail.eta", 0.5),
)
HEIGHT, WIDTH = 20, 28


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a trained network, recipes and pictures."""
    folder = tmp_path_factory.mktemp("sweep")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for number in range(3):
            save_picture(f"photos/{number}.png", 48, 56, number)
        Path("train.yml").write_text(TRAINING)
        assert train("-opt", "train.yml")[0] == 0
    (folder / "infer.yml").write_text(RECIPE)
    save_picture(folder / "small.png", HEIGHT, WIDTH)
    save_picture(folder / "truth.png", 2 * HEIGHT, 2 * WIDTH)
    return folder


@pytest.fixture
def run(trained, monkeypatch, tmp_path):
    """The command, in the folder; `out` is where it writes."""
    monkeypatch.chdir(trained)

    def call(*arguments, out=tmp_path / "out", image="small.png"):
        return command(sweep_command.main, "-opt", "infer.yml", "--image", image, "--output", out, *arguments)

    return call


def result_of(folder):
    return json.loads((folder / "sweep.json").read_text())


def cell(folder, **values):
    row = next(row for row in result_of(folder)["cells"] if row["values"] == values)
    return np.asarray(Image.open(folder / row["file"]).convert("RGB")).astype(int)


def test_strengths_give_a_grid_a_page_and_numbers(run, tmp_path):
    code, said = run("--axis", "jpeg", "0:1:3", "--axis", "gaussian_blur", "0.5,1", "--truth", "truth.png")
    assert code == 0, said
    out = tmp_path / "out"
    result = result_of(out)
    assert result["axes"] == [
        {"name": "jpeg", "values": [0.0, 0.5, 1.0]},
        {"name": "gaussian_blur", "values": [0.5, 1.0]},
    ]
    assert [tuple(row["values"].values()) for row in result["cells"]] == [
        (jpeg, blur) for jpeg in (0, 0.5, 1) for blur in (0.5, 1)
    ]
    assert all(row["metrics"].keys() == {"psnr", "ssim", "swd", "grain", "consistency"} for row in result["cells"])
    assert result["references"].keys() == {"input (bicubic)", "ground truth"}
    assert cell(out, jpeg=0.0, gaussian_blur=0.5).shape == (2 * HEIGHT, 2 * WIDTH, 3)
    assert np.abs(cell(out, jpeg=0.0, gaussian_blur=0.5) - cell(out, jpeg=1.0, gaussian_blur=0.5)).max() > 0
    grid = Image.open(out / "grid.png")
    assert grid.width > 2 * 2 * WIDTH
    assert grid.height > 4 * 2 * HEIGHT
    page = (out / "index.html").read_text()
    assert page.count('<tr data-cell="') == 6
    assert not re.search(r"https?:(?!//www\.w3\.org/2000/svg)|@import|url\(", page)


def test_a_cell_is_what_a_test_run_gives(run, tmp_path):
    assert run("--axis", "jpeg", "0.2,0.8")[0] == 0
    for strength in (0.2, 0.8):
        code, said = restore(
            "-opt", "infer.yml", "--set", "datasets.test.paths=small.png", f"path.results={tmp_path / str(strength)}",
            f"datasets.test.fixed_parameters.corruption_entropy=[{strength}, 0.5]",
        )  # fmt: skip
        assert code == 0, said
        expected = np.asarray(Image.open(tmp_path / str(strength) / "test" / "small.png").convert("RGB"))
        np.testing.assert_array_equal(cell(tmp_path / "out", jpeg=strength), expected)


def test_what_auto_read_is_marked(trained, monkeypatch, tmp_path):
    monkeypatch.chdir(trained)
    Image.open("small.png").save(tmp_path / "saved.jpg", quality=20)  # jpeg strength 0.5 saves at that quality
    recipe = changed(RECIPE, ("datasets.test.fixed_parameters.corruption_entropy", ["auto", 0.5]))
    (tmp_path / "auto.yml").write_text(recipe)
    arguments = ("-opt", tmp_path / "auto.yml", "--image", tmp_path / "saved.jpg", "--output", tmp_path / "out")
    code, said = command(sweep_command.main, *arguments, "--axis", "gaussian_blur", "0,1", "--axis", "jpeg", "0,0.25,1")
    assert code == 0, said
    blur, jpeg = result_of(tmp_path / "out")["axes"]
    assert "read" not in blur
    assert jpeg["read"] == pytest.approx(0.5, abs=0.03)
    assert result_of(tmp_path / "out")["strengths read"].startswith(f"jpeg {jpeg['read']:.2f}")
    page = (tmp_path / "out" / "index.html").read_text()
    data = json.loads(re.search(r'<script type="application/json" id="sweep-data">(.*?)</script>', page, re.S)[1])
    # between 0.25, the second value, and 1, the third
    assert data["axes"][1]["mark"] == pytest.approx(1 + (jpeg["read"] - 0.25) / 0.75)
    assert f"read: {jpeg['read']:.2f}" in page
    assert 'class="read"' in page


def test_steps_and_samplers_are_timed_and_charted(run, tmp_path):
    code, said = run("--axis", "steps", "1,2,4", "--axis", "sampler", "ancestral,ddim,dpm_solver_pp")
    assert code == 0, said
    result = result_of(tmp_path / "out")
    assert len(result["cells"]) == 9
    assert all(row["seconds"] > 0 for row in result["cells"])
    page = (tmp_path / "out" / "index.html").read_text()
    assert "Consistency (dB) against seconds" in page
    assert page.count("<polyline") == 3
    assert page.count('<circle data-cell="') == 9


def test_options_seed_and_colours_are_axes(run, tmp_path):
    code, said = run("--axis", "eta", "0,1", "--axis", "seed", "0,1", "--axis", "color_fix", "none,mean")
    assert code == 0, said
    out = tmp_path / "out"
    assert len(result_of(out)["cells"]) == 8
    first = cell(out, eta=0, seed=0, color_fix="none")
    for other in ({"eta": 1}, {"seed": 1}, {"color_fix": "mean"}):
        assert (cell(out, **{"eta": 0, "seed": 0, "color_fix": "none", **other}) != first).any()
    small = np.asarray(Image.open("small.png").convert("RGB")).mean(axis=(0, 1))
    assert np.abs(cell(out, eta=0, seed=0, color_fix="mean").mean(axis=(0, 1)) - small).max() < 6


def test_seamless_textures_and_consistency_are_axes(run, tmp_path):
    code, said = run("--axis", "wrap", "none,xy", "--axis", "consistency", "none,end")
    assert code == 0, said
    free, kept = (cell(tmp_path / "out", wrap="xy", consistency=kind) for kind in ("none", "end"))
    assert not np.array_equal(free, cell(tmp_path / "out", wrap="none", consistency="none"))
    assert not np.array_equal(free, kept)
    code, said = run("--axis", "wrap", "none,xy", "--crop", "0,0,8,8", out=tmp_path / "other")
    assert code == 2
    assert "cuts a seamless texture open" in said


def test_a_crop_is_in_pixels_of_the_input(run, tmp_path):
    code, said = run("--axis", "jpeg", "0,1", "--crop", "4,6,12,8", "--truth", "truth.png")
    assert code == 0, said
    assert cell(tmp_path / "out", jpeg=0.0).shape == (24, 16, 3)
    truth = np.asarray(Image.open(tmp_path / "out" / "cells" / "truth.png").convert("RGB"))
    np.testing.assert_array_equal(truth, np.asarray(Image.open("truth.png").convert("RGB"))[8:32, 12:28])


def test_an_interrupted_sweep_keeps_its_cells_and_goes_on(run, tmp_path, monkeypatch):
    restored, original = [], Subject.restore

    def interrupted(self, cell, axes, on_step):
        restored.append(cell.values["jpeg"])
        if len(restored) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, cell, axes, on_step)

    monkeypatch.setattr(Subject, "restore", interrupted)
    code, said = run("--axis", "jpeg", "0:1:5")
    assert code == 130
    assert "2 of 5 cells are kept" in said
    assert not (tmp_path / "out" / "index.html").exists()
    code, said = run("--axis", "jpeg", "0:1:5")
    assert code == 0, said
    assert restored == [0, 0.25, 0.5, 0.5, 0.75, 1]
    assert len(result_of(tmp_path / "out")["cells"]) == 5


def test_more_values_restore_only_what_is_new(run, tmp_path, monkeypatch):
    assert run("--axis", "jpeg", "0,1")[0] == 0
    before = cell(tmp_path / "out", jpeg=1.0)
    restored, original = [], Subject.restore

    def counting(self, cell, axes, on_step):
        restored.append(cell.values["jpeg"])
        return original(self, cell, axes, on_step)

    monkeypatch.setattr(Subject, "restore", counting)
    code, said = run("--axis", "jpeg", "0,0.5,1")
    assert code == 0
    assert restored == [0.5]
    assert "2 of 3 cells are there already" in said
    np.testing.assert_array_equal(cell(tmp_path / "out", jpeg=1.0), before)
    assert run("--axis", "jpeg", "0,1", "--set", "seed=5")[0] == 0
    assert restored == [0.5, 0.0, 1.0]


def test_a_recipe_that_makes_its_low_resolution_knows_the_truth(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(trained)
    made = changed(
        RECIPE, ("datasets.test.skip_lq", False), ("steps.restore.injectors.detail.model_input_keys.low_res", "lq")
    )
    (trained / "made.yml").write_text(made)
    code, said = command(
        sweep_command.main, "-opt", "made.yml", "--image", "truth.png", "--output", tmp_path, "--axis", "jpeg", "0,1"
    )
    assert code == 0, said
    assert all("psnr" in row["metrics"] for row in result_of(tmp_path)["cells"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--axis", "jpg", "0,1"], r"--axis jpg: no such corruption or option \(did you mean jpeg\?"),
        (["--axis", "smapler", "ddim"], "did you mean sampler"),
        (["--axis", "jpeg", "0:2:3"], r"a strength lies in \[0, 1\], found 2"),
        (["--axis", "steps", "2,9999"], "asks for 9999 steps"),
        (["--axis", "sampler", "ddim,euler"], "sampler euler: sampler: unknown sampler 'euler'"),
        (["--axis", "eta", "0,1", "--axis", "sampler", "ddim,ancestral"], "eta belongs to the sampler ddim"),
        (["--axis", "jpeg", "0:1:9", "--axis", "gaussian_blur", "0:1:9"], "9 x 9 = 81 cells; more than 64 need --yes"),
        (["--axis", "jpeg", "0,1", "--axis", "jpeg", "0,1"], "--axis jpeg: given twice"),
        (["--axis", "jpeg", "0,1", "--crop", "0,0,99,9"], "must lie within the input of 20 rows and 28 columns"),
        (["--axis", "jpeg", "0,1", "--crop", "a"], "expected top,left,height,width"),
        (["--axis", "jpeg", "0,1", "--truth", "small.png"], "is 28x20 pixels, but the result is 56x40"),
        (["--axis", "jpeg", "0,1", "--truth", "none.png"], "--truth none.png: no such file"),
        (["--axis", "jpeg", "0,1", "--result", "other"], r"no injector writes it \(there are: restored\)"),
        (["--axis", "seed", "0,-1"], "expected whole numbers from 0 on"),
        ([], "--axis: missing"),
    ],
    ids=lambda value: " ".join(value[1:3]) if isinstance(value, list) else "",
)
def test_mistakes_are_one_line_and_exit_2(run, tmp_path, arguments, message):
    code, said = run(*arguments)
    assert code == 2, said
    assert re.search(message, said)
    assert sum(" E " in line for line in said.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_an_image_that_is_not_there_or_none(run, trained):
    code, said = run("--axis", "jpeg", "0,1", image="nope.png")
    assert code == 2
    assert "--image nope.png: no such file" in said
    (trained / "text.png").write_text("no picture")
    code, said = run("--axis", "jpeg", "0,1", image="text.png")
    assert code == 2
    assert "text.png" in said


def test_values():
    assert parse_values("a", "0:1:5") == (0, 0.25, 0.5, 0.75, 1)
    assert parse_values("a", "1:0:3") == (1, 0.5, 0)
    assert parse_values("a", "2, 4,~,true,trailing4") == (2, 4, None, True, "trailing4")
    for wrong in ("", "1,,2", "0:1", "0:1:1", "0:1:x", "1:1:3", "1,1", "0:inf:3"):
        with pytest.raises(ConfigError, match="--axis a"):
            parse_values("a", wrong)


def test_a_corruption_comes_before_an_option_of_the_same_name():
    (axis,) = read_axes([("eta", "0,1")], ["eta"])
    assert axis == Axis("eta", "eta", "strength", (0.0, 1.0))


def test_the_warm_up_of_a_device_is_one_step_on_a_corner(trained, monkeypatch, tmp_path):
    monkeypatch.chdir(trained)
    source = load_source("infer.yml", ["steps.restore.injectors.detail.stop_at_snr=5"])
    request = SweepRequest(Path("small.png"), [("steps", "2,4")], output=tmp_path)
    sweep = Sweep(read_recipe(source), source, request)
    sizes, original = [], GaussianDiffusionInferenceInjector.many

    def noting(self, states, contexts):
        sizes.append((tuple(states[0]["hq"].shape[-2:]), self.options.respaced_timestep_spacing))
        return original(self, states, contexts)

    monkeypatch.setattr(GaussianDiffusionInferenceInjector, "many", noting)
    monkeypatch.setattr("codes.inference.sweep.subject.WARM_UP", 8)
    sweep.subject.warm_up(sweep.cells[0])
    assert sizes == [((8, 8), 1)]
    assert not (tmp_path / "cells").exists()


def test_sweeps_of_two_images_of_one_name_have_a_folder_each(trained, monkeypatch):
    monkeypatch.chdir(trained)
    other = save_picture(trained / "other" / "small.png", HEIGHT, WIDTH, 7)
    folders = []
    for image in ("small.png", str(other), "small.png"):
        code, said = command(sweep_command.main, "-opt", "infer.yml", "--image", image, "--axis", "seed", "1,2")
        assert code == 0, said
        folders.append(re.search(r"grid: (\S+)/grid.png", said)[1])
    assert folders == [
        "results/restored/sweep_small",
        "results/restored/sweep_small_png",
        "results/restored/sweep_small",
    ]
