"""The counter-based generator: Random123's known answers, NumPy's own arithmetic, any part of a plane."""

import numpy as np
import pytest
import torch

from codes.utils.philox import normal_planes, normal_values, philox4x32

CPU = torch.device("cpu")
ONES = 0xFFFFFFFF
# Random123 1.14, tests/kat_vectors: "philox4x32 10", counter, key, answer.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES,) * 4, (ONES, ONES), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
def test_the_known_answers_of_random123(counter, key, answer) -> None:
    words = philox4x32([torch.tensor([word, word]) for word in counter], key)
    assert [word.tolist() for word in words] == [[word, word] for word in answer]
    as_tensors = philox4x32([torch.tensor([word]) for word in counter], tuple(torch.tensor([word]) for word in key))
    assert [int(word) for word in as_tensors] == list(answer)


def by_numpy(seed: int, y: int, x: int) -> list[float]:
    """The four values of a pixel, written again with Python's integers."""
    a, b, c, d = x & ONES, y & ONES, 0, 0
    first, second = seed & ONES, seed >> 32
    for _ in range(10):
        low, high = a * 0xD2511F53, c * 0xCD9E8D57
        a, b, c, d = (high >> 32) ^ b ^ first, high & ONES, (low >> 32) ^ d ^ second, low & ONES
        first, second = (first + 0x9E3779B9) & ONES, (second + 0xBB67AE85) & ONES
    values = []
    for u, v in ((a, b), (c, d)):
        radius, angle = np.sqrt(-2 * np.log((u + 0.5) / 2**32)), 2 * np.pi * v / 2**32
        values += [radius * np.cos(angle), radius * np.sin(angle)]
    return values


def test_values_are_those_of_numpy() -> None:
    seeds = (7, 2**63 - 25)
    field = normal_planes(seeds, 4, (-3, 4), (-2, 9), CPU)
    assert field.shape == (2, 4, 7, 11)
    for b, seed in enumerate(seeds):
        for y in range(-3, 4):
            for x in range(-2, 9):
                np.testing.assert_allclose(field[b, :, y + 3, x + 2], by_numpy(seed, y, x), rtol=2e-7, atol=1e-7)


def test_any_part_of_a_plane_is_that_part_of_the_whole() -> None:
    whole = normal_planes((3, 5), 6, (0, 130), (0, 700), CPU)
    assert torch.equal(normal_planes((5,), 6, (40, 41), (233, 700), CPU)[0], whole[1, :, 40:41, 233:])
    assert torch.equal(normal_planes((3,), 2, (0, 130), (0, 1), CPU)[0], whole[0, :2, :, :1])


def test_values_of_a_shape_are_one_stream_a_seed() -> None:
    values = normal_values((1, 2), (3, 4, 5), CPU)
    assert values.shape == (2, 3, 4, 5)
    assert torch.equal(normal_values((2,), (60,), CPU)[0], values[1].reshape(-1))
    assert torch.equal(normal_values((2,), (7,), CPU)[0], values[1].reshape(-1)[:7])
    assert torch.equal(normal_values((2,), (20_000,), CPU)[0, :60], values[1].reshape(-1))
    assert normal_values((2,), (), CPU).shape == (1,)


def test_values_are_independent_standard_normals() -> None:
    values = normal_values((1, 2), (3, 200, 250), CPU).double()
    count = values[0].numel()
    assert abs(values.mean()) < 4 / (2 * count) ** 0.5
    assert abs(values.var() - 1) < 4 * (1 / count) ** 0.5
    assert abs((values**4).mean() - 3) < 4 * (48 / count) ** 0.5
    assert abs(float((values[0] * values[1]).mean())) * count**0.5 < 4
    flat = values[0].reshape(-1)
    for lag in (1, 2, 3, 4, 250):
        assert abs(float((flat[lag:] * flat[:-lag]).mean())) * count**0.5 < 4
