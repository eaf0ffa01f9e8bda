"""What every test needs: a log that is afterwards as it was before."""

import logging
import os

# Before torch is imported, and whatever the environment says: the networks of the tests are too small for threads,
# which only wait for each other, and some tests fork, after which OpenMP's threads would be missing in the child.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest

pytest_plugins = ["trained"]  # a tiny trained experiment, shared by the tests of several rooms


@pytest.fixture(autouse=True)
def _log_as_it_was():
    """The commands put handlers on the project's logger and stop its propagation; other tests listen to it."""
    root = logging.getLogger("tessera")
    handlers, level, propagate = [*root.handlers], root.level, root.propagate
    root.handlers[:] = []  # a session's fixture may have been made in the middle of another test
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    root.propagate = propagate
