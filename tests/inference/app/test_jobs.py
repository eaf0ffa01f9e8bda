"""The queue and its worker: turns, positions, what passes between tiles, cancelling."""

import threading

import pytest

from codes.inference.app.jobs import Cancelled, FairQueue, Kind, QueuedJob, Worker

WAIT = 20  # seconds, far more than anything here takes


def everyone(_):
    return True


def job(owner, kind=Kind.RESTORE, work=lambda _: None):
    return QueuedJob(owner, kind, work)


def taken(queue, present=everyone):
    found = []
    while (one := queue.take(Kind, present)) is not None:
        found.append(one.owner)
    return found


@pytest.fixture
def worker():
    made = Worker(everyone)
    made.start()
    yield made
    made.stop(WAIT)


class Gate:
    """Work that reports one tile after the other, each only when it is let."""

    def __init__(self, tiles=3):
        self.tiles, self.begun = tiles, threading.Event()
        self.steps = threading.Semaphore(0)

    def __call__(self, progress):
        self.begun.set()
        for tile in range(self.tiles):
            assert self.steps.acquire(timeout=WAIT)
            progress(tile + 1, self.tiles)
        return "done"

    def let(self, tiles=1):
        self.steps.release(tiles)


def test_owners_take_turns_however_many_jobs_one_has():
    queue = FairQueue()
    for owner in "aaaabbc":
        queue.put(job(owner))
    assert taken(queue) == [*"abcabaa"]


def test_previews_come_before_readings_and_these_before_restorations():
    queue = FairQueue()
    for kind in (Kind.RESTORE, Kind.READ, Kind.PREVIEW):
        queue.put(job(kind.name, kind))
    assert taken(queue) == ["PREVIEW", "READ", "RESTORE"]


def test_those_who_have_gone_away_wait_for_all_others_and_are_then_served():
    queue = FairQueue()
    for owner in "aabb":
        queue.put(job(owner))
    assert taken(queue, lambda owner: owner != "a") == [*"bbaa"]


def test_the_order_that_is_told_is_the_order_that_is_done():
    queue = FairQueue()
    jobs = [job(owner) for owner in "aaabbc"]
    for one in jobs:
        queue.put(one)
    told = [*queue.upcoming(Kind.RESTORE, everyone)]
    assert [queue.take(Kind, everyone) for _ in jobs] == told


def test_a_job_that_was_taken_back_is_never_done():
    queue = FairQueue()
    first, second = job("a"), job("a")
    queue.put(first)
    queue.put(second)
    assert queue.remove(first)
    assert not queue.remove(first)
    assert queue.take(Kind, everyone) is second
    assert queue.take(Kind, everyone) is None


def test_positions_count_the_running_restoration_and_all_that_come_before(worker):
    gate = Gate()
    worker.submit(job("a", work=gate))
    assert gate.begun.wait(WAIT)
    second, third, other = (worker.submit(job(owner)) for owner in "aab")
    # `a` was served already and `b` not: it is between the two others.
    assert worker.positions() == {second: 1, other: 2, third: 3}
    gate.let(3)
    for one in (second, third, other):
        one.future.result(WAIT)
    assert worker.positions() == {}


def test_a_quick_job_is_done_between_two_tiles_of_a_long_one(worker):
    gate, order = Gate(), []
    long = worker.submit(job("a", work=gate))
    assert gate.begun.wait(WAIT)
    quick = worker.submit(job("b", Kind.PREVIEW, lambda progress: order.append(progress(1, 1))))
    assert not quick.future.done()
    gate.let()
    quick.future.result(WAIT)
    assert order == [None]
    assert not long.future.done()
    gate.let(2)
    assert long.future.result(WAIT) == "done"


def test_a_long_job_goes_on_by_a_tile_after_every_quick_one(worker):
    gate = Gate(tiles=2)
    long = worker.submit(job("a", work=gate))
    assert gate.begun.wait(WAIT)
    quick = [worker.submit(job("b", Kind.PREVIEW)) for _ in range(5)]
    gate.let(2)
    assert long.future.result(WAIT) == "done"  # not after all five
    for one in quick:
        one.future.result(WAIT)


def test_cancelling_ends_a_running_job_at_its_next_tile_and_the_worker_goes_on(worker):
    gate = Gate(tiles=1000)
    long = worker.submit(job("a", work=gate))
    assert gate.begun.wait(WAIT)
    worker.cancel(long)
    gate.let()
    with pytest.raises(Cancelled):
        long.future.result(WAIT)
    assert worker.submit(job("a", work=lambda _: 5)).future.result(WAIT) == 5


def test_cancelling_one_that_waits_takes_it_out_and_one_that_is_done_stays(worker):
    gate = Gate(tiles=1)
    done = worker.submit(job("a", work=gate))
    assert gate.begun.wait(WAIT)
    waiting = worker.submit(job("a"))
    worker.cancel(waiting)
    assert waiting.future.cancelled()
    gate.let()
    assert done.future.result(WAIT) == "done"
    worker.cancel(done)
    assert done.future.result() == "done"


@pytest.mark.parametrize("error", [ValueError("odd"), RuntimeError("broken"), MemoryError()])
def test_a_job_that_fails_ends_no_other(worker, error):
    def fails(_):
        raise error

    failed, after = worker.submit(job("a", work=fails)), worker.submit(job("a", work=lambda _: 1))
    assert after.future.result(WAIT) == 1
    assert failed.future.exception() is error


def test_stopping_ends_what_runs_and_what_waits_and_takes_nothing_more():
    worker, gate = Worker(everyone), Gate(tiles=1000)
    worker.start()
    running, waiting = worker.submit(job("a", work=gate)), worker.submit(job("b"))
    assert gate.begun.wait(WAIT)
    gate.let(1000)
    worker.stop(WAIT)
    assert waiting.future.cancelled()
    assert isinstance(running.future.exception(WAIT), Cancelled) or running.future.result() == "done"
    assert worker.submit(job("c")).future.cancelled()


def test_the_time_left_follows_from_the_pace_and_leaves_out_what_came_between(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("codes.inference.app.jobs.time.monotonic", lambda: now[0])
    one = job("a")
    assert one.remaining is None
    one.started, one.share = 90.0, 0.25
    assert one.remaining == 30.0
    worker = Worker(everyone)

    def slow(_):
        now[0] += 7.0

    worker.submit(job("b", Kind.PREVIEW, slow))
    worker._between(one, 1, 4)
    assert now[0] == 107.0
    assert one.remaining == 30.0
