"""Several steps and networks: who is updated when, what stays as it is, and what a resume brings back."""

from pathlib import Path
from typing import Any

import pytest
import torch
from trainer_helpers import DIFFUSION, NETWORK, different, everything, fill, make_trainer, recipe_data, write_recipe

from codes.trainer.trainer import Trainer
from codes.utils.errors import ConfigError

PLAIN = {**NETWORK, "out_channels": 3, "residual_from_low_res": True}
KEYS = DIFFUSION["model_input_keys"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return fill(tmp_path / "im")


def regression(network: str, out: str) -> dict[str, Any]:
    return {"type": "generator", "generator": network, "in": "up", "model_input_keys": KEYS, "out": out}


def recipe(folder: Path, steps: dict[str, Any], trainable: bool = True, **train: Any) -> dict[str, Any]:
    """Two regression networks, a and b, and the given steps."""
    data = recipe_data(folder, {"train": train})
    network = {"which_model_G": "unet_diffusion", "args": PLAIN}
    data["networks"] = {"a": dict(network), "b": {**network, "trainable": trainable}}
    data["steps"] = steps
    return data


def step(network: str, **more: Any) -> dict[str, Any]:
    """A step that trains one network on l1."""
    out = f"restored_{network}"
    injectors = {f"run_{network}": regression(network, out)}
    losses = {"l1": {"type": "pixel", "key": out, "target": "hq"}}
    return {"training": network, "injectors": injectors, "losses": losses, **more}


def both(**b: Any) -> dict[str, Any]:
    """A step for each network; the options are those of the second."""
    first = step("a")
    first["injectors"] = {"up": {"type": "interpolate", "in": "lq", "like": "hq", "out": "up"}, **first["injectors"]}
    return {"first": first, "second": step("b", **b)}


def trainer_of(data: dict[str, Any], auto_resume: bool = False) -> Trainer:
    return make_trainer(write_recipe(Path("recipe.yml"), data), auto_resume=auto_resume)


def iterate(trainer: Trainer, count: int) -> list[Any]:
    batches = trainer._batches()
    return [trainer._iterate(next(batches)).read() for _ in range(count)]


def snapshot(trainer: Trainer, network: str) -> dict[str, torch.Tensor]:
    """The network, its average and the optimiser of the step that trains it."""
    number = list(trainer.parts.networks).index(network)
    step_of = trainer.parts.steps[number]
    return {
        key: value
        for key, value in everything(trainer).items()
        if key.split("/")[1] in (network, step_of.name) and not key.startswith("injector")
    }


def test_a_step_that_does_not_run_leaves_network_optimiser_and_average_alone(folder: Path) -> None:
    trainer = trainer_of(recipe(folder, both(every=2)))
    batches = trainer._batches()
    for iteration in range(1, 5):
        before = snapshot(trainer, "b")
        result = trainer._iterate(next(batches)).read()
        after = snapshot(trainer, "b")
        ran = iteration % 2 == 0
        assert ("second/l1" in result.losses) is ran
        assert result.updated == ({"a", "b"} if ran else {"a"})
        if ran:
            assert before.keys() != after.keys() or different(before, after)
        else:
            assert not different(before, after)
    steps = {int(state["step"]) for state in trainer.parts.steps[1].optimizer.state.values()}
    assert steps == {2}


def test_after_and_before_begin_and_end_a_step(folder: Path) -> None:
    results = iterate(trainer_of(recipe(folder, both(after=2, before=3))), 4)
    assert ["second/l1" in result.losses for result in results] == [False, True, True, False]


def test_one_step_may_train_several_networks(folder: Path) -> None:
    first = both()["first"]
    first["training"] = ["a", "b"]
    first["injectors"]["second"] = {**regression("b", "restored_b"), "in": "restored_a"}
    first["losses"]["l1"]["key"] = "restored_b"
    trainer = trainer_of(recipe(folder, {"first": first}))
    with torch.no_grad():  # the zero-initialised head of b would let no gradient through to a
        for parameter in trainer.parts.networks["b"].parameters():
            parameter.add_(0.05)
    before = everything(trainer)
    (result,) = iterate(trainer, 1)
    assert result.updated == {"a", "b"}
    after = everything(trainer)
    moved = {
        name.split("/")[1] for name in before if name.startswith("ema") and not torch.equal(before[name], after[name])
    }
    assert moved == {"a", "b"}
    with pytest.raises(ConfigError, match=r"networks\.b: no step trains this network; set trainable: false"):
        trainer_of(recipe(folder, {"first": both()["first"]}))


def test_a_step_may_require_an_earlier_one_and_a_key(folder: Path) -> None:
    steps = both(requires=["first", "up"])
    steps["first"]["every"] = 2
    results = iterate(trainer_of(recipe(folder, steps)), 2)
    assert [sorted(result.updated) for result in results] == [[], ["a", "b"]]
    assert results[0].losses == {}


def test_the_other_networks_of_a_step_pass_gradients_on_but_keep_none(folder: Path) -> None:
    steps = both()
    steps["second"]["injectors"]["judge"] = {**regression("a", "judged"), "in": "restored_b"}
    steps["second"]["losses"] = {"judged": {"type": "pixel", "key": "judged", "target": "hq"}}
    trainer = trainer_of(recipe(folder, steps))
    iterate(trainer, 1)
    alone = trainer_of(recipe(folder, both()))
    iterate(alone, 1)
    first, second = ({k: v for k, v in snapshot(t, "a").items() if k.startswith("network")} for t in (trainer, alone))
    assert not different(first, second)
    assert all(p.grad is None and p.requires_grad for p in trainer.parts.networks["a"].parameters())
    assert trainer.parts.steps[1].optimizer.state


def test_a_frozen_network_stays_frozen_and_in_evaluation_mode(folder: Path) -> None:
    steps = {"first": both()["first"]}
    steps["first"]["injectors"]["frozen"] = regression("b", "restored_b")
    data = recipe(folder, steps, trainable=False)
    data["networks"]["b"] = {**data["networks"]["b"], "args": {**PLAIN, "dropout": 0.5}}
    trainer = trainer_of(data)
    frozen = trainer.parts.networks["b"]
    before = {key: value.clone() for key, value in frozen.state_dict().items()}
    frozen.train()  # as somebody's evaluator may leave it
    iterate(trainer, 1)
    assert not any(module.training for module in frozen.modules())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in frozen.parameters())
    assert not different(before, frozen.state_dict())
    assert "b" not in trainer.parts.averages


