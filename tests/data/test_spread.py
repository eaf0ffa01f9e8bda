"""Several tiles of a decoded photograph, spread so that every batch shows many photographs."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from data_helpers import dataset, fill, first

from codes.data.loader import TrainLoader
from codes.data.sample_cache import SampleCache
from codes.data.spread import TileSpread, spread_for


@pytest.mark.parametrize(("tiles", "tracks"), [(1, 1), (1, 8), (3, 4), (4, 3), (16, 8)])
def test_every_tile_has_one_position_and_the_other_way_round(tiles: int, tracks: int) -> None:
    spread = TileSpread(tiles, tracks)
    ordinals = [spread.ordinal(position) for position in range(600)]
    assert len(set(ordinals)) == 600
    assert [spread.position(ordinal) for ordinal in ordinals] == list(range(600))
    left_out = set(range(max(ordinals) + 1 - 2 * tiles * tracks)) - set(ordinals)
    assert all(spread.position(ordinal) < 0 for ordinal in left_out)  # of the first photographs of the tracks alone
    assert len(left_out) < tiles * tracks


def test_one_tile_each_is_the_order_of_the_photographs() -> None:
    assert [TileSpread(1, 7).ordinal(position) for position in range(30)] == list(range(30))


def test_as_many_positions_in_a_row_as_tracks_show_as_many_photographs_and_few_change_at_once() -> None:
    spread = TileSpread(tiles=4, tracks=12)
    photographs = [spread.ordinal(position) // 4 for position in range(240)]
    for start in range(0, 240, 12):
        assert len(set(photographs[start : start + 12])) == 12
    new = [len(set(photographs[s : s + 12]) - set(photographs[s - 12 : s])) for s in range(12, 240, 12)]
    assert set(new) == {3}


def test_a_photograph_of_many_megapixels_gives_more_tiles_and_waiting_ones_have_room() -> None:
    def of(pixels: float, side: int, batch: int, photographs: int = 10_000) -> TileSpread:
        return spread_for(None, photographs, pixels, side, batch)

    assert of(481 * 321, 128, 8) == TileSpread(1, 1)
    assert of(2e6, 256, 32).tiles == 1
    assert of(8e6, 256, 32).tiles == 7
    assert of(24e6, 256, 32) == TileSpread(16, 5 * 32)
    assert of(24e6, 256, 32, photographs=70).tracks == 64
    assert of(24e6, 256, 32, photographs=7).tracks == 32
    assert spread_for(3, 100, 1e4, 64, 5) == TileSpread(3, 40)
    for batch in (1, 8, 64):
        found = of(50e6, 512, batch)
        assert found.tracks == batch or found.tracks * found.tiles / 2 * 3 * 512**2 <= 2**28


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_batch_shows_as_many_photographs_as_it_has_tiles_for_any_number_of_workers(
    tmp_path: Path, workers: int
) -> None:
    fill(tmp_path / "in", 100)  # so many that no second epoch begins
    data = dataset(tmp_path / "in", tiles_per_image=5, batch_size=4)
    batches = first(TrainLoader(data, 4, num_workers=workers), 15)
    assert all(len(set(batch["HQ_path"])) == 4 for batch in batches)
    alone = dataset(tmp_path / "in", tiles_per_image=5, batch_size=4)
    for number, batch in enumerate(batches):
        items = [alone.item(position) for position in range(4 * number, 4 * number + 4)]
        assert torch.equal(batch["hq"], torch.stack([item["hq"] for item in items]))
        assert torch.equal(batch["lq"], torch.stack([item["lq"] for item in items]))


def test_every_photograph_gives_its_tiles_once_an_epoch_and_is_decoded_once_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "in", 8)
    data = dataset(tmp_path / "in", tiles_per_image=4, batch_size=2, cache_megabytes=0)
    decoded: list[Path] = []
    get = SampleCache.get
    monkeypatch.setattr(SampleCache, "get", lambda self, path: (decoded.append(path), get(self, path))[1])
    assert len(data) == 32
    items = [data.item(position) for position in range(320)]
    epochs = [TileSpread(4, 8).ordinal(position) // 32 for position in range(320)]
    counts = Counter((epoch, str(item["HQ_path"])) for epoch, item in zip(epochs, items, strict=True))
    assert {count for (epoch, _), count in counts.items() if 1 <= epoch <= 8} == {4}
    assert len(decoded) == pytest.approx(320 / 4, abs=8)
    places = {item["hq"].numpy().tobytes() for item in items}
    assert len(places) > 250  # tiles of one photograph differ


def test_an_item_is_the_same_whatever_was_asked_for_before(tmp_path: Path) -> None:
    fill(tmp_path / "in", 5)
    options = {"tiles_per_image": 3, "batch_size": 2, "min_tile_std": 20.0, "shrink": (1.0, 1.5)}
    ordered = dataset(tmp_path / "in", **options)
    wanted = [ordered.item(position) for position in range(40)]
    other = dataset(tmp_path / "in", **options)
    for position in np.random.default_rng(0).permutation(40).tolist():
        item = other.item(position)
        assert torch.equal(item["hq"], wanted[position]["hq"])
        assert item["HQ_path"] == wanted[position]["HQ_path"]
        assert str(other.wanted(position)) == item["HQ_path"]
