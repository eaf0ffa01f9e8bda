"""Every registered injector, loss and evaluator on a pretended CUDA device, in training and in a test run."""

from pathlib import Path

import pytest

from codes.config.plugins import import_submodules
from codes.evaluation.evaluators.base import EVALUATORS
from codes.graph.graph import INJECTORS, LOSSES

pytestmark = pytest.mark.simulated
CODES = Path(__file__).parents[2] / "codes"
for package in ("graph/injectors", "graph/losses", "evaluation/evaluators"):
    import_submodules(f"codes.{package.replace('/', '.')}", str(CODES / package))
ANYWHERE = ("gaussian_diffusion_inference", "regression")  # their images are as large as the host's memory allows


def own(registry) -> list[str]:
    """The names of the project itself; tests and plugins may have registered more."""
    return [name for name in registry.names() if registry.get(name).__module__.startswith("codes.")]


@pytest.fixture(scope="module")
def outcomes(scenario) -> dict:
    return scenario("nodes")


@pytest.mark.parametrize("name", own(INJECTORS))
def test_an_injector_trains_on_the_device(outcomes, name: str) -> None:
    outcome = outcomes["injectors"][name]
    assert "error" not in outcome, f"{outcome}; options of a new injector: scenarios/nodes.py"
    assert outcome["places"]
    assert name in ANYWHERE or set(outcome["places"].values()) == {"cuda"}


@pytest.mark.parametrize("name", own(INJECTORS))
def test_what_an_injector_writes_in_a_test_run_can_be_read_by_others(outcomes, name: str) -> None:
    outcome = outcomes["test_run"][name]
    assert "error" not in outcome, outcome
    assert set(outcome["places"]) == set(outcome["read further"])
    assert set(outcome["places"].values()) <= {"cuda"}


@pytest.mark.parametrize("name", ["add_noise", "generator", "interpolate", "crop", "pad", "gray", "direct", "for_each"])
def test_what_was_sampled_feeds_any_injector(outcomes, name: str) -> None:
    outcome = outcomes["after_sampling"][name]
    assert "error" not in outcome, outcome
    assert outcome["places"]
    assert name == "direct" or set(outcome["places"].values()) == {"cuda"}


@pytest.mark.parametrize("name", own(LOSSES))
def test_a_loss_learns_on_the_device_wherever_its_keys_lie(outcomes, name: str) -> None:
    assert outcomes["losses"][name] == {"places": {"total": "cuda", "loss": "cuda"}, "shape": [2]}


@pytest.mark.parametrize("name", own(EVALUATORS))
def test_an_evaluator_measures_on_the_device_what_the_cpu_measures(outcomes, name: str) -> None:
    outcome = outcomes["evaluators"][name]
    assert "error" not in outcome, f"{outcome}; options of a new evaluator: scenarios/nodes.py"
    assert outcome["cuda"] == pytest.approx(outcome["cpu"], rel=2e-3, abs=1e-3)


def test_nothing_of_a_training_asks_a_device_for_float64(outcomes) -> None:
    found = outcomes["without float64"]
    assert len(found) > len(own(INJECTORS)) + len(own(LOSSES))
    assert {name: outcome["error"] for name, outcome in found.items() if "error" in outcome} == {}
