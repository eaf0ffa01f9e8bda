"""Images that 8 bits hold come back bit for bit, and no others are sent so."""

from pathlib import Path

import numpy as np
import pytest
import torch
from data_helpers import dataset, fill, first

from codes.data.eight_bit import EightBit
from codes.data.loader import TrainLoader
from codes.images.files import to_float, to_tensor

N1_TO_1 = pytest.mark.parametrize("n1_to_1", [True, False])


def levels(*shape: int) -> np.ndarray:
    """uint8 with every level."""
    return (
        np.random.default_rng(0)
        .permutation(np.resize(np.arange(256, dtype=np.uint8), int(np.prod(shape))))
        .reshape(shape)
    )


@N1_TO_1
def test_every_level_comes_back_as_an_item_makes_it(n1_to_1: bool) -> None:
    samples = levels(2, 16, 24, 3)
    images = torch.stack([to_tensor(to_float(image), n1_to_1) for image in samples])
    packed = EightBit.of(images, n1_to_1)
    assert packed is not None
    assert packed.levels.dtype == torch.uint8
    assert np.array_equal(packed.levels.permute(0, 2, 3, 1).numpy(), samples)
    assert torch.equal(packed.images(), images)
    assert torch.equal(packed[1:].images(), images[1:])


@N1_TO_1
def test_anything_else_stays_as_it_is(n1_to_1: bool) -> None:
    images = torch.stack([to_tensor(to_float(image), n1_to_1) for image in levels(2, 16, 24, 3)])
    last = images.clone()
    last[1, 2, 15, 23] = torch.nextafter(last[1, 2, 15, 23], torch.tensor(9.0))
    for other in (last, images * 1.001, images + float("nan"), images * 3, images.double(), images[0]):
        assert EightBit.of(other, n1_to_1) is None
    assert EightBit.of(images, not n1_to_1) is None


@pytest.mark.parametrize("workers", [0, 1])
@N1_TO_1
def test_a_loader_sends_in_8_bits_what_they_hold(tmp_path: Path, workers: int, n1_to_1: bool) -> None:
    fill(tmp_path / "in", 6)
    data = dataset(tmp_path / "in", batch_size=3, rgb_n1_to_1=n1_to_1)
    plain = first(TrainLoader(data, 3, num_workers=workers), 4)
    light = first(TrainLoader(data, 3, num_workers=workers, eight_bit=n1_to_1), 4)
    for whole, sent in zip(plain, light, strict=True):
        assert isinstance(sent["hq"], EightBit)
        assert torch.equal(sent["hq"].images(), whole["hq"])
        assert torch.equal(sent["lq"], whole["lq"])  # blurred, so between the levels
        assert torch.equal(sent["corruption_entropy"], whole["corruption_entropy"])
        assert sent["HQ_path"] == whole["HQ_path"]


def test_low_resolutions_that_end_as_a_jpeg_are_sent_in_8_bits_and_shrunk_tiles_are_not(tmp_path: Path) -> None:
    fill(tmp_path / "in", 6)
    options = {
        "batch_size": 3,
        "rgb_n1_to_1": True,
        "shrink": (1.5, 1.6),
        "fixed_corruptions": ("gaussian_blur", "jpeg"),
    }
    (batch,) = first(TrainLoader(dataset(tmp_path / "in", **options), 3, eight_bit=True), 1)
    assert isinstance(batch["lq"], EightBit)
    assert isinstance(batch["hq"], torch.Tensor)
