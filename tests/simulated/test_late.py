"""Training on a pretended CUDA device that works ahead of the host: nothing of it shows in what is trained."""

import pytest

pytestmark = pytest.mark.simulated


@pytest.fixture(scope="module")
def done(scenario) -> dict:
    return scenario("late")


def test_an_iteration_that_is_not_finite_changes_nothing_though_the_host_learns_it_later(done) -> None:
    told = done["skipped"]
    assert told["told"] == [[3, 4]]
    first, skipped, *rest = told["changed"]
    assert first > 0
    assert skipped == 0  # weights, averages, moments and counts of steps
    assert min(rest) > 0
    assert told["named"] == [3]
    assert told["skipped"] == [1.0]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "adagrad", "adamax"])
def test_a_resume_is_exact_after_an_update_that_the_device_left_out(done, optimizer: str) -> None:
    assert done["resumed"][optimizer] == []


def test_finite_gradients_of_a_norm_that_overflows_are_not_applied_and_leave_the_scale(done) -> None:
    assert done["overflowed"]["changed"] == [0, 0]
    first, *others = done["overflowed"]["scales"]
    assert others == [first, first]


def test_a_run_that_is_never_finite_stops_with_everything_saved(done) -> None:
    assert done["hopeless"]["said"].startswith("3 updates in a row were not finite; everything is saved")
    assert done["hopeless"]["iteration"] <= 4
    assert done["hopeless"]["saved"]


def test_the_device_is_given_the_batch_and_the_noise_that_the_cpu_is(done) -> None:
    assert done["first_iteration"]["cuda"] == pytest.approx(done["first_iteration"]["cpu"], rel=1e-4)


def test_after_four_iterations_weights_and_averages_are_the_cpus_up_to_rounding(done) -> None:
    """Losses, gradients and averages add up in another order, so they differ in the last bit.

    Adam divides a gradient by its own size: where it is 0 but for rounding, as in weights behind a head of zeros, the
    update is a whole learning rate this way or that. So weights trained by it differ by some learning rates on two
    devices, as they do on two CPUs, and only those of an optimiser in proportion to the gradient tell whether the same
    is computed.
    """
    found = done["four_iterations"]
    assert found["sgd network"] < 1e-6
    assert found["sgd ema"] < 1e-6
    assert found["adamw ema"] < found["adamw network"]
