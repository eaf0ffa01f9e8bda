"""Between two steps of sampling: what is shown, and what ends it."""

import pytest

from codes.runtime.interrupt import StopRequest
from codes.runtime.step_watch import StepWatch
from codes.utils.errors import Interrupted


class Line:
    """A line of the console that remembers what it showed."""

    def __init__(self):
        self.shown = []

    def show(self, *what):
        self.shown.append(what)


class Lock:
    """A lock that another run takes after some looks."""

    def __init__(self, looks):
        self.looks = looks

    def check(self):
        self.looks -= 1
        if self.looks < 0:
            raise OSError("taken over")


def test_a_part_is_shown_as_its_share_of_everything():
    line = Line()
    watch = StepWatch(line, StopRequest(), part=2, parts=5)
    watch("restored", 3, 10)
    assert line.shown == [("restored", 23, 50)]
    assert StepWatch(None, StopRequest())("restored", 3, 10) is None


def test_a_stop_ends_the_sampling_after_it_was_shown():
    line, stop = Line(), StopRequest()
    watch = StepWatch(line, stop, message="stopped; all is kept")
    watch("restored", 1, 2)
    stop.requested = True
    with pytest.raises(Interrupted, match="stopped; all is kept"):
        watch("restored", 2, 2)
    assert len(line.shown) == 2


def test_the_lock_is_looked_at_every_time():
    watch = StepWatch(None, StopRequest(), Lock(1))
    watch("restored", 1, 2)
    with pytest.raises(OSError, match="taken over"):
        watch("restored", 2, 2)
