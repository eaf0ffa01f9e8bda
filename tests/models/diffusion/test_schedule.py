"""Noise schedules and respacing."""

import json
import math

import numpy as np
import pytest
import torch
from diffusion_helpers import GOLDEN

from codes.models.diffusion.respacing import Karras, kept_timesteps
from codes.models.diffusion.schedule import NoiseSchedule, expert_index

BETAS = np.load(GOLDEN / "beta_schedules.npz")
RESPACINGS = json.loads((GOLDEN / "respacing.json").read_text())
TABLES = [
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "snr",
    "log_snr",
    "log_betas",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
    "fixed_large_log_variance",
]


@pytest.mark.parametrize("key", BETAS.files)
def test_named_schedules_match_golden(key: str) -> None:
    name, steps = key.split("/")
    np.testing.assert_allclose(NoiseSchedule.named(name, int(steps)).betas, BETAS[key], rtol=1e-12, atol=0)


@pytest.mark.parametrize("case", RESPACINGS, ids=lambda case: f"{case['num_timesteps']}-{case['spec']}")
def test_respacing_matches_golden(case: dict) -> None:
    assert list(kept_timesteps(case["spec"], case["num_timesteps"])) == case["timesteps"]


def test_explicit_betas_give_the_textbook_tables() -> None:
    schedule = NoiseSchedule.from_betas([0.1, 0.2, 0.5])
    np.testing.assert_allclose(schedule.alphas_cumprod, [0.9, 0.72, 0.36], rtol=1e-12)
    np.testing.assert_allclose(schedule.snr, [9.0, 0.72 / 0.28, 0.5625], rtol=1e-12)
    np.testing.assert_allclose(schedule.posterior_variance, [0.0, 0.2 * 0.1 / 0.28, 0.5 * 0.28 / 0.64], rtol=1e-12)
    np.testing.assert_allclose(schedule.posterior_mean_coef1[1], 0.2 * math.sqrt(0.9) / 0.28, rtol=1e-12)
    np.testing.assert_allclose(schedule.posterior_mean_coef2[1], 0.1 * math.sqrt(0.8) / 0.28, rtol=1e-12)
    assert schedule.posterior_log_variance_clipped[0] == schedule.posterior_log_variance_clipped[1]


@pytest.mark.parametrize("table", TABLES)
def test_tables_are_float64(table: str) -> None:
    values = getattr(NoiseSchedule.named("linear", 4000), table)
    assert values.dtype == np.float64
    assert values.shape == (4000,)


def test_tables_are_immutable() -> None:
    betas = np.array([0.1, 0.2])
    schedule = NoiseSchedule.from_betas(betas)
    betas[0] = 0.5
    assert schedule.betas[0] == 0.1
    with pytest.raises(ValueError, match="read-only"):
        schedule.betas[0] = 0.5


@pytest.mark.parametrize("betas", [[], [0.0, 0.1], [0.1, 1.5], [float("nan")], [[0.1, 0.2]]])
def test_betas_that_are_no_schedule_are_refused(betas: list) -> None:
    with pytest.raises(ValueError, match="betas must"):
        NoiseSchedule.from_betas(betas)


@pytest.mark.parametrize(
    ("name", "steps", "advice"), [("linear", 19, "at least 20"), ("linear0.025", 24, "at least 25")]
)
def test_too_few_linear_steps_are_refused_and_repaired(name: str, steps: int, advice: str) -> None:
    with pytest.raises(ValueError, match=advice):
        NoiseSchedule.named(name, steps)
    assert NoiseSchedule.named(name, steps + 1).betas[-1] == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["quadratic", "linear-0.1", "linearx", "cosine2"])
def test_unknown_schedule_names_the_known(name: str) -> None:
    with pytest.raises(ValueError, match=r"known are linear, linearX"):
        NoiseSchedule.named(name, 100)


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("num_timesteps", [1, 2, 37])
def test_named_spacings_fit_every_count(spacing: str, num_timesteps: int) -> None:
    for count in range(1, num_timesteps + 1):
        kept = kept_timesteps(f"{spacing}{count}", num_timesteps)
        assert len(kept) == count
        assert list(kept) == sorted(set(kept))
        assert kept[0] >= 0
        assert kept[-1] < num_timesteps
        if spacing != "leading":
            assert kept[-1] == num_timesteps - 1
        if spacing == "leading" or (spacing == "linspace" and count > 1):
            assert kept[0] == 0


