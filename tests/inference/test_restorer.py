"""The library: equal to what test.py writes; strengths, options, seeds, threads, checkpoints, errors."""

import io
import json
import logging
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from restorer_helpers import KNOWN, NETWORK, PROCESS, STRENGTHS, network, picture, write_weights

import codes
from codes import ConfigError, Restorer, SamplingOptions
from codes import test as test_command
from codes.config.yaml_source import load_source
from codes.data.corruptions.all import CORRUPTIONS
from codes.data.corruptions.strength import strength_of_quality
from codes.inference.restorer import DEFAULTS
from codes.models.diffusion.checkpoints.metadata import CheckpointMetadata
from codes.models.diffusion.process_options import BetaScheduleOptions, ProcessOptions
from codes.recipe.recipe import read_recipe
from codes.trainer.saving.saving import data_of

TEMPERATURE = DEFAULTS.temperature  # that a call has without being told
RECIPE = {
    "name": "run", "scale": 2, "device": "cpu", "seed": 3,
    "datasets": {"test": {
        "mode": "imagefolder", "paths": "small", "skip_lq": True, "rgb_n1_to_1": True,
        "fixed_corruptions": ["jpeg", "gaussian_blur"], "fixed_parameters": {"corruption_entropy": ["auto", 0.5]},
    }},
    "path": {"pretrain_model_generator": "weights.safetensors"},
    "steps": {"restore": {"injectors": {"detail": {
        "type": "gaussian_diffusion_inference", "generator": "generator", "output_scale_factor": 2,
        "model_input_keys": {"low_res": "hq", "corruption_factor": "corruption_entropy"},
        "respaced_timestep_spacing": "karras3", "sampler": "ddim", "temperature": TEMPERATURE, "out": "restored",
    }}}},
}  # fmt: skip


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_weights(tmp_path_factory.mktemp("weights") / "weights.safetensors", KNOWN)


@pytest.fixture(scope="module")
def restorer(weights):
    return Restorer.from_checkpoint(weights, device="cpu")


def test_strengths_by_name_in_order_for_all_and_as_maps_agree(restorer):
    def run(strengths):
        return restorer(picture(), strengths, steps=2)

    named = run({"gaussian_blur": 0.5, "jpeg": 0.2})
    for same in ([0.2, 0.5], np.array([0.2, 0.5]), {"jpeg": np.full((18, 27), 0.2), "gaussian_blur": 0.5}):
        assert np.abs(run(same).astype(int) - named).max() <= 1
    assert np.array_equal(run({"jpeg": 0.3}), run([0.3, 0]))
    assert np.array_equal(run(0.4), run([0.4, 0.4]))
    assert np.array_equal(run(None), run([0, 0]))
    assert not np.array_equal(run(None), named)
    half = np.zeros((18, 27))
    half[:, 20:] = 0.9
    tiled = {"steps": 2, "options": {"tile": 32}}  # a tile of all of it would see the map as a whole
    changed = restorer(picture(), {"jpeg": half}, **tiled) != restorer(picture(), None, **tiled)
    left, right = np.split(changed.any(axis=2), [24], axis=1)
    assert right.mean() > 3 * left.mean()


@pytest.mark.parametrize(
    ("strengths", "error", "said"),
    [
        ({"jpg": 0.2}, ValueError, "did you mean jpeg"),
        ([0.1], ValueError, r"expected 2, .*\(jpeg, gaussian_blur\), found 1"),
        ({"jpeg": 1.2}, ValueError, "jpeg: expected 0 to 1, found 1.2"),
        (float("nan"), ValueError, "found nan"),
        ({"jpeg": np.zeros((3, 3))}, ValueError, r"size \(18, 27\), found shape \(3, 3\)"),
        ({"gaussian_blur": "auto"}, ValueError, "auto cannot be read for gaussian_blur"),
        ({"jpeg": "much"}, TypeError, "found 'much'"),
    ],
)
def test_unsuitable_strengths_are_refused(restorer, strengths, error, said):
    with pytest.raises(error, match=said):
        restorer(picture(), strengths, steps=1)


