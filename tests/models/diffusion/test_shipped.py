"""Weights that come with the project: found by name, small, described; and how such a file is made."""

import cv2
import numpy as np
import pytest
import torch
from restorer_helpers import KNOWN, network, write_weights
from skimage import data

from codes import Restorer
from codes.config.yaml_source import load_source
from codes.data import ImageFolderDataset, ImageFolderOptions
from codes.data.samples import held_out_photograph
from codes.evaluation.metrics import psnr
from codes.images.files import read_image, resize_bicubic, to_rgb
from codes.inference.strength_reader import StrengthReader
from codes.models.diffusion.checkpoints import shipped
from codes.models.diffusion.checkpoints.files import read_weights
from codes.models.diffusion.checkpoints.metadata import CheckpointMetadata, load_into, network_of, read_metadata
from codes.models.diffusion.checkpoints.shipped import FOLDER, shipped_names, weights_file
from codes.recipe.networks import find_weights
from codes.recipe.recipe import read_recipe
from codes.scripts import package_weights
from codes.utils.errors import ConfigError

PLAIN = "tessera-photo-2x"
ESTIMATOR = "tessera-photo-strengths"
RESTORERS = [name for name in shipped_names() if name != ESTIMATOR]


@pytest.mark.parametrize("name", shipped_names())
def test_shipped_weights_are_small_averaged_described_and_have_a_card(name):
    file = weights_file(name)
    assert file.stat().st_size < 15 * 2**20
    assert read_weights(file).precision == "float16"
    metadata = read_metadata(file)
    assert metadata.kind == "ema"
    assert metadata.data == {"scale": 2, "corruptions": ["jpeg", "gaussian_blur"]}
    assert (
        (metadata.process["student"] is not None) is name.endswith("-fast") if "student" in metadata.process else True
    )
    card = file.with_suffix(".md").read_text(encoding="utf-8")
    for part in ("CC-BY-SA-4.0", "ATTRIBUTION.tsv", "PSNR", "bad at", name):
        assert part in card
    assert load_into(network_of(metadata), file).complete


def test_every_photograph_of_the_attribution_has_a_licence():
    lines = (FOLDER / "ATTRIBUTION.tsv").read_text(encoding="utf-8").splitlines()
    rows = [dict(zip(lines[0].split("\t"), line.split("\t"), strict=False)) for line in lines[1:]]
    assert len(rows) > 300
    assert all(row["licence"] for row in rows)
    assert not any("NC" in row["licence"].upper().split("-") for row in rows)


def test_a_name_a_file_and_a_folder_lead_to_weights(tmp_path):
    assert PLAIN in shipped_names()
    assert weights_file(PLAIN) == FOLDER / f"{PLAIN}.safetensors"
    file = write_weights(tmp_path / "own" / "model.safetensors", KNOWN)
    assert weights_file(file) == weights_file(str(file)) == weights_file(file.parent) == file
    write_weights(tmp_path / "own" / "other.safetensors", KNOWN)
    with pytest.raises(ConfigError, match=r"expected one .safetensors file.*found model.safetensors, other"):
        weights_file(file.parent)
    with pytest.raises(ConfigError, match=f"no such file tessera-foto-2x.*did you mean {PLAIN}"):
        weights_file("tessera-foto-2x")


def test_a_recipe_and_the_library_find_them_by_name(tmp_path):
    text = f"name: a\nmodel: extensibletrainer\npath: {{pretrain_model_generator: {PLAIN}}}\n"
    (tmp_path / "r.yml").write_text(text)
    recipe = read_recipe(load_source(str(tmp_path / "r.yml"), []))
    assert find_weights("generator", recipe) == weights_file(PLAIN)
    (tmp_path / "r.yml").write_text(text.replace(PLAIN, "tessera-photo-3x"))
    recipe = read_recipe(load_source(str(tmp_path / "r.yml"), []))
    with pytest.raises(ConfigError, match=f"path.pretrain_model_generator: no such file.*did you mean {PLAIN}"):
        find_weights("generator", recipe)


