"""The ComfyUI nodes by ComfyUI's conventions: its rules of prompts and the modules that nodes call, by a stand-in."""

import importlib.util
import inspect
import json
import os
import re
import sys
import tomllib

import pytest
import torch
from comfy_double import Bar, Comfy, Interrupted, comfy_modules, source
from export_helpers import write_student
from integration_helpers import ROOT, installed
from restorer_helpers import KNOWN, write_weights

FOLDER = ROOT / "integrations" / "comfyui"


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The node package, imported as ComfyUI imports a folder of custom_nodes, and the folder of models."""
    folder = tmp_path_factory.mktemp("comfy")
    own = folder / "models" / "tessera"
    own.mkdir(parents=True)
    write_student(own / "student.safetensors")
    write_weights(own / "teacher.safetensors", KNOWN)
    (own / "notes.txt").write_text("no weights")
    with installed(folder) as patch:
        for name, module in comfy_modules(folder / "models").items():
            patch.setitem(sys.modules, name, module)
        spec = importlib.util.spec_from_file_location("custom_nodes_tessera", FOLDER / "__init__.py")
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        yield module, own
        sys.modules.pop("custom_nodes_tessera.nodes")


@pytest.fixture
def nodes(package):
    module, own = package
    Bar.made.clear()
    sys.modules["comfy.model_management"].pressed_after = None
    return {name: made() for name, made in module.NODE_CLASS_MAPPINGS.items()}, own


def load(nodes, name="student.safetensors", estimator="none"):
    (model,) = nodes[0]["TesseraLoader"].load(name, "fp32", estimator)
    return model


def restore(nodes, model, image, **changed):
    dials = {"steps": 2, "temperature": 0.3, "seed": 5, "sampler": "ddim", "color_fix": "none", "tile": -1}
    return nodes[0]["TesseraRestore"].restore(model, image, **{**dials, "tile_batch_size": 4, **changed})[0]


def images(count=2, height=9, width=13, channels=3):
    return torch.rand(count, height, width, channels, generator=torch.Generator().manual_seed(count + height))


def test_the_nodes_are_what_comfyui_expects(package):
    module = package[0]
    told = {name: node.INPUT_TYPES() for name, node in module.NODE_CLASS_MAPPINGS.items()}
    assert json.loads(json.dumps(told))  # the page is told of them as JSON
    assert set(module.NODE_CLASS_MAPPINGS) == set(module.NODE_DISPLAY_NAME_MAPPINGS)
    for node in module.NODE_CLASS_MAPPINGS.values():
        inputs = node.INPUT_TYPES()
        assert set(inputs) <= {"required", "optional", "hidden"}
        taken = inspect.signature(getattr(node, node.FUNCTION)).parameters
        assert list(taken)[1:] == [name for section in inputs.values() for name in section]
        assert all(taken[name].default is not inspect.Parameter.empty for name in inputs.get("optional", {}))
        assert isinstance(node.RETURN_TYPES, tuple)
        assert all(isinstance(kind, str) and kind.isupper() for kind in node.RETURN_TYPES)
        assert len(getattr(node, "RETURN_NAMES", node.RETURN_TYPES)) == len(node.RETURN_TYPES)
        for kind, *said in (entry for section in inputs.values() for entry in section.values()):
            told = said[0] if said else {}
            if isinstance(kind, list):
                assert kind
                assert told.get("default", kind[0]) in kind
            elif kind in ("INT", "FLOAT"):
                assert told["min"] <= told["default"] <= told["max"]


def test_the_package_is_described_for_the_registry():
    about = tomllib.loads((FOLDER / "pyproject.toml").read_text())
    assert set(about["tool"]["comfy"]) >= {"PublisherId", "DisplayName"}
    project = about["project"]
    assert re.fullmatch(r"[A-Za-z]([-_.]?[A-Za-z0-9])*", project["name"])
    assert "comfyui" not in project["name"].lower()
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"])
    assert project["urls"]["Repository"]
    assert set(project["license"]) == {"text"}


def test_weights_are_those_of_the_project_and_of_models_tessera(package, nodes):
    listed = package[0].NODE_CLASS_MAPPINGS["TesseraLoader"].INPUT_TYPES()["required"]
    assert listed["weights"][0] == [
        "tessera-photo-2x", "tessera-photo-2x-fast", "student.safetensors", "teacher.safetensors",
    ]  # fmt: skip
    assert listed["estimator"][0][:2] == ["tessera-photo-strengths", "none"]
    assert load(nodes).scale == 2
    assert load(nodes, "tessera-photo-2x-fast", "tessera-photo-strengths").estimator is not None
    with pytest.raises(FileNotFoundError, match=r"nothing\.safetensors"):
        load(nodes, "nothing.safetensors")


def test_a_replaced_file_is_loaded_again(nodes):
    loader = nodes[0]["TesseraLoader"]
    file = nodes[1] / "teacher.safetensors"
    before = loader.IS_CHANGED("teacher.safetensors", "fp32", "none")
    assert before == loader.IS_CHANGED("teacher.safetensors", "fp32", "none")
    os.utime(file, ns=(1, file.stat().st_mtime_ns + 10**9))
    assert loader.IS_CHANGED("teacher.safetensors", "fp32", "none") != before
    assert not hasattr(nodes[0]["TesseraRestore"], "IS_CHANGED")  # the seed decides, so equal inputs are cached


def test_a_batch_is_restored_as_the_library_does_it_one_by_one(nodes):
    model, image = load(nodes, "teacher.safetensors"), images()
    strengths = nodes[0]["TesseraStrength"].tell("jpeg", 0.4, "no")[0]
    result = restore(nodes, model, image, strengths=strengths, eta=0.5, stop_at_snr=5.0)
    assert result.shape == (2, 18, 26, 3)
    assert result.dtype == torch.float32
    assert 0 <= result.min() < result.max() <= 1
    for index, one in enumerate(image):
        wanted = model(
            one.movedim(-1, 0), {"jpeg": 0.4}, steps=2, sampler="ddim", temperature=0.3, eta=0.5, stop_at_snr=5.0,
            seed=5, sample=index,
        )  # fmt: skip
        assert torch.equal(result[index], wanted.movedim(0, -1))
    assert not torch.equal(result, restore(nodes, model, image, strengths=strengths, eta=0.5, stop_at_snr=5.0, seed=6))


@pytest.mark.parametrize(
    "dial",
    [{"temperature": 0.0}, {"steps": 3}, {"sampler": "ancestral"}, {"color_fix": "mean"},
     {"blend": 0.5}, {"wrap": "xy"}, {"consistency": "end"}],
)  # fmt: skip
def test_every_dial_changes_the_image(nodes, dial):
    model, image = load(nodes, "teacher.safetensors"), images(1)
    strengths = nodes[0]["TesseraStrength"].tell("jpeg", 0.4, "no")[0]
    assert not torch.equal(
        restore(nodes, model, image, strengths=strengths), restore(nodes, model, image, strengths=strengths, **dial)
    )


def test_tiles_are_those_that_are_asked_for(nodes):
    model, image = load(nodes), images(1, 40, 24)
    strengths = nodes[0]["TesseraStrength"].tell("jpeg", 0.4, "no")[0]
    restore(nodes, model, image, strengths=strengths, tile=0)
    restore(nodes, model, image, strengths=strengths, tile=32, tile_batch_size=1)
    assert [bar.told[-1] for bar in Bar.made] == [(1, 1), (6, 6)]
    assert len(Bar.made[1].told) == 6


def test_a_mask_is_a_map_of_strength(nodes):
    model, image = load(nodes), images()
    mask = torch.linspace(0, 1, 13)[None].expand(9, 13)
    tell = nodes[0]["TesseraStrength"].tell
    both = tell("gaussian_blur", 0.5, "no", None, tell("jpeg", 0.8, "no", mask[None])[0])[0]
    result = restore(nodes, model, image, strengths=both)
    wanted = model(image[1].movedim(-1, 0), {"jpeg": 0.8 * mask.numpy(), "gaussian_blur": 0.5}, temperature=0.3, seed=5,
                   sample=1)  # fmt: skip
    assert torch.equal(result[1], wanted.movedim(0, -1))
    assert not torch.equal(result, restore(nodes, model, image, strengths=tell("jpeg", 0.8, "no", None, both)[0]))
    whole = restore(nodes, model, image, strengths=tell("jpeg", 0.8, "no")[0], mask=torch.ones(2, 3, 5))
    plain = restore(nodes, model, image, strengths=tell("jpeg", 0.8, "no")[0])
    assert torch.allclose(whole, plain, atol=1e-5)  # a mask of another size, of ones


def test_unconnected_strengths_are_read_or_the_default(nodes):
    model, image = load(nodes), images(1)
    wanted = model(image[0].movedim(-1, 0), {"jpeg": "auto", "gaussian_blur": 0.7}, temperature=0.3, seed=5,
                   auto_default=0.7)  # fmt: skip
    assert torch.equal(restore(nodes, model, image, auto_default=0.7)[0], wanted.movedim(0, -1))


def test_what_contradicts_itself_is_refused_in_one_line(nodes):
    tell, mask = nodes[0]["TesseraStrength"].tell, torch.ones(1, 9, 13)
    with pytest.raises(ValueError, match="jpeg: a mask scales a number, but this strength is read"):
        tell("jpeg", 0.2, "auto", mask)
    with pytest.raises(ValueError, match="all are read from the image"):
        restore(nodes, load(nodes), images(1), strengths=tell("jpeg", 0.2, "auto")[0], mask=mask)
    with pytest.raises(ValueError, match="this network knows: jpeg, gaussian_blur"):
        restore(nodes, load(nodes), images(1), strengths=tell("webp", 0.2, "no")[0])


def test_progress_rises_to_the_end_and_cancel_stops(nodes):
    model, image = load(nodes, "teacher.safetensors"), images(2, 40, 24)
    strengths = nodes[0]["TesseraStrength"].tell("jpeg", 0.4, "no")[0]
    restore(nodes, model, image, strengths=strengths)
    (bar,) = Bar.made
    assert [value for value, _ in bar.told] == sorted(value for value, _ in bar.told)
    assert len({total for _, total in bar.told}) == 1
    assert bar.told[-1][0] == bar.told[-1][1]
    assert len(bar.told) >= 4  # two images of two steps
    sys.modules["comfy.model_management"].pressed_after = 3
    with pytest.raises(Interrupted):
        restore(nodes, model, image, strengths=strengths)
    assert 0 < len(Bar.made[1].told) <= 3
    sys.modules["comfy.model_management"].pressed_after = None
    restore(nodes, model, image, strengths=strengths)  # the model is as before


def test_a_result_has_the_size_that_is_asked_for(nodes):
    strengths = nodes[0]["TesseraStrength"].tell("jpeg", 0.4, "no")[0]
    assert restore(nodes, load(nodes), images(2), strengths=strengths, scale=1.5).shape == (2, 14, 20, 3)
    from tessera import ConfigError

    with pytest.raises(ConfigError, match="knows no mean"):
        restore(nodes, load(nodes), images(1), strengths=strengths, blend=0.5)


def prompt(**changed):
    """A workflow in ComfyUI's API format: what is in `changed` is set in the restoration."""
    return {
        "1": {"class_type": "TesseraLoader",
              "inputs": {"weights": "teacher.safetensors", "precision": "fp32", "estimator": "none"}},
        "2": {"class_type": "TesseraStrength",
              "inputs": {"corruption": "jpeg", "strength": 0.4, "from_image": "no", "mask": ["6", 0]}},
        "3": {"class_type": "TesseraStrength",
              "inputs": {"corruption": "gaussian_blur", "strength": 0.1, "from_image": "no", "others": ["2", 0]}},
        "4": {"class_type": "TesseraRestore",
              "inputs": {"model": ["1", 0], "image": ["5", 0], "strengths": ["3", 0], "steps": 2, "temperature": 0.3,
                         "seed": 5, "sampler": "ddim", "color_fix": "none", "tile": -1, "tile_batch_size": 4,
                         **changed}},
        "5": {"class_type": "Image", "inputs": {}},
        "6": {"class_type": "Mask", "inputs": {}},
        "7": {"class_type": "Preview", "inputs": {"images": ["4", 0]}},
    }  # fmt: skip


