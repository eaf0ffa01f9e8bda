"""The tile cutter: geometry, resuming, and what it does with what it cannot cut."""

import os
import signal
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from data_helpers import picture

from codes.data import tiles
from codes.data.samples import HELD_OUT, TRAINING
from codes.data.tiles import TileSettings, cut_folders, tile_corners, tile_starts, write_contact_sheet
from codes.images.files import find_images, probe_image, quantise, read_image, read_samples, write_image
from codes.runtime.run_lock import RunLock
from codes.scripts.extract_tiles import main
from codes.utils.errors import DataError
from codes.utils.names import same_file


@pytest.mark.parametrize(
    ("length", "tile", "step", "starts"),
    [(10, 4, 3, (0, 3, 6)), (11, 4, 3, (0, 3, 6, 7)), (4, 4, 3, (0,)), (5, 4, 4, (0, 1)), (8, 4, 4, (0, 4))],
)
def test_the_last_tile_is_shifted_to_the_border(length, tile, step, starts):
    assert tile_starts(length, tile, step) == starts


def test_tiles_cover_every_pixel():
    for height, width in ((16, 16), (17, 40), (33, 29)):
        covered = np.zeros((height, width), int)
        for top, left in tile_corners(height, width, TileSettings(16, 12)):
            covered[top : top + 16, left : left + 16] += 1
        assert covered.min() > 0
    with pytest.raises(ValueError, match="15 pixels are less than one tile of 16"):
        tile_corners(15, 40, TileSettings(16, 12))


@pytest.mark.parametrize("settings", [(0, 1, 0), (8, 0, 0), (8, 9, 0), (8, 8, -1)])
def test_impossible_settings_are_refused(settings):
    with pytest.raises(DataError, match="tile"):
        TileSettings(*settings)


def test_tiles_hold_the_pixels_of_their_place(tmp_path):
    write_image(tmp_path / "in" / "sub" / "a.png", picture(0, 40, 55))
    write_image(tmp_path / "in" / "deep.png", picture(1, 20, 24), bit_depth=16)
    report = cut_folders([tmp_path / "in"], tmp_path / "out", TileSettings(16, 12))
    assert (report.images, report.written, report.existing, report.failed) == (2, 19, 0, ())
    tile = read_image(tmp_path / "out" / "sub" / "a_00012_00036.png")
    whole = read_image(tmp_path / "in" / "sub" / "a.png")
    assert np.array_equal(tile.rgb, whole.rgb[12:28, 36:52])
    assert read_image(tmp_path / "out" / "deep_00000_00000.png").bit_depth == 16


def test_a_second_run_writes_only_what_is_missing_or_out_of_date(tmp_path):
    for name in ("a", "b"):
        write_image(tmp_path / "in" / f"{name}.png", picture(0, 30, 45))
    settings = TileSettings(16, 16)
    first = cut_folders([tmp_path / "in"], tmp_path / "out", settings)
    (tmp_path / "out" / "a_00000_00016.png").unlink()
    again = cut_folders([tmp_path / "in"], tmp_path / "out", settings)
    assert (again.written, again.existing) == (1, first.written - 1)
    later = (tmp_path / "out" / "b_00000_00000.png").stat().st_mtime + 10
    os.utime(tmp_path / "in" / "b.png", (later, later))
    assert cut_folders([tmp_path / "in"], tmp_path / "out", settings).written == first.written // 2
    with pytest.raises(DataError, match=r"was cut with .*'tile': 16.*choose another folder"):
        cut_folders([tmp_path / "in"], tmp_path / "out", TileSettings(8, 8))


def test_flat_tiles_are_left_out(tmp_path):
    image = np.full((16, 32, 3), 0.5, np.float32)
    image[:, 16:] = picture(0, 16, 16)
    write_image(tmp_path / "in" / "a.png", image)
    report = cut_folders([tmp_path / "in"], tmp_path / "out", TileSettings(16, 16, min_std=5))
    assert (report.written, report.flat) == (1, 1)
    again = cut_folders([tmp_path / "in"], tmp_path / "out", TileSettings(16, 16, min_std=5))
    assert (again.written, again.existing, again.flat) == (0, 1, 1)
    assert [path.name for path in find_images(tmp_path / "out").files] == ["a_00000_00016.png"]


