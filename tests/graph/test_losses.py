"""Losses between two images: pixel by pixel, and through a network of the user's."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from codes.graph.graph import LOSSES, StepContext
from codes.graph.losses.perceptual import PerceptualLoss, PerceptualLossOptions
from codes.graph.losses.pixel import PixelLoss, PixelLossOptions
from codes.utils.errors import ConfigError

CONTEXT = StepContext({}, torch.device("cpu"), 0, range(4), torch.enable_grad)
SHAPE = (4, 3, 12, 20)


def images(*seeds: int) -> list[Tensor]:
    return [torch.rand(SHAPE, generator=torch.Generator().manual_seed(seed)) * 2 - 1 for seed in seeds]


def pixel(state: dict[str, Any], **options: Any) -> Tensor:
    return PixelLoss(PixelLossOptions(type="pixel", key="x", target="y", **options))(state, CONTEXT)


def formulas(d: np.ndarray) -> dict[str, np.ndarray]:
    a = np.abs(d)
    return {
        "l1": a,
        "l2": d**2,
        "charbonnier": np.sqrt(d**2 + 1e-6),
        "huber": np.where(a <= 0.1, d**2 / 2, 0.1 * (a - 0.05)),
    }


@pytest.mark.parametrize("kind", ["l1", "l2", "charbonnier", "huber"])
def test_pixel_losses_are_the_means_of_their_formulas(kind: str) -> None:
    x, y = images(1, 2)
    y[0] = x[0] + 0.03  # within the parabola of huber
    expected = formulas((x - y).double().numpy())[kind].mean(axis=(1, 2, 3))
    losses = pixel({"x": x, "y": y}, kind=kind)
    assert losses.shape == (4,)
    np.testing.assert_allclose(losses.numpy(), expected, rtol=1e-4)
    for row in range(4):  # a sample's loss does not depend on the rest of its batch
        one = pixel({"x": x[row : row + 1], "y": y[row : row + 1]}, kind=kind)
        torch.testing.assert_close(one[0], losses[row])


def test_the_shape_of_charbonnier_and_huber_can_be_set() -> None:
    x, y = torch.zeros(2, 3, 2, 5), torch.full((2, 3, 2, 5), 0.3)
    assert pixel({"x": x, "y": y}, kind="charbonnier", eps=0.4)[0] == pytest.approx(0.5)
    assert pixel({"x": x, "y": y}, kind="huber", delta=1.0)[0] == pytest.approx(0.045)
    for kind, wrong in (("l1", "eps"), ("charbonnier", "delta")):
        with pytest.raises(ValidationError) as caught:
            PixelLossOptions(type="pixel", key="x", target="y", kind=kind, **{wrong: 0.1})  # type: ignore[arg-type]
        (issue,) = caught.value.errors()[0]["ctx"]["issues"]
        assert issue.path == (wrong,)
        assert f"but kind is {kind}" in issue.message


@pytest.mark.parametrize("channels", [1, 3])
def test_a_mask_weights_the_pixels_of_each_sample(channels: int) -> None:
    x, y = images(1, 2)
    mask = torch.zeros(4, channels, 12, 20)
    mask[:3, :, 4:6, 7:] = 0.5
    losses = pixel({"x": x, "y": y, "m": mask}, mask="m")
    inside = (x - y).abs()[:, :, 4:6, 7:].flatten(1).mean(dim=1)
    torch.testing.assert_close(losses[:3], inside[:3])
    assert losses[3] == 0
    with pytest.raises(ConfigError, match=r"loss pixel: m has shape \(4, 2, 12, 20\), expected \(B, 1 or C, H, W\)"):
        pixel({"x": x, "y": y, "m": mask[:, :1].expand(-1, 2, -1, -1)}, mask="m")


def test_images_of_different_sizes_are_named() -> None:
    x, y = images(1, 2)
    with pytest.raises(ConfigError, match=r"loss pixel: x has shape .*, but y \(4, 3, 6, 20\)"):
        pixel({"x": x, "y": y[:, :, ::2]})


class Layers(nn.Module):
    """Two layers of features of different sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 5, 3, padding=1)
        self.second = nn.Conv2d(5, 7, 3, stride=2, padding=1)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor, gain: float = 1.0) -> list[Tensor]:
        first = self.drop(torch.relu(self.first(x)))
        return [first, gain * self.second(first)]