@pytest.fixture
def comfy(package, nodes):
    del nodes  # it resets what Cancel does
    image, mask = images(2), torch.linspace(0, 1, 13).expand(1, 9, 13)
    return Comfy({**package[0].NODE_CLASS_MAPPINGS, "Image": source("IMAGE", image), "Mask": source("MASK", mask)})


def test_a_workflow_runs_as_comfyui_runs_it_and_gives_the_librarys_pixels(comfy, nodes):
    (result,) = comfy.run(prompt())["7"]["images"]
    assert result.shape == (2, 18, 26, 3)
    mask = torch.linspace(0, 1, 13).expand(9, 13)
    wanted = load(nodes, "teacher.safetensors")(
        images(2)[1].movedim(-1, 0), {"jpeg": 0.4 * mask.numpy(), "gaussian_blur": 0.1}, steps=2, sampler="ddim",
        temperature=0.3, eta=0.0, seed=5, sample=1,
    )  # fmt: skip
    assert torch.equal(result[1], wanted.movedim(0, -1))
    ((needed, device),) = sys.modules["comfy.model_management"].freed[-1:]
    assert needed > 2**30
    assert device == torch.device("cpu")


def test_only_what_has_changed_runs_again(comfy, nodes):
    comfy.run(prompt())
    assert sorted(comfy.ran) == [*"1234567"]
    first = comfy.run(prompt())["7"]["images"][0]
    assert comfy.ran == []
    again = comfy.run(prompt(seed=6))["7"]["images"][0]  # the model was made in inference mode, and is used once more
    assert comfy.ran == ["4", "7"]
    assert not torch.equal(first, again)
    file = nodes[1] / "teacher.safetensors"
    os.utime(file, ns=(2, file.stat().st_mtime_ns + 10**9))
    comfy.run(prompt(seed=6))
    assert comfy.ran == ["1", "4", "7"]


