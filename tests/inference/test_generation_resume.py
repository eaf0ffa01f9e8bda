"""Going on after an interruption, refusing to mix samples, and sharing the work over processes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from generation_helpers import generate, made, npz
from PIL import Image

import codes
from codes.inference.generation import run as generation
from codes.runtime.run_lock import RunLock

PROGRAM = Path(codes.__file__).parent / "test.py"
NODE = "steps.sample.injectors.sample"


def times():
    return {str(path): path.stat().st_mtime_ns for path in Path("results/made/samples").rglob("*.png")}


@pytest.mark.usefixtures("generating")
def test_what_exists_is_kept_and_what_is_missing_is_made_as_before():
    assert generate()[0] == 0
    whole, stamps = made(), times()
    for name in ("heart/000001.png", "star/000005.png"):
        Path("results/made/samples", name).unlink()
    code, said = generate()
    assert code == 0
    assert "5 of 7 samples exist and are kept" in said
    assert "2 samples made" in said
    again = made()
    assert all(np.abs(image.astype(int) - again[name]).max() <= 1 for name, image in whole.items())
    later = {name for name, stamp in times().items() if stamps[name] != stamp}
    assert {Path(name).name for name in later} == {"000001.png", "000005.png"}


@pytest.mark.usefixtures("generating")
def test_more_samples_go_on_and_fewer_take_the_first():
    assert generate()[0] == 0
    stamps = times()
    assert generate("generate.num_samples=9", "generate.batch_size=2")[0] == 0
    assert len(made()) == 9
    assert stamps.items() <= times().items()
    assert np.load("results/made/samples_9x16x16x3.npz")["arr_0"].shape == (9, 16, 16, 3)
    assert generate("generate.num_samples=4")[0] == 0
    assert np.load("results/made/samples_4x16x16x3.npz")["arr_1"].tolist() == [0, 1, 2, 0]


@pytest.mark.usefixtures("generating")
@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("seed=1", "seed: 0 then, 1 now"),
        (f"{NODE}.guidance_scale=2.0", f"{NODE}.guidance_scale: 1.0 then, 2.0 now"),
        ("generate.classes=[heart]", 'classes: "all" then, [1] now'),
        ("precision=bf16", 'precision: "fp32" then, "bf16" now'),
        ("path.pretrain_model_generator=experiments/tiny/models/2_generator.safetensors", "weights of generator: "),
        ("generate.class_names=names.txt", 'class_names: ["circle", "heart", "star"] then, ["a", "b", "c"] now'),
    ],
)
def test_samples_of_other_settings_are_refused_or_moved_aside(override, said):
    assert generate("generate.num_samples=2")[0] == 0
    before, record = made(), Path("results/made/generation.json").read_text()
    Path("names.txt").write_text("a\nb\nc\n")
    code, text = generate(override, "generate.num_samples=2")
    assert code == 2
    assert said in text
    assert "generate.on_change: restart" in text
    assert Path("results/made/generation.json").read_text() == record
    assert generate(override, "generate.num_samples=2", "generate.on_change=restart")[0] == 0
    (aside,) = Path("results/made").glob("earlier_*")
    assert made(aside).keys() == before.keys()
    assert sorted(path.name for path in aside.iterdir()) == [
        "generation.json", "grid.png", "samples", "samples_2x16x16x3.npz",
    ]  # fmt: skip
    assert len(made()) == 2
    assert json.loads(Path("results/made/generation.json").read_text())["settings"] != json.loads(record)["settings"]


@pytest.mark.usefixtures("generating")
def test_what_changes_no_image_is_no_other_setting():
    assert generate("generate.num_samples=2")[0] == 0
    shutil.copytree("experiments/tiny/models", "moved")
    code, said = generate(
        "generate.batch_size=1", f"{NODE}.tile_batch_size=1", "generate.num_samples=2", "generate.npz=false",
        "path.pretrain_model_generator=moved/2_generator_ema.safetensors", "generate.classes=~",
    )  # fmt: skip
    assert code == 0
    assert "2 of 2 samples exist and are kept" in said


@pytest.mark.usefixtures("generating")
def test_pictures_of_unknown_origin_are_refused():
    folder = Path("results/made/samples")
    folder.mkdir(parents=True)
    Image.new("RGB", (16, 16)).save(folder / "000000.png")
    code, said = generate()
    assert code == 2
    assert "generation.json is missing" in said


@pytest.mark.usefixtures("generating")
def test_a_sample_of_another_size_is_named():
    assert generate()[0] == 0
    Image.new("RGB", (8, 16)).save("results/made/samples/star/000002.png")
    code, said = generate()
    assert code == 2
    assert "000002.png: is 8x16, but the other samples are 16x16; delete it and run again" in said
    Path("results/made/samples/star/000002.png").unlink()
    assert generate()[0] == 0


@pytest.mark.usefixtures("generating")
def test_a_signal_keeps_the_finished_batches(monkeypatch):
    sampled = generation.Generation._sample

    def stopping(self, positions, on_step):
        if 3 in positions:
            os.kill(os.getpid(), signal.SIGTERM)
        sampled(self, positions, on_step)

    with monkeypatch.context() as patch:
        patch.setattr(generation.Generation, "_sample", stopping)
        code, said = generate()
    assert code == 130
    assert "the samples that were finished are kept in results/made" in said
    assert len(made()) == 3
    code, said = generate()
    assert code == 0
    assert "3 of 7 samples exist and are kept" in said


def start(*arguments, launcher=()):
    command = [sys.executable, *launcher, str(PROGRAM), "-opt", "generate.yml", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.mark.slow
@pytest.mark.usefixtures("generating")
def test_killed_at_any_moment_nothing_is_half_written_and_nothing_is_made_twice():
    settings = ["--set", "generate.num_samples=400", "generate.batch_size=4"]
    process = start(*settings)
    while len(list(Path("results/made/samples").rglob("*.png"))) < 20:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    process.kill()
    process.communicate()
    samples, stamps = made(), times()
    assert 20 <= len(samples) < 400
    assert all(image.shape == (16, 16, 3) for image in samples.values())
    assert generate("generate.num_samples=400", "generate.batch_size=4")[0] == 0
    assert stamps.items() <= times().items()
    assert npz()[1]["arr_0"].shape == (400, 16, 16, 3)


@pytest.mark.slow
@pytest.mark.usefixtures("generating")
def test_two_processes_make_what_one_makes():
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    process = start("--launcher", "pytorch", "--set", "name=two", launcher=launcher)
    error = process.communicate(timeout=120)[1]
    assert process.returncode == 0, error
    assert generate()[0] == 0
    one, two = npz(), npz("results/two")
    assert one[0] == two[0]
    assert np.array_equal(one[1]["arr_0"], two[1]["arr_0"])
    assert np.array_equal(one[1]["arr_1"], two[1]["arr_1"])
    assert Path("results/two/grid.png").read_bytes() == Path("results/made/grid.png").read_bytes()


@pytest.mark.usefixtures("generating")
def test_a_second_run_into_the_folder_is_refused_and_changes_nothing():
    assert generate("generate.num_samples=2")[0] == 0
    before = times()
    with RunLock(Path("results/made")):
        code, said = generate("generate.num_samples=4", "generate.on_change=restart", "seed=9")
        assert code == 2
        assert "results/made is in use by another run" in said
        assert times() == before
    assert generate("generate.num_samples=4")[0] == 0


@pytest.mark.usefixtures("generating")
def test_what_a_kill_left_half_written_goes_at_the_next_start():
    assert generate("generate.num_samples=2")[0] == 0
    sample = next(iter(Path("results/made/samples").rglob("*.png")))
    left = [sample.with_name(".000003.0a1b2c3d.tmp.png"), Path("results/made/.grid.0a1b2c3d.tmp.png")]
    for file in left:
        file.write_bytes(b"half")
    assert generate("generate.num_samples=4")[0] == 0
    assert not [file for file in left if file.exists()]
