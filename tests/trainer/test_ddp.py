import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from trainer_helpers import fill, make_trainer, merged, recipe_data, write_recipe

import codes
from codes.data.loader import TrainLoader
from codes.runtime.experiment import Experiment
from codes.train import main
from codes.utils.errors import ConfigError

PROGRAM = Path(codes.__file__).parent / "train.py"
CHANGES: dict[str, Any] = {
    "train": {"niter": 6, "mega_batch_factor": 3},
    "datasets": {"train": {"batch_size": 8}},
    "logger": {"print_freq": 1},
    "steps": {
        "generator": {
            "clip_grad_eps": 0.5,
            "injectors": {
                "diffusion": {
                    "sampler_type": "loss-second-moment",
                    "beta_schedule": {"num_diffusion_timesteps": 25},
                }
            },
        }
    },
}


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_recipe(tmp_path / "recipe.yml", recipe_data(fill(tmp_path / "im"), CHANGES))


def torchrun(recipe: Path, *arguments: str) -> subprocess.Popen[str]:
    """Two processes that train together, on this machine."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    program = [str(PROGRAM), "-opt", str(recipe), "--launcher", "pytorch", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*launcher, *program], stderr=subprocess.PIPE, text=True, env=environment)


def log_of(name: str) -> list[dict[str, float]]:
    return [json.loads(line) for line in Path("experiments", name, "log.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_two_processes_train_as_one_does_at_the_same_global_batch(recipe: Path) -> None:
    process = torchrun(recipe, "--set", "name=two")
    error = process.communicate(timeout=120)[1]
    assert process.returncode == 0, error
    trainer = make_trainer(recipe, "name=one")
    trainer.run()
    one, two = log_of("one"), log_of("two")
    assert [row["iteration"] for row in two] == [1, 2, 3, 4, 5, 6]  # written once, by rank 0
    for key in ("loss/mse", "loss/vb", "loss/total", "gradient_norm"):
        assert [row[key] for row in two] == pytest.approx([row[key] for row in one], rel=2e-4)
    for ema in (False, True):
        first, second = (load_file(Experiment.named(name).weights("generator", 6, ema)) for name in ("one", "two"))
        difference = torch.cat([(first[key] - second[key]).abs().flatten() for key in first])
        # Adam's step is of the size of the learning rate, 1e-3, even where the gradient is all rounding.
        assert float(difference.mean()) < 2e-6
        assert float(difference.max()) < 2e-3
    states = [torch.load(Experiment.named(name).state(6), weights_only=True) for name in ("one", "two")]
    counts = [state["injectors"]["generator"]["diffusion"]["counts"] for state in states]
    assert torch.equal(*counts)  # the loss history joins the samples of both ranks
    assert int(counts[0].sum()) == 48


@pytest.mark.slow
def test_two_processes_stop_together_and_resume_exactly(recipe: Path) -> None:
    process = torchrun(recipe, "--set", "train.niter=100000", "name=stopped")
    assert process.stderr is not None
    for line in process.stderr:
        if " 3/100000 " in line:
            break
    process.send_signal(signal.SIGTERM)
    rest = process.communicate(timeout=90)[1]
    assert process.returncode != 0
    stopped = int(re.search(r"stopped at iteration (\d+)", rest).group(1))
    assert [iteration for iteration, _ in Experiment.named("stopped").states()] == [stopped]
    for name, resume in (("stopped", ["--auto_resume"]), ("whole", [])):
        again = torchrun(recipe, *resume, "--set", f"train.niter={stopped + 2}", f"name={name}")
        error = again.communicate(timeout=120)[1]
        assert again.returncode == 0, error
    first, second = (
        load_file(Experiment.named(name).weights("generator", stopped + 2, True)) for name in ("stopped", "whole")
    )
    assert all(torch.equal(first[key], second[key]) for key in first)


SHARDED = {
    "train": {"shard_optimizer": True, "default_lr_scheme": "constant", "post_hoc_ema": {"every": 2}},
    "logger": {"save_checkpoint_freq": 3},
}


@pytest.mark.slow
def test_a_sharded_optimiser_trains_as_a_whole_one_does_and_resumes_anywhere(recipe: Path) -> None:
    write_recipe(recipe, merged(recipe_data(recipe.parent / "im", CHANGES), SHARDED))

    def two(name: str, *overrides: str, resume: bool = False) -> None:
        process = torchrun(recipe, *(["--auto_resume"] if resume else []), "--set", f"name={name}", *overrides)
        error = process.communicate(timeout=120)[1]
        assert process.returncode == 0, error

    two("sharded")
    two("plain", "train.shard_optimizer=false")
    make_trainer(recipe, "name=one").run()  # one process has nothing to share
    for name in ("plain", "one"):
        for key in ("loss/total", "gradient_norm"):
            values = [[row[key] for row in log_of(run)] for run in ("sharded", name)]
            assert values[0] == pytest.approx(values[1], rel=2e-4)
    assert weights_of("sharded", 6).keys() == weights_of("plain", 6).keys()
    assert all(torch.equal(value, weights_of("plain", 6)[key]) for key, value in weights_of("sharded", 6).items())
    states = [torch.load(Experiment.named(name).state(6), weights_only=True) for name in ("sharded", "plain")]
    moments = [state["optimizers"]["generator"]["state"] for state in states]
    assert moments[0].keys() == moments[1].keys()  # whole, though each process held a part
    two("cut", "train.niter=3")
    two("cut", resume=True)
    assert all(torch.equal(value, weights_of("cut", 6)[key]) for key, value in weights_of("sharded", 6).items())
    alone = make_trainer(recipe, "name=sharded", "train.niter=7", auto_resume=True)
    alone.run()
    assert alone.iteration == 7


def weights_of(name: str, iteration: int) -> dict[str, torch.Tensor]:
    return load_file(Experiment.named(name).weights("generator", iteration, False))


@pytest.mark.slow
def test_processes_that_do_not_see_the_same_checkpoint_do_not_start(recipe: Path, tmp_path: Path) -> None:
    make_trainer(recipe, "train.niter=2").run()
    other = tmp_path / "other_machine"
    other.mkdir()
    program = [str(PROGRAM), "-opt", str(recipe), "--launcher", "pytorch", "--auto_resume", "--set", "train.niter=4"]
    processes = []
    for rank, folder in enumerate((tmp_path, other)):
        place = {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_PORT": "29517", **place}
        command = [sys.executable, *program]
        processes.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, cwd=folder))
    said = [process.communicate(timeout=90)[1] for process in processes]
    assert [process.returncode for process in processes] == [2, 2]
    assert "this one: iteration 2" in said[0]
    assert "must lie on a disk that all machines share" in said[1]


def test_the_launcher_without_torchrun_says_how_to_start(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-opt", str(recipe), "--launcher", "pytorch"]) == 2
    assert "torchrun --nproc_per_node=N codes/train.py" in capsys.readouterr().err


def test_a_batch_that_the_ranks_cannot_share_is_refused(recipe: Path) -> None:
    dataset = make_trainer(recipe).dataset
    with pytest.raises(ConfigError, match="batch_size 8 cannot be shared by 3 processes"):
        TrainLoader(dataset, 8, world_size=3)
