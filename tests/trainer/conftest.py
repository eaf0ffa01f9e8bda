"""Tests do not wait for disks that will not come back."""

import pytest

from codes.trainer.logs import writers
from codes.trainer.saving import checkpoint_saver


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_saver, "WAITS", (0.0,))
    monkeypatch.setattr(writers, "PAUSE", 0.0)
