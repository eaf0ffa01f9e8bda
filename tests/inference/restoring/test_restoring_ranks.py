"""Several ranks share the images of a test run: processes on this machine, as torchrun would start them."""

import json
import os
import signal
import socket
import time
from pathlib import Path

import numpy as np
import pytest
from command_helpers import restore, restore_small, restored_files, save_picture
from PIL import Image

from codes.images.output_size import Framing
from codes.inference.restoring.results import Planned, PlannedResult
from codes.inference.restoring.work import groups, share_of
from codes.runtime.devices import Ranks, join_ranks
from codes.utils.errors import ConfigError

PLACE = Path("results/restored/test")


def ranks(count, *overrides):
    """Process ids of the ranks; each writes what it says to said<rank>.txt."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = []
    for rank in range(count):
        child = os.fork()
        if child == 0:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            code = 99
            try:
                code, said = restore("-opt", "infer.yml", "--launcher", "pytorch", "--set", *overrides)
                Path(f"said{rank}.txt").write_text(said)
            finally:
                os._exit(code)
        children.append(child)
    return children


def wait_for(children):
    """Their exit codes, and what they said."""
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return codes, [Path(f"said{rank}.txt").read_text() for rank in range(len(children))]


@pytest.mark.usefixtures("here")
def test_two_ranks_restore_each_image_once_and_as_one_rank_does():
    for number in range(5):
        save_picture(f"small/{number}.png", 12 + 8 * number, 30, seed=number)
    codes, said = wait_for(ranks(2, "seed=0"))
    assert codes == [0, 0], said
    assert "done: 6 images restored" in said[0]
    assert "restored" not in said[1]
    two = {name: np.asarray(Image.open(PLACE / name)) for name in restored_files()}
    assert len(two) == 6
    numbers = json.loads(Path("results/restored/metrics.json").read_text())
    assert [row["file"] for row in numbers["images"]] == [
        *(f"small/{number}.png" for number in range(5)),
        "small/ok.png",
    ]
    assert Path("results/restored/test.log").read_text().count(" -> ") < 6  # rank 0 tells of its own images alone
    before = {name: (PLACE / name).stat().st_mtime_ns for name in two}
    assert restore_small()[0] == 0  # one rank takes up what two have done
    assert {name: (PLACE / name).stat().st_mtime_ns for name in two} == before
    assert restore_small("output.skip_existing=false")[0] == 0
    for name, restored in two.items():
        assert np.array_equal(restored, np.asarray(Image.open(PLACE / name))), name


@pytest.mark.usefixtures("here")
def test_a_failure_of_one_rank_is_the_exit_code_of_all():
    for number in range(3):
        save_picture(f"small/{number}.png", 12, 12, seed=number)
    for name in ("0", "1", "ok"):
        save_picture(f"maps/{name}.png", 8, 8)
    codes, said = wait_for(ranks(2, "datasets.test.fixed_parameters.corruption_entropy=[{map: maps}, 0.5]"))
    assert codes == [1, 1], said
    assert "3 images restored, 1 failed" in said[0]
    assert restored_files() == ["0.png", "1.png", "ok.png"]


@pytest.mark.usefixtures("here")
def test_all_ranks_stop_when_one_is_told_to():
    for number in range(6):
        save_picture(f"small/{number}.png", 40, 60, seed=number)
    children = ranks(2, "steps.restore.injectors.detail.respaced_timestep_spacing=12")
    limit = time.monotonic() + 60
    while not restored_files() and time.monotonic() < limit:
        time.sleep(0.01)
    for child in children:
        os.kill(child, signal.SIGTERM)
    codes, said = wait_for(children)
    assert codes == [130, 130], said
    assert "what is finished or begun is kept in results/restored" in said[0]
    numbers = json.loads(Path("results/restored/metrics.json").read_text())
    assert 1 <= len(numbers["images"]) < 7
    assert len(restored_files()) == len(numbers["images"])


def planned(position, height, tiles, phase="test"):
    file = Path(f"{position}.png")
    size = height, 10
    return Planned(
        phase, position, file, file.name, file, {"out": file}, size,
        (PlannedResult("out", size, 1, 1, Framing(*size), False, True, (False, False)),), tiles, 1, height * 10, "", "",
    )  # fmt: skip


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_ranks_share_the_pixels_and_no_image_twice(count):
    heights = [5, 900, 30, 31, 29, 28, 450, 460, 7, 100]
    images = [planned(position, height, 1) for position, height in enumerate(heights)]
    shares = [share_of(images, rank, count) for rank in range(count)]
    assert sorted(image.position for share in shares for image in share) == list(range(10))
    for share in shares:
        assert [image.position for image in share] == sorted(image.position for image in share)
    loads = [sum(image.pixels for image in share) for share in shares]
    assert max(loads) <= max(sum(loads) / count + 9000, 9000)


def test_groups_fill_the_device_and_large_images_go_alone():
    images = [planned(position, 10, tiles) for position, tiles in enumerate([1, 2, 9, 2, 1, 4, 1])]
    images.append(planned(7, 10, 1, phase="other"))
    positions = [[image.position for image in group] for group in groups(images, 4)]
    assert sorted(position for group in positions for position in group) == list(range(8))
    assert [2] in positions
    assert [5] in positions
    assert [0, 1] in positions
    assert [7] in positions  # another dataset, whose items may have other keys
    tiles = {image.position: image.tiles for image in images}
    assert all(len(group) == 1 or sum(tiles[position] for position in group) <= 4 for group in positions)


def test_a_process_of_torchrun_joins_the_others_unasked(monkeypatch):
    for name in ("TORCHELASTIC_RUN_ID", "RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert join_ranks("auto", cuda=False) == Ranks()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert join_ranks("none", cuda=False) == Ranks()
    with pytest.raises(ConfigError, match="not set: RANK"):  # it tried to
        join_ranks("auto", cuda=False)
