"""Pairs from two folders: matched by name, checked before training, cut and mirrored together."""

import time
import unicodedata

import numpy as np
import pytest
import torch
from data_helpers import damage, picture

from codes.config.options import parse
from codes.config.yaml_source import Source
from codes.data import PairedDataset, PairedOptions
from codes.data.paired import _matched
from codes.data.scan import Scan
from codes.images.files import ImageInfo, read_image, resize_area, to_rgb, write_image
from codes.utils.errors import ConfigError, DataError


@pytest.fixture
def folders(tmp_path):
    for number in range(5):
        hq = picture(number, 40 + 2 * number, 54)
        write_image(tmp_path / "hq" / "sub" / f"{number}.png", hq)
        write_image(tmp_path / "lq" / "sub" / f"{number}.jpg", resize_area(hq, 20 + number, 27), quality=100)
    return tmp_path


def paired(folder, *, shuffle=True, **changes):
    given = {
        "paths": str(folder / "hq"), "paths_lq": str(folder / "lq"),
        "target_size": 16, "scale": 2, "tile": "random", "batch_size": 4,
    }  # fmt: skip
    return PairedDataset(PairedOptions.model_validate({**given, **changes}), seed=3, shuffle=shuffle)


def test_both_images_are_cut_at_the_same_place_and_mirrored_together(folders):
    data = paired(folders)
    places, mirrored = set(), 0
    for position in range(15):
        item = data.item(position)
        assert item["hq"].shape == (3, 16, 16)
        assert item["lq"].shape == (3, 8, 8)
        hq, lq = (to_rgb(item[key], n1_to_1=False) for key in ("hq", "lq"))
        assert np.abs(resize_area(hq, 8, 8) - lq).mean() < 0.03
        whole = read_image(item["HQ_path"]).rgb
        assert item["LQ_path"].endswith(item["HQ_path"].split("/")[-1].replace("png", "jpg"))
        windows = np.lib.stride_tricks.sliding_window_view(whole[..., 0], (16, 16))
        straight = np.argwhere(np.abs(windows - hq[..., 0]).max((2, 3)) < 1e-6)
        turned = np.argwhere(np.abs(windows - hq[:, ::-1, 0]).max((2, 3)) < 1e-6)
        mirrored += len(turned)
        assert len(straight) + len(turned) == 1
        (place,) = (*straight, *turned)
        assert not (place % 2).any()
        places.add((item["HQ_path"], *place))
    assert len(places) == 15
    assert 0 < mirrored < 15
    assert torch.equal(paired(folders).item(7)["lq"], data.item(7)["lq"])


def test_whole_pairs_in_file_order_outside_of_training(folders):
    data = paired(folders, shuffle=False, target_size=None, tile="none", rgb_n1_to_1=True)
    item = data.item(2)
    assert item["hq"].shape == (3, 44, 54)
    assert item["lq"].shape == (3, 22, 27)
    assert item["hq"].min() < -0.1
    centred = paired(folders, shuffle=False, tile="center").item(2)
    np.testing.assert_array_equal(to_rgb(centred["hq"], n1_to_1=False), read_image(item["HQ_path"]).rgb[14:30, 18:34])


def test_strengths_are_those_that_are_set(folders):
    assert paired(folders).item(0)["corruption_entropy"].shape == (0,)
    options = {"fixed_parameters": {"corruption_entropy": (0.3, 0.1)}}
    data = paired(folders, **options)
    assert data.item(0)["corruption_entropy"].tolist() == pytest.approx([0.3, 0.1])
    assert data.options.num_strengths == 2


def test_counts_and_sizes_are_checked_before_training(folders):
    (folders / "lq" / "sub" / "3.jpg").unlink()
    write_image(folders / "lq" / "sub" / "1.jpg", picture(1, 22, 27))
    write_image(folders / "lq" / "more.png", picture(1, 22, 27))
    with pytest.raises(DataError, match="3 of 5 hq and 5 lq files do not match") as caught:
        paired(folders)
    text = str(caught.value)
    for part in (
        "3.png: no lq of this name", "more.png: no hq of this name", "1.png: 54x42, but its lq", "is 27x22",
        "scale 2 needs 27x21", "allow_unmatched",
    ):  # fmt: skip
        assert part in text
    assert "\n" not in text
    data = paired(folders, allow_unmatched=True, batch_size=2)
    assert [path.name for path in data.files] == ["0.png", "2.png", "4.png"]
    assert [entry.kind for entry in data.report().failed] == ["unmatched"] * 3
    assert "more.png: no hq of this name" in "\n".join(data.report().lines())


