"""The injectors that a restoration graph needs besides diffusion."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor
from trainer_helpers import NETWORK

import codes
from codes.config.options import validate_nested
from codes.config.plugins import import_submodules
from codes.graph.graph import INJECTORS, StepContext
from codes.graph.node_options import InjectorOptions
from codes.graph.step_graph import StepGraph, build_injector
from codes.graph.step_options import StepOptions
from codes.models.diffusion.networks.base import DiffusionNetwork
from codes.models.diffusion.networks.unet import UNetModel
from codes.recipe.recipe import REGISTERING
from codes.utils.errors import ConfigError
from codes.utils.rng import torch_globals_at

import_submodules("codes.graph.injectors", str(Path(codes.__file__).parent / "graph/injectors"))
CPU = torch.device("cpu")
BATCH, HEIGHT, WIDTH = 4, 24, 40


def context(positions: range = range(BATCH), seed: int = 5, **networks: DiffusionNetwork) -> StepContext:
    return StepContext(networks, CPU, seed, positions, nullcontext)


def uniform(*shape: int, seed: int = 1) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def state() -> dict[str, Any]:
    return {
        "hq": uniform(BATCH, 3, HEIGHT, WIDTH),
        "lq": uniform(BATCH, 3, HEIGHT // 2, WIDTH // 2, seed=2),
        "strength": torch.rand(BATCH, 2),
        "path": ["a", "b", "c", "d"],
    }


def tuples(value: Any) -> Any:
    """Lists as a recipe gives them."""
    if isinstance(value, dict):
        return {key: tuples(item) for key, item in value.items()}
    return tuple(map(tuples, value)) if isinstance(value, list) else value


def options(**data: Any) -> InjectorOptions:
    return validate_nested(INJECTORS.get(data["type"]).Options, tuples(data))


def run(given: dict[str, Any] | None = None, within: StepContext | None = None, **data: Any) -> dict[str, Any]:
    return build_injector(options(**data))(given or state(), within or context())


def refused(**data: Any) -> str:
    with pytest.raises((ValidationError, ValueError)) as caught:
        options(**data)
    issues = getattr(caught.value, "context", {}).get("issues", [])
    return " | ".join(f"{'.'.join(map(str, issue.path))}: {issue.message}" for issue in issues)


def rows(given: dict[str, Any], start: int, stop: int) -> dict[str, Any]:
    return {key: value[start:stop] for key, value in given.items()}


EVERY = [
    {"type": "direct", "in": ["hq", "path"], "out": ["x", "p"]},
    {"type": "concatenate", "in": ["hq", "hq"], "out": "x"},
    {"type": "interpolate", "in": "hq", "factor": 0.5, "out": "x"},
    {"type": "add_noise", "in": "hq", "amplitude": [0.1, 0.4], "out": "x"},
    {"type": "gray", "in": "hq", "out": "x"},
    {"type": "crop", "in": ["hq", "lq"], "size": [16, 20], "at": "random", "out": ["x", "y"]},
    {"type": "pad", "in": "hq", "multiple_of": 32, "out": "x"},
    {"type": "for_each", "in": ["hq", "lq"], "out": ["x", "y"], "injector": {"type": "gray", "channels": 1}},
]


@pytest.mark.parametrize("data", EVERY, ids=lambda data: data["type"])
def test_a_sample_depends_on_itself_and_its_position_alone(data: dict[str, Any]) -> None:
    given = state()
    copies = {key: value.clone() if isinstance(value, Tensor) else list(value) for key, value in given.items()}
    whole = run(given, **data)
    assert set(whole) == set(options(**data).writes().values())
    for start, stop in ((0, 1), (1, 4)):
        part = run(rows(given, start, stop), context(range(start, stop)), **data)
        for key, value in part.items():
            if isinstance(value, Tensor):
                torch.testing.assert_close(value, whole[key][start:stop])
            else:
                assert value == whole[key][start:stop]
    for key, value in copies.items():
        assert torch.equal(given[key], value) if isinstance(value, Tensor) else given[key] == value


@pytest.mark.parametrize("data", EVERY, ids=lambda data: data["type"])
def test_what_is_read_and_written_is_known_from_the_options(data: dict[str, Any]) -> None:
    node = options(**data)
    needed = set(node.reads().values())
    assert needed <= set(state())
    assert set(run({key: value for key, value in state().items() if key in needed}, **data)) == set(
        node.writes().values()
    )


def test_every_injector_of_the_project_is_registered() -> None:
    assert "graph.injectors" in REGISTERING
    assert {data["type"] for data in EVERY} | {"generator", "regression"} <= set(INJECTORS.names())


def test_direct_copies_whatever_a_key_holds() -> None:
    given = state()
    written = run(given, type="direct", **{"in": ["lq", "path"]}, out=["small", "names"])
    assert written["small"] is given["lq"]
    assert written["names"] == given["path"]
    assert "out: names 1 keys, but `in` names 2" in refused(type="direct", **{"in": ["a", "b"]}, out="c")


def test_concatenate_joins_channels_and_names_sizes_that_differ() -> None:
    given = state()
    both = run(given, type="concatenate", **{"in": ["hq", "hq"]}, out="x")["x"]
    assert both.shape == (BATCH, 6, HEIGHT, WIDTH)
    assert torch.equal(both[:, 3:], given["hq"])
    with pytest.raises(
        ConfigError, match=r"concatenate x: the sizes differ .*hq \(4, 3, 24, 40\), lq \(4, 3, 12, 20\)"
    ):
        run(type="concatenate", **{"in": ["hq", "lq"]}, out="x")


@pytest.mark.parametrize("mode", ["bilinear", "bicubic", "area", "nearest"])
def test_interpolate_to_a_factor_a_size_or_like_another(mode: str) -> None:
    given = state()
    base = {"type": "interpolate", "in": "lq", "mode": mode, "out": "x"}
    double = run(given, **base, factor=2.0)["x"]
    corners = {"align_corners": False} if mode in ("bilinear", "bicubic") else {}
    torch.testing.assert_close(double, F.interpolate(given["lq"], (HEIGHT, WIDTH), mode=mode, **corners))
    assert torch.equal(run(given, **base, like="hq")["x"], double)
    assert torch.equal(run(given, **base, size=[HEIGHT, WIDTH])["x"], double)
    assert run(given, **base, size=7)["x"].shape == (BATCH, 3, 7, 7)
    assert run(given, **base, factor=0.01)["x"].shape == (BATCH, 3, 1, 1)


def test_interpolate_needs_one_size() -> None:
    base = {"type": "interpolate", "in": "lq", "out": "x"}
    assert "exactly one of factor, size, like is needed, found none" in refused(**base)
    assert "like: exactly one of factor, size, like is needed, found size and like" in refused(
        **base, size=4, like="hq"
    )
    assert "antialias: is for bilinear and bicubic, found mode area" in refused(
        **base, size=4, mode="area", antialias=True
    )
    smooth = run(**base, factor=0.25, antialias=True)["x"]
    assert float(smooth.std()) < 0.6 * float(run(**base, factor=0.25)["x"].std())


def test_noise_has_its_amplitude_and_is_anothers_under_another_name() -> None:
    given = {"hq": torch.zeros(64, 3, 8, 12)}
    base = {"type": "add_noise", "in": "hq"}
    fixed = run(given, context(range(64)), **base, amplitude=0.25, out="x")["x"]
    assert float(fixed.std()) == pytest.approx(0.25, rel=0.03)
    assert abs(float(fixed.mean())) < 0.01
    other = run(given, context(range(64)), **base, amplitude=0.25, out="y")["y"]
    assert abs(float((fixed * other).mean())) < 0.003
    ranged = run(given, context(range(64)), **base, amplitude=[0.1, 0.5], out="x")["x"].flatten(1).std(dim=1)
    assert 0.08 < float(ranged.min()) < 0.2
    assert 0.4 < float(ranged.max()) < 0.55
    assert "amplitude: expected a number from 0 on" in refused(**base, amplitude=[0.5, 0.1], out="x")


def test_gray_is_luma_in_the_range_of_the_image() -> None:
    given = {"hq": torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(2, 3, 2, 5)}
    assert torch.allclose(run(given, type="gray", **{"in": "hq"}, out="x")["x"], torch.full((2, 3, 2, 5), 0.299))
    assert run(given, type="gray", **{"in": "hq"}, out="x", channels=1)["x"].shape == (2, 1, 2, 5)
    white = run({"hq": torch.ones(2, 3, 2, 5)}, type="gray", **{"in": "hq"}, out="x")["x"]
    assert torch.allclose(white, torch.ones(2, 3, 2, 5))
    with pytest.raises(ConfigError, match="gray x: hq has 1 channels, expected RGB"):
        run({"hq": torch.ones(2, 1, 2, 5)}, type="gray", **{"in": "hq"}, out="x")


@pytest.mark.parametrize("at", ["center", "top_left", "random"])
def test_crop_cuts_the_same_place_out_of_images_of_two_sizes(at: str) -> None:
    y, x = torch.meshgrid(torch.arange(24.0), torch.arange(40.0), indexing="ij")
    hq = torch.stack([y, x]).expand(64, 2, 24, 40)
    cut = run(
        {"hq": hq, "lq": hq[:, :, ::2, ::2]}, context(range(64)),
        type="crop", **{"in": ["hq", "lq"]}, size=[8, 12], at=at, out=["a", "b"],
    )  # fmt: skip
    assert cut["a"].shape == (64, 2, 8, 12)
    assert torch.equal(cut["a"][:, :, ::2, ::2], cut["b"])
    assert torch.equal(cut["a"][0, :, 7, 11] - cut["a"][0, :, 0, 0], torch.tensor([7.0, 11.0]))
    origins = {tuple(one[:, 0, 0].tolist()) for one in cut["a"]}
    expected = {"center": {(8.0, 14.0)}, "top_left": {(0.0, 0.0)}}
    if at == "random":
        assert len(origins) > 20
        assert {y for y, _ in origins} == set(range(0, 17, 2))
        assert {x for _, x in origins} <= set(range(0, 29, 2))
    else:
        assert origins == expected[at]


def test_crop_says_what_does_not_fit() -> None:
    with pytest.raises(ConfigError, match=r"crop a: cannot cut 30 pixels out of 24 of hq; `pad` it"):
        run(type="crop", **{"in": "hq"}, size=30, out="a")
    with pytest.raises(ConfigError, match="a cut of 7 pixels needs sizes that are multiples of the smallest"):
        run(type="crop", **{"in": ["hq", "lq"]}, size=7, out=["a", "b"])
    assert "out: names 1 keys" in refused(type="crop", **{"in": ["hq", "lq"]}, size=8, out="a")


def test_pad_reflects_and_crop_undoes_it() -> None:
    given = state()
    padded = run(given, type="pad", **{"in": "hq"}, multiple_of=32, out="x")["x"]
    assert padded.shape == (BATCH, 3, 32, 64)
    assert torch.equal(padded[..., 24:, :], padded[..., 15:23, :].flip(-2))
    back = run({**given, "x": padded}, type="crop", **{"in": "x"}, like="hq", at="top_left", out="y")["y"]
    assert torch.equal(back, given["hq"])
    border = run(given, type="pad", **{"in": "hq"}, border=5, out="x")["x"]
    assert torch.equal(border, F.pad(given["hq"], (5, 5, 5, 5), mode="reflect"))
    assert run({"hq": torch.ones(2, 3, 1, 2)}, type="pad", **{"in": "hq"}, size=[3, 9], out="x")["x"].shape == (
        2,
        3,
        3,
        9,
    )
    with pytest.raises(ConfigError, match="pad x: hq has 24 pixels, more than 16; `crop` it"):
        run(type="pad", **{"in": "hq"}, size=16, out="x")


def test_for_each_gives_every_key_its_own_injector() -> None:
    noise = {"type": "add_noise", "amplitude": 0.1}
    written = run(type="for_each", **{"in": ["hq", "lq"]}, out=["a", "b"], injector=noise)
    for key, out in (("hq", "a"), ("lq", "b")):
        assert torch.equal(written[out], run(type="add_noise", **{"in": key}, amplitude=0.1, out=out)[out])


@pytest.mark.parametrize(
    ("injector", "message"),
    [
        ({}, "injector.type: missing (one of: add_noise"),
        ({"type": "grey"}, "injector.type: unknown injector 'grey' (did you mean gray?"),
        ({"type": "direct"}, "injector.type: direct has no single `in` and `out`"),
        ({"type": "gray", "every": 2}, "injector.every: belongs to for_each itself"),
        ({"type": "gray", "chanels": 1}, "injector.chanels: unknown key (did you mean channels?)"),
        ({"type": "interpolate"}, "injector: exactly one of factor, size, like"),
        ({"type": "gaussian_diffusion", "generator": "g", "out_key_x_start": "x"}, "injector: also writes x"),
    ],
)
def test_for_each_refuses_what_it_cannot_repeat(injector: dict[str, Any], message: str) -> None:
    assert message in refused(type="for_each", **{"in": ["hq", "lq"]}, out=["a", "b"], injector=injector)


def test_an_injector_that_needs_an_image_says_what_it_found() -> None:
    with pytest.raises(ConfigError, match=r"gray x: the state key 'strength' holds a tensor of shape \(4, 2\)"):
        run(type="gray", **{"in": "strength"}, out="x")
    with pytest.raises(ConfigError, match="pad x: the state key 'path' holds a list"):
        run(type="pad", **{"in": "path"}, multiple_of=4, out="x")


def network(**changes: Any) -> UNetModel:
    args = {**NETWORK, "out_channels": 3, "residual_from_low_res": True, **changes}
    with torch_globals_at("cpu", 3, "network"):
        return UNetModel(UNetModel.Options.model_validate(tuples(args)))


GENERATOR = {
    "type": "generator", "in": "hq", "generator": "g", "out": "x",
    "model_input_keys": {"low_res": "lq", "corruption_factor": "strength"},
}  # fmt: skip


def test_generator_runs_its_network_once_at_its_timestep() -> None:
    net, given = network().eval(), state()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.02)
    t = torch.full((BATCH,), 7)
    expected = net(given["hq"], t, low_res=given["lq"], corruption_factor=given["strength"])
    assert torch.equal(run(given, context(g=net), **GENERATOR, timestep=7)["x"], expected)
    assert not torch.equal(run(given, context(g=net), **GENERATOR)["x"], expected)


def test_no_grad_cuts_the_gradient_of_what_is_written() -> None:
    net = network()
    assert run(within=context(g=net), **GENERATOR)["x"].requires_grad
    assert not run(within=context(g=net), **GENERATOR, no_grad=True)["x"].requires_grad
    graph = StepGraph(StepOptions(injectors={"a": options(**GENERATOR, no_grad=True)})).at(1, {"hq"})
    assert not graph.inject(state(), context(g=net))["x"].requires_grad


def test_generator_checks_its_network_before_anything_runs() -> None:
    def said(**changes: Any) -> str:
        data = {**GENERATOR, **changes}
        issues = options(**data).problems({"g": network(), "noisy": network(out_channels=6)})
        return " | ".join(f"{'.'.join(map(str, issue.path))}: {issue.message}" for issue in issues)

    assert said() == ""
    assert "generator: no network 'h'" in said(generator="h")
    assert "model_input_keys.low_res: missing; g takes low_res" in said(model_input_keys={})
    assert "generator: noisy learns a variance" in said(generator="noisy")
    assert "model_input_keys.y: g takes no input 'y'" in said(model_input_keys={"low_res": "lq", "y": "y"})


def test_two_injectors_of_equal_options_share_nothing() -> None:
    """Options are frozen, and what an injector keeps is its own."""
    shared = {
        "type": "gaussian_diffusion", "in": "hq", "generator": "g", "out": "mse",
        "sampler_type": "loss-second-moment", "diffusion_args": {"model_var_type": "fixed_small"},
    }  # fmt: skip
    node = options(**shared)
    first, second = build_injector(node), build_injector(node)
    with pytest.raises(ValidationError):
        node.out = "other"  # type: ignore[attr-defined]
    first(
        {"hq": state()["hq"]}, context(g=network(num_corruptions=None, residual_from_low_res=False, group_norm="dlas"))
    )
    first.end_iteration(lambda value: value)
    assert int(first.state_dict()["counts"].sum()) == BATCH
    assert int(second.state_dict()["counts"].sum()) == 0
