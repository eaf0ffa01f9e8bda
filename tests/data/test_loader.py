"""Batches do not depend on workers, ranks or where a run was resumed."""

import hashlib
import pickle

import pytest
import torch
from data_helpers import damage, dataset, fill, first

from codes.data import TrainLoader, collate
from codes.utils.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("in")
    fill(folder, 7)
    return dataset(folder)


def fingerprint(batch):
    digest = hashlib.sha256()
    for key in sorted(batch):
        value = batch[key]
        digest.update(value.numpy().tobytes() if isinstance(value, torch.Tensor) else repr(value).encode())
    return digest.hexdigest()


def test_batches_are_stacked_items_of_consecutive_positions(data):
    loader = TrainLoader(data, batch_size=4)
    batches = first(loader, 3)
    assert loader.position == 12
    for number, batch in enumerate(batches):
        expected = collate([data.item(position) for position in range(number * 4, number * 4 + 4)])
        assert fingerprint(batch) == fingerprint(expected)
        assert batch["hq"].shape == (4, 3, 16, 16)
        assert batch["corruption_entropy"].shape == (4, 2)
        assert len(batch["HQ_path"]) == 4


def test_the_number_of_workers_changes_nothing(data):
    wanted = [fingerprint(batch) for batch in first(TrainLoader(data, 4, num_workers=0), 6)]
    assert len(set(wanted)) == 6
    for workers in (1, 2):
        assert [fingerprint(batch) for batch in first(TrainLoader(data, 4, num_workers=workers), 6)] == wanted


def test_a_resume_in_the_middle_of_an_epoch_changes_nothing(data):
    wanted = [fingerprint(batch) for batch in first(TrainLoader(data, 4), 6)]
    resumed = TrainLoader(data, 4, num_workers=2, start_position=12)
    assert [fingerprint(batch) for batch in first(resumed, 3)] == wanted[3:]
    assert resumed.position == 24


def test_an_odd_starting_position_is_exact(data):
    batch = first(TrainLoader(data, 4, start_position=5), 1)[0]
    assert fingerprint(batch) == fingerprint(collate([data.item(position) for position in range(5, 9)]))


def test_ranks_share_the_same_order(data):
    whole = first(TrainLoader(data, 4), 3)
    shares = [first(TrainLoader(data, 4, rank=rank, world_size=2), 3) for rank in range(2)]
    for number, batch in enumerate(whole):
        joined = torch.cat([share[number]["lq"] for share in shares])
        assert torch.equal(joined, batch["lq"])
    with pytest.raises(ConfigError, match="batch_size 4 cannot be shared by 3 processes"):
        TrainLoader(data, 4, world_size=3)


def test_no_global_generator_is_touched(data):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first(TrainLoader(data, 4, num_workers=1), 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_dataset_can_be_sent_to_a_spawned_worker(data):
    copy = pickle.loads(pickle.dumps(data))
    assert torch.equal(copy.item(3)["lq"], data.item(3)["lq"])


def test_damage_found_by_workers_is_counted_in_the_main_process(tmp_path):
    fill(tmp_path / "in", 3)
    broken = tmp_path / "in" / "broken.png"
    damage(broken)
    rotten = dataset(tmp_path / "in")
    first(TrainLoader(rotten, 4, num_workers=2), 4)
    assert list(rotten.unreadable) == [broken]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_the_dataset_arrives_as_itself(tmp_path, workers):
    paths = fill(tmp_path / "in", 2)
    rotten = dataset(tmp_path / "in", batch_size=2)
    for path in paths:
        path.unlink()
    with pytest.raises(DataError, match="none of its 2 files can be decoded") as caught:
        first(TrainLoader(rotten, 2, num_workers=workers), 1)
    assert "Traceback" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_200_items_are_the_same_for_0_1_4_workers_a_resume_at_57_and_two_ranks(tmp_path):
    """With everything that draws switched on: weights, several tiles, flat ones drawn again, random corruptions."""
    fill(tmp_path / "a", 5)
    fill(tmp_path / "b", 4)
    data = dataset(
        (tmp_path / "a", tmp_path / "b"),
        weights=(1.0, 1.5), tiles_per_image=3, min_tile_std=40.0, batch_size=2,
        random_corruptions=("noise", "none"), num_corrupts_per_image=1,
    )  # fmt: skip
    wanted = [fingerprint(collate([data.item(position)])) for position in range(200)]
    assert len(set(wanted)) == 200
    assert len(data) < 57  # so that several epochs are crossed

    def items(count, **settings):
        batches = first(TrainLoader(data, settings.pop("batch_size", 1), **settings), count)
        return [fingerprint(batch) for batch in batches]

    assert items(200, num_workers=0) == wanted
    for workers in (1, 4):
        assert items(200, num_workers=workers) == wanted
    assert items(143, num_workers=4, start_position=57) == wanted[57:]
    ranks = [items(100, batch_size=2, rank=rank, world_size=2) for rank in (0, 1)]
    assert [item for pair in zip(*ranks, strict=True) for item in pair] == wanted
