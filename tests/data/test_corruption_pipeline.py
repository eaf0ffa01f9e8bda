"""From hq to lq: order, strengths that are told, random and second-order corruptions, kernels."""

from functools import partial

import numpy as np
import pytest
from data_helpers import dataset, fill, options, picture
from pydantic import ValidationError

from codes.config.options import parse
from codes.config.yaml_source import Source
from codes.data.corruptions.all import CORRUPTIONS, CorruptionSettings
from codes.data.corruptions.options import CorruptionOptions
from codes.data.corruptions.pipeline import CorruptionPipeline, draw_strengths
from codes.images.files import resample, resize_area
from codes.utils.errors import ConfigError
from codes.utils.rng import numpy_generator

HEIGHT, WIDTH, SCALE = 36, 52, 2
PHYSICAL = {"corruption_order": "physical"}


def pipeline(*fixed, **changes):
    return CorruptionPipeline(CorruptionOptions.model_validate({"fixed_corruptions": fixed, **changes}))


def generators(index=0):
    return partial(numpy_generator, 5, "data", index)


def low_res(made, strengths, index=0, image=None):
    hq = picture(0, HEIGHT, WIDTH) if image is None else image
    return made.low_res(hq, SCALE, np.array(strengths, np.float32), generators(index))


def names(made, strengths, index=0):
    uses, at_full_size = made.plan(np.array(strengths, np.float32), generators(index))
    known = {cls: name for name in CORRUPTIONS.names() if (cls := CORRUPTIONS.get(name))}
    return [(known[type(use.corruption)], pytest.approx(use.strength)) for use in uses], at_full_size


def by_hand(image, *steps):
    for name, strength in steps:
        image = CORRUPTIONS.get(name)(CorruptionSettings())(image, float(np.float32(strength)), numpy_generator(0))
    return image


