"""The files beside the samples: which the grid shows, and the npz as NumPy reads it."""

import zipfile

import numpy as np
import pytest

from codes.images.files import read_samples
from codes.inference.generation.sample_files import SampleFiles
from codes.utils.errors import DataError

HEIGHT, WIDTH = 6, 9
LABELS = np.array([2, 0, 2, 2, 0])


def filled(root, count, labels=None):
    files = SampleFiles(root, count, labels, ("a", "b", "c"))
    for position in range(count):
        files.write(position, np.full((HEIGHT, WIDTH, 3), position / 255, dtype=np.float32))
    return files


def test_missing_samples_are_found_by_name(tmp_path):
    files = filled(tmp_path, 5, LABELS)
    assert files.path(2) == tmp_path / "samples" / "c" / "000002.png"
    assert SampleFiles(tmp_path, 3).path(2) == tmp_path / "samples" / "000002.png"
    files.path(3).unlink()
    assert files.missing(range(5)) == [3]


@pytest.mark.parametrize("labels", [None, LABELS])
def test_the_npz_holds_all_samples_in_order(tmp_path, labels):
    file = filled(tmp_path, 5, labels).write_npz()
    assert file.name == "samples_5x6x9x3.npz"
    with np.load(file, allow_pickle=False) as data:
        assert list(data) == (["arr_0"] if labels is None else ["arr_0", "arr_1"])
        assert data["arr_0"].shape == (5, HEIGHT, WIDTH, 3)
        assert data["arr_0"].dtype == np.uint8
        assert data["arr_0"][:, 2, 3, 1].tolist() == [0, 1, 2, 3, 4]
        if labels is not None:
            assert data["arr_1"].tolist() == labels.tolist()
    before = file.read_bytes()
    assert filled(tmp_path, 5, labels).write_npz().read_bytes() == before
    assert all(entry.compress_type == zipfile.ZIP_STORED for entry in zipfile.ZipFile(file).infolist())


def test_fewer_samples_take_the_first_and_their_labels(tmp_path):
    filled(tmp_path, 5, LABELS)
    with np.load(SampleFiles(tmp_path, 3, LABELS, ("a", "b", "c")).write_npz()) as data:
        assert data["arr_0"].shape[0] == 3
        assert data["arr_1"].tolist() == [2, 0, 2]


def test_a_sample_of_another_size_stops_the_npz_and_leaves_none(tmp_path):
    files = filled(tmp_path, 3)
    files.write(1, np.zeros((WIDTH, HEIGHT, 3), dtype=np.float32))
    with pytest.raises(DataError, match=r"000001.png: is 6x9, but the other samples are 9x6"):
        files.write_npz()
    assert not list(tmp_path.glob("*samples_*"))


@pytest.mark.parametrize(
    ("count", "rows", "columns", "expected"),
    [
        (5, 10, 10, [[0, 1, 2], [3, 4]]),
        (5, 1, 10, [[0, 1, 2, 3, 4]]),
        (5, 10, 1, [[0], [1], [2], [3], [4]]),
        (5, 2, 2, [[0, 1], [2, 3]]),
        (1, 3, 3, [[0]]),
    ],
)
def test_the_grid_without_classes(tmp_path, count, rows, columns, expected):
    assert SampleFiles(tmp_path, count).grid_rows(rows, columns) == expected


def test_the_grid_has_a_row_for_each_class(tmp_path):
    files = filled(tmp_path, 5, LABELS)
    assert files.grid_rows(10, 10) == [[1, 4], [0, 2, 3]]
    assert files.grid_rows(1, 1) == [[1]]
    picture = read_samples(files.write_grid([[1, 4], [0, 2, 3]]))
    assert picture.shape == (4 + 2 * (HEIGHT + 4), 4 + 3 * (WIDTH + 4), 3)
    assert picture[4, 4].tolist() == [1, 1, 1]
    assert picture[4 + HEIGHT + 4, 4 + 2 * (WIDTH + 4)].tolist() == [3, 3, 3]


def test_large_samples_are_shrunk_in_the_grid(tmp_path):
    files = SampleFiles(tmp_path, 1)
    files.write(0, np.full((300, 600, 3), 0.5, dtype=np.float32))
    assert read_samples(files.write_grid([[0]])).shape == (128 + 8, 256 + 8, 3)
