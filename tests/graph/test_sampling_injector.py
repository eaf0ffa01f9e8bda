"""The inference injector on one state and on many, restoring and generating, in memory and on disk."""

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic_core import PydanticCustomError
from torch import Tensor
from trainer_helpers import DIFFUSION, NETWORK

from codes.config.options import validate_nested
from codes.graph.graph import Graph, StepContext
from codes.graph.injectors.gaussian_diffusion_inference import (
    GaussianDiffusionInferenceInjector,
    GaussianDiffusionInferenceOptions,
)
from codes.images.canvas import Canvas, as_canvas
from codes.models.diffusion.mixed_precision import AutocastDenoiser
from codes.models.diffusion.networks.unet import UNetModel
from codes.models.diffusion.prediction import Prediction
from codes.models.diffusion.process_options import ProcessOptions
from codes.utils.errors import ConfigError, Interrupted, TesseraError
from codes.utils.rng import torch_globals_at

CPU = torch.device("cpu")
PROCESS = {key: DIFFUSION[key] for key in ("beta_schedule", "diffusion_args")}
RESTORE = {"low_res": "hq", "corruption_factor": "corruption_entropy"}


def network(seed: int, **changes: Any) -> UNetModel:
    args = {**NETWORK, **changes}
    tuples = {key: tuple(value) if isinstance(value, list) else value for key, value in args.items()}
    with torch_globals_at("cpu", seed, "network"):
        net = UNetModel(UNetModel.Options.model_validate(tuples)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.03 * torch.randn(parameter.shape, generator=generator))
    return net


RESTORER = network(1)
CLASSES = {"num_corruptions": None, "model_channels": 32, "num_classes": 5, "classifier_free": True}
EXPERTS = {"low": network(2, **CLASSES), "high": network(3, **CLASSES)}
NETWORKS = {"generator": RESTORER, **EXPERTS}


def options(**changes: Any) -> GaussianDiffusionInferenceOptions:
    base = {
        "type": "gaussian_diffusion_inference",
        "generator": "generator",
        "model_input_keys": RESTORE,
        "output_scale_factor": 2,
        "respaced_timestep_spacing": "trailing3",
        "out": "restored",
        **PROCESS,
    }
    return validate_nested(GaussianDiffusionInferenceOptions, {**base, **changes})


def generating(**changes: Any) -> GaussianDiffusionInferenceOptions:
    keys = {"generator": "low", "model_input_keys": {"y": "y"}, "output_scale_factor": 1}
    return options(**{**keys, **changes})


def injector(**changes: Any) -> GaussianDiffusionInferenceInjector:
    return GaussianDiffusionInferenceInjector(options(**changes))


def context(position: int = 0, count: int = 1, **changes: Any) -> StepContext:
    positions = range(position, position + count)
    return StepContext(NETWORKS, CPU, 5, positions, nullcontext, **changes)


