"""The size asked for: factors, sizes, megapixels; resampling by bands equal to Pillow's of the whole."""

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from codes.config.options import issues_of
from codes.images.canvas import RamCanvas
from codes.images.channels import Result, enlarged
from codes.images.output_size import Framing, SizeOptions, passes_for
from codes.images.resampling import Resampled
from codes.images.transfer import linear_of, srgb_of

FILTERS = {
    "lanczos": Image.Resampling.LANCZOS,
    "bicubic": Image.Resampling.BICUBIC,
    "area": Image.Resampling.BOX,
}


def picture(channels=3, height=53, width=38):
    values = torch.rand(channels, height, width, generator=torch.Generator().manual_seed(height))
    return Result(RamCanvas(values), unit=True, gray=False), values


def by_pillow(values, height, width, kernel, box=None):
    planes = [Image.fromarray(plane.numpy()).resize((width, height), FILTERS[kernel], box) for plane in values]
    return np.stack([np.asarray(plane) for plane in planes]).clip(0, 1)


@pytest.mark.parametrize(
    ("options", "size", "expected"),
    [
        ({"scale": 1.5}, (101, 67), (152, 101)),
        ({"scale": 0.01}, (20, 30), (1, 1)),
        ({"size": "3840x2160"}, (1080, 1920), (2160, 3840)),
        ({"size": "3840x2160"}, (1000, 1500), (2160, 3240)),
        ({"size": "3840 X 2160"}, (1500, 1000), (2160, 1440)),
        ({"size": "384x216", "size_mode": "exact"}, (100, 100), (216, 384)),
        ({"size": "384x216", "size_mode": "fill"}, (100, 100), (216, 384)),
        ({"megapixels": 8}, (1000, 2000), (2000, 4000)),
        ({"megapixels": 0.5}, (333, 777), (463, 1080)),
    ],
)
def test_a_size_is_what_was_asked_for(options, size, expected):
    framing = SizeOptions(**options).framing(*size, scale=2)
    assert framing.size == expected
    assert framing.is_whole == (options.get("size_mode") != "fill")


def test_without_a_wish_the_size_is_that_of_the_network():
    options = SizeOptions()
    assert not options.resized
    assert options.framing(10, 12, scale=3) == Framing(30, 36)


def test_fill_cuts_the_same_off_both_sides_and_keeps_the_proportions():
    framing = SizeOptions(size="384x216", size_mode="fill").framing(100, 100, scale=2)
    top, bottom, left, right = framing.box
    assert (left, right) == (0.0, 1.0)
    assert top == pytest.approx(1 - bottom)
    assert (right - left) * 100 / ((bottom - top) * 100) == pytest.approx(384 / 216)
    assert framing.magnifications(100, 100) == pytest.approx((3.84, 3.84))
    assert framing.magnification(100, 100) == pytest.approx(3.835)  # less half a pixel


def test_a_factor_asks_for_the_same_passes_whatever_sides_are_rounded_to():
    sizes = [(height, width) for height in range(3, 40) for width in range(3, 40)]
    for factor, passes in ((2.2, 1), (2.3, 2), (4.4, 2)):
        large = [(height * 20, width * 20 + 1) for height, width in sizes]
        for size in large if factor == 2.3 else sizes:
            framing = SizeOptions(scale=factor).framing(*size, scale=2)
            assert passes_for(framing.magnification(*size), 2) == passes, size


@pytest.mark.parametrize(
    ("magnification", "scale", "passes"),
    [
        (0.3, 2, 1),
        (1, 2, 1),
        (2, 2, 1),
        (2.1, 2, 1),
        (2.3, 2, 2),
        (4, 2, 2),
        (4.5, 2, 3),
        (9, 3, 2),
        (3, 1, 1),
        (64, 2, 4),
    ],
)
def test_a_network_is_applied_as_often_as_is_needed(magnification, scale, passes):
    assert passes_for(magnification, scale) == passes


