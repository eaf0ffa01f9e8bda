"""Every recipe in recipes/ and options/ is read, fits together and runs, with a network shrunk to seconds."""

import shutil
from pathlib import Path

import pytest
from command_helpers import restore, save_picture, train
from PIL import Image

from codes.config.yaml_source import load_source

ROOT = Path(__file__).resolve().parents[2]
ALL = sorted([*(ROOT / "recipes").rglob("*.yml"), *(ROOT / "options").rglob("*.yml")])
# Those that need images with classes, or of a size of their own: test_generation_recipes.py.
ALL = [file for file in ALL if file.parent.name != "patch_diffusion" and file.stem not in ("train_classes", "generate")]
TRAINING = [file for file in ALL if "train" in load_source(file).data]
INFERENCE = [file for file in ALL if file not in TRAINING]
NETWORK = {
    "image_size": 32, "model_channels": 16, "channel_mult": [1, 2], "num_res_blocks": 1, "attention_resolutions": [2],
    "num_head_channels": 8,
}  # fmt: skip
STARTS = ("train_sr", "train_sr_regression", "train_restore_1x", "train_web")  # what the inference recipes restore with
ESTIMATOR = {"image_size": 32, "model_channels": 8}


def name_of(file):
    return str(file.relative_to(ROOT))


def shrunk(file):
    """Overrides that make a recipe small, for the parts that it has."""
    data = load_source(file).data
    sets = ["device=cpu", "precision=fp32"]
    for name, network in data.get("networks", {}).items():
        if network is None:  # a part of its base that it does without
            continue
        small = ESTIMATOR if network.get("which_model_G") == "strength_estimator" else NETWORK
        sets += [f"networks.{name}.args.{key}={value}" for key, value in small.items()]
        if name in {key.removeprefix("pretrain_model_") for key in data.get("path") or {}}:
            sets.append(f"path.pretrain_model_{name}=~")  # those weights are for the network at full size
    for step, part in data.get("steps", {}).items():
        if part is None:
            continue
        cuts = [name for name, node in part["injectors"].items() if node and node.get("type") == "crop"]
        sets += [f"steps.{step}.injectors.{name}.size=16" for name in cuts]  # of lq, half of target_size
    for name, evaluator in data.get("eval", {}).get("evaluators", {}).items():
        if evaluator is None:
            continue
        here = f"eval.evaluators.{name}"
        sets += [f"{here}.dataset.paths=photos/a.png", f"{here}.max_images=1"]
        sets += [] if evaluator.get("injectors") else [f"{here}.diffusion_params.respaced_timestep_spacing=2"]
        if "target_size" in evaluator["dataset"]:
            sets += [f"{here}.dataset.target_size=32"]
    return data, sets


def train_small(file):
    data, sets = shrunk(file)
    sets += ["use_tb_logger=false", "datasets.train.target_size=32", "datasets.train.batch_size=2",
             "datasets.train.n_workers=0", "datasets.train.paths=photos", "train.niter=2"]  # fmt: skip
    return data, train("-opt", file, "--set", *sets)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The reference recipes, trained for two iterations: what the inference recipes start from."""
    folder = tmp_path_factory.mktemp("reference")
    save_picture(folder / "photos" / "a.png", 40, 56)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in STARTS:
            _, (code, said) = train_small(ROOT / f"recipes/diffusion/{name}.yml")
            assert code == 0, said
    return folder / "experiments"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_picture("photos/a.png", 40, 56)
    return tmp_path


def test_there_are_recipes_of_both_kinds():
    assert len(TRAINING) >= 3
    assert len(INFERENCE) >= 2
    assert sorted([*TRAINING, *INFERENCE]) == ALL


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("file", TRAINING, ids=name_of)
def test_a_training_recipe_passes_its_own_check_at_full_size(file):
    code, said = train("-opt", file, "--check", "--set", "device=cpu")
    assert code == 0, said
    assert "the graph fits together" in said
    assert "no `paths`, so the sample photographs of scikit-image are used" in said


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("file", TRAINING, ids=name_of)
def test_a_training_recipe_trains(file):
    data, (code, said) = train_small(file)
    assert code == 0, said
    assert "Traceback" not in said
    root = Path("experiments") / data["name"]
    for network, section in data["networks"].items():
        if section is None or not section.get("trainable", True):
            continue
        assert (root / "models" / f"2_{network}_ema.safetensors").is_file()
    assert (root / "training_state" / "2.state").is_file()
    for key in data.get("logger", {}).get("visuals", []):
        assert list((root / "visual_dbg" / key).glob("*.png"))
    for name, evaluator in data.get("eval", {}).get("evaluators", {}).items():
        assert evaluator is None or f"evaluation {name} at 2: psnr" in said


@pytest.mark.parametrize("file", INFERENCE, ids=name_of)
def test_an_inference_recipe_runs(file, here, trained):
    data, sets = shrunk(file)
    shutil.copytree(trained, here / "experiments")
    experiment = data["path"].get("experiment")
    start = experiment if experiment in STARTS else "train_sr"
    sets += ["path.pretrain_model_generator=auto", f"path.experiment={start}"]
    outputs = []
    for name in data.get("datasets", {}):
        sets += [f"datasets.{name}.paths=photos/a.png"]
        outputs.append(Path("results") / data["name"] / name / "a.png")
    for step, section in data.get("steps", {}).items():
        for name, node in section["injectors"].items():
            if node is None or node["type"] != "gaussian_diffusion_inference":
                continue
            sets += [f"steps.{step}.injectors.{name}.respaced_timestep_spacing=2"]
            sets += [f"steps.{step}.injectors.{name}.stop_at_snr=~"] if "stop_at_snr" in node else []
    code, said = restore("-opt", file, "--set", *sets)
    assert code == 0, said
    assert "Traceback" not in said
    assert outputs or data["eval"]["evaluators"]
    assert all(output.is_file() for output in outputs)
    if outputs:
        assert (Path("results") / data["name"] / "index.html").is_file()


def test_restoring_at_scale_1_keeps_the_size_and_refuses_weights_of_another_scale(here, trained):
    file = ROOT / "recipes/diffusion/restore_1x.yml"
    shutil.copytree(trained, here / "experiments")
    sets = ["device=cpu", "datasets.test.paths=photos/a.png", "path.pretrain_model_generator=auto",
            "steps.restore.injectors.detail.respaced_timestep_spacing=karras2"]  # fmt: skip
    code, said = restore("-opt", file, "--set", *sets)
    assert code == 0, said
    assert Image.open("results/restore_1x/test/a.png").size == (56, 40)
    code, said = restore("-opt", file, "--set", *sets, "path.experiment=train_sr")
    assert code == 2
    refusals = [line for line in said.splitlines() if "output_scale_factor" in line]
    assert len(refusals) == 1
    assert "is 1, but generator" in refusals[0]
    assert "was trained at scale 2" in refusals[0]
    code, said = restore("-opt", file, "--set", "device=cpu", "path.pretrain_model_generator=tessera-photo-2x")
    assert code == 2
    assert "was trained at scale 2" in said
