"""The folder of uploads goes with its process, however that ends."""

import os
import signal
import stat
import subprocess
import sys
import time

import pytest

from codes.inference.app.folder import BEGINNING, LOCK, PREFIX, ProcessFolder, remove_abandoned

CHILD = """
import pathlib, sys, time
from codes.inference.app.folder import ProcessFolder
folder = ProcessFolder(pathlib.Path(sys.argv[1]))
(folder.path / "upload").write_bytes(b"secret")
print(folder.path, flush=True)
time.sleep(60)
"""


def test_only_its_user_may_look_into_it_and_closing_removes_it(tmp_path):
    folder = ProcessFolder(tmp_path)
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    (folder.path / "deep").mkdir()
    (folder.path / "deep" / "upload").write_bytes(b"x")
    folder.close()
    assert [*tmp_path.iterdir()] == []


def test_a_folder_whose_process_lives_is_left_alone(tmp_path):
    first = ProcessFolder(tmp_path)
    second = ProcessFolder(tmp_path)
    assert first.path.is_dir()
    assert first.path != second.path
    for folder in (first, second):
        folder.close()


@pytest.mark.skipif(os.name == "nt", reason="signals of Unix")
def test_what_a_killed_process_left_is_removed_by_the_next_start(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    left = child.stdout.readline().strip()
    assert remove_abandoned(tmp_path) == []
    assert os.path.exists(left)
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert os.path.exists(left)
    folder = ProcessFolder(tmp_path)
    assert [*tmp_path.iterdir()] == [folder.path]
    folder.close()


def test_a_folder_that_is_just_being_made_has_no_lock_yet_and_stays(tmp_path):
    young, old = tmp_path / f"{PREFIX}young", tmp_path / f"{PREFIX}old"
    for folder in (young, old):
        folder.mkdir()
    past = time.time() - BEGINNING - 1
    os.utime(old, (past, past))
    assert remove_abandoned(tmp_path) == [old]
    assert young.is_dir()


def test_links_and_other_folders_are_never_followed_or_removed(tmp_path):
    precious = tmp_path / "photographs"
    precious.mkdir()
    (precious / LOCK).write_bytes(b"")
    link = tmp_path / f"{PREFIX}link"
    link.symlink_to(precious)
    assert remove_abandoned(tmp_path) == []
    assert (precious / LOCK).is_file()
    assert link.is_symlink()
