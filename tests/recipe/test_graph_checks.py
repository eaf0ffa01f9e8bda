"""What is read and written is followed through every iteration before any data is loaded."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from trainer_helpers import DIFFUSION, NETWORK, merged, recipe_data, write_recipe

from codes.config.yaml_source import load_source
from codes.recipe.checks import check_inference, check_training
from codes.recipe.graph_checks import never_running
from codes.recipe.networks import describe_networks
from codes.recipe.recipe import read_recipe
from codes.utils.errors import ConfigError

PLAIN = {**NETWORK, "out_channels": 3, "residual_from_low_res": True}
UP = {"type": "interpolate", "in": "lq", "like": "hq", "out": "up"}
RUN = {
    "type": "generator", "generator": "generator", "in": "up", "out": "restored",
    "model_input_keys": DIFFUSION["model_input_keys"],
}  # fmt: skip
LOSS = {"type": "pixel", "key": "restored", "target": "hq"}
Said = Callable[..., list[str]]


def regression(**changes: Any) -> dict[str, Any]:
    """A training recipe of a plain restorer."""
    data = recipe_data(Path("nowhere"))
    data["networks"] = {"generator": {"which_model_G": "unet_diffusion", "args": PLAIN}}
    data["steps"] = {"s": {"training": "generator", "injectors": {"up": UP, "run": RUN}, "losses": {"l1": LOSS}}}
    data["train"]["niter"] = 100
    return merged(data, changes)


def step(**changes: Any) -> dict[str, Any]:
    return regression(steps={"s": changes})


@pytest.fixture
def said(tmp_path: Path) -> Said:
    def check(data: dict[str, Any], training: bool = True) -> list[str]:
        source = load_source(str(write_recipe(tmp_path / "r.yml", data)), [])
        try:
            recipe = read_recipe(source)
            if training:
                check_training(recipe, source)
            else:
                check_inference(recipe, source, describe_networks(recipe))
        except ConfigError as error:
            return [line.split(": ", 1)[1] for line in str(error).splitlines()]
        return []

    return check


def test_a_plain_restorer_fits_together(said: Said) -> None:
    assert said(regression()) == []


def test_a_key_that_is_written_sometimes_and_read_always(said: Said) -> None:
    (line,) = said(step(injectors={"run": {"every": 2}}))
    assert line == (
        "steps.s.losses.l1.key: the state key 'restored' is read at iteration 1, but steps.s.injectors.run, which "
        "writes it, does not run then (every: 2); give the reader the same switches"
    )
    late = {"injectors": {"up": {"after": 50}, "run": {"after": 40}}, "losses": {"l1": {"after": 40}}}
    line = said(step(**late, after=30))[-1]
    assert line.startswith("steps.s.losses: none of them runs at iteration 30, where their step does")
    (line,) = said(step(**late, after=40))
    assert "steps.s.injectors.run.in: the state key 'up' is read at iteration 40" in line


def test_a_reader_with_the_same_or_rarer_switches_is_fine(said: Said) -> None:
    switched = {"run": {"every": 2, "after": 10}, "copy": {"type": "direct", "in": "restored", "out": "c", "every": 4}}
    copy = {**switched["copy"], "after": 10}
    l2 = {"type": "pixel", "kind": "l2", "key": "up", "target": "hq"}
    losses = {"l1": {"every": 2, "after": 10}, "always": l2}
    assert said(step(injectors={**switched, "copy": copy}, losses=losses)) == []
    (line,) = said(step(injectors=switched, losses=losses))
    assert "steps.s.injectors.copy.in: the state key 'restored' is read at iteration 4" in line


def test_writers_may_take_turns_but_not_meet(said: Said) -> None:
    early, late = {**RUN, "before": 50}, {**RUN, "after": 51, "timestep": 3}
    assert said(step(injectors={"run": early, "late": late})) == []
    (line,) = said(step(injectors={"run": early, "late": {**late, "after": 50}}))
    assert "steps.s.injectors.late.out: state key 'restored' is already written by steps.s.injectors.run" in line
    (line,) = said(step(injectors={"run": early, "late": {**late, "after": 52}}))
    assert "is read at iteration 51" in line


def test_training_and_evaluation_are_followed_apart(said: Said) -> None:
    apart = {"run": {"train": True}, "other": {**RUN, "eval": True, "timestep": 1}}
    assert said(step(injectors=apart)) == []
    (line,) = said(step(injectors={**apart, "copy": {"type": "direct", "in": "restord", "out": "c", "eval": True}}))
    assert (
        "steps.s.injectors.copy.in: nothing writes the state key 'restord' before this (did you mean restored?" in line
    )
    (line,) = said(step(injectors={"run": {"eval": True}}))
    assert "steps.s.losses.l1.key: the state key 'restored' is read at iteration 1" in line
    assert "(eval: true)" in line


def test_requires_names_what_comes_before(said: Said) -> None:
    copy = {"type": "direct", "in": "up", "out": "c", "requires": ["up", "s"]}
    lines = said(step(injectors={"copy": copy}))
    assert lines[0].startswith("steps.s.injectors.copy.requires: no state key and no step 's' comes before this")
    second = {
        "training": "generator", "requires": ["s", "restored"],
        "injectors": {"again": {**RUN, "out": "again"}}, "losses": {"l1": {**LOSS, "key": "again"}},
    }  # fmt: skip
    assert said(regression(steps={"s": {"every": 3}, "t": second})) == []
    (line,) = said(regression(steps={"s": {"every": 3}, "t": {**second, "requires": []}}))
    assert "steps.t.injectors.again.in: the state key 'up' is read at iteration 1" in line
    assert "(every: 3)" in line
    (line,) = said(regression(steps={"s": {}, "restored": {**second, "requires": "restored"}}))
    assert "steps.restored: is also a state key" in line


def test_visuals_are_looked_for_where_they_are_made(said: Said) -> None:
    rare = step(injectors={"copy": {"type": "direct", "in": "restored", "out": "c", "every": 20}})
    assert said({**rare, "logger": {"visuals": ["c"], "visual_debug_rate": 40}}) == []
    (line,) = said({**rare, "logger": {"visuals": ["hq", "c"], "visual_debug_rate": 30}})
    assert line.startswith("logger.visuals.1: nothing writes 'c' at iteration 30")
    (line,) = said({**rare, "logger": {"visuals": ["cc"]}})
    assert line.startswith("logger.visuals.0: no state key 'cc'")


def test_the_size_of_the_tile_is_checked_where_it_reaches_the_network(said: Said) -> None:
    whole = {"datasets": {"train": {"target_size": 36}}}
    (line,) = said(regression(**whole))
    assert line.startswith("datasets.train.target_size: generator needs a multiple of 8")
    cut = {
        "cut": {"type": "crop", "in": ["hq", "lq"], "size": 32, "at": "random", "out": ["hq_c", "lq_c"]},
        "up": {**UP, "in": "lq_c", "like": "hq_c"},
        "run": {**RUN, "model_input_keys": {"low_res": "lq_c"}},
    }
    data = regression(**whole)
    data["steps"]["s"] = {**data["steps"]["s"], "injectors": cut, "losses": {"l1": {**LOSS, "target": "hq_c"}}}
    assert said(data) == []


def test_a_test_run_has_no_iterations(said: Said) -> None:
    data = regression()
    del data["train"]
    data["steps"]["s"] = {"injectors": {"up": {**UP, "every": 2}, "run": RUN}, "after": 3}
    keys = {line.split(":")[0] for line in said(data, training=False)}
    assert keys == {"steps.s.after", "steps.s.injectors.up.every"}


def test_a_weight_that_is_not_understood_is_told_in_its_own_form(said: Said) -> None:
    lines = said(step(losses={"l1": {"weight": {"start": 1, "end": 0, "shape": "lineer"}}}))
    assert lines == [
        "steps.s.losses.l1.weight: expected 'linear', 'cosine' or 'step', found 'lineer' (did you mean linear?)"
    ]
    lines = said(step(losses={"l1": {"weight": "heavy"}}))
    assert lines == ["steps.s.losses.l1.weight: expected a number, found 'heavy'"]


def test_a_part_of_the_base_is_taken_away_by_nothing(tmp_path: Path, said: Said) -> None:
    write_recipe(tmp_path / "base.yml", regression())
    own = {"base": "base.yml", "steps": {"s": {"injectors": {"run": None}, "losses": {"l1": {"key": "up"}}}}}
    lines = said(own)
    assert lines == []
    own["steps"]["s"]["losses"]["l1"] = None
    assert said(own) == ["steps.s.losses: missing; a training step needs a loss"]


def test_what_never_runs_is_told(tmp_path: Path) -> None:
    parts = {"late": {**LOSS, "after": 101}, "last": {**LOSS, "after": 100}, "gap": {**LOSS, "every": 7, "before": 6}}
    data = step(losses=parts, every=100)
    source = load_source(str(write_recipe(tmp_path / "r.yml", data)), [])
    assert never_running(read_recipe(source)) == [
        "steps.s.losses.late never runs in 100 iterations (after: 101)",
        "steps.s.losses.gap never runs in 100 iterations (every: 7, before: 6)",
    ]
