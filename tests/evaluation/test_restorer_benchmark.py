"""benchmarks/restorer.py at a tiny size: its rows, the rows that it keeps, and what it refuses."""

import json
import sys
from pathlib import Path

import pytest
from restorer_helpers import KNOWN, network, picture, write_weights

from codes.images.files import write_image
from codes.models.diffusion.checkpoints.metadata import CheckpointMetadata, save_checkpoint

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import restorer as benchmark


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    images = tmp_path / "images"
    images.mkdir()
    for number, (height, width) in enumerate(((48, 64), (64, 36))):
        write_image(images / f"{number}.png", picture(height, width, seed=number))
    plain = network({"out_channels": 3})
    save_checkpoint(tmp_path / "plain.safetensors", plain.state_dict(), CheckpointMetadata.of(plain, "ema", 5, {}))
    weights = write_weights(tmp_path / "diffusion.safetensors", KNOWN)
    given = ["--images", images, "--weights", weights, "--regression", tmp_path / "plain.safetensors"]
    settings = ["--spacings", "karras2", "karras2+0.5", "--once", "trailing1", "4/ancestral", "--temperatures", "0.3"]
    places = ["--strengths", "0.2,0.5", "--cache", tmp_path / "rows", "--output", tmp_path / "out.json"]
    return [str(value) for value in (*given, *settings, *places)]


def test_every_setting_is_a_row_and_an_interrupted_run_goes_on_where_it_stopped(
    tmp_path: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert benchmark.main(arguments) == 0
    table = capsys.readouterr().out
    rows = {row["name"]: row for row in json.loads((tmp_path / "out.json").read_text())["rows"]}
    assert list(rows) == [
        "bicubic",
        "diffusion, karras2, temperature 0.3",
        "diffusion, karras2+0.5, temperature 0.3",
        "diffusion, trailing1, temperature 1",
        "diffusion, 4/ancestral, temperature 1",
        "regression (plain)",
    ]
    assert all(f"| {name} |" in table for name in rows)
    values = [row["psnr"] for row in rows.values()]
    assert len(set(values)) == len(values)
    for row in rows.values():
        assert row["psnr"] == pytest.approx(sum(image["psnr"] for image in row["images"].values()) / 2)

    [file] = (tmp_path / "rows").glob("bicubic*.json")
    kept = json.loads(file.read_text())
    first, second = kept["images"]
    kept["images"][first]["psnr"] = 70.0  # found again, not measured again
    del kept["images"][second]
    file.write_text(json.dumps(kept))
    assert benchmark.main(arguments) == 0
    again = json.loads((tmp_path / "out.json").read_text())["rows"][0]["images"]
    assert again[first]["psnr"] == 70.0
    assert again[second]["psnr"] == pytest.approx(rows["bicubic"]["images"][second]["psnr"])


def test_other_photographs_are_other_rows(tmp_path: Path, arguments: list[str]) -> None:
    short = [*arguments[:2], *arguments[-6:]]  # bicubic alone
    assert benchmark.main(short) == 0
    assert benchmark.main([*short, "--crop", "32"]) == 0
    assert len(list((tmp_path / "rows").glob("bicubic*.json"))) == 2


def test_a_setting_that_is_none_is_refused_in_one_line(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert benchmark.main([*arguments, "--spacings", "karras8@"]) == 2
    assert "expected SPACING" in capsys.readouterr().err
