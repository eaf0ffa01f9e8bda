"""FID and KID of restored and of generated images, with a tiny feature network."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from evaluator_helpers import (
    ForFeatures,
    Plain,
    context,
    dataset,
    diffusion_network,
    evaluator,
    photographs,
    save_trained,
    scripted,
)
from pydantic import ValidationError

from codes import test as test_command
from codes.evaluation.evaluators import feature_networks
from codes.evaluation.evaluators.base import EVALUATORS
from codes.evaluation.evaluators.feature_networks import FeatureNetwork, Remote
from codes.evaluation.evaluators.feature_statistics import FeatureStatistics, frechet_distance, kernel_distance
from codes.evaluation.evaluators.measuring import measuring
from codes.utils.errors import ConfigError

FEW_STEPS = {"respaced_timestep_spacing": 2}


@pytest.fixture
def square(tmp_path: Path) -> dict[str, Any]:
    """Ten photographs, of each the middle tile."""
    return dataset(photographs(tmp_path / "photos", [(24, 32)] * 9 + [(20, 18)]), target_size=16, tile="center")


@pytest.fixture
def features(tmp_path: Path) -> str:
    return str(scripted(tmp_path / "features.pt", ForFeatures()))


def statistics(features: np.ndarray) -> FeatureStatistics:
    moments = FeatureStatistics()
    moments.add(features)
    return moments


def test_fid_and_kid_are_those_of_the_features_of_all_images(square: dict[str, Any], features: str) -> None:
    own = evaluator(
        "fid",
        dataset=square,
        feature_network=features,
        diffusion_params=FEW_STEPS,
        metrics=["fid", "kid"],
        batch_size=4,
    )
    metrics = own.evaluate(context()).metrics
    with measuring(context(), use_ema=True) as inner:
        rows = list(own.restorer.all(inner, "again"))
    made, real = (own.network.features(np.stack([getattr(row, side) for row in rows])) for side in ("image", "truth"))
    assert metrics["fid"] == pytest.approx(frechet_distance(statistics(real), statistics(made)), rel=1e-4)
    assert metrics["kid"] == pytest.approx(kernel_distance(real, made), rel=1e-4)
    assert metrics["kid_std"] == 0  # the whole sets, once
    assert metrics["images"] == metrics["real_images"] == 10
    single = evaluator("kid", dataset=square, feature_network=features, diffusion_params=FEW_STEPS)
    assert set(single.evaluate(context()).metrics) == {"kid", "kid_std", "images", "real_images"}


def test_subsets_of_kid_are_drawn_and_only_so_many_features_are_kept(square: dict[str, Any], features: str) -> None:
    small = {"kid_subsets": 5, "kid_subset_size": 3, "kid_images": 6}
    own = evaluator("kid", dataset=square, feature_network=features, diffusion_params=FEW_STEPS, **small)
    first, second = own.evaluate(context()).metrics, own.evaluate(context()).metrics
    assert first == second
    assert first["kid_std"] > 0
    assert len(own.real.kept) == 6
    assert own.real.statistics.count == 10


def test_real_images_are_measured_once(square: dict[str, Any], features: str, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []
    whole = FeatureNetwork.features
    monkeypatch.setattr(
        FeatureNetwork, "features", lambda self, images: (measured.append(len(images)), whole(self, images))[1]
    )
    own = evaluator("fid", dataset=square, feature_network=features, diffusion_params=FEW_STEPS)
    measured.clear()  # of the first try
    for _ in range(3):
        own.evaluate(context())
    assert sum(measured) == 10 + 3 * 10


def test_fewer_images_than_features_are_warned_of(
    square: dict[str, Any], features: str, caplog: pytest.LogCaptureFixture
) -> None:
    few = evaluator("fid", dataset=square, feature_network=features, diffusion_params=FEW_STEPS, max_images=5)
    assert np.isfinite(few.evaluate(context()).metrics["fid"])
    assert "fid: 5 images for 6 features: the covariance is rank-deficient" in caplog.text
    caplog.clear()
    evaluator("fid", dataset=square, feature_network=features, diffusion_params=FEW_STEPS).evaluate(context())
    assert "rank-deficient" not in caplog.text
    with pytest.raises(ConfigError, match="needs at least 2 images, the dataset has 1"):
        evaluator("fid", dataset=square, feature_network=features, max_images=1)


def test_images_are_generated_and_compared_with_a_folder(square: dict[str, Any], features: str) -> None:
    plain = {"num_corruptions": None, "model_channels": 32}
    base = {"dataset": square, "feature_network": features, "diffusion_params": FEW_STEPS}
    given = context(networks={"generator": diffusion_network(**plain)}, ema_networks={})
    own = evaluator("fid", generate=7, **base)
    assert own.options.problems(given.networks) == []
    metrics = own.evaluate(given).metrics
    assert (metrics["images"], metrics["real_images"]) == (7, 10)
    split = evaluator("fid", generate=7, batch_size=2, **base).evaluate(given).metrics
    assert split["fid"] == pytest.approx(metrics["fid"], rel=1e-3)
    other = evaluator("fid", generate=7, **base).evaluate(context(networks=given.networks, ema_networks={}, seed=4))
    assert other.metrics["fid"] != metrics["fid"]


def test_classes_to_generate_are_those_of_the_folder(tmp_path: Path, features: str) -> None:
    folder = photographs(tmp_path / "labelled", [(16, 16)] * 3)
    for number, name in enumerate(("cat", "dog", "cat")):
        (folder / f"p{number}.png").rename(folder / f"{name}_{number}.png")
    data = {"mode": "labelled", "paths": str(folder), "rgb_n1_to_1": True, "target_size": 16, "class_from": "prefix"}
    conditional = diffusion_network(num_corruptions=None, num_classes=2, model_channels=32)
    own = evaluator(
        "fid",
        generate=5,
        dataset=data,
        feature_network=features,
        diffusion_params=FEW_STEPS,
        model_input_keys={"y": "y"},
    )
    networks = {"generator": conditional}
    assert own.options.problems(networks) == []
    assert [int(own._item(position)["y"]) for position in range(5)] == [0, 0, 1, 0, 0]
    evaluation = own.evaluate(context(networks=networks, ema_networks={}))
    assert evaluation.metrics["images"] == 5


def dlas(folder: str, **changes: Any) -> dict[str, Any]:
    """The evaluator as a recipe of DLAS writes it."""
    return {
        "type": "sr_diffusion_fid",
        "for": "generator",
        "batch_size": 4,
        "dataset": {
            "name": "fid_val", "mode": "imagefolder", "paths": folder, "scale": 2, "target_size": 16,
            "force_square": True, "rgb_n1_to_1": True, "fixed_corruptions": ["jpeg", "gaussian_blur"],
            "fixed_parameters": {"corruption_entropy": [0.2, 0.5]},
        },
        "diffusion_params": {
            "generator": "generator", "output_batch_size": 2, "output_scale_factor": 2, "undo_n1_to_1": True,
            "respaced_timestep_spacing": 2, "use_ema_model": True,
            "beta_schedule": {"schedule_name": "linear", "num_diffusion_timesteps": 100},
            "diffusion_args": {"model_mean_type": "start_x", "model_var_type": "learned_range", "loss_type": "mse"},
            "model_input_keys": {"low_res": "lq", "corruption_factor": "corruption_entropy"}, "out": "gen",
        },
        **changes,
    }  # fmt: skip


def run_dlas(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, **changes: Any) -> int:
    monkeypatch.chdir(tmp_path)
    save_trained("tiny")
    recipe = {
        "name": "measured",
        "device": "cpu",
        "path": {"pretrain_model_generator": "auto", "experiment": "tiny"},
        "eval": {"evaluators": {"fid": dlas(str(tmp_path / "photos"), **changes)}},
    }
    Path("r.yml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return test_command.main(["-opt", "r.yml"])


@pytest.mark.usefixtures("square")
def test_dlas_keys_alone_are_enough_where_its_network_can_be_had(
    tmp_path: Path, features: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    remote = Remote(Path(features).as_uri(), feature_networks._hash(Path(features)))
    monkeypatch.setitem(feature_networks.KNOWN, "inception", remote)
    assert run_dlas(monkeypatch, tmp_path) == 0
    said = capsys.readouterr().err
    assert "evaluation fid: fid" in said
    assert "images 10" in said
    assert (tmp_path / "results/measured/evaluation.json").is_file()


@pytest.mark.usefixtures("square")
def test_without_a_feature_network_dlas_evaluator_stops_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(feature_networks.KNOWN, "inception", Remote("http://127.0.0.1:9/i.pt", "0" * 64))
    assert run_dlas(monkeypatch, tmp_path) == 2
    assert "feature_network: could not download http://127.0.0.1:9/i.pt" in capsys.readouterr().err
    assert run_dlas(monkeypatch, tmp_path, feature_network="gone.pt") == 2
    assert "eval.evaluators.fid.feature_network: no such file gone.pt" in capsys.readouterr().err


def test_all_images_are_measured_however_many_are_sampled_at_once(square: dict[str, Any], features: str) -> None:
    def fid(**changes: Any) -> dict[str, float]:
        own = evaluator("sr_diffusion_fid", **dlas(square["paths"], feature_network=features, **changes))
        return dict(own.evaluate(context()).metrics)

    metrics = fid()
    assert metrics["images"] == 10
    assert fid(batch_size=10)["fid"] == pytest.approx(metrics["fid"], rel=1e-3)


def test_what_does_not_fit_is_named_by_its_key(square: dict[str, Any], features: str) -> None:
    options = dlas(square["paths"], feature_network="https://example.org/n.pt")
    options["diffusion_params"] |= {"output_scale_factor": 4, "type": "generator"}
    read = EVALUATORS.get("sr_diffusion_fid").Options.model_validate(as_parsed(options))
    messages = {".".join(map(str, issue.path)): issue.message for issue in read.problems(context().networks)}
    assert "an address needs the SHA-256" in messages["feature_network.sha256"]
    assert "dataset makes lq at scale 2" in messages["diffusion_params.output_scale_factor"]
    assert "must be gaussian_diffusion_inference" in messages["diffusion_params.type"]
    options["diffusion_params"] |= {"type": "gaussian_diffusion_inference", "train": True}
    read = EVALUATORS.get("sr_diffusion_fid").Options.model_validate(as_parsed(options))
    assert any(issue.path == ("diffusion_params", "train") for issue in read.problems(context().networks))
    with pytest.raises(ValidationError) as caught:
        evaluator("fid", dataset=square, feature_network=features, kid_subsets=3)
    assert "belongs to KID" in str(caught.value.errors()[0]["ctx"]["issues"][0].message)


def as_parsed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: as_parsed(item) for key, item in value.items()}
    return tuple(as_parsed(item) for item in value) if isinstance(value, list) else value


def test_a_broken_network_is_named(square: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = evaluator("fid", dataset=square, feature_network=str(scripted(tmp_path / "p.pt", Plain())))
    monkeypatch.setattr(FeatureNetwork, "features", lambda _self, images: np.full((len(images), 3), np.nan))
    with pytest.raises(ConfigError, match=r"feature_network: .*p\.pt: features that are not finite"):
        own.evaluate(context())
