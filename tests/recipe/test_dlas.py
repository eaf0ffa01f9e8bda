"""Recipes with exactly the keys of DL-Art-School's train, evaluate, resume and restore as they are."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from command_helpers import restore, save_picture, train
from evaluator_helpers import ForFeatures, scripted

from codes.images.files import read_image

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder in which the recipe has trained for two iterations, and what was said."""
    folder = tmp_path_factory.mktemp("dlas")
    for name in ("dlas_train.yml", "dlas_infer.yml"):
        shutil.copy(FIXTURES / name, folder / name)
    for number, place in enumerate(["photos/a", "photos/b", "more/c", "held_out/d", "held_out/e", "small/f"]):
        save_picture(folder / f"{place}.png", 40 + 2 * number, 48 - number, seed=number)
    scripted(folder / "features.pt", ForFeatures())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        code, said = trained(2)
        assert code == 0, said
        yield folder, said


def trained(niter, *more):
    """What a user of DL-Art-School fills in: how long, and (unlike there, where it comes along) the network of FID."""
    sets = [f"train.niter={niter}", "eval.evaluators.fid.feature_network=features.pt", *more]
    return train("-opt", "dlas_train.yml", "--set", *sets)


def test_it_trains_and_writes_the_files_of_an_experiment(here):
    folder, said = here
    root = folder / "experiments" / "dlas_train"
    assert "3 images, batch 4" in said
    for name in ("models/2_generator.safetensors", "models/2_generator_ema.safetensors", "training_state/2.state"):
        assert (root / name).is_file()
    for key in ("x_start_pred", "hq", "lq"):
        assert list((root / "visual_dbg" / key).glob("*.png"))
    assert list((root / "tb_logger").iterdir())
    rows = [json.loads(line) for line in (root / "log.jsonl").read_text().splitlines()]
    (last,) = [row for row in rows if row["iteration"] == 2 and "learning_rate" in row]
    assert last["learning_rate"] == pytest.approx(3e-4)
    assert last["loss/total"] == pytest.approx(last["loss/diffusion_loss"] + last["loss/var_loss"], rel=1e-4)


def test_it_resumes_from_its_state_evaluates_and_restores(here):
    folder, _ = here
    root = folder / "experiments" / "dlas_train"
    state = torch.load(root / "training_state" / "2.state", weights_only=True)
    code, said = trained(4, f"path.resume_state={root / 'training_state' / '2.state'}")
    assert code == 0, said
    assert "iteration 2" in said
    assert "evaluation fid at 4: fid " in said
    after = torch.load(root / "training_state" / "4.state", weights_only=True)
    assert (state["iteration"], after["iteration"]) == (2, 4)
    steps = {int(moments["step"]) for moments in after["optimizers"]["generator"]["state"].values()}
    assert steps == {4}
    weights = root / "models" / "4_generator_ema.safetensors"
    code, said = restore("-opt", "dlas_infer.yml", "--set", f"path.pretrain_model_generator={weights}")
    assert code == 0, said
    small = read_image(folder / "small" / "f.png").rgb
    result = read_image(folder / "results" / "dlas_infer" / "photographs" / "f.png").rgb
    assert result.shape == (2 * small.shape[0], 2 * small.shape[1], 3)


def test_only_the_placeholder_has_to_be_filled_in(here):
    assert here
    code, said = restore("-opt", "dlas_infer.yml")
    assert code == 2
    assert "no such file FILL_IN" in said
