"""Large files as canvases: their rows are those of the file read as a whole, and what is read is what is asked for."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from codes.images import file_canvas as subject
from codes.images.canvas import RamCanvas
from codes.images.consistency import consistency
from codes.images.file_canvas import file_canvas
from codes.images.files import read_image, to_tensor, write_image
from codes.models.diffusion.tiling.conditioning import region_of, upsampled_region
from codes.models.diffusion.tiling.plan import Tile, TilePlan


@pytest.fixture(autouse=True)
def small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "LARGE", 100)


def saved(path: Path, dtype: type = np.uint8) -> Path:
    samples = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (37, 22, 3), dtype=dtype)
    write_image(path, samples)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_rows_are_those_of_the_whole(tmp_path: Path, name: str, dtype: type) -> None:
    path = saved(tmp_path / name, dtype)
    picture = read_image(path)
    for n1_to_1 in (True, False):
        canvas = file_canvas(path, n1_to_1=n1_to_1)
        assert canvas is not None
        whole = to_tensor(picture.rgb, n1_to_1)
        assert canvas.shape == (3, 37, 22)
        for y0, y1 in ((0, 5), (3, 20), (30, 37), (0, 37)):
            assert torch.equal(canvas.rows(y0, y1), whole[:, y0:y1])
    assert (canvas.traits.gray, canvas.traits.bit_depth) == (picture.gray, picture.bit_depth)
    assert (canvas.traits.exif, canvas.traits.icc) == (picture.exif, picture.icc)


def test_regions_of_a_canvas_are_those_of_a_tensor(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png")
    canvas, whole = file_canvas(path, n1_to_1=True), to_tensor(read_image(path).rgb, True)[None]
    assert canvas is not None
    plan = TilePlan.cover(80, 48, 16, 4, align=4)  # padded: the image ends at 74 x 44
    for tile in (plan.tiles[0], plan.tiles[5], plan.tiles[-1], Tile(0, 0, 64, 80, 0, 48)):
        assert torch.equal(region_of(canvas, tile, 2), region_of(whole, tile, 2))
        given = (tile, plan, 2, "bicubic", torch.device("cpu"))
        assert torch.equal(upsampled_region(canvas, *given), upsampled_region(whole, *given))


def test_consistency_reads_a_canvas_by_rows(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png")
    canvas, whole = file_canvas(path, n1_to_1=True), to_tensor(read_image(path).rgb, True)
    result = RamCanvas(torch.rand(3, 74, 44, generator=torch.Generator().manual_seed(1)) * 2 - 1)
    assert consistency(result, canvas) == consistency(result, whole)


def test_transparency_and_other_layouts_are_read_whole(tmp_path: Path) -> None:
    Image.new("RGBA", (20, 20), (1, 2, 3, 4)).save(tmp_path / "alpha.png")
    Image.new("RGB", (20, 20)).save(tmp_path / "a.jpg")
    assert file_canvas(tmp_path / "alpha.png", n1_to_1=True) is None
    assert file_canvas(tmp_path / "a.jpg", n1_to_1=True) is None