@pytest.mark.parametrize("content", [None, "{", "[1]", '{"a": 3}', '{"a": [[1], 2]}'])
def test_photographs_with_flat_tiles_are_not_read_again(tmp_path, monkeypatch, content):
    write_image(tmp_path / "in" / "a.png", np.full((16, 32, 3), 0.5, np.float32))
    settings = TileSettings(16, 16, min_std=5)
    cut_folders([tmp_path / "in"], tmp_path / "out", settings)
    if content is not None:  # a note that is damaged is as good as none
        (tmp_path / "out" / ".photographs.json").write_text(content)
    reads = []
    monkeypatch.setattr(
        "codes.data.tiles.read_samples", lambda path, **limits: reads.append(path) or read_samples(path, **limits)
    )
    assert cut_folders([tmp_path / "in"], tmp_path / "out", settings).flat == 2
    assert len(reads) == (content is not None)
    write_image(tmp_path / "in" / "a.png", picture(0, 16, 32))
    assert cut_folders([tmp_path / "in"], tmp_path / "out", settings).written == 2


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    write_image(tmp_path / "in" / "a.png", picture(0, 16, 32))

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("codes.data.tiles.write_image", full)
    with pytest.raises(DataError, match=r"a_00000_00000\.png: cannot be written \(No space left on device\)"):
        cut_folders([tmp_path / "in"], tmp_path / "out", TileSettings(16, 16))


def test_huge_photographs_are_left_out_by_an_option(tmp_path):
    for number, width in enumerate((20, 90)):
        write_image(tmp_path / "in" / f"{number}.png", picture(number, 16, width))
    report = cut_folders([tmp_path / "in"], tmp_path / "out", TileSettings(16, 16), max_pixels=16 * 50)
    assert (report.images, [entry.kind for entry in report.failed]) == (1, ["too_large"])


def test_photographs_of_one_name_do_not_overwrite_each_other(tmp_path):
    for number, name in enumerate(("in/a.png", "in/a.jpg", "more/in/a.png")):
        write_image(tmp_path / name, picture(number, 16, 20))
    report = cut_folders([tmp_path / "in", tmp_path / "more" / "in"], tmp_path / "out", TileSettings(16, 16))
    written = find_images(tmp_path / "out")
    assert (report.written, len(written.files), written.left_out) == (6, 6, [])
    tops = [quantise(read_image(file).rgb).tobytes() for file in written.files]
    assert len(set(tops)) == 6


def test_the_number_of_workers_changes_nothing(tmp_path):
    for number in range(3):
        write_image(tmp_path / "in" / f"{number}.png", picture(number, 30, 45))
    for workers in (1, 2):
        cut_folders([tmp_path / "in"], tmp_path / str(workers), TileSettings(16, 12), workers)
    first, second = (find_images(tmp_path / name).files for name in "12")
    assert [path.name for path in first] == [path.name for path in second]
    assert all(one.read_bytes() == other.read_bytes() for one, other in zip(first, second, strict=True))