def test_a_wrong_scale_is_named(folders):
    with pytest.raises(DataError, match=r"5 of 5 hq .* set scale or lq_suffix"):
        paired(folders, scale=4)


def test_names_with_a_suffix_and_odd_sizes(tmp_path):
    write_image(tmp_path / "hq" / "a.png", picture(0, 41, 55))
    write_image(tmp_path / "lq" / "ax2.png", picture(0, 20, 27))
    data = paired(tmp_path, lq_suffix="x2", batch_size=1)
    assert data.item(0)["LQ_path"].endswith("ax2.png")
    one = paired(tmp_path, paths=str(tmp_path / "hq" / "a.png"), paths_lq=str(tmp_path / "lq" / "ax2.png"))
    assert len(one) == 1


def test_a_name_that_comes_twice_matches_nothing(folders):
    write_image(folders / "lq" / "sub" / "1.png", picture(1, 21, 27))
    with pytest.raises(DataError, match=r"1\.png: no lq of this name"):
        paired(folders)


def test_a_damaged_lq_is_named_by_its_own_path(folders):
    broken = folders / "lq" / "sub" / "2.png"
    (folders / "lq" / "sub" / "2.jpg").unlink()
    damage(broken)
    write_image(folders / "hq" / "sub" / "2.png", picture(2, 100, 120))
    data = paired(folders)
    names = {data.item(position)["HQ_path"] for position in range(10)}
    assert len(names) == 4
    assert list(data.unreadable) == [broken]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tile": "none", "target_size": 16}, "tile: none would resize pairs"),
        ({"paths_lq": ("a", "b")}, "paths_lq: 2 folders of lq for 1 of hq"),
        ({"target_size": 15, "scale": 2, "tile": "random"}, "15 is not divisible by scale 2"),
        ({"alpha": "crop"}, "alpha: crop could cut"),
        ({"force_square": True}, "force_square: pairs are cut"),
    ],
)
def test_contradictions_are_named(changes, message):
    with pytest.raises(ConfigError) as caught:
        parse(PairedOptions, Source("r.yml", {"paths": "a", "paths_lq": "b", **changes}, {}))
    assert message in str(caught.value)
    assert all(field.description for field in PairedOptions.model_fields.values())


def test_pairs_match_whatever_form_their_letters_have(tmp_path):
    for folder, form, side in (("hq", "NFC", 40), ("lq", "NFD", 20)):
        for name in ("Café", "Zürich"):
            write_image(tmp_path / folder / f"{unicodedata.normalize(form, name)}.png", picture(1, side, side))
    data = paired(tmp_path, batch_size=2)
    assert len(data.files) == 2
    assert unicodedata.normalize("NFC", data.item(0)["LQ_path"]).replace("/lq/", "/hq/") == data.item(0)["HQ_path"]


def test_matching_takes_time_in_proportion_to_the_pairs(tmp_path):
    def seconds(count):
        infos = (ImageInfo(16, 16, "RGB", "PNG"),) * count
        scans = [
            Scan(tuple(tmp_path / kind / f"p_{number:06d}.png" for number in range(count)), infos, (range(count),), ())
            for kind in ("hq", "lq")
        ]
        options = PairedOptions(paths=str(tmp_path / "hq"), paths_lq=str(tmp_path / "lq"), target_size=8, tile="center")
        start = time.process_time()
        pairs, lone = _matched(*scans, options)
        assert len(pairs) == count
        assert not lone
        assert scans[0].without(lambda _: None).files == scans[0].files
        return time.process_time() - start

    for kind in ("hq", "lq"):
        (tmp_path / kind).mkdir()
    seconds(1000)
    # In proportion it is 20 times as long, quadratic 400 times; between them lies a busy machine.
    assert seconds(20_000) < 150 * max(seconds(1000), 0.005)