def test_listed_order_is_kept_and_every_strength_goes_to_its_own_corruption():
    small = resize_area(picture(0, HEIGHT, WIDTH), HEIGHT // 2, WIDTH // 2)
    made = low_res(pipeline("jpeg", "gaussian_blur"), (0.2, 0.9))
    assert made.shape == (HEIGHT // 2, WIDTH // 2, 3)
    assert np.array_equal(made, by_hand(small, ("jpeg", 0.2), ("gaussian_blur", 0.9)))
    turned = low_res(pipeline("gaussian_blur", "jpeg"), (0.2, 0.9))
    assert np.array_equal(turned, by_hand(small, ("gaussian_blur", 0.2), ("jpeg", 0.9)))


def test_physical_order_sorts_the_corruptions_but_not_their_strengths():
    small = resize_area(picture(0, HEIGHT, WIDTH), HEIGHT // 2, WIDTH // 2)
    made = low_res(pipeline("jpeg", "gaussian_blur", **PHYSICAL), (0.2, 0.9))
    assert np.array_equal(made, by_hand(small, ("gaussian_blur", 0.9), ("jpeg", 0.2)))
    listed = ("webp", "resize", "saturation", "noise", "motion_blur")
    applied, _ = names(pipeline(*listed, **PHYSICAL), (0.1, 0.2, 0.3, 0.4, 0.5))
    assert applied == [("motion_blur", 0.5), ("noise", 0.4), ("saturation", 0.3), ("resize", 0.2), ("webp", 0.1)]
    random = {"random_corruptions": ("motion_blur",), "random_probabilities": (1.0,)}
    applied, _ = names(pipeline("jpeg", "noise", **random, **PHYSICAL), (0.1, 0.2))
    assert [name for name, _ in applied] == ["motion_blur", "noise", "jpeg"]


def test_the_order_changes_no_draw():
    """The noise of an item is the same noise, whatever stands before it."""
    flat = np.full((HEIGHT, WIDTH, 3), 0.5, np.float32)
    first = low_res(pipeline("noise", "none"), (1.0, 0.0), image=flat)
    physical = low_res(pipeline("noise", "gaussian_blur", **PHYSICAL), (1.0, 0.7), image=flat)
    # Equal up to the blur's rounding of the flat picture.
    np.testing.assert_allclose(first, physical, atol=1e-6)


def test_jpeg_is_not_skipped_when_noise_is_listed():
    """A trap of DL-Art-School."""
    small = resize_area(picture(0, HEIGHT, WIDTH), HEIGHT // 2, WIDTH // 2)
    both, noise = low_res(pipeline("noise", "jpeg"), (0.1, 0.5)), low_res(pipeline("noise"), (0.1,))
    assert np.array_equal(both, by_hand(noise, ("jpeg", 0.5)))
    assert np.abs(both - small).max() > 0.1


def test_nothing_of_one_image_goes_over_to_the_next():
    """A trap of DL-Art-School: the enlarging that was due to one image was applied to the next one."""
    made = pipeline("lq_resampling4x", "jpeg")
    wide, tall = picture(1, 24, 60), picture(2, 60, 24)
    for image in (wide, tall, wide):
        assert low_res(made, (0.9, 0.1), image=image).shape == (image.shape[0] // 2, image.shape[1] // 2, 3)
    assert np.array_equal(low_res(made, (0.9, 0.1), image=wide), low_res(made, (0.9, 0.1), image=wide))


def test_before_downsizing_all_are_at_full_size_or_in_physical_order_those_before_the_file():
    hq = picture(0, HEIGHT, WIDTH)
    before = {"corrupt_before_downsize": True}
    made = low_res(pipeline("jpeg", "gaussian_blur", **before), (0.2, 0.9))
    whole = by_hand(hq, ("jpeg", 0.2), ("gaussian_blur", 0.9))
    assert np.array_equal(made, resize_area(whole, HEIGHT // 2, WIDTH // 2))
    physical = low_res(pipeline("jpeg", "gaussian_blur", **before, **PHYSICAL), (0.2, 0.9))
    blurred = resize_area(by_hand(hq, ("gaussian_blur", 0.9)), HEIGHT // 2, WIDTH // 2)
    assert np.array_equal(physical, by_hand(blurred, ("jpeg", 0.2)))
    _, at_full_size = names(pipeline("jpeg", "resize", "noise", "sinc", **before, **PHYSICAL), (0.1,) * 4)
    assert at_full_size == 1


def test_strengths_that_are_told_are_true():
    """Drawn ones are used as they are; a corruption with one effect is told as its own strength, not as a draw."""
    made = pipeline("jpeg", "noise-5", "greyscale", "none", "noise")
    for seed in range(5):
        told = made.strengths(numpy_generator(seed))
        assert told.dtype == np.float32
        assert told[1:4].tolist() == [1.0, 1.0, 0.0]
        applied, _ = names(made, told)
        assert [strength for _, strength in applied] == told.tolist()
    plain = pipeline("jpeg", "jpeg", "jpeg", "jpeg", "noise").strengths(numpy_generator(4))
    assert told[[0, 4]].tolist() == plain[[0, 4]].tolist()


def test_strengths_are_biased_towards_clean_unless_asked_otherwise():
    biased = draw_strengths(20000, numpy_generator(1), cosine_bias=True)
    uniform = draw_strengths(20000, numpy_generator(1), cosine_bias=False)
    assert biased.dtype == np.float32
    assert 0 <= biased.min() <= biased.max() <= 1
    assert biased.mean() == pytest.approx(1 - 2 / np.pi, abs=0.01)
    assert uniform.mean() == pytest.approx(0.5, abs=0.01)
    np.testing.assert_allclose(biased, 1 - np.cos(uniform * np.pi / 2), atol=1e-6)
    assert not np.array_equal(
        pipeline("jpeg").strengths(numpy_generator(1)),
        pipeline("jpeg", cosine_bias=False).strengths(numpy_generator(1)),
    )


def test_random_corruptions_come_as_often_as_asked_each_by_itself():
    made = pipeline("jpeg", random_corruptions=("noise", "webp", "none"), random_probabilities=(0.7, 0.2, 0.0))
    drawn = [[name for name, _ in names(made, (0.1,), index)[0]] for index in range(300)]
    assert all(applied[-1] == "jpeg" for applied in drawn)
    noise, webp = (sum(name in applied for applied in drawn) / 300 for name in ("noise", "webp"))
    assert noise == pytest.approx(0.7, abs=0.09)
    assert webp == pytest.approx(0.2, abs=0.09)
    assert sum({"noise", "webp"} <= {*applied} for applied in drawn) / 300 == pytest.approx(0.14, abs=0.08)
    assert not any("none" in applied for applied in drawn)
    assert all(applied[:-1] == ["noise", "webp"] for applied in drawn if len(applied) == 3)


def test_a_number_of_random_corruptions_is_picked_with_replacement():
    made = pipeline(random_corruptions=("noise", "webp"), num_corrupts_per_image=3)
    drawn = [[name for name, _ in names(made, (), index)[0]] for index in range(40)]
    assert all(len(applied) == 3 for applied in drawn)
    assert {tuple(applied) for applied in drawn} == {(a, b, c) for a in ("noise", "webp") for b in ("noise", "webp")
                                                 for c in ("noise", "webp")}  # fmt: skip


def test_second_order_corrupts_resizes_and_corrupts_again_at_the_told_strengths():
    changes = {"random_corruptions": ("noise", "webp"), "num_corrupts_per_image": 1}
    made = pipeline("jpeg", "gaussian_blur", second_order_probability=0.4, **changes)
    once = pipeline("jpeg", "gaussian_blur", **changes)
    twice = 0
    for index in range(100):
        applied, _ = names(made, (0.2, 0.9), index)
        assert applied[:3] == names(once, (0.2, 0.9), index)[0]
        if len(applied) > 3:
            twice += 1
            assert applied[3][0] == "resize"
            assert applied[5:] == applied[1:3] == [("jpeg", 0.2), ("gaussian_blur", 0.9)]
            assert applied[4][0] in ("noise", "webp")
            assert len(applied) == 7
    assert 25 <= twice <= 55
    always = low_res(pipeline("gaussian_noise", second_order_probability=1.0), (0.5,))
    assert always.shape == (HEIGHT // 2, WIDTH // 2, 3)
    flat = np.full((HEIGHT, WIDTH, 3), 0.5, np.float32)
    first = low_res(pipeline("gaussian_noise"), (0.5,), image=flat) - 0.5
    both = low_res(pipeline("gaussian_noise", second_order_probability=1.0), (0.5,), image=flat) - 0.5
    # The second noise is another one: twice the same would add up.
    assert np.corrcoef(first.ravel(), both.ravel())[0, 1] < 0.9
    physical = pipeline("jpeg", "gaussian_blur", second_order_probability=1.0, **PHYSICAL)
    applied, _ = names(physical, (0.2, 0.9))
    assert [name for name, _ in applied] == ["gaussian_blur", "jpeg", "resize", "gaussian_blur", "jpeg"]


def test_the_kernel_that_makes_lq_is_drawn_from_those_listed():
    hq = picture(0, HEIGHT, WIDTH)
    size = (HEIGHT // 2, WIDTH // 2)
    assert np.array_equal(low_res(pipeline(), ()), resize_area(hq, *size))
    assert np.array_equal(low_res(pipeline(downsample_kernels=("lanczos",)), ()), resample(hq, *size, "lanczos"))
    mixed = pipeline(downsample_kernels=("area", "bilinear", "bicubic", "lanczos"))
    expected = {resize_area(hq, *size).tobytes()}
    expected |= {resample(hq, *size, kernel).tobytes() for kernel in ("bilinear", "bicubic", "lanczos")}
    assert {low_res(mixed, (), index).tobytes() for index in range(40)} == expected
    same = mixed.low_res(hq, 1, np.zeros(0, np.float32), generators())
    assert np.array_equal(same, hq)
    assert not np.shares_memory(same, hq)


def test_the_image_given_is_not_changed():
    hq = picture(0, HEIGHT, WIDTH)
    hq.flags.writeable = False
    for before in (False, True):
        low_res(pipeline("noise", "jpeg", corrupt_before_downsize=before), (0.5, 0.5), image=hq)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"random_corruptions": ("noise",)}, r"num_corrupts_per_image \(0 switches them off\) or random_probabilities"),
        ({"random_corruptions": ("noise",), "random_probabilities": (0.5, 0.1)}, "2 probabilities for 1 random_corr"),
        (
            {"random_corruptions": ("noise",), "random_probabilities": (0.5,), "num_corrupts_per_image": 1},
            "stands beside num_corrupts_per_image 1; remove one",
        ),
        ({"random_corruptions": ("noise",), "random_probabilities": (1.5,)}, "less than or equal to 1"),
        ({"corruption_order": "phisical"}, "did you mean physical"),
        ({"downsample_kernels": ()}, "an empty list; name at least one kernel"),
        ({"downsample_kernels": ("lanczo",)}, "did you mean lanczos"),
        ({"corruption_jpeg_subsampling": "4:1:1"}, "4:2:0"),
        ({"second_order_probability": -0.1}, "greater than or equal to 0"),
        (
            {"fixed_corruptions": ("jpeg", "noise-5"), "fixed_parameters": {"corruption_entropy": (0.2, 0.5)}},
            "0.5, but noise-5 has one effect, whose strength is 1; write 1",
        ),
    ],
)
def test_options_that_do_not_fit_are_named_in_one_line(tmp_path, changes, message):
    data = {"paths": str(tmp_path), "target_size": 16, **changes}
    with pytest.raises(ConfigError, match=message) as caught:
        parse(type(options(tmp_path)), Source("recipe.yml", data, {}))
    assert len(str(caught.value).splitlines()) == 1


def test_items_carry_the_true_strengths_in_listed_order(tmp_path):
    fill(tmp_path, 4)
    changes = {"fixed_corruptions": ("jpeg", "noise-5", "gaussian_blur"), "second_order_probability": 0.5}
    listed, physical = dataset(tmp_path, **changes), dataset(tmp_path, **changes, **PHYSICAL)
    for position in range(6):
        first, second = listed.item(position), physical.item(position)
        assert first["corruption_entropy"].tolist() == second["corruption_entropy"].tolist()
        assert first["corruption_entropy"][1] == 1
        assert not np.array_equal(first["lq"], second["lq"])
    known = dataset(tmp_path, **changes, fixed_parameters={"corruption_entropy": (0.25, 1.0, 0.5)}).item(0)
    assert known["corruption_entropy"].tolist() == [0.25, 1.0, 0.5]


def test_random_seed_fixes_every_draw_and_each_item_has_its_own(tmp_path):
    """A trap of DL-Art-School: the corruptions drew from elsewhere."""
    fill(tmp_path, 4)
    changes = {
        "fixed_corruptions": ("poisson_noise", "motion_blur", "jpeg_twice"),
        "random_corruptions": ("gaussian_noise", "resize", "color_jitter"),
        "random_probabilities": (0.5, 0.5, 0.5),
        "second_order_probability": 0.5,
        "downsample_kernels": ("area", "lanczos"),
        "corruption_jpeg_subsampling": "random",
    }
    first, second = (dataset(tmp_path, seed=seed, random_seed=9, **changes) for seed in (1, 2))
    made = [first.item(position) for position in range(12)]
    for position in (11, 3, 0, 7):
        assert np.array_equal(second.item(position)["lq"], made[position]["lq"])
    assert len({item["corruption_entropy"].numpy().tobytes() for item in made}) == 12
    other = dataset(tmp_path, seed=1, **changes).item(0)
    assert not np.array_equal(other["lq"], made[0]["lq"])


def test_options_are_frozen():
    with pytest.raises(ValidationError):
        CorruptionOptions().cosine_bias = False


def test_random_corruptions_come_before_the_fixed_ones_as_in_dl_art_school():
    """Its ImageCorruptor goes through `augmentations`, the random ones, and then through `fixed_corruptions`."""
    made = pipeline("gaussian_blur", "jpeg", random_corruptions=("saturation",), num_corrupts_per_image=1)
    applied, _ = names(made, (0.3, 0.6))
    assert [name for name, _ in applied] == ["saturation", "gaussian_blur", "jpeg"]
    assert applied[1:] == [("gaussian_blur", float(np.float32(0.3))), ("jpeg", float(np.float32(0.6)))]


def test_clean_probability_leaves_corruptions_out_and_tells_0():
    made = pipeline("jpeg", "gaussian_blur", clean_probability=0.3)
    drawn = np.stack([made.strengths(numpy_generator(seed)) for seed in range(600)])
    assert drawn.dtype == np.float32
    np.testing.assert_allclose((drawn == 0).mean(0), 0.3, atol=0.06)
    both = (drawn == 0).all(1).mean()
    assert both == pytest.approx(0.09, abs=0.04)  # each by itself
    small = resize_area(picture(0, HEIGHT, WIDTH), HEIGHT // 2, WIDTH // 2)
    assert np.array_equal(low_res(made, (0, 0)), small)
    assert np.array_equal(low_res(made, (0, 0.9)), by_hand(small, ("gaussian_blur", 0.9)))
    weakest = low_res(pipeline("jpeg", "gaussian_blur"), (0, 0.9))
    assert np.array_equal(weakest, by_hand(small, ("jpeg", 0), ("gaussian_blur", 0.9)))


def test_without_clean_probability_nothing_else_is_drawn():
    plain, none = pipeline("jpeg", "gaussian_blur"), pipeline("jpeg", "gaussian_blur", clean_probability=0)
    assert np.array_equal(plain.strengths(numpy_generator(3)), none.strengths(numpy_generator(3)))