def test_the_estimator_tells_a_blurred_photograph_from_a_sharp_one():
    reader = StrengthReader.from_checkpoint(weights_file(ESTIMATOR), torch.device("cpu"))
    sharp = read_image(held_out_photograph()).rgb[:256, 128:384]
    blurred = cv2.GaussianBlur(sharp, (0, 0), 1.2)
    told = [reader.read(image).estimate("gaussian_blur", 0.2).strength for image in (sharp, blurred)]
    assert told[0] < 0.35
    assert told[1] > 0.6


@pytest.mark.parametrize("name", RESTORERS)
def test_they_restore_a_photograph_that_they_have_not_seen_better_than_bicubic(name):
    options = ImageFolderOptions(
        paths=str(held_out_photograph()),
        target_size=96,
        tile="center",
        scale=2,
        fixed_corruptions=tuple(KNOWN["corruptions"]),
        fixed_parameters={"corruption_entropy": (0.3, 0.5)},
        index=False,
    )
    item = ImageFolderDataset(options, seed=0, shuffle=False).item(0)
    truth, small = (to_rgb(item[key], n1_to_1=False) for key in ("hq", "lq"))
    restored = Restorer.from_pretrained(name, "cpu")(small, [0.3, 0.5], steps=2, temperature=0.15)
    assert psnr(truth, restored) > psnr(truth, resize_bicubic(small, 96, 96)) + 0.5


def test_packaging_halves_the_weights_and_keeps_what_they_say_of_themselves(tmp_path, monkeypatch):
    file = write_weights(tmp_path / "7_generator_ema.safetensors", KNOWN)
    arguments = [str(file), "own-photo-2x", "--folder", str(tmp_path / "weights")]
    assert package_weights.main(arguments) == 0
    target = tmp_path / "weights" / "own-photo-2x.safetensors"
    assert target.stat().st_mode & 0o444 == 0o444
    before, after = read_weights(file), read_weights(target)
    assert after.precision == "float16"
    assert after.metadata == before.metadata
    for key, value in before.state_dict.items():
        torch.testing.assert_close(after.state_dict[key], value, rtol=1e-3, atol=1e-5)
        assert after.state_dict[key].dtype == value.dtype
    monkeypatch.setattr(shipped, "FOLDER", target.parent)
    assert Restorer.from_pretrained("own-photo-2x", "cpu").scale == 2
    image = data.astronaut()[:8, :11]
    assert np.asarray(Restorer.from_pretrained("own-photo-2x", "cpu")(image, 0.1, steps=1)).shape == (16, 22, 3)


def test_what_cannot_come_with_the_project_is_refused(tmp_path, capsys, monkeypatch):
    file = write_weights(tmp_path / "a_ema.safetensors", KNOWN)

    def refused(*arguments):
        assert package_weights.main([*map(str, arguments), "--folder", str(tmp_path / "out")]) == 2
        assert not (tmp_path / "out").exists()
        return capsys.readouterr().err

    assert "expected small letters" in refused(file, "Own_2x")
    assert "does not record its scale" in refused(write_weights(tmp_path / "b.safetensors"), "own")
    torch.save(network().state_dict(), tmp_path / "c.pth")
    assert "does not say what network it holds" in refused(tmp_path / "c.pth", "own")
    monkeypatch.setattr(CheckpointMetadata, "to_strings", _raw(CheckpointMetadata.to_strings))
    assert "not averaged" in refused(write_weights(tmp_path / "d.safetensors", KNOWN), "own")
    monkeypatch.setattr(package_weights, "MOST_BYTES", 1000)
    assert "MB in half precision" in refused(file, "own")
    with pytest.raises(ConfigError, match="not finite in half precision: a"):
        package_weights.half_precision({"a": torch.tensor([1e6]), "b": torch.ones(1)}, file)


def _raw(to_strings):
    return lambda metadata: {**to_strings(metadata), "kind": "raw"}