def state(number: int, height: int, width: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(number)
    hq = torch.rand(1, 3, height, width, generator=generator) * 2 - 1
    entropy = torch.rand(1, 2, generator=generator)
    return {"hq": hq, "corruption_entropy": entropy, "image_name": [f"{number}.png"]}


def test_many_states_of_different_sizes_give_what_each_gives_alone() -> None:
    states = [state(0, 9, 12), state(1, 30, 21), state(2, 9, 12)]
    contexts = [context(number) for number in range(3)]
    together = Graph({"restore": injector(tile_batch_size=5)}, {}).inject_many(states, contexts)
    for one, shared in zip(states, together, strict=True):
        alone = injector(tile_batch_size=1)(one, context())["restored"]
        assert alone.shape == (1, 3, 2 * one["hq"].shape[2], 2 * one["hq"].shape[3])
        torch.testing.assert_close(shared["restored"], alone, rtol=0, atol=2e-4)


def test_samples_of_an_image_differ_and_the_first_is_the_usual_one() -> None:
    made = [injector()(state(0, 9, 12), context(sample=number))["restored"] for number in (0, 1, 2)]
    assert torch.equal(made[0], injector()(state(0, 9, 12), context())["restored"])
    assert float((made[1] - made[0]).abs().mean()) > 1e-3
    assert float((made[2] - made[1]).abs().mean()) > 1e-3


@pytest.mark.parametrize("undo", [False, True])
def test_disk_and_memory_give_the_same_image(tmp_path: Path, undo: bool) -> None:
    subject = {"undo_n1_to_1": undo, "tile": 32, "tile_overlap": 8}
    expected = injector(**subject)(state(0, 20, 31), context())["restored"]
    restored = injector(canvas="disk", **subject)(state(0, 20, 31), context(scratch=tmp_path))["restored"]
    assert isinstance(restored, Canvas)
    assert restored.shape == (3, 40, 62)
    assert torch.equal(as_canvas(restored).rows(0, 40)[None], expected)
    assert list(tmp_path.rglob("*.raw"))


def test_disk_needs_a_folder_and_one_image_at_a_time(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="canvas: disk needs a folder"):
        injector(canvas="disk")(state(0, 8, 8), context())
    two = {"hq": torch.zeros(2, 3, 8, 12), "corruption_entropy": torch.zeros(2, 2)}
    with pytest.raises(ConfigError, match="one image at a time, found 2"):
        injector(canvas="disk")(two, context(count=2, scratch=tmp_path))


def stop_at(tiles: int) -> Any:
    def on_step(out: str, done: int, total: int) -> None:
        assert out == "restored"
        if done >= tiles:
            raise Interrupted(f"at {done} of {total}")

    return on_step


@pytest.mark.parametrize("canvas", ["ram", "disk"])
def test_an_interrupted_image_goes_on_where_it_stopped(tmp_path: Path, canvas: str) -> None:
    subject = {"canvas": canvas, "tile": 32, "tile_overlap": 8, "tile_batch_size": 1}
    whole = state(0, 20, 31)
    expected = injector(**subject)(whole, context(scratch=tmp_path / "other"))["restored"]
    with pytest.raises(Interrupted):
        injector(**subject)(whole, context(scratch=tmp_path / "one", on_step=stop_at(10)))
    heard: list[tuple[int, int]] = []
    restored = injector(**subject)(
        whole, context(scratch=tmp_path / "one", on_step=lambda _, done, total: heard.append((done, total)))
    )["restored"]
    assert torch.equal(as_canvas(restored).rows(0, 40), as_canvas(expected).rows(0, 40))
    assert len(heard) == 12  # two of three steps of six tiles were left
    assert heard[-1][0] == heard[-1][1]


def test_an_interrupted_image_under_other_options_begins_anew(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        injector(tile=32, tile_batch_size=1)(state(0, 20, 31), context(scratch=tmp_path, on_step=stop_at(10)))
    expected = injector(tile=32, sampler="ddim")(state(0, 20, 31), context())["restored"]
    restored = injector(tile=32, sampler="ddim")(state(0, 20, 31), context(scratch=tmp_path))["restored"]
    assert torch.equal(restored, expected)


def test_generated_samples_depend_on_their_position_alone() -> None:
    subject = GaussianDiffusionInferenceInjector(generating())
    labels = torch.tensor([0, 3, 4])
    three = subject({"y": labels}, context(4, 3))["restored"]
    assert three.shape == (3, 3, 32, 32)
    for row in range(3):
        alone = subject({"y": labels[row : row + 1]}, context(4 + row))["restored"]
        torch.testing.assert_close(alone[0], three[row], rtol=0, atol=2e-4)
    assert float((three[0] - three[1]).abs().mean()) > 1e-3


def test_generated_images_have_the_size_that_is_asked_for() -> None:
    for size, shape in ((None, (32, 32)), (48, (48, 48)), ((40, 56), (40, 56))):
        given = tuple(size) if isinstance(size, tuple) else size
        made = GaussianDiffusionInferenceInjector(generating(output_size=given))(
            {"y": torch.tensor([1, 2])}, context(0, 2)
        )
        assert made["restored"].shape == (2, 3, *shape)


def test_experts_share_the_steps_by_signal_to_noise_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    called: dict[str, list[int]] = {"low": [], "high": []}
    for name, net in EXPERTS.items():
        forward = net.forward

        def listen(
            x: Tensor, t: Tensor, *rest: Any, _name: str = name, _forward: Any = forward, **cond: Tensor
        ) -> Tensor:
            called[_name] += t.tolist()
            return _forward(x, t, *rest, **cond)

        monkeypatch.setattr(net, "forward", listen)
    both = generating(generator=("low", "high"), snr_splits=(0.25,), respaced_timestep_spacing=10)
    subject = GaussianDiffusionInferenceInjector(both)
    subject({"y": torch.tensor([1, 2])}, context(0, 2))
    engine = subject.engine(context())
    snr = engine.process.schedule.snr
    low = {int(t) for t, ratio in zip(engine.process.schedule.timesteps, snr, strict=True) if ratio > 0.25}
    assert set(called["low"]) == low
    assert set(called["high"]) == set(map(int, engine.process.schedule.timesteps)) - low
    assert low
    assert called["high"]


def test_experts_that_do_not_belong_together_are_refused() -> None:
    nets: Mapping[str, Any] = {"low": EXPERTS["low"], "wide": network(4, **{**CLASSES, "num_classes": 7})}
    issues = generating(generator=("low", "wide"), snr_splits=(0.25,)).problems(nets)
    assert any("null_label is 7 and 5" in issue.message for issue in issues), issues
    other = ProcessOptions.model_validate({"beta_schedule": {"num_diffusion_timesteps": 50, "schedule_name": "linear"}})
    both = generating(generator=("low", "high"), snr_splits=(0.25,), beta_schedule=None, diffusion_args=None)
    processes = {"low": ProcessOptions.model_validate(PROCESS), "high": other}
    with pytest.raises(ConfigError, match="high was trained under another process than low"):
        GaussianDiffusionInferenceInjector(both).engine(context(processes=processes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"generator": ["low", "high"]}, "0 for 2 networks"),
        ({"snr_splits": [0.25]}, "1 for 1 networks"),
        ({"output_size": 64}, "is for generation"),
        ({"output_size": [0, 3], "model_input_keys": {}}, "at least 1 pixel"),
    ],
)
def test_contradictions_are_named(changes: dict[str, Any], message: str) -> None:
    fixed = {key: tuple(value) if isinstance(value, list) else value for key, value in changes.items()}
    with pytest.raises(PydanticCustomError) as caught:
        options(**fixed)
    assert caught.value.context is not None
    assert any(message in issue.message for issue in caught.value.context["issues"])