@pytest.mark.parametrize(
    ("options", "key", "said"),
    [
        ({"scale": 2, "size": "10x10"}, "size", "so does scale; keep one"),
        ({"size": "10x10", "megapixels": 2}, "megapixels", "so does size; keep one"),
        ({"size": "10"}, "size", "expected WIDTHxHEIGHT in pixels, as in 3840x2160, found '10'"),
        ({"size": "10x"}, "size", "expected WIDTHxHEIGHT"),
        ({"size": "-3x5"}, "size", "expected WIDTHxHEIGHT"),
        ({"size": "1.5x3"}, "size", "expected WIDTHxHEIGHT"),
        ({"size": "0x100"}, "size", "each side must be at least 1 pixel"),
        ({"scale": 0}, "scale", "greater than 0"),
        ({"scale": float("nan")}, "scale", ""),
        ({"scale": 1e9}, "scale", "64"),
        ({"megapixels": -1}, "megapixels", "greater than 0"),
        ({"size": "3x3", "size_mode": "fti"}, "size_mode", "fit"),
        ({"resampling": "nearest", "scale": 2}, "resampling", "lanczos"),
    ],
)
def test_wishes_that_cannot_be_are_refused_with_their_key(options, key, said):
    with pytest.raises(ValidationError) as error:
        SizeOptions.model_validate(options)
    issue = issues_of(SizeOptions, error.value, options)[0]
    assert issue.path == (key,)
    assert said in issue.message


@pytest.mark.parametrize("kernel", ["lanczos", "area", "bicubic"])
@pytest.mark.parametrize("framing", [Framing(37, 21), Framing(17, 38), Framing(31, 20, (0.1, 0.85, 0.2, 0.9))])
def test_bands_give_what_the_whole_gives(kernel, framing):
    source, values = picture()
    top, bottom, left, right = framing.box
    box = (left * 38, top * 53, right * 38, bottom * 53)
    subject = Resampled(source, 53, 38, framing, kernel)
    rows = torch.cat([subject.rows(y, min(y + 5, framing.height)) for y in range(0, framing.height, 5)], dim=1)
    expected = by_pillow(values, framing.height, framing.width, kernel, box)
    np.testing.assert_allclose(rows.numpy(), expected, atol=3e-6)


def test_area_is_lanczos_where_nothing_becomes_smaller():
    source, values = picture()
    rows = Resampled(source, 53, 38, Framing(90, 61), "area").rows(0, 90)
    np.testing.assert_allclose(rows.numpy(), by_pillow(values, 90, 61, "lanczos"), atol=3e-6)


def test_the_same_size_is_not_touched_and_one_channel_stays_one():
    source, values = picture(channels=1)
    assert torch.equal(Resampled(source, 53, 38, Framing(53, 38)).rows(3, 9), values[:, 3:9])
    assert Resampled(source, 53, 38, Framing(20, 20)).rows(0, 20).shape == (1, 20, 20)


def test_light_is_averaged_as_light():
    stripes = torch.tensor([0.0, 1.0]).repeat(20).expand(3, 16, 40)
    source = Result(RamCanvas(stripes), unit=True, gray=False)
    plain = Resampled(source, 16, 40, Framing(8, 20), "area").rows(0, 8)
    light = Resampled(source, 16, 40, Framing(8, 20), "area", linear=True).rows(0, 8)
    np.testing.assert_allclose(plain.numpy(), 0.5, atol=1e-6)
    np.testing.assert_allclose(light.numpy(), srgb_of(np.full((3, 8, 20), 0.5)), atol=1e-6)
    values = np.linspace(0, 1, 999)
    np.testing.assert_allclose(srgb_of(linear_of(values)), values, atol=1e-12)


@pytest.mark.parametrize("framing", [Framing(37, 21), Framing(90, 61)])
def test_a_texture_is_resampled_around_its_edges(framing):
    source, values = picture()
    rows = Resampled(source, 53, 38, framing, "lanczos", wrap=(True, True)).rows
    made = torch.cat([rows(y, min(y + 8, framing.height)) for y in range(0, framing.height, 8)], dim=1)
    tiled = by_pillow(values.repeat(1, 3, 3), framing.height * 3, framing.width * 3, "lanczos")
    expected = tiled[:, framing.height : 2 * framing.height, framing.width : 2 * framing.width]
    np.testing.assert_allclose(made.numpy(), expected, atol=3e-6)


def test_the_input_is_shown_at_the_size_of_a_result():
    small = np.random.default_rng(0).random((12, 9, 3)).astype(np.float32)
    whole = enlarged(small, Framing(24, 18))
    assert whole.rows(0, 24).shape == (3, 24, 18)
    part = enlarged(small, Framing(30, 30, (0.125, 0.875, 0.0, 1.0)))
    expected = by_pillow(torch.from_numpy(small.transpose(2, 0, 1)), 30, 30, "bicubic", (0, 1.5, 9, 10.5))
    np.testing.assert_allclose(part.rows(0, 30).numpy(), expected, atol=3e-6)
