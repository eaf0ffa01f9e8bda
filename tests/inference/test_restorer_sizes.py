"""The library's results at the size asked for, seamless, and kept to their input."""

import numpy as np
import pytest
import torch
from PIL import Image
from restorer_helpers import KNOWN, STRENGTHS, picture, write_weights

from codes import ConfigError, Restorer


@pytest.fixture(scope="module")
def restorer(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    return Restorer.from_checkpoint(write_weights(path, KNOWN), device="cpu")


def test_the_size_is_the_one_asked_for_in_every_kind_of_image(restorer, caplog):
    image = picture(18, 27)
    assert restorer(image, STRENGTHS, steps=1, scale=1.5).shape == (27, 41, 3)
    assert restorer(image, STRENGTHS, steps=1, size=(20, 20), output={"size_mode": "fill"}).shape == (20, 20, 3)
    assert restorer(image, STRENGTHS, steps=1, size="40x20", output={"size_mode": "exact"}).shape == (20, 40, 3)
    assert restorer(image[..., :1], STRENGTHS, steps=1, output={"megapixels": 0.0005}).shape == (18, 27, 1)
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    assert restorer(tensor, STRENGTHS, steps=1, size="58x58").shape == (3, 39, 58)
    pillow = Image.fromarray(np.dstack([image, image[..., 0]]))
    pillow.info["dpi"] = (300, 300)
    result = restorer(pillow, STRENGTHS, steps=1, scale=0.5)
    assert (result.mode, result.size, result.info["dpi"]) == ("RGBA", (14, 9), (300, 300))
    opaque = np.dstack([image, np.full((18, 27), 255, np.uint8)])
    assert restorer(opaque, STRENGTHS, steps=1, scale=1.5)[..., 3].tolist() == [[255] * 41] * 27
    assert "times in a row" not in caplog.text


def test_an_image_of_the_size_asked_for_is_the_restored_one_resampled(restorer):
    image = picture(18, 27).astype(np.float32) / 255
    whole = restorer(image, STRENGTHS, steps=2)
    made = restorer(image, STRENGTHS, steps=2, size=(20, 30))
    planes = [Image.fromarray(whole[..., c]).resize((30, 20), Image.Resampling.LANCZOS) for c in range(3)]
    np.testing.assert_allclose(made, np.stack([np.asarray(plane) for plane in planes], axis=2).clip(0, 1), atol=1e-5)
    assert np.array_equal(restorer(image, STRENGTHS, steps=2, scale=2), whole)


def test_four_times_is_twice_two_times_the_second_one_clean(restorer, caplog):
    image = picture(18, 27).astype(np.float32) / 255
    calls = []
    made = restorer(image, STRENGTHS, steps=2, scale=4, progress=lambda *at: calls.append(at))
    assert made.shape == (72, 108, 3)
    assert "restored 2 times in a row" in caplog.text
    assert calls[-1][0] == calls[-1][1]
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    calm = restorer(image, STRENGTHS, steps=2, scale=4, temperature=0)
    first = restorer(image, STRENGTHS, steps=2, temperature=0)
    np.testing.assert_allclose(calm, restorer(first, None, steps=2, temperature=0), atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"scale": 2.5, "size": "10x10"}, "so does scale"),
        ({"size": "ten"}, "expected WIDTHxHEIGHT"),
        ({"size": (0, 5)}, "at least 1 pixel"),
        ({"scale": 0}, "greater than 0"),
        ({"size": "90000x90000", "output": {"size_mode": "exact"}}, "asks for 90000x90000 pixels, more than"),
        ({"output": {"sise": "3x3"}}, "did you mean size"),
    ],
)
def test_sizes_that_cannot_be_are_refused_in_one_line(restorer, arguments, said):
    with pytest.raises(ConfigError, match=said) as error:
        restorer(picture(), STRENGTHS, steps=1, **arguments)
    assert "\n" not in str(error.value)


def test_a_seamless_texture_and_a_result_kept_to_its_input(restorer):
    image = picture()
    wrapped = restorer(image, STRENGTHS, steps=2, options={"wrap": "xy"})
    assert wrapped.shape == (36, 54, 3)
    assert not np.array_equal(wrapped, restorer(image, STRENGTHS, steps=2))
    floats = image.astype(np.float32) / 255

    def drift(**options):
        result = restorer(floats, {}, steps=2, temperature=1, options=options)
        low = result.reshape(18, 2, 27, 2, 3).mean((1, 3))
        coarse = (low - floats)[:16, :24].reshape(2, 8, 3, 8, 3).mean((1, 3))
        return float(np.abs(coarse).max())

    free = drift()
    assert drift(consistency="end") < 0.7 * free
    assert drift(consistency="each_step") < 0.7 * free
