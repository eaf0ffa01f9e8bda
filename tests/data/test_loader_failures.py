"""Data workers that die, hang or have no shared memory: a message in time, never a wait without end."""

import errno
import multiprocessing
import os
import signal
import time

import pytest
import torch
from data_helpers import dataset, fill, first

from codes.data import TrainLoader
from codes.utils.errors import TesseraError


class Misbehaving:
    """A dataset that does something else from a position on."""

    def __init__(self, inner, first, deed):
        self.inner, self.first, self.deed = inner, first, deed

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def item(self, position):
        if position >= self.first:
            self.deed()
        return self.inner.item(position)


@pytest.fixture
def data(tmp_path):
    fill(tmp_path / "in", 7)
    return dataset(tmp_path / "in")


def kill(number):
    return lambda: os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (
            signal.SIGKILL,
            r"SIGKILL, as systems do when memory runs out; lower datasets.train.n_workers \(2\)",
        ),
        (signal.SIGBUS, r"SIGBUS: shared memory .* is too small; .*--shm-size=1g\), or set .*n_workers: 0"),
        (signal.SIGSEGV, "SIGSEGV; set datasets.train.n_workers: 0 to see what is wrong"),
    ],
)
def test_a_worker_that_dies_is_told_with_its_reason_and_what_to_change(data, number, advice):
    loader = TrainLoader(Misbehaving(data, 8, kill(number)), 4, num_workers=2)
    with pytest.raises(TesseraError, match=rf"a data worker \(process \d+\) was killed by {advice}"):
        first(loader, 4)  # what a worker had not yet handed over dies with it
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_read_that_never_returns_is_named_and_ends_at_the_limit(data, workers):
    loader = TrainLoader(Misbehaving(data, 4, lambda: time.sleep(60)), 4, num_workers=workers, patience=1.0)
    batches = iter(loader)
    next(batches)
    start = time.monotonic()
    with pytest.raises(
        TesseraError, match=r"no batch for \d s \(limit: loader_timeout\).*4 images from position 4 on"
    ) as e:
        next(batches)
    assert time.monotonic() - start < 8
    wanted = {str(data.wanted(position)) for position in range(4, 8)}
    assert all(file in str(e.value) for file in wanted)
    assert not multiprocessing.active_children()


def test_whoever_waits_may_leave(data):
    def leave(seconds):
        if seconds > 0.1:
            raise KeyError("enough")

    stuck = Misbehaving(data, 0, lambda: time.sleep(60))
    with pytest.raises(KeyError, match="enough"):
        next(iter(TrainLoader(stuck, 4, num_workers=1, while_waiting=leave)))


def test_without_shared_memory_the_same_batches_come_through_pipes(data, monkeypatch, caplog):
    wanted = first(TrainLoader(data, 4), 4)

    def full(_):
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    piped = first(TrainLoader(data, 4, num_workers=2), 4)
    for one, other in zip(wanted, piped, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in ("hq", "lq", "corruption_entropy"))
        assert one["HQ_path"] == other["HQ_path"]
    assert caplog.text.count("come through pipes, which is slower: shared memory") == 1


def ignore_sigterm():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(60)


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, r"No space left on device\): shared memory .* is too small; .*n_workers: 0"),
        (
            errno.EROFS,
            r"Read-only file system\): shared memory .* must be writable; or set datasets.train.n_workers: 0",
        ),
        (errno.EAGAIN, r"Resource temporarily unavailable\); lower datasets.train.n_workers"),
    ],
)
def test_workers_that_could_be_started_end_where_one_could_not(data, monkeypatch, number, advice):
    class Half:
        def __iter__(self):
            multiprocessing.get_context("fork").Process(target=ignore_sigterm, daemon=True).start()
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(TrainLoader, "_loader", lambda _: Half())
    start = time.monotonic()
    with pytest.raises(TesseraError, match=f"data workers cannot be started \\({advice}"):
        next(iter(TrainLoader(data, 4, num_workers=2)))
    assert time.monotonic() - start < 8
    assert not multiprocessing.active_children()


def test_the_file_that_is_wanted_is_the_one_that_is_read(data):
    assert [str(data.wanted(position)) for position in range(20)] == [data.item(p)["HQ_path"] for p in range(20)]