class One(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=[2, 3])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("networks")
    torch.manual_seed(0)
    for network, name in ((Layers(), "layers.pt"), (One(), "one.pt")):
        torch.jit.script(network).save(str(folder / name))
    (folder / "text.pt").write_text("no network")
    return folder


def perceptual(file: Path, **options: Any) -> PerceptualLoss:
    return PerceptualLoss(PerceptualLossOptions(type="perceptual", key="x", target="y", network=str(file), **options))


def test_perceptual_compares_features_of_normalised_images(files: Path) -> None:
    x, y = images(1, 2)
    network = torch.jit.load(files / "layers.pt").eval()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    a, b = (network(((image + 1) / 2 - mean[:, None, None]) / std[:, None, None]) for image in (x, y))
    each = [(p - q).abs().flatten(1).mean(dim=1) for p, q in zip(a, b, strict=True)]
    state = {"x": x, "y": y}
    torch.testing.assert_close(perceptual(files / "layers.pt")(state, CONTEXT), each[0] + each[1])
    weighted = perceptual(files / "layers.pt", layers=(1, 0), layer_weights=(0.5, 2.0))
    torch.testing.assert_close(weighted(state, CONTEXT), 0.5 * each[1] + 2 * each[0])
    gained = perceptual(files / "layers.pt", layers=(1,), arguments={"gain": 3.0})
    torch.testing.assert_close(gained(state, CONTEXT), 3 * each[1])
    squared = perceptual(files / "one.pt", kind="l2", rgb_n1_to_1=False, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    torch.testing.assert_close(squared(state, CONTEXT), (x.mean(dim=(2, 3)) - y.mean(dim=(2, 3))).square().mean(dim=1))


def test_perceptual_teaches_the_image_and_not_its_network(files: Path) -> None:
    x, y = images(1, 2)
    loss = perceptual(files / "layers.pt")
    x.requires_grad_()
    y.requires_grad_()
    before = {key: value.clone() for key, value in loss.network.state_dict().items()}
    first = loss({"x": x, "y": y}, CONTEXT)
    first.sum().backward()
    assert x.grad is not None
    assert float(x.grad.abs().sum()) > 0
    assert y.grad is None
    assert not any(parameter.requires_grad for parameter in loss.network.parameters())
    assert not loss.network.training
    assert torch.equal(loss({"x": x, "y": y}, CONTEXT), first)  # no dropout
    assert all(torch.equal(before[key], value) for key, value in loss.network.state_dict().items())
    one = loss({"x": x[1:2], "y": y[1:2]}, CONTEXT)
    torch.testing.assert_close(one[0], first[1])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gone.pt", {}, "no such file"),
        ("text.pt", {}, "is no TorchScript network"),
        ("layers.pt", {"layers": (0, 2)}, "gives fewer tensors than `layers` names"),
        ("layers.pt", {"layer_weights": (1.0,)}, "gives 2 tensors, layer_weights 1"),
        ("one.pt", {"arguments": {"gain": 2.0}}, "cannot be run on images"),
    ],
)
def test_perceptual_checks_its_network_before_training(
    files: Path, name: str, options: dict[str, Any], message: str
) -> None:
    given = PerceptualLossOptions(type="perceptual", key="x", target="y", network=str(files / name), **options)
    (issue,) = given.problems({})
    assert issue.path == ("network",)
    assert message in issue.message
    assert "\n" not in issue.message
    with pytest.raises(ConfigError, match=name):
        PerceptualLoss(given)


def test_the_losses_of_the_house_name_what_they_read() -> None:
    assert {"pixel", "perceptual"} <= set(LOSSES.names())
    masked = PixelLossOptions(type="pixel", key="x", target="y", mask="m")
    assert masked.reads() == {("key",): "x", ("target",): "y", ("mask",): "m"}
