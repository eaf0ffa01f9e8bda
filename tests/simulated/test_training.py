"""Training on a pretended CUDA device: it runs, resumes, and keeps within its budgets of copies and reads."""

import pytest

pytestmark = pytest.mark.simulated


@pytest.fixture(scope="module")
def trained(scenario):
    """A run in bf16 with evaluations, and its continuation."""
    return scenario("training", "precision=bf16")


def test_training_evaluates_saves_and_resumes_on_the_device(trained) -> None:
    assert trained["codes"] == [0, 0]
    assert len(trained["costs"]) == 5


def test_an_iteration_reads_the_device_once_and_never_waits_for_a_copy_to_it(trained) -> None:
    for cost in trained["costs"][1:3] + trained["costs"][4:]:  # the first of a process fills its tables
        assert cost["reads"] == 0
        assert cost["to_host"] == 1
        assert cost["to_device_blocking"] == 0


def test_half_precision_with_a_gradient_scaler(scenario) -> None:
    done = scenario("training", "precision=fp16", "eval.evaluators={}")
    assert done["codes"] == [0, 0]
