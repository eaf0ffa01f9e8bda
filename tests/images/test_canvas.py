"""Canvases: the same image in memory, on disk and through a window; stores that survive their process."""

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from codes.images import canvas as canvas_module
from codes.images.canvas import Canvas, CanvasWindow, DiskCanvas, RamCanvas, as_canvas
from codes.images.canvas_store import CanvasStore, DiskStore, RamStore
from codes.utils.errors import TesseraError

SHAPE = (3, 7, 5)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=["ram", "disk", "window"])
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Canvas:
    made: dict[str, Canvas] = {
        "ram": RamCanvas(torch.zeros(SHAPE)),
        "disk": DiskCanvas(tmp_path / "new" / "a.raw", *SHAPE),
        "window": CanvasWindow(DiskCanvas(tmp_path / "b.raw", 4, 9, 8), *SHAPE),
    }
    return made[request.param]


def test_rows_come_back_as_they_were_written(subject: Canvas) -> None:
    values = randn(*SHAPE)
    subject.write(0, values[:, :4])
    subject.write(4, values[:, 4:])
    subject.flush()
    assert subject.shape == SHAPE
    assert torch.equal(subject.rows(0, 7), values)
    assert torch.equal(subject.rows(2, 5), values[:, 2:5])


def test_rows_outside_are_refused(subject: Canvas) -> None:
    for y0, y1 in ((-1, 2), (3, 3), (5, 8)):
        with pytest.raises(ValueError, match="of a canvas of 7 rows"):
            subject.rows(y0, y1)
    with pytest.raises(ValueError, match="of a canvas of 7 rows"):
        subject.write(6, torch.zeros(3, 2, 5))


def test_bands_cover_the_canvas_once(subject: Canvas, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(subject.bands()) == [(0, 7)]
    monkeypatch.setattr(canvas_module, "BAND_BYTES", 4 * 3 * 5 * 3)
    assert list(subject.bands()) == [(0, 3), (3, 6), (6, 7)]


def test_a_window_leaves_what_lies_around_it() -> None:
    whole = RamCanvas(randn(4, 9, 8))
    before = whole.values.clone()
    CanvasWindow(whole, *SHAPE).write(1, torch.ones(3, 2, 5))
    assert torch.equal(whole.values[:3, 1:3, :5], torch.ones(3, 2, 5))
    whole.values[:3, 1:3, :5] = before[:3, 1:3, :5]
    assert torch.equal(whole.values, before)
    with pytest.raises(ValueError, match="does not fit"):
        CanvasWindow(whole, 3, 10, 5)


def test_a_file_of_another_size_is_refused(tmp_path: Path) -> None:
    DiskCanvas(tmp_path / "a.raw", *SHAPE)
    with pytest.raises(TesseraError, match=r"a\.raw: 420 bytes, expected 360; remove this file"):
        DiskCanvas(tmp_path / "a.raw", 3, 6, 5)


def test_a_full_disk_is_found_when_the_file_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left") as caught:
        DiskCanvas(tmp_path / "a.raw", *SHAPE)
    assert caught.value.filename == str(tmp_path / "a.raw")
    assert not (tmp_path / "a.raw").exists()


def test_images_of_a_state_as_canvases() -> None:
    image = randn(1, 3, 7, 5)
    assert torch.equal(as_canvas(image).rows(0, 7), image[0])
    canvas = RamCanvas(image[0])
    assert as_canvas(canvas) is canvas
    with pytest.raises(AssertionError, match="expected one image"):
        as_canvas(randn(2, 3, 7, 5))


def store(kind: str, folder: Path, key: str = "key") -> CanvasStore:
    return DiskStore(folder, key, SHAPE) if kind == "disk" else RamStore(SHAPE, folder, key, seconds=0.0)


def steps(subject: CanvasStore, count: int) -> None:
    for _ in range(count):
        subject.upcoming.write(0, randn(*SHAPE, seed=subject.steps_done + 1))
        subject.commit()


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_a_store_is_found_again_by_its_key(kind: str, tmp_path: Path) -> None:
    steps(store(kind, tmp_path), 3)
    again = store(kind, tmp_path)
    assert again.steps_done == 3
    assert torch.equal(again.state.rows(0, 7), randn(*SHAPE, seed=3))
    steps(again, 1)
    assert store(kind, tmp_path).steps_done == 4
    other = store(kind, tmp_path, "another key")
    assert other.steps_done == 0
    assert store(kind, tmp_path).steps_done == 0


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_a_half_written_step_is_not_taken_for_one(kind: str, tmp_path: Path) -> None:
    subject = store(kind, tmp_path)
    steps(subject, 2)
    subject.upcoming.write(0, torch.full(SHAPE, 9.0))  # and the process dies
    again = store(kind, tmp_path)
    assert again.steps_done == 2
    assert torch.equal(again.state.rows(0, 7), randn(*SHAPE, seed=2))


@pytest.mark.parametrize("text", ["", "{", '{"key": "key"}', '{"key": "key", "steps_done": 2, "state": "gone.raw"}'])
def test_a_damaged_journal_begins_anew(text: str, tmp_path: Path) -> None:
    steps(store("ram", tmp_path), 2)
    (tmp_path / "state.json").write_text(text)
    assert store("ram", tmp_path).steps_done == 0


def test_one_state_in_memory_is_kept_and_no_more(tmp_path: Path) -> None:
    steps(store("ram", tmp_path), 5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["5.raw", "state.json"]
    assert json.loads((tmp_path / "state.json").read_text())["steps_done"] == 5


def test_a_state_in_memory_is_written_now_and_then(tmp_path: Path) -> None:
    subject = RamStore(SHAPE, tmp_path, "key", seconds=3600.0)
    steps(subject, 3)
    assert not list(tmp_path.iterdir())
    subject.keep()
    assert RamStore(SHAPE, tmp_path, "key").steps_done == 3
    steps(RamStore(SHAPE), 2)  # without a folder nothing is written, and nothing fails


def test_a_disk_without_room_costs_the_safety_not_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    told: list[str] = []
    subject = RamStore(SHAPE, tmp_path, "key", seconds=0.0, on_event=told.append)
    monkeypatch.setattr(os, "posix_fallocate", full)
    steps(subject, 3)
    assert subject.steps_done == 3
    assert len(told) == 1
    assert "No space left on device); an interruption would begin this image anew" in told[0]
