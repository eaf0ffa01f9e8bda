"""Finding images: order, links, folders that cannot be entered, junk of systems, formats that are left out."""

import inspect
import os
import sys
from pathlib import Path

import pytest

from codes.images import search
from codes.images.search import find_images
from codes.utils.errors import DataError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def left(images, kind):
    return {entry.path.name: entry.reason for entry in images.left_out if entry.kind == kind}


def test_images_are_found_in_natural_order_through_links_and_unicode(tmp_path):
    touch(tmp_path / "in", "img10.png", "img2.PNG", "ärger/日本.jpg", "ärger/b1.webp", "notes.txt")
    touch(tmp_path / "elsewhere", "linked.png")
    os.symlink(tmp_path / "elsewhere", tmp_path / "in" / "link")
    os.symlink(tmp_path / "in", tmp_path / "in" / "loop")
    images = find_images(tmp_path / "in")
    names = [str(file.relative_to(tmp_path / "in")) for file in images.files]
    assert names == ["img2.PNG", "img10.png", "link/linked.png", "ärger/b1.webp", "ärger/日本.jpg"]
    assert [(entry.path.name, entry.reason) for entry in images.left_out] == [
        ("notes.txt", "not an image by its extension (.txt)")
    ]
    assert find_images([tmp_path / "in" / "img10.png"]).files == [tmp_path / "in" / "img10.png"]
    with pytest.raises(DataError, match="nowhere: no such file or folder"):
        find_images(str(tmp_path / "nowhere"))


def test_links_that_lead_nowhere_or_in_a_circle_stand_for_pictures(tmp_path):
    touch(tmp_path, "a.png")
    for name, target in (
        ("gone.png", "x"),
        ("gone", "y"),
        ("lock.pid", "z"),
        ("one.jpg", "two.jpg"),
        ("two.jpg", "one.jpg"),
    ):
        os.symlink(tmp_path / target, tmp_path / name)
    images = find_images(tmp_path)
    assert [file.name for file in images.files] == ["a.png"]
    circle = "a link that leads in a circle"
    assert left(images, "unreachable") == {
        "gone.png": "a broken link", "gone": "a broken link", "one.jpg": circle, "two.jpg": circle,
    }  # fmt: skip
    assert left(images, "other") == {"lock.pid": "a broken link"}


def test_a_folder_that_cannot_be_entered_or_vanishes_is_left_out_and_the_rest_is_found(tmp_path, monkeypatch):
    touch(tmp_path, "a.png", "closed/b.png", "gone/c.png", "listed only/d.png", "z/e.png")
    access, iterdir = os.access, Path.iterdir

    def entered(path, mode):
        return Path(path).name != "listed only" and access(path, mode)

    def listed(path):
        if path.name == "closed":
            raise PermissionError(13, "Permission denied")
        if path.name == "gone":
            raise FileNotFoundError(2, "No such file or directory")
        return iterdir(path)

    monkeypatch.setattr(os, "access", entered)
    monkeypatch.setattr(Path, "iterdir", listed)
    images = find_images(tmp_path)
    assert [file.name for file in images.files] == ["a.png", "e.png"]
    denied = "cannot be reached (Permission denied)"
    assert left(images, "unreachable") == {"closed": denied, "gone": "no longer there", "listed only": denied}


def test_folders_may_lie_deeper_than_python_recurses(tmp_path):
    depth = 200
    deep = tmp_path.joinpath(*["d"] * depth, "deep.png")
    deep.parent.mkdir(parents=True)
    deep.touch()
    before = sys.getrecursionlimit()
    try:
        sys.setrecursionlimit(len(inspect.stack()) + depth // 2)
        assert find_images(tmp_path).files == [deep]
    finally:
        sys.setrecursionlimit(before)


def test_what_systems_put_among_pictures_is_passed_over_and_counted(tmp_path):
    touch(
        tmp_path, "a.jpg", "@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg", "__MACOSX/._a.jpg", "sub/._b.jpg", "sub/b.jpg",
        ".thumbnails/c.png", ".Trash-1000/files/d.png", "Thumbs.db", "Lightroom Previews.lrdata/0/e.jpg",
        "#recycle/f.jpg", ".tiles.json",
    )  # fmt: skip
    images = find_images(tmp_path)
    assert [file.name for file in images.files] == ["a.jpg", "b.jpg"]
    (entry,) = images.left_out
    assert entry.kind == "system"
    assert entry.path == tmp_path
    assert entry.reason.startswith("7 hidden or system entries inside passed over (")
    assert find_images(tmp_path / "@eaDir").files  # named by the user, so it is meant


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("IMG_1.HEIC", "install pillow-heif (pip install pillow-heif), or convert it to PNG or TIFF"),
        ("a.jxl", "install pillow-jxl-plugin (pip install pillow-jxl-plugin), or convert it to PNG or TIFF"),
        ("DSC1.NEF", "develop it and save it as TIFF"),
        ("layers.psd", "save it as TIFF or PNG"),
    ],
)
def test_images_of_formats_that_are_not_read_are_named_with_what_to_do(tmp_path, monkeypatch, name, advice):
    monkeypatch.setattr(search, "EXTENSIONS", search.READABLE)
    touch(tmp_path, name, "movie.mov", "a.png")
    images = find_images(tmp_path)
    assert left(images, "format") == {name: f"{Path(name).suffix.lower()} files are not read; {advice}"}
    assert list(left(images, "other")) == ["movie.mov"]


def test_installed_packages_add_their_formats(monkeypatch):
    asked = []

    class Heif:
        @staticmethod
        def register_heif_opener():
            asked.append("heif")

    def imported(name):
        if name == "pillow_heif":
            return Heif
        raise ImportError(name)

    monkeypatch.setattr(search.importlib, "import_module", imported)
    assert search.load_plugins() == {".heic", ".heif", ".hif"}
    assert asked == ["heif"]


def test_a_pipe_or_a_device_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "in.png")
    with pytest.raises(DataError, match=r"in\.png: a pipe; expected an image file or a folder"):
        find_images(tmp_path / "in.png")
    with pytest.raises(DataError, match="null: a device"):
        find_images("/dev/null")
    assert left(find_images(tmp_path), "unreachable") == {"in.png": "a pipe"}


def test_a_pipe_by_the_name_of_a_picture_is_named_as_what_was_not_read(tmp_path):
    touch(tmp_path, "a.png")
    os.mkfifo(tmp_path / "b.png")
    os.mkfifo(tmp_path / "control")
    found = find_images(tmp_path)
    assert [file.name for file in found.files] == ["a.png"]
    assert left(found, "unreachable") == {"b.png": "a pipe"}
    assert left(found, "other") == {"control": "a pipe"}
