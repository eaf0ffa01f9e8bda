"""The ADM family: parity with the references, conditioning, patches, errors that name the cure."""

import logging

import pytest
import torch
import torch.nn.functional as F
from network_helpers import FAMILIES, SMALL, TOLERANCE, fill, golden_network, golden_parameter, noise, small_network
from pydantic import ValidationError

from codes.models.diffusion.checkpoints.metadata import build
from codes.models.diffusion.networks.base import NETWORKS
from codes.models.diffusion.networks.unet import UNetModel
from codes.utils import console

ADM_GOLDEN = ("adm_plain", "adm_class_updown_neworder", "dlas_num_corruptions2")
T = torch.tensor([3, 777])
X = noise(2, 3, 16, 24)
LOW_RES = noise(2, 3, 8, 12, seed=1)
FACTORS = torch.tensor([[0.25, 0.5], [0.75, 1.0]])


def conditional(which_model: str = "unet_diffusion", **options):
    return small_network(which_model, num_corruptions=2, **options)


@pytest.mark.parametrize("name", ADM_GOLDEN)
@pytest.mark.parametrize("channels_last", [False, True])
def test_equals_the_reference(name, channels_last):
    config, tensors, parameters = golden_network(name)
    network = build("unet_diffusion", config)
    assert list(network.state_dict()) == [entry[0] for entry in parameters]
    network.load_state_dict({entry[0]: golden_parameter(*entry) for entry in parameters})
    cond = {key[3:]: tensors[key] for key in tensors if key.startswith("in/") and key not in ("in/x", "in/t")}
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network, x = network.to(memory_format=layout), tensors["in/x"].contiguous(memory_format=layout)
    with torch.no_grad():
        torch.testing.assert_close(network(x, tensors["in/t"], **cond), tensors["out/y_hat"], **TOLERANCE)
        if "out/y_hat_no_corruption_factor" in tensors:
            output = network(x, tensors["in/t"], low_res=cond["low_res"])
            torch.testing.assert_close(output, tensors["out/y_hat_no_corruption_factor"], **TOLERANCE)


@pytest.mark.parametrize(
    "options",
    [
        {"use_scale_shift_norm": False},
        {"resblock_updown": True},
        {"conv_resample": False},
        {"use_new_attention_order": True, "num_head_channels": 16},
        {"channel_mult": [1, 1.5, 2], "model_channels": 64, "attention_resolutions": [2, 4]},
        {"num_heads_upsample": 2, "attention_resolutions": [1, 2]},
        {"num_classes": 10, "classifier_free": True},
        {"patch_size": 1, "out_channels": 3},
        {"num_corruptions": 0, "low_res_upsampling": "bicubic"},
        {"group_norm": "dlas", "model_channels": 48},
    ],
    ids="-".join,
)
def test_every_option_runs_and_trains(options):
    network = small_network(**options)
    cond = {}
    if "y" in network.cond_names:
        cond["y"] = torch.tensor([1, 10])
    if "low_res" in network.cond_names:
        cond["low_res"] = LOW_RES
    output = network(X, T, **cond)
    assert output.shape == (2, network.out_channels, 16, 24)
    assert output.dtype == torch.float32
    output.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_dropout_only_in_training():
    network = small_network(dropout=0.5)
    assert torch.equal(network(X, T), network(X, T))
    network.train()
    assert not torch.equal(network(X, T), network(X, T))


