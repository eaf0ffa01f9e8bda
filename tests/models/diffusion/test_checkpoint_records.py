"""Checkpoints of ours whose record of themselves is wrong: one line with the file's name, never another error."""

import json
import math
import subprocess
import sys

import pytest
import torch
from record_helpers import DATA, NETWORK, PROCESS
from safetensors.torch import save_file

from codes.inference.restorer import Restorer
from codes.models.diffusion.checkpoints.files import read_weights
from codes.models.diffusion.checkpoints.metadata import CheckpointMetadata, build, network_of, read_metadata
from codes.utils.errors import ConfigError

DEEP = "[" * 5000 + "]" * 5000


@pytest.fixture(scope="module")
def network():
    return build("unet_diffusion", NETWORK)


@pytest.fixture
def write(tmp_path, network):
    def put(**changes):
        good = CheckpointMetadata.of(network, "ema", 5, PROCESS, DATA).to_strings()
        path = tmp_path / "c.safetensors"
        save_file(network.state_dict(), path, {key: value for key, value in {**good, **changes}.items() if value})
        return path

    return put


def args(**changes):
    return json.dumps({"which_model": "unet_diffusion", "args": {**NETWORK, **changes}})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"network": "nonsense"}, "its record of itself is damaged: no JSON"),
        ({"network": "5"}, "damaged: network: expected a mapping"),
        ({"network": None}, "damaged: network: missing"),
        ({"network": DEEP}, "damaged: nested too deep"),
        ({"network": '{"which_model": 5, "args": {}}'}, "damaged: network.which_model: expected text, found 5"),
        ({"network": '{"which_model": "unet_diffusion", "args": [1]}'}, "damaged: network.args: expected a mapping"),
        ({"network": '{"which_model": "elsewhere", "args": {}}'}, "unknown network 'elsewhere'"),
        ({"network": args(image_size="big")}, "image_size: expected a whole number, found 'big'"),
        ({"network": args(channel_mult=[1, -2])}, "channel_mult"),
        ({"network": args(channel_mult=5)}, "channel_mult"),
        ({"network": args(num_res_blocks=10**12)}, "num_res_blocks"),
        ({"network": args(num_res_blocks=64, channel_mult=[1] * 12)}, "blocks"),
        ({"network": args(model_channels=8192, channel_mult=[4, 4])}, "a network of .* parameters, where"),
        ({"network": args(surprise=1)}, "surprise: unknown key"),
        ({"process": "[]"}, "damaged: process: expected a mapping"),
        ({"process": '{"beta_schedule": 5}'}, "its record of the process: beta_schedule: expected a mapping"),
        ({"process": '{"beta_schedule": {"num_diffusion_timesteps": 1e30}}'}, "num_diffusion_timesteps"),
        ({"process": '{"diffusion_args": {"model_mean_type": ["v"]}}'}, "record of the process: diffusion_args"),
        ({"process": '{"diffusion_args": {"min_snr_gamma": NaN}}'}, "record of the process: diffusion_args"),
        ({"process": f'{{"diffusion_args": {DEEP}}}'}, "nested too deep"),
        ({"data": '{"scale": "two"}'}, "damaged: data.scale: expected a whole number, found 'two'"),
        ({"data": '{"scale": -2}'}, "damaged: data.scale"),
        ({"data": '{"scale": true}'}, "damaged: data.scale"),
        ({"data": '{"corruptions": [1, 2]}'}, "damaged: data.corruptions.0: expected text, found 1"),
        ({"data": '{"corruptions": "jpeg"}'}, "damaged: data.corruptions: expected a list"),
        ({"data": "null"}, "damaged: data"),
        ({"iteration": "soon"}, "damaged: no JSON"),
        ({"iteration": "-3"}, "damaged: iteration"),
        ({"kind": "best"}, "damaged: kind"),
        ({"kind": None}, "damaged: kind"),
    ],
)  # fmt: skip
def test_a_wrong_record_is_one_line_with_the_name_of_the_file(write, changes, said):
    path = write(**changes)
    with pytest.raises(ConfigError, match=said) as caught:
        Restorer.from_checkpoint(path, device="cpu")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_a_record_of_a_later_version_may_say_more_of_the_data(write):
    path = write(data=json.dumps({**DATA, "photographs": 400}))
    metadata = read_metadata(path)
    assert (metadata.scale, metadata.corruptions) == (2, ("jpeg", "gaussian_blur"))
    assert Restorer.from_checkpoint(path, device="cpu").corruptions == ("jpeg", "gaussian_blur")


def test_a_network_far_larger_than_its_file_is_not_built(write):
    """An honest file lacks no more than a tensor or two; 500 million parameters would ask for 2 GB first."""
    metadata = read_metadata(write(network=args(model_channels=1024, channel_mult=[2, 2])))
    with pytest.raises(ConfigError, match=r"c\.safetensors: a network of [0-9,]+ parameters, where 1[0-9,]+ are"):
        network_of(metadata)


def test_a_mapping_that_contains_itself_comes_to_an_end(tmp_path):
    content: dict = {}
    content["model"] = content
    torch.save(content, tmp_path / "self.pth")
    with pytest.raises(ConfigError, match=r"self\.pth holds no weights"):
        read_weights(tmp_path / "self.pth")


@pytest.mark.parametrize(
    "value",
    [
        torch.zeros(1).half().expand(2**20, 2**20),
        torch.zeros(3, 3).to_sparse(),
        torch.zeros(3, dtype=torch.complex64),
        torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8),
    ],
    ids=["2 TB of one number", "sparse", "complex", "quantised"],
)  # fmt: skip
def test_tensors_that_no_network_holds_are_refused(tmp_path, value):
    torch.save({"odd": value, "plain": torch.zeros(2)}, tmp_path / "odd.pth")
    with pytest.raises(ConfigError, match=r"odd\.pth is refused: odd is no plain tensor"):
        read_weights(tmp_path / "odd.pth")


def test_the_header_counts_the_numbers_of_a_file(write, network):
    assert read_metadata(write()).held == sum(math.prod(value.shape) for value in network.state_dict().values())


def test_networks_with_classes_are_measured_without_torchs_compiler():
    """Its import takes seconds, and `nn.Embedding` asks for it on the meta device."""
    code = """
import sys
from codes.models.diffusion.checkpoints.metadata import build
for which in ("unet_diffusion", "patch_diffusion_unet"):
    network = build(which, dict(image_size=16, in_channels=3, out_channels=6, model_channels=32, num_classes=5,
                                num_heads=2, classifier_free=False, num_res_blocks=1, channel_mult=[1, 2],
                                attention_resolutions=[2]))
    table = next(value for name, value in network.named_parameters() if "label" in name)
    print(table.requires_grad, len(table), round(table.std().item()))
print("torch._dynamo" in sys.modules)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.stdout.split() == ["True", "5", "1", "True", "5", "1", "False"], ran.stderr
