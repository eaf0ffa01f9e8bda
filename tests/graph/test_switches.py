"""When the parts of the graph run, and how losses are weighted: functions of the iteration alone."""

import itertools
import random
import time
from typing import Any

import pytest
from pydantic import ValidationError

from codes.graph.injectors.keys import DirectOptions
from codes.graph.loss_weight import weight_at
from codes.graph.node_options import InjectorOptions, LossOptions
from codes.graph.step_graph import running_injectors
from codes.graph.switches import Switches, Timing, distinct_iterations


def messages(error: ValidationError) -> str:
    return " ".join(
        f"{'.'.join(map(str, issue.path))}: {issue.message}"
        for detail in error.errors()
        for issue in detail["ctx"]["issues"]
    )


def due(last: int, **options: Any) -> list[int]:
    return [iteration for iteration in range(1, last + 1) if Timing(**options).due(iteration)]


def test_every_after_and_before_count_both_ends() -> None:
    assert due(4) == [1, 2, 3, 4]
    assert due(10, every=3) == [3, 6, 9]
    assert due(6, after=4) == [4, 5, 6]
    assert due(6, before=2) == [1, 2]
    assert due(20, every=5, after=6, before=15) == [10, 15]


def test_requires_asks_for_all_of_its_names() -> None:
    one, both = Switches(requires="a"), Switches(requires=("a", "step"))
    assert one.runs(1, {"a"})
    assert not one.runs(1, {"b"})
    assert both.runs(1, {"a", "step", "c"})
    assert not both.runs(1, {"a"})


def test_an_evaluation_has_no_iterations_but_has_requirements() -> None:
    timed = Switches(every=7, after=100, requires="a")
    assert timed.runs(None, {"a"})
    assert not timed.runs(None, set())


def test_a_timing_that_never_comes_is_refused() -> None:
    with pytest.raises(ValidationError) as caught:
        Timing(after=5, before=4)
    assert "before: is 4, which comes before the first iteration (after: 5)" in messages(caught.value)
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        Timing(every=0)


@pytest.mark.parametrize(
    "timings",
    [
        [],
        [Timing()],
        [Timing(every=2), Timing(every=3), Timing(after=5), Timing(every=6, before=30)],
        [Timing(after=7, before=7), Timing(before=6), Timing(every=5)],
        [Timing(every=k) for k in range(2, 12)],
    ],
)
def test_every_pattern_has_its_first_iteration(timings: list[Timing]) -> None:
    patterns: dict[tuple[bool, ...], int] = {}
    for iteration in range(1, 401):
        patterns.setdefault(tuple(timing.due(iteration) for timing in timings), iteration)
    assert distinct_iterations(timings, 400) == sorted(patterns.values())


@pytest.mark.parametrize("seed", range(8))
def test_patterns_are_those_that_counting_finds(seed: int) -> None:
    rng = random.Random(seed)
    timings = []
    for _ in range(rng.randint(1, 5)):
        after = rng.choice([0, 0, rng.randint(0, 300)])
        before = rng.choice([None, after + rng.randint(1, 200)])
        timings.append(Timing(every=rng.choice([1, 2, 3, 4, 6, 7, 10, 25]), after=after, before=before))
    patterns: dict[tuple[bool, ...], int] = {}
    for iteration in range(1, 601):
        patterns.setdefault(tuple(timing.due(iteration) for timing in timings), iteration)
    assert distinct_iterations(timings, 600) == sorted(patterns.values())


def test_a_thousand_million_iterations_take_no_time() -> None:
    timings = [Timing(every=999_983), Timing(every=2), Timing(every=10**9), Timing(after=5 * 10**8), *[Timing()] * 3]
    start = time.monotonic()
    iterations = distinct_iterations(timings, 10**9)
    many = distinct_iterations([Timing(every=number) for number in range(2, 60)], 10**9)
    assert time.monotonic() - start < 2
    assert iterations == [1, 2, 999_983, 1_999_966, 500_000_000, 500_000_001, 500_991_483, 501_991_466, 10**9]
    assert many[0] == 1


def weight(value: Any) -> Any:
    return LossOptions.model_validate({"type": "direct", "weight": value}).weight


def curve(value: Any, *iterations: int) -> list[float]:
    return [weight_at(weight(value), iteration) for iteration in iterations]


def test_a_weight_may_be_a_number_or_follow_the_iteration() -> None:
    assert curve(0.5, 1, 1000) == [0.5, 0.5]
    line = {"start": 1.0, "end": 3.0, "from": 10, "to": 20}
    assert curve(line, 1, 10, 15, 20, 99) == [1.0, 1.0, 2.0, 3.0, 3.0]
    assert curve({**line, "shape": "cosine"}, 1, 10, 15, 20, 99) == pytest.approx([1, 1, 2, 3, 3])
    assert curve({**line, "shape": "cosine"}, 12)[0] == pytest.approx(1.190983, abs=1e-5)
    assert curve({"start": 0, "end": 1, "from": 10, "shape": "step"}, 9, 10, 11) == [0, 0, 1]
    assert curve(((10, 1.0), (20, 3.0), (30, 0.0)), 1, 10, 15, 20, 25, 30, 31) == [1, 1, 2, 3, 1.5, 0, 0]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"start": 0, "end": 1}, "to: missing; a linear change needs"),
        ({"start": 0, "end": 1, "from": 5, "to": 5}, "to: must come after from (5), found 5"),
        ({"start": 0, "end": 1, "to": 5, "shape": "step"}, "to: a step jumps after `from` and has no `to`"),
    ],
)
def test_contradictory_schedules_are_refused(value: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        weight(value)
    nested = [error for error in caught.value.errors() if error["type"] == "nested"]
    messages_there = [f"{'.'.join(map(str, i.path))}: {i.message}" for error in nested for i in error["ctx"]["issues"]]
    assert any(message in text for text in messages_there), messages_there


@pytest.mark.parametrize("points", [(), ((5, 1.0), (5, 2.0)), ((9, 1.0), (5, 2.0))])
def test_points_must_ascend(points: tuple[tuple[int, float], ...]) -> None:
    with pytest.raises(ValidationError, match=r"ascend|empty list"):
        weight(points)


def test_injectors_for_training_and_for_evaluation() -> None:
    nodes = {
        "always": DirectOptions(type="direct", in_key="hq", out="a"),
        "training": DirectOptions(type="direct", in_key="hq", out="b", train=True),
        "evaluation": DirectOptions(type="direct", in_key="hq", out="c", eval=True),
        "rare": DirectOptions(type="direct", in_key="hq", out="d", every=4),
        "after_rare": DirectOptions(type="direct", in_key="hq", out="e", requires="d"),
    }
    assert running_injectors(nodes, 3, {"hq"}) == ["always", "training"]
    assert running_injectors(nodes, 4, {"hq"}) == ["always", "training", "rare", "after_rare"]
    assert running_injectors(nodes, None, {"hq"}) == ["always", "evaluation", "rare", "after_rare"]


def test_an_injector_for_neither_is_refused() -> None:
    with pytest.raises(ValidationError) as caught:
        InjectorOptions(type="x", train=True, eval=True)
    assert "never run" in messages(caught.value)


def test_switches_do_not_depend_on_what_was_asked_before() -> None:
    timing = Timing(every=3, after=2, before=11)
    order = list(itertools.chain(range(12, 0, -1), range(1, 13)))
    assert [timing.due(iteration) for iteration in order] == [iteration in (3, 6, 9) for iteration in order]
