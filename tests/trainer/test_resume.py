import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from trainer_helpers import different, everything, fill, make_trainer, merged, recipe_data, write_recipe

import codes
from codes.runtime.experiment import Experiment
from codes.train import main
from codes.trainer.saving.resuming import _read_state
from codes.trainer.saving.saving import prune, save
from codes.trainer.trainer import Trainer
from codes.utils.errors import ConfigError, Interrupted, TesseraError

PROGRAM = Path(codes.__file__).parent / "train.py"
EXPERIMENT = Experiment(Path("experiments/tiny"))


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_recipe(tmp_path / "recipe.yml", recipe_data(fill(tmp_path / "im")))


def run(path: Path, *overrides: str, auto_resume: bool = False) -> Trainer:
    trainer = make_trainer(path, *overrides, auto_resume=auto_resume)
    trainer.run()
    return trainer


LOSS_AWARE = {
    "sampler_type": "loss-second-moment",
    "beta_schedule": {"num_diffusion_timesteps": 25},
    "diffusion_args": {"loss_type": "mse"},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "no_workers": {},
    "one_worker": {"datasets": {"train": {"n_workers": 1}}},
    "two_workers": {"datasets": {"train": {"n_workers": 2}}},
    "accumulation": {"train": {"mega_batch_factor": 3}},
    "loss_second_moment": {"steps": {"generator": {"injectors": {"diffusion": LOSS_AWARE}}}},
    "dropout": {"networks": {"generator": {"args": {"dropout": 0.3}}}},
    "cosine": {"train": {"default_lr_scheme": "CosineAnnealingLR", "warmup_iter": 2}},
    "pth": {"logger": {"checkpoint_format": "pth"}},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(recipe: Path, variant: str) -> None:
    changes = merged(VARIANTS[variant], {"train": {"niter": 5}})
    write_recipe(recipe, recipe_data(recipe.parent / "im", changes))
    whole = run(recipe, "name=whole")
    stop = make_trainer(recipe)
    _stop_after(stop, 3)
    with pytest.raises(Interrupted, match="iteration 3 of 5"):
        stop.run()
    resumed = run(recipe, auto_resume=True)
    assert (whole.iteration, whole.samples) == (resumed.iteration, resumed.samples) == (5, 20)
    assert different(everything(whole), everything(resumed)) == []
    assert different(everything(whole), everything(stop)) != []


def test_a_warm_loss_history_survives_a_resume(recipe: Path) -> None:
    changes = {"steps": {"generator": {"injectors": {"diffusion": LOSS_AWARE}}}, "train": {"niter": 4}}
    write_recipe(recipe, recipe_data(recipe.parent / "im", changes))
    finals = []
    for stops in (False, True):
        trainer = make_trainer(recipe, f"name=stops{stops}")
        sampler = trainer.parts.steps[0].graph.injectors["diffusion"].timesteps
        for _ in range(10):
            sampler.update(torch.arange(25), torch.arange(25.0) + 1)
        assert sampler.warmed_up
        if stops:
            _stop_after(trainer, 2)
            with pytest.raises(Interrupted):
                trainer.run()
            trainer = make_trainer(recipe, f"name=stops{stops}", auto_resume=True)
            assert trainer.parts.steps[0].graph.injectors["diffusion"].timesteps.warmed_up
        trainer.run()
        finals.append(everything(trainer))
    assert different(*finals) == []


def _stop_after(trainer: Trainer, iteration: int) -> None:
    """Send this process the signal of Ctrl-C after an iteration."""
    iterate = trainer._iterate

    def watched(batch: Any) -> Any:
        result = iterate(batch)
        if trainer.iteration == iteration:
            os.kill(os.getpid(), signal.SIGINT)
        return result

    trainer._iterate = watched


def test_a_second_signal_stops_at_once(recipe: Path) -> None:
    trainer = make_trainer(recipe, "train.niter=50")
    iterate = trainer._iterate

    def watched(batch: Any) -> Any:
        result = iterate(batch)
        os.kill(os.getpid(), signal.SIGINT)
        if trainer.iteration == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return result

    trainer._iterate = watched
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert trainer.iteration == 1
    assert EXPERIMENT.states() == []
    assert signal.getsignal(signal.SIGINT) is before


def test_options_that_may_change_on_a_resume_are_honoured(recipe: Path) -> None:
    run(recipe)
    params = "steps.generator.optimizer_params"
    changed = (f"{params}.lr=0.25", f"{params}.weight_decay=0.125", f"{params}.beta1=0.5", "train.niter=4")
    trainer = run(recipe, *changed, "datasets.train.batch_size=3", auto_resume=True)
    assert (trainer.iteration, trainer.samples) == (4, 15)
    for group, decay in zip(trainer.parts.steps[0].optimizer.param_groups, (0.125, 0.0), strict=True):
        assert group["lr"] == 0.25
        assert group["weight_decay"] == decay
        assert group["betas"] == (0.5, 0.999)
    moments = trainer.parts.steps[0].optimizer.state.values()
    assert {int(state["step"]) for state in moments} == {4}


def test_nothing_is_left_to_do_at_the_last_iteration(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(recipe)
    before = {path: path.stat().st_mtime_ns for path in EXPERIMENT.root.glob("*/*") if path.is_file()}
    assert main(["-opt", str(recipe), "--auto_resume"]) == 0
    assert "iteration 3 of 3: nothing left to do; raise train.niter" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in EXPERIMENT.root.glob("*/*") if path.is_file()} == before


def test_a_second_start_puts_the_old_folder_aside(recipe: Path) -> None:
    run(recipe)
    old = EXPERIMENT.state(3).read_bytes()
    second = make_trainer(recipe)
    assert second.iteration == 0
    assert EXPERIMENT.states() == []
    archived = list(Path("experiments").glob("tiny_archived_*"))
    assert len(archived) == 1
    assert Experiment(archived[0]).state(3).read_bytes() == old


def test_auto_resume_without_a_checkpoint_starts_afresh(recipe: Path) -> None:
    assert make_trainer(recipe, auto_resume=True).iteration == 0


def test_keep_last_keeps_the_newest(recipe: Path) -> None:
    run(recipe, "train.niter=5", "logger.save_checkpoint_freq=1", "logger.keep_last=2")
    assert [iteration for iteration, _ in EXPERIMENT.states()] == [5, 4]
    names = {path.name for path in (EXPERIMENT.root / "models").iterdir()}
    expected = {f"{at}_generator{kind}.safetensors" for at in (4, 5) for kind in ("", "_ema")}
    assert names == expected


def test_resume_state_of_another_experiment_leaves_that_one_alone(recipe: Path) -> None:
    first = run(recipe)
    state = EXPERIMENT.state(3)
    saved = state.read_bytes()
    branch = make_trainer(recipe, "name=branch", f"path.resume_state={state}", "train.niter=4")
    assert different(everything(first), everything(branch)) == []
    branch.run()
    assert [iteration for iteration, _ in Experiment.named("branch").states()] == [4]
    assert state.read_bytes() == saved
    again = make_trainer(recipe, "name=branch", f"path.resume_state={state}", "train.niter=5", auto_resume=True)
    assert again.iteration == 4  # its own progress, not the state that it once started from


def test_resume_state_that_newer_ones_follow_is_refused(recipe: Path) -> None:
    run(recipe, "logger.save_checkpoint_freq=2", "train.niter=4")
    with pytest.raises(ConfigError, match=r"2\.state is not the newest .*4\.state follows.*set another `name`"):
        make_trainer(recipe, f"path.resume_state={EXPERIMENT.state(2)}")
    assert [iteration for iteration, _ in EXPERIMENT.states()] == [4, 2]
    assert make_trainer(recipe, f"path.resume_state={EXPERIMENT.state(4)}").iteration == 4


@pytest.fixture
def foreign(recipe: Path) -> tuple[Path, Path]:
    """A recipe and the path of a state that a test fills in, beside good weights."""
    run(recipe)
    return recipe, EXPERIMENT.state(3)


def refusal(recipe: Path, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(["-opt", str(recipe), "--auto_resume", "--set", "train.niter=9"]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if " E " in line]
    assert len(errors) == 1
    assert "3.state" in errors[0]
    return errors[0]


def test_a_foreign_or_damaged_state_is_refused_in_one_line(
    foreign: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, state = foreign
    good = state.read_bytes()
    rng = random.Random(0)
    damaged = [
        b"",
        b"hello\n",
        b"a: b\n" * 50,
        b"\x80\x02}q\x00.",
        rng.randbytes(300),
        good[:-1],
        good[: len(good) // 2],
    ]
    for content in damaged:
        state.write_bytes(content)
        assert re.search(r"cannot be read as a training state|is no training state", refusal(recipe, capsys))


def test_random_bytes_never_give_a_traceback(foreign: tuple[Path, Path]) -> None:
    state = foreign[1]
    rng = random.Random(1)
    for _ in range(150):
        state.write_bytes(rng.randbytes(rng.randrange(1, 120)))
        with pytest.raises(ConfigError, match="training state"):
            _read_state(state)


def test_a_state_of_another_program_is_refused_in_one_line(
    foreign: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, state = foreign
    for content in ([1, 2], {"epoch": 3, "iter": 5}, {"format": 1}, {"format": 2, "iteration": 3}):
        torch.save(content, state)
        assert "is no training state of this trainer" in refusal(recipe, capsys)


def test_a_state_that_does_not_fit_the_recipe_says_what(recipe: Path) -> None:
    changes = {"steps": {"generator": {"injectors": {"diffusion": LOSS_AWARE}}}}
    write_recipe(recipe, recipe_data(recipe.parent / "im", changes))
    run(recipe)
    state = torch.load(EXPERIMENT.state(3), weights_only=True)
    del state["recipe"]  # as states without the options of their run
    torch.save(state, EXPERIMENT.state(3))
    steps = "steps.generator.injectors.diffusion"
    with pytest.raises(ConfigError, match=r"3\.state: the state of injector diffusion does not fit .*\(25, 10\)"):
        make_trainer(recipe, f"{steps}.beta_schedule.num_diffusion_timesteps=40", auto_resume=True)
    with pytest.raises(ConfigError, match="does not fit the network"):
        make_trainer(recipe, "networks.generator.args.model_channels=32", auto_resume=True)
    EXPERIMENT.weights("generator", 3, ema=True).unlink()
    with pytest.raises(ConfigError, match="3_generator_ema"):
        make_trainer(recipe, auto_resume=True)


@pytest.fixture
def small_disk() -> Iterator[Any]:
    """Lets a test limit the size of any file that this process writes, as a full disk would."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize(
    "size", [100_000, 1_000_000]
)  # below the weights; between the weights and the optimiser's state
def test_a_save_that_fails_keeps_the_last_good_one_and_the_run_going(recipe: Path, small_disk: Any, size: int) -> None:
    trainer = make_trainer(recipe, "train.niter=4", "logger.save_checkpoint_freq=1", "logger.keep_last=1")
    iterate = trainer._iterate

    def watched(batch: Any) -> Any:
        small_disk(size if trainer.iteration == 1 else resource.RLIM_INFINITY)
        if trainer.iteration == 2:
            # The save of iteration 2 failed; that of iteration 1 must be whole.
            assert [iteration for iteration, _ in EXPERIMENT.states()] == [1]
            assert {path.name[0] for path in (EXPERIMENT.root / "models").iterdir()} == {"1"}
        return iterate(batch)

    trainer._iterate = watched
    trainer.run()
    assert [iteration for iteration, _ in EXPERIMENT.states()] == [4]
    assert make_trainer(recipe, auto_resume=True).iteration == 4


def test_a_last_save_that_fails_fails_the_run(recipe: Path, small_disk: Any) -> None:
    trainer = make_trainer(recipe)
    save(trainer.experiment, trainer.recipe, trainer.parts, 0, 0)
    small_disk(100_000)
    with pytest.raises(TesseraError, match=r"could not save iteration 3 to experiments/tiny \(.*too large.*checkpoint"):
        trainer.run()
    assert [iteration for iteration, _ in EXPERIMENT.states()] == [0]


def test_leftovers_of_a_killed_save_are_removed(recipe: Path) -> None:
    run(recipe)
    for name in ("models/.9_generator.0123abcd.tmp.safetensors", "training_state/.9.0123abcd.tmp.state"):
        (EXPERIMENT.root / name).write_bytes(b"half")
    assert [iteration for iteration, _ in EXPERIMENT.states()] == [3]
    make_trainer(recipe, auto_resume=True)
    assert list(EXPERIMENT.root.glob("*/.*")) == []


def test_prune_without_keep_last_removes_nothing(recipe: Path) -> None:
    trainer = run(recipe, "logger.save_checkpoint_freq=1")
    prune(trainer.experiment, trainer.recipe)
    assert [iteration for iteration, _ in EXPERIMENT.states()] == [3, 2, 1]


def start(recipe: Path, *overrides: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(PROGRAM), "-opt", str(recipe), "--auto_resume", "--set", *overrides]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True)


def wait_for(process: subprocess.Popen[str], pattern: str) -> str:
    """Read what the run logs until a line matches."""
    assert process.stderr is not None
    lines: list[str] = []
    for line in process.stderr:
        if re.search(pattern, line):
            return line
        lines.append(line)
    raise AssertionError(f"ended with {process.wait()} before {pattern!r} was logged:\n{''.join(lines[-20:])}")


@pytest.mark.parametrize("to_all", [False, True], ids=["to the process", "to its workers as well"])
def test_sigterm_saves_and_exits_130_and_the_run_goes_on_as_if_nothing_had_been(recipe: Path, to_all: bool) -> None:
    process = start(recipe, "train.niter=100000", "logger.print_freq=1", f"datasets.train.n_workers={int(to_all)}")
    wait_for(process, r" 2/100000 ")
    if to_all:  # as a job manager does, and Ctrl-C in a terminal
        os.killpg(process.pid, signal.SIGTERM)
    else:
        process.send_signal(signal.SIGTERM)
    stopped = int(re.search(r"stopped at iteration (\d+)", wait_for(process, "stopped at iteration")).group(1))
    assert process.wait(timeout=30) == 130
    assert [iteration for iteration, _ in EXPERIMENT.states()] == [stopped]
    niter = f"train.niter={stopped + 2}"
    resumed, whole = run(recipe, niter, auto_resume=True), run(recipe, niter, "name=whole")
    assert different(everything(resumed), everything(whole)) == []


def test_a_killed_run_leaves_no_half_file_and_goes_on(recipe: Path) -> None:
    process = start(recipe, "train.niter=100000", "logger.save_checkpoint_freq=2")
    wait_for(process, "saved .*4.state")
    time.sleep(0.05)
    process.kill()
    process.wait(timeout=30)
    newest = EXPERIMENT.states()[0][0]
    assert newest >= 4
    _resumes_exactly(recipe, newest)


def _resumes_exactly(recipe: Path, newest: int) -> None:
    resumed = make_trainer(recipe, f"train.niter={newest + 1}", auto_resume=True)
    assert resumed.iteration == newest
    resumed.run()
    whole = run(recipe, f"train.niter={newest + 1}", "name=whole")
    assert different(everything(resumed), everything(whole)) == []


@pytest.mark.slow
def test_twenty_random_kills_never_lose_more_than_the_last_save(recipe: Path) -> None:
    rng = random.Random(4)
    newest = 0
    for _ in range(20):
        process = start(recipe, "train.niter=100000", "logger.save_checkpoint_freq=1", "logger.keep_last=2")
        wait_for(process, r"saved .*\.state")
        time.sleep(rng.uniform(0.0, 0.4))
        process.kill()
        process.wait(timeout=30)
        saved = EXPERIMENT.states()[0][0]
        assert saved > newest
        newest = saved
    _resumes_exactly(recipe, newest)


def test_a_run_that_lives_keeps_its_folder_and_one_that_was_killed_does_not(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    process = start(recipe, "train.niter=100000", "logger.print_freq=1", "logger.save_checkpoint_freq=2")
    wait_for(process, r" 3/100000 ")
    before = {path for path in Path("experiments").rglob("*") if path.suffix == ".state"}
    for options in ([], ["--auto_resume"]):
        assert main(["-opt", str(recipe), *options, "--set", "train.niter=4", "logger.keep_last=1"]) == 2
        said = capsys.readouterr().err
        assert f"experiments/tiny is in use by another run: process {process.pid} on " in said
        assert "Nothing was touched" in said
    assert before <= {path for path in Path("experiments").rglob("*") if path.suffix == ".state"}
    assert os.listdir("experiments") == ["tiny"]
    process.kill()  # and nobody has waited for it yet
    time.sleep(0.3)
    (EXPERIMENT.root / "models" / ".tmpAb3dE9").write_bytes(b"half")
    newest = EXPERIMENT.states()[0][0]
    assert main(["-opt", str(recipe), "--auto_resume", "--set", f"train.niter={newest + 1}"]) == 0
    assert "has ended; taken over" in capsys.readouterr().err
    assert EXPERIMENT.states()[0][0] == newest + 1
    assert not [path for path in EXPERIMENT.root.rglob(".*") if path.is_file()]
    process.wait()
