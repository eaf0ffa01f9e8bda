"""Images from nothing by command: files, classes, what does not fit, and that a sample depends on its number alone."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from command_helpers import train
from generation_helpers import SAMPLING, TRAINING, draw_shapes, generate, made, npz, train_tiny, unlabelled


@pytest.mark.usefixtures("generating")
def test_samples_of_all_classes_in_turn_with_grid_npz_and_record():
    code, said = generate()
    assert code == 0
    samples = made()
    classes = ["circle", "heart", "star"]
    assert sorted(samples) == sorted(f"{classes[n % 3]}/{n:06d}.png" for n in range(7))
    assert all(image.shape == (16, 16, 3) for image in samples.values())
    name, arrays = npz()
    assert name == "samples_7x16x16x3.npz"
    assert arrays["arr_0"].dtype == np.uint8
    assert arrays["arr_1"].dtype == np.int64
    assert arrays["arr_1"].tolist() == [0, 1, 2, 0, 1, 2, 0]
    for n in range(7):
        assert np.array_equal(arrays["arr_0"][n], samples[f"{classes[n % 3]}/{n:06d}.png"])
    record = json.loads(Path("results/made/generation.json").read_text())
    assert record["settings"]["class_names"] == classes
    assert record["grid_rows"] == classes
    assert record["settings"]["seed"] == 0
    assert len(record["settings"]["weights of generator"]) == 32
    assert "EMA weights from experiments/tiny/models/2_generator_ema.safetensors" in said
    assert Path("results/made/grid.png").is_file()


@pytest.mark.usefixtures("generating")
def test_a_sample_depends_on_its_number_and_the_seed_alone():
    assert generate()[0] == 0
    first = made()
    assert generate("name=other", "generate.batch_size=2", "generate.num_samples=4")[0] == 0
    second = made("results/other")
    assert set(second) < set(first)
    for name, image in second.items():
        assert np.abs(image.astype(int) - first[name]).max() <= 1  # float32 sums in another order
    assert generate("name=seeded", "seed=1", "generate.num_samples=2")[0] == 0
    third = made("results/seeded")
    assert all(np.abs(image.astype(int) - first[name]).max() > 10 for name, image in third.items())
    assert np.abs(first["circle/000000.png"].astype(int) - first["circle/000003.png"]).max() > 10


@pytest.mark.usefixtures("generating")
def test_classes_by_name_by_number_and_drawn():
    assert generate("generate.classes=[Star, 0]", "generate.num_samples=3")[0] == 0
    assert npz()[1]["arr_1"].tolist() == [2, 0, 2]
    assert generate("name=one", "generate.classes=heart", "generate.num_samples=2")[0] == 0
    assert npz("results/one")[1]["arr_1"].tolist() == [1, 1]
    assert generate("name=drawn", "generate.classes=random", "generate.num_samples=12")[0] == 0
    drawn = npz("results/drawn")[1]["arr_1"]
    assert set(drawn.tolist()) == {0, 1, 2}
    assert generate("name=fewer", "generate.classes=random", "generate.num_samples=5")[0] == 0
    assert np.array_equal(npz("results/fewer")[1]["arr_1"], drawn[:5])


@pytest.mark.usefixtures("generating")
def test_the_class_and_the_guidance_reach_the_network():
    sampled = {}
    for name, scale in (("plain", 1.0), ("guided", 4.0)):
        more = [f"steps.sample.injectors.sample.guidance_scale={scale}", "generate.num_samples=2"]
        for label in (0, 1):
            assert generate(*more, f"name={name}{label}", f"generate.classes={label}")[0] == 0
            sampled[name, label] = npz(f"results/{name}{label}")[1]["arr_0"].astype(int)
    assert not np.array_equal(sampled["plain", 0], sampled["plain", 1])
    assert not np.array_equal(sampled["plain", 0], sampled["guided", 0])


@pytest.mark.usefixtures("generating")
@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("generate.classes=[3]", "generate.classes.0: no class 3; there are 3, numbered 0 to 2"),
        ("generate.classes=-1", "generate.classes: no class -1; there are 3, numbered 0 to 2"),
        ("generate.classes=[circle, hart]", "generate.classes.1: no class 'hart' (did you mean heart (1)"),
        ("generate.classes=[]", "generate.classes: an empty list; name a class"),
        ("generate.num_samples=0", "generate.num_samples: "),
        ("steps.sample.injectors.sample.model_input_keys={}", "was trained with classes and needs one"),
        ("eval.output_state=other", "no sampling injector writes 'other'"),
        ("datasets.test.mode=labelled", "datasets.test.paths: missing"),
        ("output.suffix=x", "output: is for restored images"),
        ("steps.sample.injectors.sample.canvas=disk", "disk is for restoring large images"),
        ("steps.sample.injectors.sample.output_batch_size=2", "would leave samples out"),
        ("generate.class_names=no.txt", "generate.class_names: no.txt cannot be read"),
        ("train.niter=1", "generate: belongs to a recipe for test.py"),
        ("path.pretrain_model_other=x", "no network 'other' is used"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_is_sampled(override, said):
    code, text = generate(override)
    assert code == 2
    assert said in text
    assert not made()


@pytest.mark.usefixtures("generating")
def test_names_from_a_file_and_too_many_of_them():
    Path("names.txt").write_text("one\ntwo\n\nthree\n")
    assert generate("generate.class_names=names.txt", "generate.classes=[two]", "generate.num_samples=1")[0] == 0
    assert list(made()) == ["two/000000.png"]
    Path("names.json").write_text('["a", "b", "c", "d"]')
    code, said = generate("generate.class_names=names.json", "name=b")
    assert code == 2
    assert "generate.class_names: names 4 classes, but the network has 3" in said


@pytest.mark.usefixtures("generating")
def test_numbers_without_names():
    Path("experiments/tiny/models/classes.json").unlink()
    assert generate("generate.classes=[2, 0]", "generate.num_samples=2")[0] == 0
    assert list(made()) == ["0/000001.png", "2/000000.png"]
    code, said = generate("generate.classes=[star]", "name=b")
    assert code == 2
    assert "'star' is a name, but nothing names the classes" in said


def test_without_classes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw_shapes("shapes")
    Path("train.yml").write_text(unlabelled(TRAINING))
    code, said = train("-opt", "train.yml")
    assert code == 0, said
    Path("generate.yml").write_text(SAMPLING)
    node = "steps.sample.injectors.sample"
    code, said = generate()
    assert code == 2
    assert "generator takes no input 'y'" in said
    changes = [(f"{node}.model_input_keys", ...), (f"{node}.output_size", [16, 24])]
    code, said = generate(changes=changes)
    assert code == 0, said
    assert list(made()) == [f"{n:06d}.png" for n in range(7)]
    name, arrays = npz()
    assert name == "samples_7x16x24x3.npz"
    assert list(arrays) == ["arr_0"]
    code, said = generate("generate.classes=[1]", "name=b")
    assert code == 2
    assert "generate.classes: no sampling injector gives the network a class" in said
    code, said = generate(f"{node}.guidance_scale=2.0", "name=b")
    assert code == 2
    assert "guidance_scale: guidance has nothing to leave out" in said


@pytest.mark.usefixtures("generating")
def test_guidance_needs_a_null_label(tmp_path):
    Path("free").mkdir()
    os.chdir("free")
    train_tiny("networks.generator.args.classifier_free=false", "steps.generator.injectors.diffusion.label_dropout=0")
    Path("generate.yml").write_text(SAMPLING)
    code, said = generate("steps.sample.injectors.sample.guidance_scale=2.0")
    os.chdir(tmp_path)
    assert code == 2
    assert "generator has no null label" in said


@pytest.mark.usefixtures("generating")
def test_nothing_beside_the_samples_where_nothing_is_wanted():
    assert generate("generate.npz=false", "generate.grid_rows=0", "generate.num_samples=1")[0] == 0
    assert sorted(path.name for path in Path("results/made").iterdir()) == ["generation.json", "samples", "test.log"]
