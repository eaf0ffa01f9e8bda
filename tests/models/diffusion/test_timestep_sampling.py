"""Timestep samplers: distributions, importance weights, state."""

import numpy as np
import pytest
import torch
from torch import Tensor

from codes.models.diffusion.schedule import NoiseSchedule, expert_index
from codes.models.diffusion.timestep_sampling import (
    TIMESTEP_SAMPLERS,
    Categorical,
    LossSecondMoment,
    TimestepSampler,
    Uniform,
    log_snr_sampler,
)
from codes.utils.errors import ConfigError

SCHEDULE = NoiseSchedule.named("linear", 1000)


def evenly(count: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Numbers that cover [0, 1) evenly, so that a pure function of them shows its distribution without noise."""
    return ((torch.arange(count, dtype=torch.float64) + 0.5) / count).to(dtype)


def samplers() -> dict[str, TimestepSampler]:
    named = {
        name: TIMESTEP_SAMPLERS.get(name)(SCHEDULE) for name in ("uniform", "log_normal", "logistic", "restoration")
    }
    return {**named, "loss-second-moment": TIMESTEP_SAMPLERS.get("loss-second-moment")(SCHEDULE)}


@pytest.mark.parametrize("name", ["uniform", "log_normal", "logistic", "restoration", "loss-second-moment"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_samplers_are_pure_functions_with_their_types(name: str, dtype: torch.dtype) -> None:
    sampler = samplers()[name]
    u = torch.tensor([0.0, 0.3, 1 - 2**-24], dtype=dtype)
    t, weights = sampler.sample(u)
    again, _ = sampler.sample(u)
    assert t.dtype == torch.int64
    assert weights.dtype == torch.float32
    assert t.shape == weights.shape == (3,)
    assert torch.equal(t, again)
    assert t[0] == 0
    assert t[2] == 999
    one, _ = sampler.sample(u[1:2])
    assert one.item() == t[1].item()


@pytest.mark.parametrize("name", ["uniform", "log_normal", "logistic", "loss-second-moment"])
def test_importance_weights_keep_the_expected_loss(name: str) -> None:
    sampler = samplers()[name]
    if isinstance(sampler, LossSecondMoment):
        for _ in range(sampler.history):
            sampler.update(torch.arange(1000), torch.linspace(0.1, 3.0, 1000))
        assert sampler.warmed_up
    t, weights = sampler.sample(evenly(400_000))
    loss = torch.sin(t.double() / 100) + 2.0
    expected = (torch.sin(torch.arange(1000, dtype=torch.float64) / 100) + 2.0).mean()
    assert (weights * loss).mean().item() == pytest.approx(expected.item(), rel=2e-3)
    assert weights.double().mean().item() == pytest.approx(1.0, abs=2e-3)


def test_uniform_draws_every_timestep_alike() -> None:
    t, weights = Uniform(37).sample(evenly(37 * 10))
    assert torch.bincount(t).tolist() == [10] * 37
    assert set(weights.tolist()) == {1.0}


def test_categorical_never_draws_what_has_no_probability() -> None:
    sampler = Categorical(np.array([0.0, 0.25, 0.0, 0.75, 0.0]))
    t, weights = sampler.sample(torch.cat([torch.zeros(1), evenly(4000, torch.float32), torch.tensor([1 - 2**-24])]))
    assert torch.bincount(t, minlength=5).tolist() == [0, 1001, 0, 3001, 0]
    assert weights[t == 1].unique().tolist() == pytest.approx([0.8])
    assert weights[t == 3].unique().tolist() == pytest.approx([4 / 15])


@pytest.mark.parametrize("bad", [[-0.1, 1.1], [0.0, 0.0], [float("nan"), 1.0], [[0.5, 0.5]]])
def test_categorical_refuses_what_is_no_distribution(bad: list) -> None:
    with pytest.raises(ValueError, match="timestep probabilities"):
        Categorical(np.array(bad))


def test_each_expert_trains_on_its_own_timesteps_only() -> None:
    index = expert_index(SCHEDULE, [1.0, 0.25])
    for expert in range(3):
        sampler = TIMESTEP_SAMPLERS.get(f"uniform_split_{expert}")(SCHEDULE, [1.0, 0.25])
        t, weights = sampler.sample(evenly(5000))
        assert sorted(set(t.tolist())) == np.flatnonzero(index == expert).tolist()
        assert set(weights.tolist()) == {1.0}


def test_experts_without_their_splits_are_refused() -> None:
    for splits in ([], [0.25]):
        with pytest.raises(ValueError, match="uniform_split_2 needs at least 2 snr_splits"):
            TIMESTEP_SAMPLERS.get("uniform_split_2")(SCHEDULE, splits)
    with pytest.raises(ValueError, match="at least 1 snr_splits"):
        TIMESTEP_SAMPLERS.get("uniform_split_0")(SCHEDULE)
    with pytest.raises(ValueError, match="no timesteps"):
        TIMESTEP_SAMPLERS.get("uniform_split_0")(SCHEDULE, [1e9])
    with pytest.raises(ConfigError, match="did you mean uniform"):
        TIMESTEP_SAMPLERS.get("unifrom")


def test_loss_second_moment_warms_up_then_follows_the_losses() -> None:
    sampler = LossSecondMoment(4, history=10, uniform_prob=0.001)
    t = torch.arange(4)
    for _ in range(9):
        sampler.update(t, torch.tensor([1.0, 2.0, 3.0, 4.0]))
    sampler.update(t[:3], torch.tensor([1.0, 2.0, 3.0]))
    assert not sampler.warmed_up
    assert torch.bincount(sampler.sample(evenly(400))[0]).tolist() == [100] * 4
    sampler.update(t[3:], torch.tensor([4.0]))
    assert sampler.warmed_up
    drawn, weights = sampler.sample(evenly(100_000))
    expected = 0.999 * torch.tensor([0.1, 0.2, 0.3, 0.4]) + 0.001 / 4
    torch.testing.assert_close(torch.bincount(drawn) / 100_000, expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(weights[drawn == 3][:1], 1 / (4 * expected[3:]))


def test_loss_history_is_the_last_ten_root_mean_square() -> None:
    sampler = LossSecondMoment(2, history=10, uniform_prob=0.0)
    sampler.update(torch.tensor([0] * 10 + [1] * 10), torch.full((20,), 100.0))
    sampler.update(torch.tensor([0] * 10 + [1] * 10), torch.tensor([3.0, 4.0] * 5 + [1.0] * 10))
    share = torch.bincount(sampler.sample(evenly(100_000))[0])[0].item() / 100_000
    assert share == pytest.approx(12.5**0.5 / (12.5**0.5 + 1), abs=1e-4)


def test_losses_that_are_not_finite_are_not_remembered() -> None:
    sampler = LossSecondMoment(2, history=1)
    sampler.update(torch.tensor([0, 1, 1, 0]), torch.tensor([2.0, 2.0, float("nan"), float("inf")]))
    assert torch.bincount(sampler.sample(evenly(100))[0]).tolist() == [50, 50]


def test_loss_second_moment_resumes_from_its_state() -> None:
    sampler, resumed = LossSecondMoment(6, history=2), LossSecondMoment(6, history=2)
    t = torch.arange(6)
    for k in range(3):
        sampler.update(t, t.double() + k + 1)
    resumed.load_state_dict(sampler.state_dict())
    u = evenly(500)
    torch.testing.assert_close(resumed.sample(u), sampler.sample(u), rtol=0, atol=0)
    before = sampler.sample(u)[0]
    resumed.update(t, t.double().flip(0) * 9)
    assert not torch.equal(resumed.sample(u)[0], before)
    assert torch.equal(sampler.sample(u)[0], before)
    with pytest.raises(ValueError, match=r"shape \(6, 2\), this run needs \(5, 2\)"):
        LossSecondMoment(5, history=2).load_state_dict(sampler.state_dict())


@pytest.mark.parametrize(("distribution", "quartile"), [("normal", 0.67449), ("logistic", 1.09861)])
def test_log_snr_sampler_has_the_quartiles_it_is_asked_for(distribution: str, quartile: float) -> None:
    sampler = log_snr_sampler(SCHEDULE, distribution, mean=-1.0, scale=0.8, uniform_prob=0.0)  # type: ignore[arg-type]
    t, _ = sampler.sample(evenly(100_001))
    drawn = np.sort(SCHEDULE.log_snr[t.numpy()])
    low, middle, high = np.quantile(drawn, [0.25, 0.5, 0.75])
    assert middle == pytest.approx(-1.0, abs=0.02)
    assert high - middle == pytest.approx(0.8 * quartile, abs=0.03)
    assert middle - low == pytest.approx(0.8 * quartile, abs=0.03)


def test_log_snr_sampler_reaches_every_timestep_with_bounded_weights() -> None:
    sampler = log_snr_sampler(SCHEDULE, "normal", mean=2.4, scale=0.1)
    assert sampler.probabilities.min() >= 0.001 / 1000 * (1 - 1e-9)


@pytest.mark.parametrize(
    ("schedule", "distribution", "mean", "scale", "message"),
    [
        (SCHEDULE, "cauchy", 0.0, 1.0, "unknown log-SNR distribution"),
        (SCHEDULE, "normal", 0.0, 0.0, "must be positive"),
        (SCHEDULE, "normal", 500.0, 1.0, r"no log-SNR of the schedule \(-10.*is near 500"),
        (NoiseSchedule.named("linear", 20), "normal", 0.0, 1.0, "all with some signal"),
        (SCHEDULE.respaced(1), "normal", 0.0, 1.0, "two or more timesteps"),
    ],
)
def test_log_snr_sampler_refuses_nonsense(
    schedule: NoiseSchedule, distribution: str, mean: float, scale: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        log_snr_sampler(schedule, distribution, mean, scale)  # type: ignore[arg-type]


def test_the_restorers_sampler_visits_its_noise_levels_and_pure_noise_and_weighs_nothing_down() -> None:
    schedule = NoiseSchedule.named("linear", 4000)
    t, weights = TIMESTEP_SAMPLERS.get("restoration")(schedule).sample(evenly(100_000))
    assert (weights == 1).all()
    log_sigma = -schedule.log_snr[t.numpy()] / 2
    z = (np.log([1.0, 0.12]) - np.log(0.12)) / 1.6
    # Above sigma 1: the top share and the normal's own tail; between 0.12 and 1: the normal's alone.
    cumulative = torch.special.ndtr(torch.from_numpy(z)).numpy()
    reachable = torch.special.ndtr(torch.from_numpy((-schedule.log_snr[[0, -1]] / 2 - np.log(0.12)) / 1.6)).numpy()
    inside = reachable[1] - reachable[0]
    assert (log_sigma > 0).mean() == pytest.approx(0.12 + 0.88 * (reachable[1] - cumulative[0]) / inside, abs=0.005)
    between = (log_sigma > np.log(0.12)) & (log_sigma < 0)
    assert between.mean() == pytest.approx(0.88 * (cumulative[0] - cumulative[1]) / inside, abs=0.005)
    top = t.numpy()[log_sigma > 0]
    assert len(np.unique(top)) == (schedule.log_snr < 0).sum()


def test_the_restorers_sampler_has_a_top_where_no_timestep_is_pure_noise() -> None:
    clean = NoiseSchedule.from_betas(NoiseSchedule.named("linear", 4000).betas[:4])
    assert (clean.log_snr > 0).all()
    t, _ = TIMESTEP_SAMPLERS.get("restoration")(clean).sample(evenly(1000))
    assert (t == 3).float().mean() > 0.12