def test_cancel_ends_a_workflow_and_the_next_one_runs(comfy):
    sys.modules["comfy.model_management"].pressed_after = 2
    with pytest.raises(Interrupted):
        comfy.run(prompt())
    sys.modules["comfy.model_management"].pressed_after = None
    assert comfy.run(prompt())["7"]["images"][0].shape == (2, 18, 26, 3)
    assert "1" not in comfy.ran


@pytest.mark.parametrize(
    ("changed", "kind"),
    [
        ({"steps": 0}, "value_smaller_than_min"), ({"temperature": 3}, "value_bigger_than_max"),
        ({"seed": 2**32}, "value_bigger_than_max"), ({"sampler": "euler"}, "value_not_in_list"),
        ({"steps": "many"}, "invalid_input_type"), ({"image": ["1", 0]}, "return_type_mismatch"),
        ({"strengths": ["6", 0]}, "return_type_mismatch"), ({"mask": ["5", 0]}, "return_type_mismatch"),
        ({"image": ["5"]}, "bad_linked_input"), ({"steps": "2", "temperature": 1, "wrap": "x", "unknown": 3}, None),
    ],
)  # fmt: skip
def test_comfyui_refuses_by_the_declarations_what_a_node_cannot_take(comfy, changed, kind):
    found = comfy.validate(prompt(**changed))
    assert [problem[1] for problem in found] == ([] if kind is None else [kind])
    if kind is None:
        comfy.run(prompt(**changed))
    missing = prompt()
    del missing["4"]["inputs"]["seed"]
    assert comfy.validate(missing) == [("4", "required_input_missing", "seed")]


def test_weights_in_folders_of_extra_model_paths_are_found(package):
    paths = sys.modules["folder_paths"]
    places, endings = paths.folder_names_and_paths["tessera"]
    assert endings == {".safetensors"}
    extra = package[1].parent / "more" / "deep"
    extra.mkdir(parents=True, exist_ok=True)
    write_student(extra / "other.safetensors")
    paths.add_model_folder_path("tessera", str(extra.parent))
    try:
        listed = package[0].NODE_CLASS_MAPPINGS["TesseraLoader"].INPUT_TYPES()["required"]["weights"][0]
        assert os.path.join("deep", "other.safetensors") in listed
    finally:
        places.remove(str(extra.parent))
