"""An estimate before a long run: everything is read, nothing is restored or written."""

from pathlib import Path

import pytest
from command_helpers import restore_small, save_picture, truncated_jpeg
from PIL import Image

pytestmark = pytest.mark.usefixtures("here")


def dry(*overrides):
    return restore_small(*overrides, options=("--dry_run",))


def test_sizes_tiles_memory_and_time_of_every_image_and_of_all():
    save_picture("small/deep/large.png", 200, 300)
    code, said = dry()
    assert code == 0
    lines = {line.split()[2]: line for line in said.splitlines() if ".png: " in line}
    assert "24x16 -> 48x32, 1 tile, 0.00 GiB of memory, about 0:00" in lines["ok.png:"]
    assert "300x200 -> 600x400, " in lines["deep/large.png:"]
    assert "2 of 2 images can be read, 0 are done already; about 0:" in said
    assert "device memory: that of one batch of tiles" in said
    assert not Path("results").exists()


def test_broken_files_are_named_and_finished_ones_cost_nothing():
    assert restore_small()[0] == 0
    truncated_jpeg("small/cut.jpg", 40, 40)
    Path("small/zero.png").touch()
    code, said = dry()
    assert code == 0
    assert "ok.png: 24x16 -> 48x32, 1 tile; done already" in said
    assert "small/zero.png: would fail: the file is empty" in said
    assert "cut.jpg: would fail: " in said
    assert "1 are done already; about 0:00 in all" in said


def test_samples_and_transparency_are_counted_and_a_canvas_on_disk_is_told():
    Image.effect_noise((300, 200), 50).convert("LA").save("small/a.png")
    image = Image.open("small/a.png")
    image.putalpha(Image.effect_noise((300, 200), 50))
    image.save("small/a.png")
    code, said = dry("output.num_samples=3", "steps.restore.injectors.detail.canvas=disk")
    assert code == 0
    assert "tiles x 6 (samples, transparency), 0.03 GiB of disk, about" in said


def test_a_recipe_without_images_to_restore_is_refused():
    code, said = dry("datasets.test.paths=nowhere")
    assert code == 2
    assert "nowhere: no such file or folder" in said