def test_the_spacings_of_lin_et_al() -> None:
    # Their table 2: 10 of 1000 steps, here counted from 0.
    assert kept_timesteps("leading10", 1000) == tuple(range(0, 1000, 100))
    assert kept_timesteps("trailing10", 1000) == tuple(range(99, 1000, 100))
    assert kept_timesteps("linspace10", 1000) == (0, 111, 222, 333, 444, 555, 666, 777, 888, 999)


def test_which_spacing_visits_the_last_timestep() -> None:
    # A DDIM stride over 4000 steps stops at 3920: sampling would start at less noise than it is given.
    assert kept_timesteps("ddim50", 4000)[-1] == 3920
    assert kept_timesteps([50], 4000)[-1] == kept_timesteps("trailing50", 4000)[-1] == 3999


@pytest.mark.parametrize(
    ("spec", "advice"),
    [
        ([11], r"asks for 11 steps in section 1 of 1.*ask for 1\.\.10"),
        ("3,6", r"asks for 6 steps in section 2 of 2, which holds 5"),
        ("ddim7", "nearest counts are ddim5 and ddim10"),
        ("ddim11", r"ask for 1\.\.10"),
        ("trailing0", r"ask for 1\.\.10"),
        ("leading11", r"ask for 1\.\.10"),
        (0, "every count at least 1"),
        ("5,", "not understood"),
        ("fast5", "trailingN"),
        ([], "not understood"),
    ],
)
def test_counts_that_do_not_fit_name_the_option_and_the_way_out(spec: object, advice: str) -> None:
    with pytest.raises(ValueError, match=advice) as caught:
        NoiseSchedule.named("cosine", 10).respaced(spec)  # type: ignore[arg-type]
    assert "respaced_timestep_spacing" in str(caught.value)


def test_respacing_keeps_abar_and_original_timesteps_twice_over() -> None:
    schedule = NoiseSchedule.named("linear", 1000)
    once = schedule.respaced("trailing100")
    twice = once.respaced("trailing8")
    for respaced in (once, twice):
        np.testing.assert_allclose(respaced.alphas_cumprod, schedule.alphas_cumprod[respaced.timesteps], rtol=1e-12)
        assert respaced.original_num_timesteps == 1000
    assert twice.num_timesteps == 8
    first = 10 * kept_timesteps("trailing8", 100)[0] + 9
    assert twice.original_timesteps(torch.tensor([7, 0])).tolist() == [999, first]


@pytest.mark.parametrize("spec", [1, "1", [1], "ddim1", "leading1", "linspace1", "trailing1"])
def test_respacing_to_one_step(spec: object) -> None:
    schedule = NoiseSchedule.named("linear", 4000).respaced(spec)  # type: ignore[arg-type]
    assert schedule.num_timesteps == 1
    for table in set(TABLES) - {"posterior_variance"}:
        assert np.isfinite(getattr(schedule, table)).all(), table


def test_gather_copies_a_table_once(monkeypatch: pytest.MonkeyPatch) -> None:
    schedule = NoiseSchedule.named("linear", 4000)
    t, image = torch.tensor([0, 3999]), torch.zeros(2, 3, 4, 6)
    first = schedule.gather("alphas_cumprod", t, image)
    assert first.dtype == torch.float32
    assert first.shape == (2, 1, 1, 1)
    torch.testing.assert_close(first.flatten(), torch.tensor(schedule.alphas_cumprod[[0, 3999]], dtype=torch.float32))

    def copied_again(*_: object) -> None:
        raise AssertionError("the table went to the device twice")

    monkeypatch.setattr(torch, "from_numpy", copied_again)
    torch.testing.assert_close(schedule.gather("alphas_cumprod", t, image), first, rtol=0, atol=0)


def test_gather_is_float32_for_half_and_float64_for_double() -> None:
    schedule, t = NoiseSchedule.named("cosine", 10), torch.tensor([3, 4])
    assert schedule.gather("snr", t, torch.zeros(2, 3, 4, 6, dtype=torch.bfloat16)).dtype == torch.float32
    assert schedule.gather("snr", t, torch.zeros(2, 3, 4, 6, dtype=torch.float64)).dtype == torch.float64


