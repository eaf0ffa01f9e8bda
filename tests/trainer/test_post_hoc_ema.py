"""Power-function averages: their equations, their snapshots during a run, and what is made of them afterwards."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from trainer_helpers import different, everything, fill, make_trainer, read, recipe_data, write_recipe

from codes.models.diffusion.checkpoints.files import disk_errors
from codes.models.diffusion.checkpoints.metadata import CheckpointMetadata
from codes.recipe.networks import build_network
from codes.runtime.experiment import Experiment
from codes.scripts.post_hoc_ema import main
from codes.trainer.power_ema import PowerEma, coefficients, exponent_of, inner_products
from codes.trainer.saving import snapshots
from codes.trainer.saving.snapshots import find_snapshots
from codes.utils.errors import ConfigError

EXPERIMENT = Experiment(Path("experiments/tiny"))
SNAPSHOTS = EXPERIMENT.root / "post_hoc_ema"


def power_average(values: np.ndarray, sigma_rel: float) -> np.ndarray:
    """The average of values (T, ...) over time, each weighted by the mass of its interval in the profile."""
    power = exponent_of(sigma_rel) + 1
    edges = (np.arange(len(values) + 1) / len(values)) ** power
    return np.tensordot(np.diff(edges), values, 1)


def test_lengths_and_exponents_are_inverse_and_those_of_the_paper() -> None:
    assert exponent_of(0.05) == pytest.approx(16.97, abs=0.01)  # Karras et al. 2024, section 3.1
    assert exponent_of(0.10) == pytest.approx(6.94, abs=0.01)
    for sigma_rel in (0.01, 0.05, 0.1, 0.2, 0.28):
        gamma = exponent_of(sigma_rel)
        sigma = math.sqrt(gamma + 1) / ((gamma + 2) * math.sqrt(gamma + 3))  # equation 7
        assert sigma == pytest.approx(sigma_rel, rel=1e-9)
    for wrong in (0.0, -0.1, 0.289, 1.0):
        with pytest.raises(ValueError, match=r"sigma_rel must lie between 0 and 0\.289"):
            exponent_of(wrong)


def test_sigma_is_the_spread_of_the_profile() -> None:
    time = (np.arange(200_000) + 0.5) / 200_000
    weights = time ** exponent_of(0.1)
    weights /= weights.sum()
    mean = (weights * time).sum()
    assert math.sqrt((weights * (time - mean) ** 2).sum()) == pytest.approx(0.1, rel=1e-4)


def test_inner_products_are_integrals() -> None:
    times, gammas = np.array([3.0, 5.0]), np.array([2.0, 6.5])
    grid = (np.arange(500_000) + 0.5) / 500_000 * 5

    def profile(t: float, gamma: float) -> np.ndarray:
        return np.where(grid <= t, (gamma + 1) * grid**gamma / t ** (gamma + 1), 0.0)

    products = inner_products(times, gammas, times, gammas)
    for i in range(2):
        for j in range(2):
            integral = (profile(times[i], gammas[i]) * profile(times[j], gammas[j])).mean() * 5
            assert products[i, j] == pytest.approx(integral, rel=1e-4)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2, 3, dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("count", torch.tensor(0))


def trajectory(count: int) -> np.ndarray:
    """(count, 2, 3): a noisy descent."""
    rng = np.random.default_rng(0)
    walk = np.cumsum(rng.standard_normal((count, 2, 3)), 0) * 0.05
    return walk + np.exp(-np.arange(count) / 100.0)[:, None, None]


@pytest.mark.parametrize("sigma_rel", [0.05, 0.2])
def test_the_running_average_is_the_power_average(sigma_rel: float) -> None:
    values, net = trajectory(300), Net()
    average = PowerEma(net, sigma_rel)
    with torch.no_grad():
        for number, value in enumerate(values, 1):
            net.weight.copy_(torch.from_numpy(value))
            net.mean.fill_(number)
            net.count.fill_(number)
            average.update(net, number)
    np.testing.assert_allclose(average.network.weight.numpy(), power_average(values, sigma_rel), rtol=1e-10)
    assert average.network.mean.tolist() == [300.0] * 3  # copied, not averaged
    assert int(average.network.count) == 300
    assert not average.network.training


@pytest.mark.parametrize(("sigma_rel", "error"), [(0.05, 1e-9), (0.03, 2e-3), (0.08, 1e-4), (0.15, 1e-3), (0.2, 3e-3)])
def test_snapshots_give_the_average_of_any_length(sigma_rel: float, error: float) -> None:
    values = trajectory(1600)
    rows = [(at, sigma) for sigma in (0.05, 0.10) for at in range(50, 1601, 50)]
    stored = np.stack([power_average(values[:at], sigma) for at, sigma in rows])
    weights = coefficients([(at, exponent_of(sigma)) for at, sigma in rows], 1600, exponent_of(sigma_rel))
    assert weights.sum() == pytest.approx(1.0)
    expected = power_average(values, sigma_rel)
    scale = np.abs(expected - values[-1]).max()  # how far averaging moves at all
    assert np.abs(np.tensordot(weights, stored, 1) - expected).max() < error * scale


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    changes = {"train": {"niter": 8, "post_hoc_ema": {"sigma_rel": [0.1, 0.2], "every": 2}}}
    return write_recipe(tmp_path / "recipe.yml", recipe_data(fill(tmp_path / "im"), changes))


def followed(recipe: Path) -> list[dict[str, np.ndarray]]:
    """Run; the parameters after every iteration."""
    trainer, seen = make_trainer(recipe), []
    iterate = trainer._iterate

    def watched(batch):
        result = iterate(batch)
        named = trainer.parts.networks["generator"].named_parameters()
        seen.append({name: value.detach().double().numpy().copy() for name, value in named})
        return result

    trainer._iterate = watched
    trainer.run()
    return seen


def test_a_run_writes_snapshots_and_the_script_makes_an_average_of_another_length(recipe: Path) -> None:
    seen = followed(recipe)
    names = {path.name for path in SNAPSHOTS.glob("*.safetensors")}
    assert names == {f"{at}_generator_{sigma}.safetensors" for at in (2, 4, 6, 8) for sigma in ("0.100", "0.200")}
    assert main(["tiny", "--sigma_rel", "0.2", "0.15"]) == 0
    for sigma_rel, tolerance in ((0.2, 1e-5), (0.15, 0.02)):
        made = load_file(EXPERIMENT.root / "models" / f"8_generator_ema{sigma_rel:.3f}.safetensors")
        assert made.keys() == load_file(EXPERIMENT.weights("generator", 8, True)).keys()
        for name in seen[0]:
            expected = power_average(np.stack([row[name] for row in seen]), sigma_rel)
            moved = max(float(np.abs(expected - seen[-1][name]).max()), 1e-4)
            assert (
                float(np.abs(made[name].double().numpy() - expected).max()) < tolerance * moved + 3e-7
            )  # float32 near 1
    assert EXPERIMENT.newest_weights("generator").name == "8_generator_ema.safetensors"  # `auto` is as before


def test_half_precision_snapshots_are_half_the_size_and_give_nearly_the_same(recipe: Path) -> None:
    for dtype in ("fp32", "fp16"):
        make_trainer(recipe, f"name={dtype}", f"train.post_hoc_ema.dtype={dtype}").run()
        assert main([dtype, "--sigma_rel", "0.12", "--iteration", "6", "--output", f"{dtype}.safetensors"]) == 0
    sizes = [
        Path(f"experiments/{dtype}/post_hoc_ema/8_generator_0.100.safetensors").stat().st_size
        for dtype in ("fp16", "fp32")
    ]
    assert sizes[0] < 0.6 * sizes[1]
    full, half = (load_file(f"{dtype}.safetensors") for dtype in ("fp32", "fp16"))
    for name, value in full.items():
        assert half[name].dtype == torch.float32
        torch.testing.assert_close(half[name], value, rtol=2e-2, atol=2e-4)


def test_averages_survive_a_resume_bit_for_bit_and_later_snapshots_go(recipe: Path) -> None:
    whole = make_trainer(recipe, "name=whole")
    whole.run()
    make_trainer(recipe, "train.niter=5").run()
    late = SNAPSHOTS / "6_generator_0.100.safetensors"
    late.write_bytes((SNAPSHOTS / "4_generator_0.100.safetensors").read_bytes())
    resumed = make_trainer(recipe, auto_resume=True)
    assert not late.exists()
    resumed.run()
    assert different(everything(whole), everything(resumed)) == []
    for sigma, profile in whole.parts.profiles["generator"].items():
        state = resumed.parts.profiles["generator"][sigma].state_dict()
        assert all(torch.equal(value, state[name]) for name, value in profile.state_dict().items())
    assert [row.iteration for row in find_snapshots(EXPERIMENT)] == [2, 2, 4, 4, 5, 5, 6, 6, 8, 8]
    with pytest.raises(ConfigError, match=r"train\.post_hoc_ema\.sigma_rel: was \[0\.1, 0\.2\] and is \[0\.05\]"):
        make_trainer(recipe, "train.post_hoc_ema.sigma_rel=[0.05]", auto_resume=True)
    assert make_trainer(recipe, "train.post_hoc_ema=~", "train.niter=9", auto_resume=True).parts.profiles == {}


def test_what_cannot_be_made_is_refused_in_one_line(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_trainer(recipe, "train.niter=4").run()
    make_trainer(recipe, "name=none", "train.post_hoc_ema=~", "train.niter=1").run()
    for arguments, message in (
        (["tiny", "--sigma_rel", "0.5"], "sigma_rel must lie between 0 and 0.289, found 0.5"),
        (["tiny", "--sigma_rel", "0.1", "--iteration", "3"], "no snapshot of iteration 3 (there are: 2, 4)"),
        (["tiny", "--sigma_rel", "0.1", "--iteration", "0"], "no snapshot of iteration 0 (there are: 2, 4)"),
        (["tiny", "--sigma_rel", "0.1", "--network", "other"], "no snapshots of 'other' (there are: generator)"),
        (["tiny", "--sigma_rel", "0.1", "0.2", "--output", "x.safetensors"], "give one --sigma_rel"),
        (["none", "--sigma_rel", "0.1"], "holds no snapshots; train with train.post_hoc_ema"),
    ):
        capsys.readouterr()
        assert main(arguments) == 2
        (error,) = [line for line in capsys.readouterr().err.splitlines() if " E " in line]
        assert message in error


@pytest.mark.parametrize("lengths", ["[0.1, 0.1001]", "[]", "[0.3]", "[0]"])
def test_lengths_that_make_no_sense_are_refused(recipe: Path, lengths: str) -> None:
    with pytest.raises(ConfigError, match=r"train\.post_hoc_ema\.sigma_rel"):
        read(recipe, f"train.post_hoc_ema.sigma_rel={lengths}")


def test_a_network_built_from_a_reconstruction_runs(recipe: Path) -> None:
    make_trainer(recipe, "train.niter=2").run()
    assert main(["tiny", "--sigma_rel", "0.12", "--output", "made.safetensors"]) == 0
    network = build_network("generator", read(recipe)[0], 0, torch.device("cpu"))
    network.load_state_dict(load_file("made.safetensors"))
    low, factors = torch.zeros(2, 3, 16, 24), torch.zeros(2, 2)
    out = network(torch.zeros(2, 3, 32, 48), torch.tensor([1, 5]), low_res=low, corruption_factor=factors)
    assert torch.isfinite(out).all()


def test_a_disk_without_room_for_a_snapshot_does_not_end_the_run(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = snapshots.save_checkpoint
    at: list[int] = []

    def full(path: Path, weights: dict[str, torch.Tensor], metadata: CheckpointMetadata) -> None:
        at.append(metadata.iteration)
        if metadata.iteration < 6:
            with disk_errors():
                raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        written(path, weights, metadata)

    monkeypatch.setattr(snapshots, "save_checkpoint", full)
    make_trainer(recipe).run()
    assert at == [2, 4, 6, 6, 8, 8]
    assert {row.iteration for row in find_snapshots(EXPERIMENT)} == {6, 8}
    assert main(["tiny", "--sigma_rel", "0.15"]) == 0  # of what there is
