"""Images with a class: by folder or by name, the same numbers for the same list."""

import json
import unicodedata

import pytest
import torch
from data_helpers import picture

from codes.config.options import parse
from codes.config.yaml_source import Source
from codes.data import LabelledDataset, LabelledOptions, TrainLoader
from codes.images.files import write_image
from codes.models.diffusion.networks.unet import UNetModel, UNetOptions
from codes.recipe.class_list import record_classes
from codes.utils.errors import ConfigError, DataError

NAMES = ("zebra/a", "zebra/deep/b", "ant/c", "ölfaß/d", "ant/e")


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate(NAMES):
        write_image(tmp_path / "in" / f"{name}.png", picture(number, 24, 30))
    return tmp_path / "in"


def labelled(folder, *, shuffle=False, **changes):
    paths = str(folder) if not isinstance(folder, tuple) else tuple(map(str, folder))
    given = {"paths": paths, "target_size": 16, "tile": "center", "batch_size": 2}
    return LabelledDataset(LabelledOptions.model_validate({**given, **changes}), seed=0, shuffle=shuffle)


def test_the_first_folder_is_the_class(folder):
    data = labelled(folder)
    assert data.classes == ("ant", "zebra", "ölfaß")
    items = [data.item(position) for position in range(5)]
    for item in items:
        assert item["y"].dtype == torch.int64
        assert item["y"].shape == ()
        assert item["class"] == data.classes[int(item["y"])]
        assert f"/{item['class']}/" in item["HQ_path"]
    assert sorted(int(item["y"]) for item in items) == [0, 0, 1, 1, 2]
    assert data.state_keys == {"hq", "y"}
    batch = next(iter(TrainLoader(labelled(folder, shuffle=True), 4)))
    assert batch["y"].shape == (4,)
    assert len(batch["class"]) == 4


def test_a_list_of_folders_is_a_list_of_classes(folder):
    data = labelled((folder / "zebra", folder / "ant"))
    # Files in the folder itself belong to it; deeper ones to the first folder below.
    assert data.classes == ("ant", "deep", "zebra")


def test_the_prefix_is_the_class(tmp_path):
    for number, name in enumerate(("cat_1", "dog_1_2", "cat_2", "plain")):
        write_image(tmp_path / "in" / f"{name}.png", picture(number, 20, 26))
    data = labelled(tmp_path / "in", class_from="prefix")
    assert data.classes == ("cat", "dog")
    assert [int(data.item(position)["y"]) for position in range(3)] == [0, 0, 1]
    assert [str(entry.reason) for entry in data.report().failed] == ["no underscore in its name, so no class"]


def test_a_list_of_classes_fixes_the_numbers(folder):
    data = labelled(folder, classes=("zebra", "ant"))
    assert data.classes == ("zebra", "ant")
    assert len(data) == 4
    assert [entry.kind for entry in data.report().failed] == ["unlabelled"]
    with pytest.raises(DataError, match="no usable image of class bee"):
        labelled(folder, classes=("zebra", "bee"))


def test_the_classes_lie_beside_the_checkpoints(folder, tmp_path):
    sizes = {
        "image_size": 16,
        "in_channels": 3,
        "model_channels": 32,
        "num_res_blocks": 1,
        "channel_mult": (1,),
        "out_channels": 3,
    }
    networks = {"g": UNetModel(UNetOptions(num_classes=3, attention_resolutions=(), **sizes))}
    record_classes(tmp_path, labelled(folder), networks, write=False)
    assert not (tmp_path / "models").exists()
    for _ in range(2):
        record_classes(tmp_path, labelled(folder), networks, write=True)
    assert json.loads((tmp_path / "models" / "classes.json").read_text(encoding="utf-8")) == ["ant", "zebra", "ölfaß"]
    with pytest.raises(ConfigError, match=r"trained with 3 classes, not with the 2 found now; set .*classes"):
        record_classes(tmp_path, labelled(folder, classes=("ant", "zebra")), networks, write=True)
    small = {"g": UNetModel(UNetOptions(num_classes=2, attention_resolutions=(), **sizes))}
    with pytest.raises(ConfigError, match="num_classes: is 2, but the dataset has 3 classes"):
        record_classes(tmp_path, labelled(folder), small, write=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"paths": None}, "paths: missing; the sample photographs have no classes"),
        ({"classes": ("a", "b", "a")}, "classes: a comes twice"),
        ({"classes": ()}, "classes: an empty list"),
    ],
)
def test_contradictions_are_named(changes, message):
    with pytest.raises(ConfigError) as caught:
        parse(LabelledOptions, Source("r.yml", {"paths": "a", **changes}, {}))
    assert message in str(caught.value)
    assert all(field.description for field in LabelledOptions.model_fields.values())


def test_a_class_is_one_whatever_form_its_letters_have(tmp_path):
    for number, form in enumerate(("NFC", "NFD")):
        write_image(tmp_path / "in" / unicodedata.normalize(form, "Käfer") / f"{number}.png", picture(number, 24, 30))
    assert labelled(tmp_path / "in").classes == ("Käfer",)
    listed = (unicodedata.normalize("NFD", "Käfer"),)
    assert [int(labelled(tmp_path / "in", classes=listed).item(position)["y"]) for position in range(2)] == [0, 0]