def test_samples_of_a_batch_do_not_mix():
    network = conditional()
    together = network(X, T, LOW_RES, FACTORS)
    alone = torch.cat([network(X[i : i + 1], T[i : i + 1], LOW_RES[i : i + 1], FACTORS[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(together, alone, **TOLERANCE)


def test_patched_output_has_mean_channels_first():
    network = small_network(filled=False)
    head = network.get_submodule("out.2")
    with torch.no_grad():
        # Channel index in a patch is (row * P + column) * channels + channel: channel 4 is the second variance channel.
        head.bias.copy_(torch.arange(24) % 6 == 4)
    output = network(X, T)
    assert output[:, 4].eq(1).all()
    assert output[:, [0, 1, 2, 3, 5]].eq(0).all()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_residual_starts_at_the_upsampled_low_resolution(family, mode):
    options = {"num_corruptions": 2, "residual_from_low_res": True, "low_res_upsampling": mode}
    network = small_network(family, filled=False, **options)
    output = network(X, T, LOW_RES, FACTORS)
    upsampled = F.interpolate(LOW_RES, (16, 24), mode=mode)
    torch.testing.assert_close(output[:, :3], upsampled)
    assert not output[:, 3:].isclose(upsampled).all()
    plain = small_network(family, **{**options, "residual_from_low_res": False})
    fill(network)
    difference = network(X, T, LOW_RES, FACTORS) - plain(X, T, LOW_RES, FACTORS)
    torch.testing.assert_close(difference, torch.cat([upsampled, torch.zeros_like(upsampled)], 1), **TOLERANCE)
    scaled = small_network(family, **options, residual_scale=0.125)
    fill(scaled)
    expected = upsampled + 0.125 * plain(X, T, LOW_RES, FACTORS)[:, :3]
    torch.testing.assert_close(scaled(X, T, LOW_RES, FACTORS)[:, :3], expected, **TOLERANCE)


def test_low_resolution_of_the_same_size_is_left_alone():
    network = conditional(residual_from_low_res=True, filled=False)
    same = noise(2, 3, 16, 24, seed=4)
    assert torch.equal(network(X, T, same, FACTORS)[:, :3], same)


def test_a_map_of_strengths_equals_numbers_where_constant():
    network = conditional()
    expected = network(X, T, LOW_RES, FACTORS)
    for size in ((16, 24), (4, 6)):
        maps = FACTORS[:, :, None, None].expand(2, 2, *size)
        torch.testing.assert_close(network(X, T, LOW_RES, maps), expected, **TOLERANCE)
    torch.testing.assert_close(network(X, T, LOW_RES), network(X, T, LOW_RES, torch.zeros(2, 2)), **TOLERANCE)
    assert not expected.isclose(network(X, T, LOW_RES)).all()


def test_extra_strengths_are_cut_with_one_warning(caplog, monkeypatch):
    monkeypatch.setattr(console, "_warned", set())
    monkeypatch.setattr(logging.getLogger("tessera"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("tessera"), "handlers", [])
    network = conditional()
    extra = torch.cat([FACTORS, torch.ones(2, 1)], dim=1)
    with caplog.at_level(logging.WARNING):
        outputs = [network(X, T, LOW_RES, extra) for _ in range(2)]
    torch.testing.assert_close(outputs[1], network(X, T, LOW_RES, FACTORS))
    assert len(caplog.records) == 1
    assert "the network takes 2" in caplog.text


@pytest.mark.parametrize(
    ("cond", "message"),
    [
        ({}, "conditioned on low_res"),
        ({"low_res": LOW_RES, "corruption_factor": FACTORS[:, :1]}, "1 strengths per sample, the network takes 2"),
        ({"low_res": LOW_RES[:1]}, "low_res has shape"),
        ({"low_res": LOW_RES, "y": T}, "given y but takes corruption_factor, low_res"),
        ({"low_res": LOW_RES, "corruption_factor": FACTORS[:1]}, "corruption_factor has shape"),
    ],
)
def test_wrong_conditioning_is_named(cond, message):
    with pytest.raises(ValueError, match=message):
        conditional()(X, T, **cond)


@pytest.mark.parametrize("family", FAMILIES)
def test_wrong_sizes_are_named(family):
    network = small_network(family)
    assert (network.multiple_of, network.minimum_size) == (4, 4)
    with pytest.raises(ValueError, match=r"16 x 22 pixels.*multiples of 4"):
        network(X[..., :22], T)
    with pytest.raises(ValueError, match="timesteps has shape"):
        network(X, T[:1])
    assert network(X[..., :4, :8], T).isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention_resolutions": [16]}, "attention_resolutions 16 is no level"),
        ({"model_channels": 40}, "choose a multiple of 32"),
        ({"num_heads": 3}, "3 heads does not divide"),
        ({"num_head_channels": 24}, "num_head_channels 24 does not divide"),
        ({"out_channels": 4}, "expected 3"),
        ({"residual_from_low_res": True}, "needs a low resolution"),
        ({"residual_scale": 0.5}, "set residual_from_low_res: true, or remove it"),
        ({"num_corruptions": 1, "low_res_conditioning": False}, "drop one"),
        ({"use_fp16": True}, "Input should be False"),
        ({"model_chanels": 32}, "Extra inputs"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    arguments = {key: tuple(value) if isinstance(value, list) else value for key, value in {**SMALL, **options}.items()}
    with pytest.raises(ValidationError, match=message):
        UNetModel.Options(**arguments)


@pytest.mark.parametrize("family", FAMILIES)
def test_checkpointing_gives_equal_gradients(family):
    plain, saving = small_network(family), small_network(family, use_checkpoint=True)
    for network in (plain, saving):
        network(X, T).square().mean().backward()
    for (name, expected), parameter in zip(plain.named_parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, expected.grad, msg=name)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("channels_last", [False, True])
def test_bfloat16_stays_near_float32(family, channels_last):
    network = small_network(family, num_corruptions=2)
    expected = network(X, T, LOW_RES, FACTORS)
    if channels_last:
        network = network.to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        output = network(X, T, LOW_RES, FACTORS)
    assert output.dtype == torch.float32
    assert (output - expected).abs().max() < 0.05 * expected.abs().max()
    output.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_a_network_of_half_the_precision_runs():
    network = small_network()
    expected = network(X, T)
    output = network.to(torch.bfloat16)(X, T)
    assert (output - expected).abs().max() < 0.05 * expected.abs().max()


def test_networks_are_registered_under_their_names():
    assert {NETWORKS.get(name).__name__ for name in FAMILIES} == {"UNetModel", "PatchUNetModel"}
