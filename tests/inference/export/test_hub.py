"""Restorers as folders of the Hugging Face Hub: written, read again, and what is said where the Hub is not reached."""

import hashlib
import json
import subprocess
import sys
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import torch
from export_helpers import STUDENT, write_student
from restorer_helpers import KNOWN, STRENGTHS, network, picture, write_weights

from codes import ConfigError, Restorer
from codes.inference.export import hub
from codes.inference.export.card import Entry, open_model_db
from codes.models.diffusion.checkpoints.files import read_weights
from codes.models.diffusion.checkpoints.metadata import read_metadata
from codes.models.diffusion.checkpoints.shipped import weights_file
from codes.models.diffusion.process_options import ProcessOptions
from codes.scripts import publish

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def restorer(tmp_path):
    return Restorer.from_checkpoint(write_student(tmp_path / "student.safetensors"), "cpu")


def test_what_is_written_restores_the_same(restorer, tmp_path):
    folder = restorer.save_pretrained(tmp_path / "published", "cc-by-4.0")
    assert sorted(file.name for file in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    again = Restorer.from_pretrained(folder, "cpu")
    assert (again.scale, again.corruptions) == (2, ("jpeg", "gaussian_blur"))
    image = picture(11, 14)
    assert np.array_equal(again(image, STRENGTHS, seed=3), restorer(image, STRENGTHS, seed=3))
    first, second = read_metadata(tmp_path / "student.safetensors"), read_metadata(folder / "model.safetensors")
    assert first.to_strings() == second.to_strings()


def test_config_and_card_say_what_the_checkpoint_says(restorer, tmp_path):
    folder = restorer.save_pretrained(tmp_path / "published", "cc-by-4.0")
    config = json.loads((folder / "config.json").read_text())
    assert config["network"]["args"]["model_channels"] == 16
    assert config["data"] == KNOWN
    assert config["process"] == STUDENT.model_dump(mode="json")
    assert config["iteration"] == 7
    assert config["num_parameters"] == sum(value.numel() for value in restorer.network.parameters())
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlicense: cc-by-4.0\nlibrary_name: tessera\npipeline_tag: image-to-image\n")
    assert "One-step student (temperature up to 0.6), 2x" in card
    assert '{"jpeg": 0.2, "gaussian_blur": 0.2}' in card
    assert f"{config['num_parameters']:,} parameters" in card


def test_a_restorer_that_was_built_by_hand_is_written_as_well(tmp_path):
    made = Restorer(network(), ProcessOptions(), scale=2, device="cpu")
    again = Restorer.from_pretrained(made.save_pretrained(tmp_path / "made"), "cpu")
    assert again.corruptions is None
    assert torch.equal(next(again.network.parameters()), next(made.network.parameters()))
    assert "license" not in (tmp_path / "made" / "README.md").read_text().split("---")[1]


def test_shipped_weights_keep_their_card_their_licence_and_whom_they_are_owed_to(tmp_path):
    folder = Restorer.from_pretrained("tessera-photo-2x-fast", "cpu").save_pretrained(tmp_path / "fast")
    card = (folder / "README.md").read_text()
    assert "license: cc-by-sa-4.0" in card
    assert weights_file("tessera-photo-2x-fast").with_suffix(".md").read_text().rstrip() in card
    assert (folder / "ATTRIBUTION.tsv").stat().st_size > 10_000


def test_the_entry_of_openmodeldb_describes_the_file_beside_it(tmp_path):
    student = write_student(tmp_path / "student.safetensors")
    told = ["--output", str(tmp_path / "out"), "--name", "My-Photo", "--author", "me", "--licence", "cc-by-4.0"]
    assert publish.main([str(student), *told, "--url", "https://example.org/a.pth"]) == 0
    entry = json.loads((tmp_path / "out" / "2x-My-Photo.json").read_text())
    weights = tmp_path / "out" / "2x-My-Photo.pth"
    assert entry["resources"] == [
        {
            "platform": "pytorch",
            "type": "pth",
            "size": weights.stat().st_size,
            "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
            "urls": ["https://example.org/a.pth"],
        }
    ]
    wanted = {"name": "My-Photo", "author": "me", "license": "CC-BY-4.0", "scale": 2, "inputChannels": 3}
    wanted |= {"outputChannels": 3, "architecture": "tessera", "trainingIterations": 7, "trainingHRSize": 32}
    assert {key: entry[key] for key in wanted} == wanted
    assert set(read_weights(weights).state_dict) == set(read_weights(student).state_dict)


def test_names_that_openmodeldb_cannot_hold_are_refused(tmp_path):
    record = read_metadata(write_weights(tmp_path / "a.safetensors", KNOWN))
    with pytest.raises(ConfigError, match="name: expected letters and digits"):
        open_model_db(record, Entry("my photo", "me"), tmp_path / "a.safetensors")
    entry = open_model_db(record, Entry("a", "me", published=date(2026, 1, 2)), tmp_path / "a.safetensors")
    assert entry["date"] == "2026-01-02"
    assert publish.main([str(tmp_path / "a.safetensors"), "--name", "a", "--output", str(tmp_path / "b")]) == 2
    assert not (tmp_path / "b").exists()


def test_what_is_here_comes_before_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("owner").mkdir()
    write_weights(Path("owner/name.safetensors"), KNOWN)
    monkeypatch.setattr(hub, "fetched", lambda address: pytest.fail(f"asked the Hub for {address}"))
    assert hub.pretrained_file("owner/name.safetensors") == Path("owner/name.safetensors")
    assert hub.pretrained_file("tessera-photo-2x") == weights_file("tessera-photo-2x")
    assert hub.pretrained_file(Path("owner")) == Path("owner/name.safetensors")
    with pytest.raises(ConfigError, match=r"no such file owner/none.safetensors"):
        hub.pretrained_file("owner/none.safetensors")
    with pytest.raises(ConfigError, match=r"no such file other/name"):  # of a recipe: no guess is sent anywhere
        weights_file("other/name")


def test_an_address_of_the_hub_is_fetched_and_loaded(tmp_path, monkeypatch):
    client = pytest.importorskip("huggingface_hub", reason="the Hub's client is not installed")
    file = write_student(tmp_path / "model.safetensors")
    asked = []

    def fetch(repo_id, filename, revision=None):
        asked.append((repo_id, filename, revision))
        return str(file)

    monkeypatch.setattr(client, "hf_hub_download", fetch)
    assert Restorer.from_pretrained("me/my-photo-2x-v1.5", "cpu").scale == 2
    assert weights_file("hf://me/other@v2") == file
    assert asked == [("me/my-photo-2x-v1.5", "model.safetensors", None), ("me/other", "model.safetensors", "v2")]
    with pytest.raises(ConfigError, match="expected hf://owner/name"):
        weights_file("hf://nothing")


REFUSED = """
import sys, time
time.sleep = lambda seconds: None  # the client tries several times
from codes import Restorer, TesseraError
restorer = Restorer.from_pretrained(sys.argv[1], "cpu")
for attempt in (
    lambda: Restorer.from_pretrained("me/nothing", "cpu"),
    lambda: Restorer.from_pretrained("hf://me/nothing@v1", "cpu"),
    lambda: restorer.push_to_hub("me/nothing"),
    lambda: restorer.push_to_hub("nothing"),
):
    try:
        attempt()
    except TesseraError as error:
        print(error)
"""


def test_where_the_hub_refuses_one_line_says_so(tmp_path):
    """Every address of the Hub is a port of this machine where nobody listens."""
    pytest.importorskip("huggingface_hub", reason="the Hub's client is not installed")
    file = write_student(tmp_path / "model.safetensors")
    environment = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    environment |= {"HF_TOKEN": "hf_none", "PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", REFUSED, str(file)], env=environment, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert len(lines) == 4, done.stdout + done.stderr
    assert lines[0].startswith("me/nothing: cannot fetch model.safetensors from the Hub (")
    assert lines[1].startswith("hf://me/nothing@v1: cannot fetch")
    assert lines[2].startswith("hf://me/nothing: cannot be uploaded to the Hub (")
    assert lines[3].startswith("nothing: expected the owner and the name")


def test_without_the_client_one_line_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match="pip install huggingface_hub"):
        Restorer.from_pretrained("me/nothing", "cpu")
    made = Restorer.from_checkpoint(write_student(tmp_path / "a.safetensors"), "cpu")
    with pytest.raises(ConfigError, match="pip install huggingface_hub"):
        made.push_to_hub("me/nothing")