def test_auto_reads_the_tables_of_a_jpeg_and_falls_back_to_the_default(restorer):
    buffer = io.BytesIO()
    Image.fromarray(picture(40, 48)).save(buffer, "JPEG", quality=20)
    opened = Image.open(buffer)
    strength = strength_of_quality(CORRUPTIONS.get("jpeg"), 20)
    restored = restorer(opened, {"jpeg": "auto"}, steps=1)
    assert np.array_equal(restored, restorer(np.asarray(opened), {"jpeg": strength}, steps=1))
    plain = restorer(picture(), {"jpeg": "auto"}, steps=1, auto_default=0.7)
    assert np.array_equal(plain, restorer(picture(), {"jpeg": 0.7}, steps=1))


def test_options_in_short_by_key_and_as_a_whole_agree(restorer):
    short = restorer(picture(), STRENGTHS, steps=4, sampler="ancestral", stop_at_snr=2)
    keys = {"respaced_timestep_spacing": "karras4", "sampler": "ancestral", "stop_at_snr": 2.0}
    assert np.array_equal(short, restorer(picture(), STRENGTHS, options=keys))
    whole = SamplingOptions(**keys, temperature=TEMPERATURE)
    assert np.array_equal(short, restorer(picture(), STRENGTHS, options=whole))
    assert not np.array_equal(short, restorer(picture(), STRENGTHS, steps=4))
    early = Restorer(restorer.network, PROCESS, scale=2, options=SamplingOptions(**keys, temperature=TEMPERATURE))
    everything = early(picture(), [*STRENGTHS.values()], stop_at_snr=float("inf"))
    assert np.array_equal(everything, restorer(picture(), STRENGTHS, steps="karras4", sampler="ancestral"))
    assert not np.array_equal(everything, short)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"steps": "many"}, "'many' is not understood"),
        ({"sampler": "ddmi"}, "did you mean ddim"),
        ({"sampler": "ancestral", "eta": 0.5}, "eta belongs to the sampler ddim"),
        ({"options": {"tiel": 32}}, "tiel: unknown key .did you mean tile"),
        ({"options": {"tile": 30}}, "needs a multiple of 8; use 32"),
        ({"options": {"canvas": "disk"}}, "works in memory"),
        ({"options": {"use_ema": False}}, "the weights of its file"),
        ({"options": {"guidance_scale": 2.0}}, "nothing to leave out"),
    ],
)
def test_unsuitable_options_are_config_errors_of_one_line(restorer, arguments, said):
    with pytest.raises(ConfigError, match=said) as raised:
        restorer(picture(), STRENGTHS, **arguments)
    assert "\n" not in str(raised.value)


def test_tiles_change_no_more_than_they_must(weights):
    untiled = Restorer.from_checkpoint(weights, "cpu", tile=0)(picture(40, 48), STRENGTHS, steps=2)
    one_by_one = Restorer.from_checkpoint(weights, "cpu", tile=32, tile_overlap=16, tile_batch_size=1)
    many = Restorer.from_checkpoint(weights, "cpu", tile=32, tile_overlap=16, tile_batch_size=9)
    tiled = one_by_one(picture(40, 48), STRENGTHS, steps=2)
    assert tiled.shape == untiled.shape == (80, 96, 3)
    assert not np.array_equal(tiled, untiled)
    assert np.abs(tiled.astype(int) - many(picture(40, 48), STRENGTHS, steps=2)).max() <= 1


def test_the_seed_makes_the_noise(restorer):
    first = restorer(picture(), STRENGTHS, steps=2, seed=1)
    assert np.array_equal(first, restorer(picture(), STRENGTHS, steps=2, seed=1))
    others = [{"seed": 2}, {"seed": 1, "name": "a.png"}, {"seed": 1, "name": "b.png"}, {"seed": 1, "sample": 1}]
    different = {restorer(picture(), STRENGTHS, steps=2, **other).tobytes() for other in others}
    assert len(different | {first.tobytes()}) == 5


