"""The index of a folder: in the user's cache, never in the input, never trusted blindly."""

import json
import os
import threading

import pytest
from data_helpers import dataset, fill, picture

from codes.data import index as index_module
from codes.data import scan as scan_module
from codes.data.index import FolderIndex
from codes.data.scan import scan
from codes.images.files import probe_image, write_image


@pytest.fixture
def probed(monkeypatch):
    """The names of the files whose headers are read; every new entry is worth writing."""
    names = []

    def probe(path, **limits):
        names.append(path.name)
        return probe_image(path, max_pixels=limits["max_pixels"])

    monkeypatch.setattr(scan_module, "probe_image", probe)
    monkeypatch.setattr(index_module, "WORTH_WRITING", 1)
    return names


def read(folder, names, **settings):
    names.clear()
    scanned = scan([folder], 16, index=True, **settings)
    return scanned, sorted(names)


def test_headers_are_read_once(tmp_path, probed, cache_folder):
    fill(tmp_path / "in", 3)
    first, names = read(tmp_path / "in", probed)
    assert names == ["img0.png", "img1.png", "img2.png"]
    again, names = read(tmp_path / "in", probed)
    assert names == []
    assert again == first
    assert sorted(path.name for path in (tmp_path / "in").iterdir()) == ["img0.png", "img1.png", "img2.png"]
    assert len(list(cache_folder.rglob("*.json"))) == 1


def test_changed_new_and_removed_files_are_noticed(tmp_path, probed):
    paths = fill(tmp_path / "in", 3)
    read(tmp_path / "in", probed)
    status = paths[0].stat()
    write_image(paths[0], picture(9, 31, 33))
    os.utime(paths[0], ns=(status.st_atime_ns, status.st_mtime_ns))  # only the size of the file tells
    os.utime(paths[1], ns=(1, 1))  # only its time
    paths[2].unlink()
    write_image(tmp_path / "in" / "new.png", picture(1, 20, 30))
    scanned, names = read(tmp_path / "in", probed)
    assert names == ["img0.png", "img1.png", "new.png"]
    assert {file.name: (info.height, info.width) for file, info in zip(scanned.files, scanned.infos, strict=True)} == {
        "img0.png": (31, 33), "img1.png": (41, 54), "new.png": (20, 30),
    }  # fmt: skip
    assert "img2.png" not in FolderIndex(tmp_path / "in").file.read_text()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": 0, "files": {}}', None, b"\xff\x00"])
def test_a_damaged_index_is_rebuilt(tmp_path, probed, content):
    fill(tmp_path / "in", 2)
    expected, _ = read(tmp_path / "in", probed)
    file = FolderIndex(tmp_path / "in").file
    if content is None:  # valid JSON, wrong inside
        data = json.loads(file.read_text())
        data["files"]["img0.png"] = ["x", 2]
        data["files"]["img1.png"][2] = "tall"
        content = json.dumps(data)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    scanned, names = read(tmp_path / "in", probed)
    assert names == ["img0.png", "img1.png"]
    assert scanned == expected
    assert read(tmp_path / "in", probed)[1] == []


def test_limits_and_damage_are_not_frozen_into_it(tmp_path, probed):
    paths = fill(tmp_path / "in", 2)
    assert len(read(tmp_path / "in", probed, max_pixels=10)[0].files) == 0
    assert len(read(tmp_path / "in", probed)[0].files) == 2
    data = paths[0].read_bytes()
    paths[0].write_bytes(data[:100])
    assert [path.name for path in read(tmp_path / "in", probed)[0].files] == ["img1.png"]
    paths[0].write_bytes(data)
    assert len(read(tmp_path / "in", probed)[0].files) == 2


def test_writers_at_the_same_time_leave_a_whole_file(tmp_path, probed):
    fill(tmp_path / "in", 4)
    threads = [threading.Thread(target=scan, args=([tmp_path / "in"], 16), kwargs={"index": True}) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read(tmp_path / "in", probed)[1] == []


def test_it_can_be_switched_off_and_is_not_written_for_few_files(tmp_path, cache_folder, monkeypatch):
    fill(tmp_path / "in", 3)
    dataset(tmp_path / "in", batch_size=2)
    assert not list(cache_folder.rglob("*.json"))
    monkeypatch.setattr(index_module, "WORTH_WRITING", 1)
    dataset(tmp_path / "in", batch_size=2, index=False)
    assert not list(cache_folder.rglob("*.json"))
    dataset(tmp_path / "in", batch_size=2)
    assert len(list(cache_folder.rglob("*.json"))) == 1


def test_a_cache_that_lies_in_the_input_or_cannot_be_written_is_left_alone(tmp_path, probed, monkeypatch):
    fill(tmp_path / "in", 2)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "in" / "cache"))
    assert len(read(tmp_path / "in", probed)[0].files) == 2
    assert not (tmp_path / "in" / "cache").exists()
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(read(tmp_path / "in", probed)[0].files) == 2