def test_a_restorer_without_its_image_is_refused() -> None:
    issues = options(model_input_keys={}).problems(NETWORKS)
    assert [issue.path for issue in issues] == [("model_input_keys", "low_res")]


class Overflowing:
    """Overflows under autocast, and always when told to."""

    def __init__(self, always: bool) -> None:
        self.always = always

    def __call__(self, x_t: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Prediction:
        assert len(t) == len(x_t)
        assert not cond
        broken = self.always or torch.is_autocast_enabled("cpu")
        x_start = torch.where(x_t > 1.0, torch.inf, x_t) if broken else x_t
        return Prediction(x_start, x_t, x_t)


def test_what_overflows_in_low_precision_is_computed_again() -> None:
    told: list[str] = []
    subject = AutocastDenoiser(Overflowing(False), lambda: torch.autocast("cpu", torch.bfloat16), told.append)
    x_t = torch.linspace(-2, 2, 2 * 3 * 4 * 5).view(2, 3, 4, 5)
    for _ in range(3):
        assert torch.equal(subject(x_t, torch.tensor([1, 2]), {}).x_start, x_t)
    assert subject.repeats == 3
    assert told == ["the network overflowed in this precision: such tiles are computed again in float32"]
    subject(x_t.clamp(max=1.0), torch.tensor([1, 2]), {})
    assert subject.repeats == 3


def test_what_is_never_finite_is_an_error_and_not_a_black_image() -> None:
    subject = AutocastDenoiser(Overflowing(True), nullcontext)
    with pytest.raises(TesseraError, match="not finite at t=2 even in float32"):
        subject(torch.full((2, 3, 4, 5), 2.0), torch.tensor([1, 2]), {})
