"""Seamless textures and results kept to their input, in recipes: options, errors, sweeps, interruptions."""

import json
from pathlib import Path

import numpy as np
import pytest
from command_helpers import restore_small
from PIL import Image

DETAIL = "steps.restore.injectors.detail"
PLACE = Path("results/restored/test")
pytestmark = pytest.mark.usefixtures("here")


def pixels(folder="results/restored"):
    return np.asarray(Image.open(f"{folder}/test/ok.png")).astype(int)


def consistency():
    return json.loads(Path("results/restored/metrics.json").read_text())["images"][0]["consistency"]["restored"]


@pytest.mark.parametrize("canvas", ["ram", "disk"])
def test_a_recipe_wraps_and_a_finished_texture_is_told_from_a_cut_one(canvas):
    assert restore_small(f"{DETAIL}.canvas={canvas}")[0] == 0
    cut = pixels()
    code, said = restore_small(f"{DETAIL}.wrap=xy", f"{DETAIL}.canvas={canvas}")
    assert code == 0, said
    assert "restored already" not in said
    assert pixels().shape == cut.shape
    assert not np.array_equal(pixels(), cut)
    assert "restored already" in restore_small(f"{DETAIL}.wrap=xy", f"{DETAIL}.canvas={canvas}")[1]


@pytest.mark.parametrize("canvas", ["ram", "disk"])
@pytest.mark.parametrize("kind", ["end", "each_step"])
def test_what_is_kept_to_its_input_agrees_more_with_it(kind, canvas):
    assert restore_small(f"{DETAIL}.canvas={canvas}")[0] == 0
    free = consistency()
    code, said = restore_small(f"{DETAIL}.consistency={kind}", f"{DETAIL}.canvas={canvas}")
    assert code == 0, said
    assert consistency() > free + 1
    assert restore_small(f"{DETAIL}.consistency={kind}", f"{DETAIL}.consistency_tolerance=0")[0] == 0
    assert consistency() > free + 1


@pytest.mark.parametrize("kind", ["end", "each_step"])
def test_memory_and_disk_tiles_and_batches_change_nothing(kind):
    assert restore_small(f"{DETAIL}.consistency={kind}", "path.results=ram")[0] == 0
    ways = [f"{DETAIL}.canvas=disk", f"{DETAIL}.tile_batch_size=1"]
    assert restore_small(f"{DETAIL}.consistency={kind}", *ways, "path.results=disk")[0] == 0
    assert np.abs(pixels("ram") - pixels("disk")).max() <= 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ([f"{DETAIL}.wrap=z"], "detail.wrap"),
        ([f"{DETAIL}.consistency=always"], "detail.consistency"),
        ([f"{DETAIL}.consistency=end", f"{DETAIL}.consistency_tolerance=-1"], "consistency_tolerance"),
        ([f"{DETAIL}.consistency=each_step", f"{DETAIL}.dynamic_threshold=true"], "each_step corrects what"),
    ],
)
def test_what_cannot_be_is_refused_with_its_place(changes, said):
    code, told = restore_small(*changes)
    assert code == 2
    assert said in told


def test_a_tolerance_without_what_it_belongs_to_is_told():
    code, said = restore_small(f"{DETAIL}.consistency_tolerance=0.5")
    assert code == 0
    assert f"{DETAIL}.consistency_tolerance: has no effect here" in said
