from typing import Any

import pytest
import torch

from codes.graph.graph import Graph, Injector, Loss, StepContext, check_keys, rows
from codes.graph.injectors.gaussian_diffusion import GaussianDiffusionOptions
from codes.graph.losses.direct import DirectLossOptions
from codes.graph.node_options import InjectorOptions
from codes.utils.rng import normal

CPU = torch.device("cpu")


def context(positions: tuple[int, ...] = (0, 1, 2, 3), seed: int = 5) -> StepContext:
    return StepContext({}, CPU, seed, positions, torch.no_grad)


class Writes(Injector):
    """Writes the same value under every given key."""

    Options = InjectorOptions

    def __init__(self, *keys: str) -> None:
        self.keys = keys

    def __call__(self, state: Any, context: StepContext) -> dict[str, Any]:  # noqa: ARG002
        return dict.fromkeys(self.keys, 1.0)


class PerSample(Loss):
    def __init__(self, value: torch.Tensor) -> None:
        self.value = value

    def __call__(self, state: Any, context: StepContext) -> torch.Tensor:  # noqa: ARG002
        return self.value


def diffusion(**changes: Any) -> GaussianDiffusionOptions:
    given = {"type": "gaussian_diffusion", "in": "hq", "generator": "g", "out": "mse"}
    return GaussianDiffusionOptions.model_validate({**given, **changes})


def test_state_is_write_once() -> None:
    graph = Graph({"first": Writes("a"), "second": Writes("b", "a")}, {})
    with pytest.raises(AssertionError, match="injector second writes 'a', which the state holds already"):
        graph.inject({"hq": 0.0}, context())
    with pytest.raises(AssertionError, match="injector first writes 'hq'"):
        Graph({"first": Writes("hq")}, {}).inject({"hq": 0.0}, context())


def test_inject_leaves_its_argument_alone() -> None:
    state = {"hq": 0.0}
    assert Graph({"first": Writes("a")}, {}).inject(state, context()) == {"hq": 0.0, "a": 1.0}
    assert state == {"hq": 0.0}


def test_losses_are_weighted_per_sample_and_reported_unweighted() -> None:
    a, b = torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([10.0, 30.0])
    total, parts = Graph({}, {"a": (2.0, PerSample(a)), "b": (0.5, PerSample(b))}).evaluate({}, context())
    assert total.tolist() == [7.0, 19.0]
    assert total.requires_grad
    assert parts["a"].tolist() == [1.0, 2.0]
    assert not parts["a"].requires_grad


def test_a_loss_that_is_already_reduced_is_refused() -> None:
    with pytest.raises(AssertionError, match="one number a sample"):
        Graph({}, {"a": (1.0, PerSample(torch.tensor(1.0)))}).evaluate({}, context())


def test_check_keys_follows_the_order_of_the_recipe() -> None:
    injector, loss = diffusion(), DirectLossOptions(type="direct", key="mse")
    issues, known = check_keys([(("i",), injector), (("l",), loss)], {"hq": "datasets.train"})
    assert issues == []
    assert set(known) == {"hq", "mse"}
    issues, _ = check_keys([(("l",), loss), (("i",), injector)], {"hq": "datasets.train"})
    assert [issue.path for issue in issues] == [("l", "key")]


def test_check_keys_names_the_place_and_the_nearest_key() -> None:
    wrong = diffusion(model_input_keys={"corruption_factor": "corruption_entrpy"})
    provided = dict.fromkeys(("hq", "corruption_entropy"), "datasets.train")
    issues, _ = check_keys([(("steps", "g"), wrong)], provided)
    assert issues[0].path == ("steps", "g", "model_input_keys", "corruption_factor")
    assert "nothing writes the state key 'corruption_entrpy'" in issues[0].message
    assert "did you mean corruption_entropy?" in issues[0].message
    assert "hq, corruption_entropy" in issues[0].message


@pytest.mark.parametrize("changes", [{"out": "hq"}, {"out_key_x_start": "mse"}])
def test_check_keys_refuses_a_second_write(changes: dict[str, str]) -> None:
    issues, _ = check_keys([(("i",), diffusion(**changes))], {"hq": "datasets.train"})
    assert len(issues) == 1
    assert "is already written by" in issues[0].message
    assert issues[0].path[0] == "i"


def test_rows_cut_tensors_and_lists_alike() -> None:
    state = {"x": torch.arange(5), "path": ["a", "b", "c", "d", "e"], "n": 3}
    part = rows(state, 1, 3)
    assert part["x"].tolist() == [1, 2]
    assert part["path"] == ["b", "c"]
    assert part["n"] == 3


def test_normal_depends_on_seed_purpose_and_position_alone() -> None:
    like = torch.zeros(4, 3, 5, 7)
    whole = context().normal("noise", like)
    split = torch.cat([context((0,)).normal("noise", like[:1]), context((1, 2, 3)).normal("noise", like[1:])])
    assert torch.equal(whole, split)
    assert torch.equal(whole, context().normal("noise", like))
    assert torch.equal(whole[2], normal((3, 5, 7), CPU, 5, "noise", 2))
    for other in (context().normal("other", like), context(seed=6).normal("noise", like)):
        assert not torch.isclose(whole, other).any(dim=0).all()
    assert not torch.equal(whole[0], whole[1])
    assert abs(float(whole.mean())) < 0.2
    assert 0.8 < float(whole.std()) < 1.2


def test_uniform_depends_on_seed_purpose_and_position_alone() -> None:
    whole = context(tuple(range(200))).uniform("timestep")
    assert whole.dtype == torch.float64
    assert torch.equal(whole[50:60], context(tuple(range(50, 60))).uniform("timestep"))
    assert not torch.equal(whole, context(tuple(range(200))).uniform("label_dropout"))
    assert len(set(whole.tolist())) == 200
    assert bool(((whole >= 0) & (whole < 1)).all())
    assert abs(float(whole.mean()) - 0.5) < 0.1