def test_two_steps_of_one_network_average_it_once_an_iteration(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = both()
    steps["second"] = step("a")
    steps["second"]["injectors"] = {"again": regression("a", "restored_b")}
    steps["second"]["losses"]["l1"]["key"] = "restored_b"
    trainer = trainer_of(recipe(folder, steps, trainable=False))
    calls: list[int] = []
    average = trainer.parts.averages["a"]
    whole = average.update
    monkeypatch.setattr(
        average, "update", lambda network, updates, changed: (calls.append(updates), whole(network, updates, changed))
    )
    results = iterate(trainer, 2)
    assert calls == [1, 2]
    assert set(results[0].losses) == {"first/l1", "first/total", "second/l1", "second/total"}


def test_a_gradient_that_is_not_finite_in_one_step_spares_the_other(folder: Path) -> None:
    trainer = trainer_of(recipe(folder, both()))
    parameter = next(trainer.parts.networks["b"].parameters())
    parameter.register_hook(lambda gradient: gradient.index_fill(0, torch.tensor([0]), torch.nan))
    before = {key: value for key, value in snapshot(trainer, "b").items() if not key.startswith("optimiser")}
    (result,) = iterate(trainer, 1)
    assert result.skipped
    assert result.updated == {"a"}
    after = {key: value for key, value in snapshot(trainer, "b").items() if not key.startswith("optimiser")}
    assert not different(before, after)


def test_a_loss_that_is_not_finite_skips_the_update_though_its_gradient_is(folder: Path) -> None:
    steps = both()
    steps["first"]["losses"]["broken"] = {"type": "direct", "key": "infinite"}
    data = recipe(folder, {"first": steps["first"]}, trainable=False)
    data["steps"]["first"]["injectors"]["broken"] = {"type": "direct", "in": "hq", "out": "infinite"}
    trainer = trainer_of(data)
    trainer.parts.steps[0].graph.losses["broken"] = lambda state, context: torch.full((len(state["hq"]),), torch.inf)  # type: ignore[assignment]  # noqa: ARG005
    (result,) = iterate(trainer, 1)
    assert result.skipped
    assert result.updated == set()
    assert not trainer.parts.steps[0].optimizer.state


def test_losses_that_depend_on_nothing_that_is_trained_are_an_error(folder: Path) -> None:
    steps = both()
    steps["second"]["injectors"]["run_b"]["no_grad"] = True
    trainer = trainer_of(recipe(folder, steps))
    with pytest.raises(ConfigError, match=r"steps\.second: none of its losses depends on what it trains"):
        iterate(trainer, 1)


def test_weights_of_losses_follow_the_iteration(folder: Path) -> None:
    steps = {"first": both()["first"]}
    steps["first"]["losses"]["l1"]["weight"] = [[1, 1.0], [3, 5.0]]
    results = iterate(trainer_of(recipe(folder, steps, trainable=False)), 3)
    for result, factor in zip(results, (1.0, 3.0, 5.0), strict=True):
        assert result.losses["total"] == pytest.approx(factor * result.losses["l1"], rel=1e-5)


def test_a_run_with_switches_and_schedules_resumes_exactly(folder: Path) -> None:
    steps = both(every=2, after=2)
    steps["first"]["losses"]["l1"]["weight"] = {"start": 1.0, "end": 0.2, "from": 1, "to": 5}
    steps["first"]["losses"]["late"] = {"type": "pixel", "kind": "l2", "key": "restored_a", "target": "hq", "after": 4}
    steps["second"]["injectors"]["noisy"] = {"type": "add_noise", "in": "up", "amplitude": [0.0, 0.1], "out": "noisy"}
    steps["second"]["injectors"]["run_b"]["in"] = "noisy"
    steps["second"]["injectors"] = dict(reversed(steps["second"]["injectors"].items()))
    data = recipe(folder, steps, niter=6)
    whole = trainer_of({**data, "name": "whole"})
    whole.run()
    trainer_of({**data, "train": {**data["train"], "niter": 3}}).run()
    again = trainer_of(data, auto_resume=True)
    again.run()
    assert again.iteration == 6
    assert not different(everything(whole), everything(again))
