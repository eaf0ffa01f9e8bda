"""One run at a time in a folder; what died does not hold it, what lives elsewhere is not taken from."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from codes.runtime.experiment import Experiment
from codes.runtime.processes import process_space, started_at
from codes.runtime.run_lock import NAME, Holder, RunLock
from codes.utils.errors import ConfigError, TakenOver

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import sys, time
from pathlib import Path
from codes.runtime.run_lock import RunLock
with RunLock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def elsewhere(tmp_path):
    """Another process that holds tmp_path/run."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def lock_of(folder, holder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / NAME).write_text(json.dumps(asdict(holder)))
    return folder / NAME


def test_a_live_run_is_not_disturbed_and_the_refusal_says_who_and_what_to_do(tmp_path, elsewhere):
    folder = tmp_path / "run"
    before = {path: path.stat().st_mtime_ns for path in (folder, folder / NAME)}
    with pytest.raises(ConfigError) as refused, RunLock(folder):
        pass
    said = str(refused.value)
    assert f"process {elsewhere.pid} on {Holder.this_process().host}, since 20" in said
    assert f"delete {folder / NAME}" in said
    assert "another `name`" in said
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert os.listdir(folder) == [NAME]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_dead_process_holds_nothing_even_before_its_parent_has_noticed(tmp_path, elsewhere, number):
    elsewhere.send_signal(number)
    end = time.monotonic() + 10
    while started_at(elsewhere.pid) and time.monotonic() < end:
        time.sleep(0.01)
    assert (tmp_path / "run" / NAME).exists()
    start = time.monotonic()
    with RunLock(tmp_path / "run") as lock:
        assert Holder.read(lock.file.read_bytes()).pid == os.getpid()
    assert time.monotonic() - start < 5
    assert not (tmp_path / "run" / NAME).exists()


def test_a_number_that_another_process_has_by_now_is_not_the_holder(tmp_path):
    earlier = replace(Holder.this_process(), started="12", token="a")
    assert earlier.lives() is False
    lock_of(tmp_path, earlier)
    with RunLock(tmp_path):
        pass


def test_on_another_machine_a_sign_of_life_decides(tmp_path):
    far = replace(Holder.this_process(), host="far", space="another boot", token="a")
    file = lock_of(tmp_path, far)
    stop = threading.Event()
    file_time = time.time() + 3600  # its clock may be wrong

    def beat():
        while not stop.wait(0.02):
            os.utime(file, (file_time, file_time + time.monotonic()))

    thread = threading.Thread(target=beat)
    thread.start()
    with pytest.raises(ConfigError, match="on far"), RunLock(tmp_path, beat=0.05, patience=5.0):
        pass
    stop.set()
    thread.join()
    with RunLock(tmp_path, beat=0.05, patience=0.3) as lock:
        assert Holder.read(file.read_bytes()) == lock.holder


@pytest.mark.parametrize("data", [b"", b"{}", b'{"host": 1}', b"\xff\x00", b"[[[["])
def test_a_damaged_lock_is_waited_for_and_then_taken_over(tmp_path, data):
    (tmp_path / NAME).write_bytes(data)
    with RunLock(tmp_path, beat=0.02, patience=0.1) as lock:
        assert Holder.read(lock.file.read_bytes()) == lock.holder


def test_who_was_not_heard_of_stops_and_leaves_the_lock_of_the_other_alone(tmp_path):
    with RunLock(tmp_path, beat=0.02) as lock:
        lock.check()
        other = lock_of(tmp_path, replace(lock.holder, token="other", host="far"))
        end = time.monotonic() + 5
        while lock._lost is None and time.monotonic() < end:
            time.sleep(0.01)
        with pytest.raises(TakenOver, match=r"taken over by process \d+ on far"):
            lock.check()
    assert json.loads(other.read_text())["token"] == "other"


def test_signs_of_life_are_given_and_a_deleted_lock_comes_back(tmp_path):
    with RunLock(tmp_path, beat=0.02) as lock:
        os.utime(lock.file, (1, 1))
        end = time.monotonic() + 5
        while lock.file.stat().st_mtime < 2 and time.monotonic() < end:
            time.sleep(0.01)
        assert lock.file.stat().st_mtime > 2
        lock.file.unlink()
        while not lock.file.exists() and time.monotonic() < end:
            time.sleep(0.01)
        assert Holder.read(lock.file.read_bytes()) == lock.holder
    assert os.listdir(tmp_path) == []


def test_of_many_that_start_at_once_one_gets_the_folder(tmp_path):
    """Also where the lock of a dead process lies there."""
    lock_of(tmp_path / "run", replace(Holder.this_process(), started="12", token="a"))
    script = HOLD.replace("time.sleep(60)", "time.sleep(3)")
    command = [sys.executable, "-c", script, str(tmp_path / "run")]
    started = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(6)
    ]
    said = [process.communicate(timeout=60) for process in started]
    assert sum("held" in out for out, _ in said) == 1
    assert sum("is in use by another run" in err for _, err in said) == 5


def test_the_place_stays_held_when_an_earlier_run_is_put_aside(tmp_path):
    root = tmp_path / "experiments" / "mine"
    (root / "models").mkdir(parents=True)
    with RunLock(root) as lock:
        Experiment(root).archive(lock)
        assert Holder.read((root / NAME).read_bytes()) == lock.holder
        (aside,) = root.parent.glob("mine_archived_*")
        assert os.listdir(aside) == ["models"]
        Experiment(root).archive(lock)
        assert len(os.listdir(root.parent)) == 2  # nothing there but the lock, so nothing to put aside


def test_folders_that_were_made_for_nothing_go_again(tmp_path):
    with RunLock(tmp_path / "experiments" / "mine"):
        pass
    assert os.listdir(tmp_path) == []
    with RunLock(tmp_path / "experiments" / "mine"):
        (tmp_path / "experiments" / "mine" / "models").mkdir()
    assert os.listdir(tmp_path / "experiments" / "mine") == ["models"]


def test_a_process_knows_itself():
    assert process_space()
    assert started_at(os.getpid()) == started_at(os.getpid()) != ""
    assert started_at(2**22 + 1) == ""
