"""The size of the app's results, and what else of a recipe's options its page offers."""

import numpy as np
import pytest
from app_helpers import DIALS, models, opened, photograph, pixels, restored, service, settled, states, upload
from app_helpers import started as app_of
from PIL import Image
from restorer_helpers import picture

from codes.images.files import quantise, resize_bicubic, to_float
from codes.images.output_size import SizeOptions
from codes.inference.app.region import MARGIN, REGION, exactly, region_side, regions, window_of
from codes.inference.app.settings import Limits
from codes.inference.restorer_sizes import ResultSize


@pytest.fixture
def page(tmp_path):
    with app_of(service(tmp_path)) as client:
        assert client.get("/").status_code == 200
        yield client


def sized(page, key, **output):
    answer = page.post(f"/api/photographs/{key}/size", json=output)
    return answer.status_code, answer.json()


@pytest.mark.parametrize(
    ("output", "size"),
    [
        ({"scale": 1.5}, (41, 27)), ({"megapixels": 0.002}, (55, 37)), ({"size": "40x40"}, (40, 27)),
        ({"size": "40x40", "size_mode": "fill"}, (40, 40)), ({"size": "31x50", "size_mode": "exact"}, (31, 50)),
        ({"scale": 0.5, "resampling": "area", "linear_light": True}, (14, 9)), ({"scale": 4}, (108, 72)),
        ({}, (54, 36)),
    ],
)  # fmt: skip
def test_the_result_has_the_size_that_was_told_and_is_the_librarys(page, tmp_path, output, size):
    file = tmp_path / "photo.jpg"
    file.write_bytes(photograph(kind="JPEG", quality=90, dpi=(72, 72)))
    key = restored(page, file.read_bytes(), output=output)
    status, told = sized(page, key, **output)
    assert (status, told["width"], told["height"]) == (200, *size)
    assert told["notes"] == states(page)[key]["result"]["notes"]
    result = opened(page.get(f"/api/photographs/{key}/result?format=png"))
    assert result.size == size
    expected = models().fast(
        Image.open(file), DIALS["strengths"], steps=1, temperature=0.15, seed=3, output=SizeOptions(**output)
    )
    assert np.array_equal(np.asarray(result), np.asarray(expected))
    (view,) = states(page)[key]["result"]["views"]
    assert all(opened(page.get(f"/{url}")).size == size for url in view["layers"].values())


def test_what_a_size_invents_is_told_before_and_after(page):
    key = restored(page, photograph(), output={"scale": 4})
    (note,) = sized(page, key, scale=4)[1]["notes"]
    assert note == "restored 2 times in a row; fine detail is invented from invented detail"
    assert (
        sized(page, key, scale=40)[1]["notes"][1]
        == "more than the network gives; enlarged by interpolation for the rest"
    )
    assert sized(page, key, scale=2.2)[1]["notes"] == []


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ({"scale": 2, "megapixels": 3}, "megapixels: says how large a result is, and so does scale"),
        ({"size": "x"}, "size: expected WIDTHxHEIGHT"), ({"scale": 0}, "scale: expected greater than 0"),
        ({"scale": "2"}, "scale: expected a number"),
        ({"megapixel": 3}, "megapixel: unknown key (did you mean megapixels?)"),
        ({"size": "9x9", "size_mode": "cover"}, "size_mode: expected 'fit', 'fill' or 'exact'"),
        ({"megapixels": 300}, "more than 250 megapixels, the limit of this app"),
        ({"size": "1x300", "size_mode": "exact"}, "needs 432 × 288 pixels"),
        ({"megapixels": 5000}, "more than 1000000000; ask for less"),
    ],
)  # fmt: skip
def test_a_size_that_cannot_be_is_refused_by_one_message_everywhere(tmp_path, output, said):
    limits = Limits(free_bytes=0, result_pixels=100_000) if "needs" in said else None
    with app_of(service(tmp_path, limits)) as page:
        page.get("/")
        key = upload(page, photograph())
        settled(page, key)
        status, told = sized(page, key, **output)
        assert (status, said in told["message"]) == (400, True), told
        for what, more in (("restore", {}), ("preview", {"x": 0, "y": 0})):
            answer = page.post(f"/api/photographs/{key}/{what}", json={**DIALS, **more, "output": output})
            assert answer.status_code == 400
            assert said in answer.json()["message"]
        assert states(page)[key]["state"] == "ready"