def test_equal_to_what_the_command_writes(restorer, weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("small").mkdir()
    Path("weights.safetensors").symlink_to(weights)
    rgba = np.dstack([picture(20, 28), picture(20, 28, seed=1)[..., 0]])
    Image.fromarray(rgba[..., :3]).save("small/colour.png")
    Image.fromarray(rgba).save("small/clear.png")
    Image.fromarray(rgba[..., 0]).save("small/gray.png")
    Image.fromarray(rgba[..., 0].astype(np.uint16) * 257).save("small/deep.png")
    Image.fromarray(picture(40, 48)).save("small/photo.jpg", quality=35)
    Path("infer.yml").write_text(json.dumps(RECIPE))
    assert test_command.main(["-opt", "infer.yml"]) == 0
    for file in sorted(Path("small").iterdir()):
        with Image.open(file) as image, Image.open(f"results/run/test/{file.stem}.png") as written:
            strengths = {"jpeg": "auto", "gaussian_blur": 0.5}
            result = restorer(image, strengths, steps=3, seed=3, name=file.name)
            assert result.mode == written.mode, file
            assert np.array_equal(np.asarray(result), np.asarray(written)), file


def test_colours_come_from_the_input_on_request(restorer):
    image = picture()
    plain, fixed = (
        restorer(image / 255, STRENGTHS, steps=2, temperature=1.0, color_fix=kind) for kind in ("none", "lowfreq")
    )
    wanted = (image / 255).mean((0, 1))
    assert np.abs(fixed.mean((0, 1)) - wanted).max() < 0.4 * np.abs(plain.mean((0, 1)) - wanted).max()
    with pytest.raises(ConfigError, match="expected one of none, mean, wavelet, lowfreq, found 'warm'"):
        restorer(image, STRENGTHS, color_fix="warm")


def test_progress_counts_to_the_end_and_may_cancel(restorer):
    seen = []
    rgba = np.dstack([picture(), picture(seed=1)[..., 0]])
    expected = restorer(rgba, STRENGTHS, steps=4, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1]
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert len({total for _, total in seen}) == 1

    class Cancelled(Exception):
        pass

    def cancel(done, _):
        if done > seen[0][0]:
            raise Cancelled

    with pytest.raises(Cancelled):
        restorer(rgba, STRENGTHS, steps=4, progress=cancel)
    assert np.array_equal(restorer(rgba, STRENGTHS, steps=4), expected)


def test_threads_do_not_disturb_each_other(restorer):
    images = [picture(seed=seed) for seed in range(4)]
    expected = [restorer(image, STRENGTHS, steps=3, seed=seed) for seed, image in enumerate(images)]
    restored = [None] * len(images)

    def work(index):
        restored[index] = restorer(images[index], STRENGTHS, steps=3, seed=index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(images))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(one, other) for one, other in zip(restored, expected, strict=True))