def test_a_process_that_is_killed_ends_the_cutter_with_advice_and_what_is_cut(tmp_path, monkeypatch, capsys):
    for number in range(3):
        write_image(tmp_path / "in" / f"{number}.png", picture(number, 30, 45))
    parent = os.getpid()

    def killed(path, **settings):
        if path.name == "1.png" and os.getpid() != parent:
            time.sleep(1)  # the first photograph is done by then
            os.kill(os.getpid(), signal.SIGKILL)
        return read_samples(path, **settings)

    monkeypatch.setattr(tiles, "read_samples", killed)
    arguments = ["--input", str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--tile", "16", "--step", "12"]
    assert main([*arguments, "--workers", "2"]) == 1
    said = capsys.readouterr().err
    assert "a process was killed, as systems do when memory runs out; lower --workers" in said
    assert "Traceback" not in said
    assert [*(tmp_path / "out").glob("0_*.png")]
    monkeypatch.undo()
    assert main([*arguments, "--workers", "2"]) == 0
    cut_folders([tmp_path / "in"], tmp_path / "whole", TileSettings(16, 12))
    assert len(find_images(tmp_path / "out").files) == len(find_images(tmp_path / "whole").files)


def test_an_output_inside_the_input_is_refused(tmp_path):
    write_image(tmp_path / "in" / "a.png", picture(0, 30, 45))
    for output in (tmp_path / "in", tmp_path / "in" / "tiles"):
        with pytest.raises(DataError, match="the output lies inside the input"):
            cut_folders([tmp_path / "in"], output, TileSettings(16, 12))
    assert len(list((tmp_path / "in").iterdir())) == 1


def test_the_contact_sheet_lies_beside_the_tiles(tmp_path):
    write_image(tmp_path / "in" / "a.png", picture(0, 60, 90))
    cut_folders([tmp_path / "in"], tmp_path / "out", TileSettings(16, 12))
    sheet = write_contact_sheet(tmp_path / "out", side=16, limit=10)
    assert sheet == tmp_path / "out_contact_sheet.jpg"
    info = probe_image(sheet)
    assert info.height < info.width
    (tmp_path / "none").mkdir()
    assert write_contact_sheet(tmp_path / "none") is None


def test_the_command_tells_by_its_exit_code(tmp_path):
    source, output = str(tmp_path / "in"), str(tmp_path / "out")
    common = ["--output", output, "--tile", "16", "--step", "12"]
    assert main(["--input", source, *common]) == 2
    write_image(tmp_path / "in" / "a.png", picture(0, 30, 45))
    (tmp_path / "in" / "notes.txt").write_text("not counted as a failure")
    assert main(["--input", source, *common]) == 0
    truncated = tmp_path / "in" / "b.png"
    write_image(truncated, picture(0, 30, 45))
    truncated.write_bytes(truncated.read_bytes()[:1500])
    assert main(["--input", source, *common]) == 1
    with pytest.raises(SystemExit) as caught:
        main(["--output", output])
    assert caught.value.code == 2


def test_the_sample_photographs_can_be_cut(tmp_path):
    assert main(["--samples", "--output", str(tmp_path / "out"), "--tile", "256", "--step", "256"]) == 0
    names = {path.name.split("_")[0] for path in find_images(tmp_path / "out").files}
    assert names == {Path(name).stem.split("_")[0] for name in TRAINING}
    assert HELD_OUT.split(".")[0] not in names


@pytest.mark.parametrize(
    "names",
    [
        ("a.jpg", "a.png", "a_jpg.png", "a_jpg_2.png", "b.png"),
        ("Photo.png", "photo.jpg", "PHOTO_png.png"),
        (unicodedata.normalize("NFC", "Café.png"), unicodedata.normalize("NFD", "Café.png")),
    ],
)
def test_no_photograph_takes_the_tiles_of_another_on_any_file_system(tmp_path, names):
    for number, name in enumerate(names):
        write_image(tmp_path / "in" / name, picture(number, 16, 16))
    report = cut_folders([tmp_path / "in"], tmp_path / "out", TileSettings(16, 16))
    written = find_images(tmp_path / "out").files
    assert report.written == len(written) == len(names) == len(set(map(same_file, written)))
    if "b.png" in names:  # what shares its name with nobody keeps it
        assert {"a_jpg_00000_00000.png", "b_00000_00000.png"} <= {file.name for file in written}
        whole = read_image(tmp_path / "in" / "a_jpg.png").rgb
        assert np.array_equal(read_image(tmp_path / "out" / "a_jpg_00000_00000.png").rgb, whole)


def test_tiles_of_another_photograph_of_the_name_are_cut_anew(tmp_path):
    settings = TileSettings(16, 16)
    write_image(tmp_path / "in" / "a.png", picture(0, 16, 16))
    cut_folders([tmp_path / "in"], tmp_path / "out", settings)
    (tmp_path / "in" / "a.png").unlink()
    write_image(tmp_path / "in" / "a.bmp.png", picture(1, 16, 16))
    old = tmp_path / "in" / "a.bmp.png"
    other = old.rename(old.with_name("a.tif.png")).rename(tmp_path / "in" / "a.png")
    os.utime(other, (1, 1))  # older than the tiles
    assert cut_folders([tmp_path / "in"], tmp_path / "out", settings).written == 1
    assert np.array_equal(read_image(tmp_path / "out" / "a_00000_00000.png").rgb, read_image(other).rgb)


def test_a_name_without_room_for_the_place_of_a_tile_is_told_and_the_rest_is_cut(tmp_path):
    write_image(tmp_path / "in" / ("é" * 120 + ".png"), picture(0, 16, 16))
    write_image(tmp_path / "in" / "b.png", picture(1, 16, 16))
    report = cut_folders([tmp_path / "in"], tmp_path / "out", TileSettings(16, 16))
    assert (report.images, report.written) == (1, 1)
    assert "has 256 bytes, 255 are possible there, so its tiles cannot be written" in str(report.failed[0])


def test_two_cutters_do_not_write_into_one_folder(tmp_path, capsys):
    write_image(tmp_path / "in" / "a.png", picture(0, 16, 16))
    arguments = ["--input", str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--tile", "16", "--step", "16"]
    with RunLock(tmp_path / "out"):
        assert main(arguments) == 2
        assert "is in use by another run" in capsys.readouterr().err
        assert not list((tmp_path / "out").glob("*.png"))
    assert main(arguments) == 0
