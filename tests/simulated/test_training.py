"""Training on a pretended CUDA device: it runs, resumes, and keeps within its budgets of copies and reads."""

import pytest

pytestmark = pytest.mark.simulated


@pytest.fixture(scope="module")
def trained(scenario):
    """A run in bf16 with evaluations, and its continuation."""
    return scenario("training", "precision=bf16")


def test_training_evaluates_saves_resumes_and_is_evaluated_on_the_device(trained) -> None:
    assert trained["codes"] == [0, 0, 0]
    assert len(trained["costs"]) == 8


def test_an_iteration_is_read_once_and_late_and_never_waits_for_a_copy_either_way(trained) -> None:
    costs = trained["costs"]
    for cost in (costs[2], costs[5]):  # not the first of a process, which fills its tables, nor one that is shown
        assert cost["reads"] == 0
        assert cost["to_host"] == 1
        assert cost["to_host_blocking"] == 0
        assert cost["to_device_blocking"] == 0


def test_losses_that_decide_the_next_timesteps_are_the_one_read_that_waits(scenario) -> None:
    kind = "steps.generator.injectors.diffusion.sampler_type=loss-second-moment"
    done = scenario("training", "name=second_moment", "precision=bf16", "eval.evaluators={}", kind)
    assert done["codes"] == [0, 0]
    cost = done["costs"][5]
    assert (cost["reads"], cost["to_host_blocking"], cost["to_device_blocking"]) == (0, 1, 0)


@pytest.mark.slow
def test_half_precision_with_a_gradient_scaler(scenario) -> None:
    done = scenario("training", "precision=fp16", "eval.evaluators={}")
    assert done["codes"] == [0, 0]