def test_nothing_is_left_behind(weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    handlers = [*logging.getLogger("tessera").handlers], [*logging.getLogger().handlers]
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002 - looked at, not used
    Restorer.from_checkpoint(weights, "cpu")(picture(), STRENGTHS, steps=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002
    assert ([*logging.getLogger("tessera").handlers], [*logging.getLogger().handlers]) == handlers
    assert not list(tmp_path.iterdir())


def test_training_records_what_a_restorer_needs():
    recipe = Path(__file__).resolve().parents[2] / "recipes" / "diffusion" / "train_sr.yml"
    assert data_of(read_recipe(load_source(str(recipe), []))) == KNOWN
    metadata = CheckpointMetadata("unet_diffusion", NETWORK, "ema", 5, data=KNOWN)
    assert CheckpointMetadata.from_strings(metadata.to_strings()) == metadata
    older = {key: value for key, value in metadata.to_strings().items() if key != "data"}
    assert CheckpointMetadata.from_strings(older).data == {}


def test_older_checkpoints_need_scale_and_names(tmp_path):
    path = write_weights(tmp_path / "old.safetensors")
    with pytest.raises(ConfigError, match="does not record its scale"):
        Restorer.from_checkpoint(path, "cpu")
    unnamed = Restorer.from_checkpoint(path, "cpu", scale=3)
    assert unnamed(picture(), [0.2, 0.5], steps=1).shape == (54, 81, 3)
    with pytest.raises(ValueError, match=r"load it with corruptions=\[...\]"):
        unnamed(picture(), STRENGTHS, steps=1)
    named = Restorer.from_checkpoint(path, "cpu", scale=2, corruptions=["jpeg", "gaussian_blur"])
    assert named(picture(), STRENGTHS, steps=1).shape == (36, 54, 3)


def test_a_network_without_strengths(tmp_path):
    path = write_weights(
        tmp_path / "plain.safetensors", {"scale": 2, "corruptions": []},
        {"num_corruptions": None, "low_res_conditioning": True, "group_norm": "dlas"},
    )  # fmt: skip
    restorer = Restorer.from_checkpoint(path, "cpu")
    assert restorer(picture(), steps=1).shape == (36, 54, 3)
    with pytest.raises(ValueError, match="told none"):
        restorer(picture(), 0.5, steps=1)


def test_a_network_of_ones_own(restorer):
    own = Restorer(network(), PROCESS, scale=2, corruptions=["jpeg", "gaussian_blur"], device="cpu")
    assert np.array_equal(own(picture(), STRENGTHS, steps=2), restorer(picture(), STRENGTHS, steps=2))
    with pytest.raises(ConfigError, match="nothing says under which process"):
        Restorer(network(), None, scale=2, device="cpu")(picture())
    short = ProcessOptions(beta_schedule=BetaScheduleOptions(num_diffusion_timesteps=20))
    with pytest.raises(ConfigError, match="no signal left"):
        Restorer(network(), short, scale=2, device="cpu")
    with pytest.raises(ConfigError, match="restores no images"):
        Restorer(network({"num_corruptions": None, "group_norm": "dlas"}), PROCESS, scale=2, device="cpu")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"device": "gpu"}, "expected auto, cpu, cuda, cuda:N or mps, found 'gpu'"),
        ({"precision": "fp8"}, "expected one of .*, found 'fp8'"),
        ({"scale": 0}, "was trained with 2, found 0"),
        (
            {"corruptions": ["jpeg"]},
            "corruptions: checkpoint .* was trained with jpeg, gaussian_blur, found jpeg; leave",
        ),
        ({"corruptions": ["gaussian_blur", "jpeg"]}, "was trained with jpeg, gaussian_blur, found gaussian_blur, jpeg"),
        ({"scale": 3}, "scale: checkpoint .* was trained with 2, found 3; leave scale out"),
        ({"tile": -1}, "tile: expected greater than or equal to 0"),
    ],
)
def test_a_restorer_that_cannot_be(weights, arguments, said):
    with pytest.raises(ConfigError, match=said):
        Restorer.from_checkpoint(weights, **{"device": "cpu", **arguments})


def test_files_that_hold_no_network(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        Restorer.from_checkpoint(tmp_path / "none.safetensors")
    torch.save(network().state_dict(), tmp_path / "bare.pth")
    with pytest.raises(ConfigError, match="does not say what network it holds"):
        Restorer.from_checkpoint(tmp_path / "bare.pth")


def test_lower_precision_stays_close(weights, restorer):
    half = Restorer.from_checkpoint(weights, "cpu", precision="bf16")(picture(), STRENGTHS, steps=2)
    full = restorer(picture(), STRENGTHS, steps=2)
    assert not np.array_equal(half, full)
    assert np.abs(half.astype(int) - full).mean() < 8


def test_importing_the_package_loads_no_library():
    text = "import sys, codes; assert 'torch' not in sys.modules and 'numpy' not in sys.modules; print(dir(codes))"
    run = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True, timeout=60)
    assert "'Restorer'" in run.stdout
    with pytest.raises(AttributeError, match="no attribute 'Restore'"):
        _ = codes.Restore


def test_a_call_passes_through_the_engine_and_not_through_the_graph(restorer):
    called = set()

    def note(frame, event, _):
        if event == "call":
            called.add(frame.f_globals.get("__name__", ""))

    sys.setprofile(note)
    try:
        restorer(picture(), STRENGTHS, steps=1)
    finally:
        sys.setprofile(None)
    assert "codes.models.diffusion.engine" in called
    assert not [name for name in called if name.startswith(("codes.graph", "codes.recipe", "codes.data.imagefolder"))]


def test_one_step_is_the_mean_from_full_noise_unless_a_temperature_is_given(restorer):
    image = picture()
    one = restorer(image, STRENGTHS, steps=1)
    assert np.array_equal(one, restorer(image, STRENGTHS, steps="trailing1", temperature=1.0))
    assert not np.array_equal(one, restorer(image, STRENGTHS, steps="trailing1"))
    cool = restorer(image, STRENGTHS, steps="trailing1", temperature=0.2)
    assert np.array_equal(cool, restorer(image, STRENGTHS, steps=1, temperature=0.2))
    assert np.array_equal(cool, restorer(image, STRENGTHS, steps=1, options={"temperature": 0.2}))