def test_a_photograph_that_is_not_read_has_no_size_yet(page):
    key = upload(page, b"no image")
    assert settled(page, key)["state"] == "damaged"
    assert sized(page, key)[0] == 409


@pytest.mark.parametrize(
    ("output", "side", "size"),
    [
        ({}, 128, (256, 256)), ({"scale": 1.5}, 128, (192, 192)), ({"scale": 4}, 64, (256, 256)),
        ({"scale": 0.5}, 128, (64, 64)), ({"size": "480x800", "size_mode": "exact"}, 64, (128, 256)),
        ({"size": "600x300", "size_mode": "fill"}, 64, (160, 160)),
    ],
)  # fmt: skip
def test_a_preview_shows_a_square_at_the_size_of_the_result(page, output, side, size):
    key = upload(page, photograph(200, 240))
    settled(page, key)
    assert sized(page, key, **output)[1]["side"] == side
    told = page.post(f"/api/photographs/{key}/preview", json={**DIALS, "x": 120, "y": 100, "output": output}).json()
    assert (told["width"], told["height"]) == size
    before, after = (pixels(page.get(f"/{url}")) for url in told["views"][0]["layers"].values())
    assert before.shape == after.shape == (size[1], size[0], 3)
    start_y, start_x = 100 - side // 2, 120 - side // 2
    part = to_float(picture(200, 240))[start_y : start_y + side, start_x : start_x + side]
    expected = quantise(resize_bicubic(part, *size[::-1])).astype(int)
    middle = np.s_[8:-8, 8:-8]  # the rest sees what surrounds it
    assert np.abs(before.astype(int) - expected)[middle].mean() < 4
    assert not np.array_equal(before, after)


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (137, 41), (300, 301)])
@pytest.mark.parametrize("factor", [0.01, 0.3, 0.5, 1.0, 1.37, 2.0, 7.9])
def test_the_window_of_a_region_is_inside_the_result_and_never_empty(size, factor):
    wanted = ResultSize.of(SizeOptions(scale=factor), *size, 2)
    side = region_side(wanted, 2)
    assert side * 2**wanted.passes <= REGION
    for centre in ((0, 0), (size[0] // 2, size[1] // 2), size):
        inner, outer = regions(size, centre, side)
        framing, window = window_of(inner, outer, (factor, factor))
        for axis, (start, end), (first, last) in zip((0, 1), inner, outer, strict=True):
            part = window[axis]
            assert 0 <= part.start < part.stop <= framing.size[axis]
            assert abs(part.start - (start - first) * factor) <= 1
            assert abs(part.stop - (end - first) * factor) <= 1
            assert last - end <= MARGIN
        assert exactly(framing, wanted.options).framing(5, 7, 2).size == framing.size


def test_keeping_to_the_input_and_seamless_edges_reach_the_network(page):
    data = photograph(40, 56)
    plain, kept, seamless = (
        pixels(page.get(f"/api/photographs/{restored(page, data, steps=4, temperature=1.0, **dials)}/result"))
        for dials in ({}, {"consistency": "each_step"}, {"wrap": "x"})
    )
    given = picture(40, 56).astype(float)

    def drift(result):
        return np.abs((result.reshape(40, 2, 56, 2, 3).mean((1, 3)) - given).reshape(5, 8, 7, 8, 3).mean((1, 3))).mean()

    assert drift(kept) < drift(plain) - 2
    assert not np.array_equal(seamless, plain)
    refused = page.post("/api/photographs/x/restore", json={**DIALS, "wrap": "z"})
    assert refused.status_code == 404
    key = upload(page, data)
    settled(page, key)
    refused = page.post(f"/api/photographs/{key}/restore", json={**DIALS, "wrap": "z", "consistency": "no"})
    assert refused.json()["message"].startswith("wrap: expected 'none', 'x', 'y' or 'xy', found 'z'; consistency: ")
