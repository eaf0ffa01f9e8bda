"""The PatchDiffusion family: parity with the reference, variance head, class gate, positions, restoration."""

import pytest
import torch
from network_helpers import SMALL, TOLERANCE, golden_network, golden_parameter, noise, small_network
from pydantic import ValidationError

from codes.models.diffusion.checkpoints.metadata import build
from codes.models.diffusion.networks.patch_unet import PatchUNetModel

FAMILY = "patch_diffusion_unet"
T = torch.tensor([3, 777])
X = noise(2, 3, 16, 24)
LOW_RES = noise(2, 3, 8, 12, seed=1)


def loaded(name, **extra):
    config, tensors, parameters = golden_network(name)
    network = build(FAMILY, {**config, **extra})
    assert list(network.state_dict()) == [entry[0] for entry in parameters]
    network.load_state_dict({entry[0]: golden_parameter(*entry) for entry in parameters})
    return network, tensors


@pytest.mark.parametrize("channels_last", [False, True])
def test_class_network_equals_the_reference(channels_last):
    network, tensors = loaded("patch_class_p4")
    assert network.null_label == 10
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network, x = network.to(memory_format=layout), tensors["in/x"].contiguous(memory_format=layout)
    with torch.no_grad():
        output = network(x, tensors["in/t"], y=tensors["in/y"])
        unconditional = network(x, tensors["in/t"], y=torch.full_like(tensors["in/y"], network.null_label))
    torch.testing.assert_close(output, tensors["out/y_hat"], **TOLERANCE)
    torch.testing.assert_close(unconditional, tensors["out/y_hat_unconditional"], **TOLERANCE)


def test_super_resolution_network_equals_the_reference():
    network, tensors = loaded("patch_superres_p4", learn_sigma=False, low_res_conditioning=True)
    with torch.no_grad():
        output = network(tensors["in/x"], tensors["in/t"], low_res=tensors["in/low_res"])
    torch.testing.assert_close(output, tensors["out/y_hat"], **TOLERANCE)


@pytest.mark.parametrize(
    "options",
    [
        {"use_scale_shift_norm": False},
        {"resblock_updown": True},
        {"conv_resample": False, "channel_mult": [1, 1]},
        {"channel_mult": [1, 1.5, 2], "model_channels": 64, "attention_resolutions": [4]},
        {"channel_mult": [2, 1]},
        {"position_embedding": False},
        {"learn_sigma": False, "out_channels": 3},
        {"num_classes": 10},
        {"num_corruptions": 1, "num_classes": 10, "classifier_free": False},
    ],
    ids="-".join,
)
def test_every_option_runs_and_trains(options):
    network = small_network(FAMILY, **options)
    cond = {}
    if "y" in network.cond_names:
        cond["y"] = torch.tensor([1, 9])
    if "low_res" in network.cond_names:
        cond |= {"low_res": LOW_RES, "corruption_factor": torch.tensor([[0.2], [0.9]])}
    output = network(X, T, **cond)
    assert output.shape == (2, network.out_channels, 16, 24)
    output.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


@pytest.mark.parametrize("num_corruptions", [None, 2])
def test_variance_head_works_with_and_without_restoration(num_corruptions):
    network = small_network(FAMILY, num_corruptions=num_corruptions)
    cond = {} if num_corruptions is None else {"low_res": LOW_RES, "corruption_factor": torch.rand(2, 2)}
    output = network(X, T, **cond)
    variance = output[:, 3:]
    assert network.learns_variance
    assert (variance >= 0).all()
    assert (variance <= 1).all()
    assert variance.std() > 0
    variance.sum().backward()
    touched = {name.split(".")[0] for name, p in network.named_parameters() if p.grad is not None and p.grad.any()}
    assert touched == {"time_embed", "variance_output_t_emb", "variance_output_model"}


def test_every_class_has_its_own_gate():
    network = small_network(FAMILY, num_classes=4)
    assert network.label_embs.num_embeddings == 5
    same = X[:1].expand(2, -1, -1, -1)
    first, second = network(same, T[:1].expand(2), y=torch.tensor([0, 4]))
    assert not first.isclose(second).all()
    with pytest.raises(ValueError, match="conditioned on y"):
        network(X, T)


def test_positions_can_be_left_out():
    with_positions, without = small_network(FAMILY), small_network(FAMILY, position_embedding=False)
    assert not with_positions(X, T).isclose(without(X, T)).all()
    # Away from the borders a constant image gives the same everywhere only without positions.
    constant = torch.full((2, 3, 96, 104), 0.5)
    spread = [n(constant, T)[:, :3, 48:52:2, 40:60:4].std(dim=(2, 3)).max() for n in (with_positions, without)]
    assert spread[1] < 1e-2 * spread[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"out_channels": 3}, "set out_channels: 6 or learn_sigma: false"),
        ({"conv_resample": False}, "set resblock_updown: true"),
    ],
)
def test_contradictions_are_refused(options, message):
    arguments = {key: tuple(value) if isinstance(value, list) else value for key, value in {**SMALL, **options}.items()}
    with pytest.raises(ValidationError, match=message):
        PatchUNetModel.Options(**arguments)
