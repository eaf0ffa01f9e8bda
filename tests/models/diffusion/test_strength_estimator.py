import pytest
import torch

from codes.models.diffusion.checkpoints.metadata import build
from codes.models.diffusion.networks.strength_estimator import (
    GRID_FEATURES,
    HARMONICS,
    MOST_PRECISION,
    LocalStrengths,
    StrengthEstimator,
    StrengthEstimatorOptions,
    block_grid,
)

BATCH, CORRUPTIONS, HEIGHT, WIDTH = 2, 5, 40, 56


def network(seed: int = 0) -> StrengthEstimator:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = StrengthEstimator(StrengthEstimatorOptions(num_corruptions=CORRUPTIONS, model_channels=8))
    return made.eval()


def images(height: int = HEIGHT, width: int = WIDTH, seed: int = 1) -> torch.Tensor:
    return torch.rand(BATCH, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_only_what_eight_bits_hold_is_looked_at() -> None:
    generator = torch.Generator().manual_seed(3)
    levels = torch.randint(0, 256, (2, 3, 40, 48), generator=generator)
    image = levels / 127.5 - 1
    shifts = (torch.rand(image.shape, generator=generator) - 0.5) * (1.8 / 255)
    subject = network()
    torch.testing.assert_close(subject.features((image + shifts).clamp(-1, 1)), subject.features(image))


def test_pooling_weights_by_precision_and_averages_it() -> None:
    strength = torch.tensor([0.0, 1.0]).reshape(1, 1, 1, 2)
    precision = torch.tensor([1.0, 3.0]).reshape(1, 1, 1, 2)
    mean, spread = LocalStrengths(strength, precision).pooled()
    assert mean.item() == pytest.approx(0.75)
    assert spread.item() == pytest.approx(2**-0.5)
    twice = LocalStrengths(strength.repeat(1, 1, 3, 1), precision.repeat(1, 1, 3, 1)).pooled()
    torch.testing.assert_close(twice, (mean, spread))


@pytest.mark.parametrize("size", [(40, 56), (33, 41), (1, 7), (5, 200)])
def test_any_size_gives_strengths_in_range_for_every_place(size: tuple[int, int]) -> None:
    with torch.no_grad():
        answer = network()(images(*size))
    assert answer.shape == (BATCH, 2 * CORRUPTIONS, max(-(-size[0] // 8), 4), max(-(-size[1] // 8), 4))
    strength, precision = answer.chunk(2, dim=1)
    assert 0 <= strength.min() <= strength.max() <= 1
    assert 1 <= precision.min() <= precision.max() <= MOST_PRECISION


def test_a_sample_depends_on_itself_alone() -> None:
    both = images()
    with torch.no_grad():
        together, alone = network().estimate(both), network().estimate(both[1:])
    for whole, one in zip(together, alone, strict=True):
        torch.testing.assert_close(whole[1:], one, rtol=1e-4, atol=1e-5)


def test_what_was_seen_in_training_is_near_and_other_images_are_far() -> None:
    subject, generator = network(), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for _ in range(400):
            subject.observe(subject.features(torch.rand(8, 3, 32, 32, generator=generator) * 0.5))
        near = subject.estimate(torch.rand(64, 3, 32, 32, generator=generator) * 0.5).distance
        far = subject.estimate(torch.rand(8, 3, 32, 32, generator=generator) * 2 - 1).distance
    assert abs(float(near.mean())) < 1
    assert float(near.max()) < float(far.min())


def test_its_options_rebuild_it_and_it_takes_no_conditioning() -> None:
    subject = network()
    rebuilt = build("strength_estimator", subject.options.model_dump(mode="json"))
    rebuilt.load_state_dict(subject.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(rebuilt.eval()(images()), subject(images()))
    with pytest.raises(ValueError, match="an image alone"):
        subject(images(), low_res=images())


def test_the_default_size_is_under_a_million_parameters() -> None:
    with torch.device("meta"):
        made = StrengthEstimator(StrengthEstimatorOptions(num_corruptions=CORRUPTIONS))
    assert sum(parameter.numel() for parameter in made.parameters()) < 1_000_000


def blocks(period: int, begin: int, height: int = 240, width: int = 328) -> torch.Tensor:
    """(BATCH, 3, height, width): blocks of one colour each, the first border at `begin`."""
    shape = (BATCH, 3, height // period + 2, width // period + 2)
    colours = torch.rand(shape, generator=torch.Generator().manual_seed(4)) * 2 - 1
    large = colours.repeat_interleave(period, 2).repeat_interleave(period, 3)
    start = -begin % period
    return large[..., start : start + height, start : start + width]


def test_a_grid_of_blocks_is_found_wherever_it_begins_and_no_other_period() -> None:
    ratios = slice(2 * (HARMONICS + 1), 2 * (HARMONICS + 1) + 2)  # of the first harmonic along rows
    eight, moved, seven = (block_grid(blocks(*which)) for which in ((8, 0), (8, 3), (7, 0)))
    assert eight.shape == (BATCH, GRID_FEATURES, 30, 41)
    inside = (slice(None), ratios, slice(6, -6), slice(6, -6))  # an edge is reflected, and breaks the grid
    # all first differences lie on one column of eight, so every harmonic is as large as their mean
    torch.testing.assert_close(
        eight[inside][:, 0], torch.full_like(eight[inside][:, 0], 30.0).asinh(), atol=0.1, rtol=0
    )
    torch.testing.assert_close(moved[inside].mean(), eight[inside].mean(), atol=0.1, rtol=0)
    assert float(seven[inside].mean()) < float(eight[inside].mean()) - 1.5


def test_a_blurred_grid_is_still_told_from_a_plain_image() -> None:
    blurred, plain = blocks(8, 5), images(240, 328)
    for _ in range(3):
        blurred, plain = (torch.nn.functional.avg_pool2d(x, 3, stride=1, padding=1) for x in (blurred, plain))
    ratios = slice(2 * (HARMONICS + 1), 2 * (HARMONICS + 1) + 2)
    inside = (slice(None), ratios, slice(6, -6), slice(6, -6))
    assert float(block_grid(blurred)[inside].mean()) > float(block_grid(plain)[inside].mean()) + 1
