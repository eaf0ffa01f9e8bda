"""evaluate.py: evaluators of a recipe with trained weights, and two folders compared."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from evaluator_helpers import dataset, photographs, save_trained
from skimage.metrics import peak_signal_noise_ratio

from codes import evaluate
from codes.evaluation import effnet_lite0
from codes.images.files import read_samples, write_image

PERFECT = {"psnr": None, "ssim": pytest.approx(1), "swd": 0.0, "grain": 1.0}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def recipe(tmp_path: Path, **changes: Any) -> Path:
    photographs(tmp_path / "photos", [(24, 32), (20, 16)])
    own = {"type": "restoration", "for": "generator", "dataset": dataset(tmp_path / "photos")}
    own = {**own, "diffusion_params": {"respaced_timestep_spacing": 2}, **changes}
    data = {"name": "tiny", "device": "cpu", "eval": {"evaluators": {"held_out": own}}}
    text = json.loads(json.dumps(data))  # no tuples
    (tmp_path / "r.yml").write_text(yaml.safe_dump(text, sort_keys=False), encoding="utf-8")
    return tmp_path / "r.yml"


def test_a_recipe_is_evaluated_with_the_newest_averaged_weights(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_trained("tiny", iteration=3)
    newest = save_trained("tiny", iteration=12)
    save_trained("tiny", averaged=False, iteration=12)
    assert evaluate.main(["-opt", str(recipe(here))]) == 0
    said = capsys.readouterr()
    assert f"EMA weights from {newest}" in said.err
    numbers = json.loads((here / "results/tiny/evaluation.json").read_text())["held_out"]
    assert numbers["images"] == 2
    header, _, *rows = said.out.splitlines()
    assert header.split() == ["evaluator", "number", "value"]
    assert {row.split()[1]: float(row.split()[2]) for row in rows} == pytest.approx(numbers, rel=1e-4)
    assert (here / "results/tiny/held_out_bicubic_restored_truth.png").is_file()


def test_weights_that_are_not_averaged_have_to_be_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_trained("tiny")
    plain = save_trained("tiny", averaged=False)
    file = recipe(here, use_ema=False)
    assert evaluate.main(["-opt", str(file)]) == 2
    said = capsys.readouterr().err
    assert f"{file}:" in said
    assert "eval.evaluators.held_out: use_ema: false, but" in said
    assert evaluate.main(["-opt", str(file), "--set", f"path.pretrain_model_generator={plain}"]) == 0
    assert "weights (not averaged)" in capsys.readouterr().err


def test_strengths_in_another_order_than_the_checkpoint_records_are_refused(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = save_trained("tiny", data={"scale": 2, "corruptions": ["gaussian_blur", "jpeg"]})
    assert evaluate.main(["-opt", str(recipe(here))]) == 2
    said = capsys.readouterr().err
    assert "eval.evaluators.held_out.dataset.fixed_corruptions: are [jpeg, gaussian_blur]" in said
    assert f"is told [gaussian_blur, jpeg] by checkpoint {file}" in said


def test_what_a_recipe_lacks_is_an_error_at_the_start(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = recipe(here)
    assert evaluate.main(["-opt", str(file)]) == 2
    assert "no trained experiment 'tiny'" in capsys.readouterr().err
    save_trained("tiny")
    assert evaluate.main(["-opt", str(file), "--set", "eval.evaluators.held_out.lpips=gone.pt"]) == 2
    assert "held_out.lpips: no such file gone.pt" in capsys.readouterr().err
    assert evaluate.main(["-opt", str(file), "--set", "eval.evaluators={}"]) == 2
    assert "nothing to evaluate" in capsys.readouterr().err
    assert evaluate.main(["-opt", str(file), "--results", "a"]) == 2
    assert "--results compares two folders and does not go with -opt" in capsys.readouterr().err
    assert not Path("results").exists()


def pair_of_folders(tmp_path: Path) -> tuple[Path, Path]:
    """Truth in PNG with sub-folder, and results that differ by a known amount: 2 of 255 where there is room."""
    truth = photographs(tmp_path / "truth", [(24, 32), (40, 16)])
    (truth / "p1.png").rename(tmp_path / "truth/sub.png")
    (truth / "sub").mkdir()
    (truth / "sub.png").rename(truth / "sub" / "p1.png")
    results = tmp_path / "results_of_mine"
    for name in ("p0", "sub/p1"):
        samples = read_samples(truth / f"{name}.png")
        write_image(results / f"{name}.tif", np.where(samples > 250, samples, samples + 2))
    return results, truth


def test_two_folders_are_compared_by_name_whatever_the_suffix(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results, truth = pair_of_folders(here)
    options = ["--results", str(results), "--truth", str(truth)]
    assert evaluate.main([*options, "--y", "--crop_border", "2"]) == 0
    numbers = json.loads((here / "comparison.json").read_text())
    assert list(numbers["images"]) == ["p0", "sub/p1"]
    a, b = (read_samples(folder / f"p0{suffix}")[2:-2, 2:-2] for folder, suffix in ((truth, ".png"), (results, ".tif")))
    assert numbers["images"]["p0"]["psnr"] == pytest.approx(peak_signal_noise_ratio(a, b))
    assert set(numbers["mean"]) == {"psnr", "ssim", "psnr_y", "ssim_y", "swd", "grain"}
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["image", "psnr", "ssim", "psnr_y", "ssim_y", "swd", "grain"]
    assert lines[2].startswith("p0 ")
    assert lines[-1].startswith("mean of 2 ")
    assert evaluate.main(options) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["image", "psnr", "ssim", "swd", "grain"]
    if effnet_lite0.is_installed():
        assert evaluate.main([*options, "--perceptual"]) == 0
        assert json.loads((here / "comparison.json").read_text())["mean"][effnet_lite0.NAME] > 0
    single = ["--results", str(results / "p0.tif"), "--truth", str(truth / "sub" / "p1.png"), "--output", "o.json"]
    assert evaluate.main(single) == 1  # two files are compared whatever their names; these differ in size
    assert "cannot compare an image of" in capsys.readouterr().err


def test_images_that_cannot_be_compared_are_named_and_the_others_are_measured(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, truth = pair_of_folders(here)
    write_image(results / "other.png", np.zeros((9, 9, 3), np.uint8))
    (results / "p0.tif").write_bytes(b"damaged")
    write_image(truth / "unused.png", np.zeros((9, 9, 3), np.uint8))
    assert evaluate.main(["--results", str(results), "--truth", str(truth)]) == 1
    said = capsys.readouterr()
    assert "other.png: no ground truth of this name" in said.err
    assert "p0.tif" in said.err
    assert "2 of 3 images" not in said.err
    assert "1 of 3 images in" in said.err
    assert "mean of 1" in said.out
    numbers = json.loads((here / "comparison.json").read_text())
    assert len(numbers["failed"]) == 2
    for number in range(30):
        (results / f"many{number}.tif").write_bytes(b"damaged")
    assert evaluate.main(["--results", str(results), "--truth", str(truth)]) == 1
    said = capsys.readouterr().err
    assert said.count("many") < 30
    assert "and 12 more that could not be compared" in said


def test_identical_images_are_infinitely_good_in_the_table_and_null_in_the_file(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, truth = pair_of_folders(here)
    assert evaluate.main(["--results", str(truth), "--truth", str(truth)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split() == ["mean", "of", "2", "inf", "1", "0", "1"]
    assert json.loads((here / "comparison.json").read_text())["mean"] == PERFECT


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a recipe (-opt RECIPE), or two folders"),
        (["--results", "truth"], "give a recipe (-opt RECIPE), or two folders"),
        (["--results", "gone", "--truth", "truth"], "gone: no such file or folder"),
        (["--results", "empty", "--truth", "truth"], "empty: no images in it"),
        (["--results", "truth", "--truth", "truth", "--output", "truth/n.json"], "lies in a folder that is compared"),
        (["--results", "truth", "--truth", "truth", "--crop_border", "-1"], "--crop_border -1: expected a number"),
    ],
)
def test_wrong_arguments_end_with_2_and_one_line(
    here: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pair_of_folders(here)
    (here / "empty").mkdir()
    assert evaluate.main(arguments) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1
