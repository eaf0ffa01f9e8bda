"""A photograph of the app: its region, its names, what its files keep."""

import os

import numpy as np
import pytest

from codes.inference.app.photograph import safe_name
from codes.inference.app.region import MARGIN, regions
from codes.inference.app.settings import Dials, PreviewChoice, RequestError, parsed
from codes.utils.names import FORBIDDEN, LONGEST_PART, problem_with_part

NASTY = [
    "../../etc/passwd.jpg", "..\\..\\windows\\system32.png", "a\nb\r\0c.jpg", "<img src=x onerror=alert(1)>.png",
    "con.jpg", "...", "", ".", "x" * 5000 + ".jpg", "é" * 400 + ".png", " .jpg", "a\u202egpj.exe", '"; rm -rf /', "/",
    "C:\\", "nul", "\ud800.jpg".encode("utf-8", "replace").decode(), "photo?.jpg",
]  # fmt: skip


@pytest.mark.parametrize("name", NASTY)
def test_no_name_of_a_user_leads_anywhere_or_breaks_a_system(name):
    safe = safe_name(name)
    assert problem_with_part(safe) is None
    assert not set(safe) & FORBIDDEN
    assert len(os.fsencode(safe)) <= LONGEST_PART


def test_a_usual_name_stays_as_it_is():
    assert safe_name("Grand Canyon, 2019.07.JPG") == "Grand Canyon, 2019.07"
    assert safe_name("no_ending") == "no_ending"


@pytest.mark.parametrize("centre", [(0, 0), (50, 60), (99, 199), (10**6, 10**6)])
def test_a_region_is_a_whole_square_inside_the_photograph(centre):
    inner, outer = regions((100, 200), centre, 32)
    for (start, end), (before, after), whole, middle in zip(inner, outer, (100, 200), centre, strict=True):
        assert end - start == 32
        assert 0 <= before <= start < end <= after <= whole
        assert start - before in (MARGIN, start)
        assert start <= min(max(middle, 0), whole - 1) < end


def test_a_region_of_a_small_photograph_is_all_of_it():
    assert regions((10, 20), (3, 3), 32) == ([(0, 10), (0, 20)], [(0, 10), (0, 20)])


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"", "the request"), (b"[]", "the request"), (b'{"steps": 2}', "steps"), (b'{"steps": "8"}', "steps"),
        (b'{"temperature": 1.5}', "temperature"), (b'{"temperature": NaN}', "temperature"), (b'{"seed": -1}', "seed"),
        (b'{"seed": 4294967296}', "seed"), (b'{"tile": 8}', "tile"), (b'{"tile": 100000}', "tile"),
        (b'{"strengths": {"jpeg": 1.1}}', "strengths.jpeg"), (b'{"strengths": {"jpeg": null}}', "strengths.jpeg"),
        (b'{"tiles": 128}', "tiles"), (b"\xff\xfe", "the request"), (b"[" * 5000, "the request"),
    ],
)  # fmt: skip
def test_a_request_that_is_wrong_is_named_in_one_line(body, named):
    with pytest.raises(RequestError) as caught:
        parsed(Dials, body)
    assert str(caught.value).startswith(named)
    assert "\n" not in str(caught.value)
    assert caught.value.status == 400


def test_what_is_left_out_of_a_request_is_as_the_page_begins():
    assert parsed(Dials, b"{}") == Dials(strengths={}, temperature=0.15, steps=8, seed=0, tile=None)
    assert parsed(PreviewChoice, b'{"x": 3, "y": 4, "temperature": 1}').temperature == 1.0
    assert np.isclose(parsed(Dials, b'{"strengths": {"jpeg": 0}}').strengths["jpeg"], 0)