def test_tables_first_used_while_sampling_still_train() -> None:
    schedule, t = NoiseSchedule.named("cosine", 10), torch.tensor([3, 4])
    with torch.inference_mode():
        schedule.gather("snr", t, torch.zeros(2, 1, 1, 1))
    weight = torch.ones(2, 3, 4, 6, requires_grad=True)
    (schedule.gather("snr", t, weight) * weight).sum().backward()
    assert weight.grad is not None


def test_float32_products_would_be_wrong_where_ours_are_not() -> None:
    # From betas near 1, 1 - abar at t = 0 is beta itself; a float32 product keeps 4 digits of it.
    schedule = NoiseSchedule.named("linear", 4000)
    exact = schedule.betas[0]
    in_float32 = 1 - np.cumprod((1 - schedule.betas).astype(np.float32))[0]
    ours = schedule.gather("sqrt_one_minus_alphas_cumprod", torch.tensor([0]), torch.zeros(1, 1, 1, 1)).item() ** 2
    assert abs(in_float32 / exact - 1) > 1e-4
    assert ours == pytest.approx(exact, rel=1e-6)


def test_expert_index_counts_splits_from_clean_to_noisy() -> None:
    schedule = NoiseSchedule.named("linear", 1000)
    experts = expert_index(schedule, [4.0, 0.25])
    assert (np.diff(experts) >= 0).all()
    assert set(schedule.snr[experts == 1] > 0.25) == {True}
    assert schedule.snr[experts == 1].max() <= 4.0
    for splits in ([], [0.25, 4.0], [0.25, 0.25], [0.0]):
        with pytest.raises(ValueError, match="strictly descending"):
            expert_index(schedule, splits)


@pytest.mark.parametrize(("name", "num_timesteps"), [("linear", 4000), ("linear", 1000), ("cosine", 4000)])
@pytest.mark.parametrize("spec", [Karras(8), Karras(5, 2.0, 0.05), Karras(4, 0.5, 0.1), Karras(2)])
def test_karras_sigmas_follow_the_formula_on_the_nearest_timesteps(spec: Karras, name: str, num_timesteps: int) -> None:
    schedule = NoiseSchedule.named(name, num_timesteps)
    kept = schedule.respaced(spec)
    assert kept.num_timesteps == spec.count
    count, first, last = spec.count, spec.sigma_max, spec.sigma_min
    for index, (t, sigma) in enumerate(zip(kept.timesteps[::-1], kept.sigma[::-1], strict=True)):
        wanted = (first ** (1 / 7) + index / (count - 1) * (last ** (1 / 7) - first ** (1 / 7))) ** 7
        abar = schedule.alphas_cumprod[t]
        assert sigma == pytest.approx(((1 - abar) / abar) ** 0.5)
        around = schedule.sigma[max(t - 1, 0) : t + 2]
        assert np.abs(np.log(around / wanted)).min() == pytest.approx(abs(np.log(sigma / wanted)))
        assert sigma == pytest.approx(wanted, rel=0.35 if wanted < 0.03 else 0.03)  # the cleanest timesteps lie apart


def test_karras_steps_keep_within_a_schedule_and_what_stop_at_snr_leaves() -> None:
    schedule = NoiseSchedule.named("linear", 4000)
    wide = schedule.respaced(Karras(6, 1e6, 1e-9))
    assert (wide.timesteps[0], wide.timesteps[-1]) == (0, 3999)
    stopped = schedule.respaced("karras4", stop_at_snr=20.0)
    assert stopped.snr[0] == pytest.approx(20.0, rel=0.02)
    assert stopped.sigma[-1] == pytest.approx(1.0, rel=0.01)
    assert list(schedule.respaced("karras8").timesteps) == list(schedule.respaced(Karras(8, 1.0, 0.01)).timesteps)
    assert schedule.respaced("karras1").sigma[0] == pytest.approx(1.0, rel=0.01)


def test_more_karras_steps_than_timesteps_are_refused_with_the_numbers() -> None:
    with pytest.raises(ValueError, match=r"'karras30' falls on \d+ timesteps only, between sigma 0.0316 and 1 of a"):
        NoiseSchedule.named("linear", 100).respaced("karras30")


@pytest.mark.parametrize("name", ["linear0.00005", "linear0.00009999"])
def test_a_linear_schedule_does_not_fall(name):
    with pytest.raises(ValueError, match=f"schedule '{name}' would fall: its betas begin with 0.0001"):
        NoiseSchedule.named(name, 1000)
    assert NoiseSchedule.named("linear0.0001", 10).num_timesteps == 10
