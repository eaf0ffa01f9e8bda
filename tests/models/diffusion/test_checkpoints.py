"""Checkpoints: recognition of the families, wrappers, safe loading, errors that explain, our own format."""

import io
import os
import pickle
import re
import sys

import pytest
import torch
from network_helpers import FAMILIES, TOLERANCE, golden_network, golden_parameter, noise, small_network

from codes.models.diffusion.checkpoints.families import recognise
from codes.models.diffusion.checkpoints.files import read_weights
from codes.models.diffusion.checkpoints.metadata import (
    CheckpointMetadata,
    build,
    load_into,
    network_of,
    read_metadata,
    save_checkpoint,
)
from codes.scripts.inspect_checkpoint import main as inspect
from codes.utils.errors import ConfigError
from codes.version import __version__

NAMES = ("adm_plain", "adm_class_updown_neworder", "dlas_num_corruptions2", "patch_class_p4", "patch_superres_p4")
X, T = noise(2, 3, 16, 24), torch.tensor([3, 777])
PLAIN = CheckpointMetadata("unet_diffusion", {}, "raw", 7)


def golden_state(name):
    return {entry[0]: golden_parameter(*entry) for entry in golden_network(name)[2]}


class Intruder:
    """Unpickling this would create a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("name", NAMES)
def test_a_reference_checkpoint_tells_its_options(name):
    config = golden_network(name)[0]
    recognised = recognise(golden_state(name))
    assert recognised is not None
    assert recognised.which_model == ("patch_diffusion_unet" if "patch" in name else "unet_diffusion")
    cannot_be_told = {"image_size", "num_heads", "num_head_channels", "use_new_attention_order", "dropout"}
    for key in set(config) - cannot_be_told - {"num_heads_upsample", "classifier_free", "use_new_attention_order"}:
        assert recognised.options[key] == config[key], key
    assert set(recognised.guesses) >= {"image_size", "use_new_attention_order"}
    network = build(recognised.which_model, {**recognised.options, "num_head_channels": -1, "num_heads": 4})
    assert {k: v.shape for k, v in network.state_dict().items()} == {k: v.shape for k, v in golden_state(name).items()}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "options",
    [
        {"channel_mult": [1, 1.5, 2], "model_channels": 64, "attention_resolutions": [4], "num_res_blocks": 2},
        {"resblock_updown": True, "channel_mult": [1, 1, 2], "attention_resolutions": [2, 4]},
        {"conv_resample": False, "channel_mult": [1, 1], "attention_resolutions": []},
        {"num_corruptions": 3, "use_scale_shift_norm": False},
        {"channel_mult": [2], "attention_resolutions": [1]},
    ],
)
def test_recognition_of_many_shapes(family, options):
    network = small_network(family, **options)
    recognised = recognise(network.state_dict())
    rebuilt = build(recognised.which_model, {**recognised.options, "num_head_channels": -1, "num_heads": 4})
    assert {k: v.shape for k, v in rebuilt.state_dict().items()} == {
        k: v.shape for k, v in network.state_dict().items()
    }
    for key, value in options.items():
        assert recognised.options[key] == value, key


def test_what_is_neither_family_is_not_recognised():
    assert recognise({"weight": torch.zeros(3)}) is None
    classifier = {k: v for k, v in golden_state("adm_plain").items() if not k.startswith("out.2")}
    assert recognise(classifier) is None


@pytest.mark.parametrize("wrapper", ["", "state_dict", "params_ema", "model", "ema"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_wrappers_prefixes_and_half_precision(tmp_path, wrapper, prefix):
    network = small_network()
    state = {prefix + name: value.half() for name, value in network.state_dict().items()}
    content = {wrapper: state, "epoch": 3} if wrapper else state
    torch.save(content, tmp_path / "theirs.pth")
    other = small_network(filled=False)
    report = load_into(other, tmp_path / "theirs.pth")
    assert (report.wrapper, report.precision, report.complete) == (wrapper, "float16", True)
    for name, value in network.state_dict().items():
        assert other.state_dict()[name].dtype == torch.float32
        torch.testing.assert_close(other.state_dict()[name], value, rtol=1e-3, atol=1e-4)


def test_averaged_weights_come_first(tmp_path):
    network = small_network()
    ema = {name: value + 1 for name, value in network.state_dict().items()}
    torch.save({"model": network.state_dict(), "ema": ema}, tmp_path / "both.pt")
    assert torch.equal(read_weights(tmp_path / "both.pt").state_dict["out.2.bias"], ema["out.2.bias"])


@pytest.mark.parametrize("family", FAMILIES)
def test_our_own_checkpoint_needs_no_options(tmp_path, family):
    network = small_network(family, num_corruptions=2, residual_from_low_res=True).to(memory_format=torch.channels_last)
    process = {"model_mean_type": "start_x"}
    metadata = CheckpointMetadata.of(network, "ema", 1200, process)
    save_checkpoint(tmp_path / "1200.safetensors", network.state_dict(), metadata)
    read = read_metadata(tmp_path / "1200.safetensors")
    assert read == metadata
    assert (read.which_model, read.kind, read.iteration, read.process) == (family, "ema", 1200, process)
    assert read.tessera_version == __version__
    rebuilt = network_of(read).eval()
    assert load_into(rebuilt, tmp_path / "1200.safetensors").complete
    assert rebuilt.options == network.options
    low_res = noise(2, 3, 8, 12, seed=1)
    torch.testing.assert_close(rebuilt(X, T, low_res), network(X, T, low_res), **TOLERANCE)
    assert [path.name for path in tmp_path.iterdir()] == ["1200.safetensors"]


def test_a_pth_is_a_bare_state_dict(tmp_path):
    network = small_network()
    save_checkpoint(tmp_path / "7_generator.pth", network.state_dict(), PLAIN)
    bare = torch.load(tmp_path / "7_generator.pth", weights_only=True)
    assert list(bare) == list(network.state_dict())
    assert read_metadata(tmp_path / "7_generator.pth") is None
    with pytest.raises(ConfigError, match="use the ending"):
        save_checkpoint(tmp_path / "7.zip", network.state_dict(), PLAIN)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_would_run_code_is_refused(tmp_path, legacy):
    path, trace = tmp_path / "evil.pth", tmp_path / "trace"
    content = {"state_dict": small_network().state_dict(), "extra": Intruder(str(trace))}
    if legacy:
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    with pytest.raises(ConfigError, match="would run code") as caught:
        read_weights(path)
    assert not trace.exists()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("kept", [0, 100, 20_000])
def test_a_file_cut_short_is_named(tmp_path, suffix, kept):
    path = tmp_path / f"cut{suffix}"
    save_checkpoint(path, small_network().state_dict(), PLAIN)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ConfigError, match=r"cut\.\w+ is (damaged|refused)") as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)


def test_files_that_hold_no_weights_are_named(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    (tmp_path / "notes.txt").write_text("hello")
    for name, message in (
        ("empty.pth", "holds no weights"),
        ("notes.txt", "ends in"),
        ("absent.pth", "does not exist"),
    ):
        with pytest.raises(ConfigError, match=message):
            read_weights(tmp_path / name)


def test_what_does_not_fit_is_listed(tmp_path):
    save_checkpoint(tmp_path / "patch.pth", small_network("patch_diffusion_unet").state_dict(), PLAIN)
    with pytest.raises(ConfigError, match="the file holds") as caught:
        load_into(small_network(), tmp_path / "patch.pth")
    text = str(caught.value)
    assert "missing (" in text
    assert "unexpected (" in text
    assert "found [" in text
    assert "patch_diffusion_unet" in text
    assert "\n" not in text


def test_loose_loading_takes_what_fits(tmp_path):
    wider = small_network(out_channels=3)
    save_checkpoint(tmp_path / "three.pth", wider.state_dict(), PLAIN)
    network = small_network(filled=False)
    report = load_into(network, tmp_path / "three.pth", strict=False)
    assert set(report.mismatched) == {"out.2.weight", "out.2.bias"}
    assert report.loaded == len(wider.state_dict()) - 2
    assert torch.equal(network.state_dict()["input_blocks.0.0.bias"], wider.state_dict()["input_blocks.0.0.bias"])
    torch.save({"other": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(ConfigError, match="does not fit"):
        load_into(network, tmp_path / "other.pth", strict=False)


def test_metadata_of_others_is_not_ours():
    assert CheckpointMetadata.from_strings({"format": "pt"}) is None
    with pytest.raises(ConfigError, match="options of unet_diffusion do not fit"):
        network_of(PLAIN)


def test_inspection_prints_options_to_paste(tmp_path, monkeypatch):
    yaml = pytest.importorskip("yaml")
    torch.save(golden_state("dlas_num_corruptions2"), tmp_path / "dlas.pth")
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    assert inspect([str(tmp_path / "dlas.pth")]) == 0
    text = out.getvalue()
    assert "family: DL-Art-School" in text
    assert "758,470 parameters" in text
    network = yaml.safe_load(text[text.index("networks:") :])["networks"]["generator"]
    assert network["args"]["num_corruptions"] == 2
    assert load_into(build(network["which_model_G"], network["args"]), tmp_path / "dlas.pth").complete


def test_inspection_of_a_bad_file_ends_with_code_2(tmp_path, capsys):
    (tmp_path / "bad.pth").write_bytes(b"not a checkpoint")
    assert inspect([str(tmp_path / "bad.pth")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1


def test_the_published_64_pixel_model_is_known_by_its_sizes():
    options = {
        "image_size": 64, "in_channels": 3, "out_channels": 6, "model_channels": 192, "num_res_blocks": 3,
        "attention_resolutions": [2, 4, 8], "channel_mult": [1, 2, 3, 4], "num_classes": 1000, "resblock_updown": True,
        "num_head_channels": 64, "use_scale_shift_norm": True, "use_new_attention_order": True,
    }  # fmt: skip
    with torch.device("meta"):
        network = build("unet_diffusion", options)
    recognised = recognise(network.state_dict())
    assert {key: recognised.options[key] for key in options} == options
    assert "64 px" in recognised.guesses["use_new_attention_order"]


@pytest.mark.parametrize("conditioned", [True, False])
def test_the_rule_of_normalisation_is_a_guess_where_the_widths_do_not_tell_it(conditioned):
    """DL-Art-School normalises narrow levels in fewer groups; its networks without corruptions look like ADM's."""
    changes = {"num_corruptions": 2} if conditioned else {"num_corruptions": None, "low_res_conditioning": True}
    narrow = recognise(small_network("unet_diffusion", model_channels=32, channel_mult=[1, 2], **changes).state_dict())
    assert narrow.options["group_norm"] == ("dlas" if conditioned else "adm")
    assert "DL-Art-School" in narrow.guesses["group_norm"]
    wide = recognise(small_network("unet_diffusion", model_channels=96, channel_mult=[1, 2], **changes).state_dict())
    assert wide.options["group_norm"] == "adm"
    assert "group_norm" not in wide.guesses
    sizes = {"model_channels": 48, "channel_mult": [1, 2], "group_norm": "dlas"}
    odd = recognise(small_network("unet_diffusion", **sizes, **changes).state_dict())
    assert odd.options["group_norm"] == "dlas"
    assert "group_norm" not in odd.guesses


@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_that_lacks_any_one_tensor_says_which(tmp_path, family):
    network = small_network(family)
    for name in network.state_dict():
        torch.save({key: value for key, value in network.state_dict().items() if key != name}, tmp_path / "part.pth")
        with pytest.raises(ConfigError, match=re.escape(name)):
            load_into(network, tmp_path / "part.pth", strict=True)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 26470720\n",
            "a pointer of Git LFS.*git lfs pull",
        ),
        (b"<!DOCTYPE html>\n<html>Not found</html>", "a web page, not a checkpoint"),
    ],
)
def test_what_a_file_is_instead_of_a_checkpoint_is_said(tmp_path, suffix, content, words):
    path = tmp_path / f"c{suffix}"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"c{suffix} is {words}"):
        read_weights(path)


def test_weights_of_whole_numbers_are_refused(tmp_path):
    network = small_network("unet_diffusion")
    torch.save({name: value.to(torch.int8) for name, value in network.state_dict().items()}, tmp_path / "c.pth")
    with pytest.raises(ConfigError, match=r"c\.pth: the weights \S+ are whole numbers \(int8\), as of a quantised"):
        load_into(network, tmp_path / "c.pth")
