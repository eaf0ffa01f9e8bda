"""One-step students in spandrel, by spandrel itself where it is installed.

spandrel imports torchvision for two of its other architectures; where that is missing, stand-ins that refuse to be
called take its place in this file's tests.
"""

import importlib.util
import sys
import types

import pytest
import torch
from export_helpers import PLAIN, STUDENT, write_student
from integration_helpers import ROOT, installed
from network_helpers import small_network
from restorer_helpers import KNOWN, write_weights

from codes import Restorer
from codes.models.diffusion.checkpoints.files import read_weights
from codes.models.diffusion.process_options import StudentOptions

MODULES = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
if importlib.util.find_spec("spandrel") is None or importlib.util.find_spec("einops") is None:
    pytest.skip(
        "spandrel is not installed (pip install --no-deps spandrel; pip install einops)", allow_module_level=True
    )


def refuse(*arguments):
    raise AssertionError(f"torchvision was called with {len(arguments)} arguments")


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """The integration, registered with spandrel."""
    with installed(tmp_path_factory.mktemp("spandrel")) as patch:
        if importlib.util.find_spec("torchvision") is None:
            for name in MODULES:
                patch.setitem(sys.modules, name, types.ModuleType(name))
            functional = sys.modules[MODULES[-1]]
            functional.normalize = functional.rotate = refuse
            functional.InterpolationMode = object
        patch.syspath_prepend(str(ROOT / "integrations" / "spandrel"))
        import tessera_spandrel

        tessera_spandrel.register()
        tessera_spandrel.register()  # a second time changes nothing
        yield tessera_spandrel


@pytest.fixture
def student(tmp_path):
    """A student that differs from the recipe of distillation in what shapes do not tell, as its own file."""
    process = STUDENT.model_copy(update={"student": StudentOptions(sigma=0.7, temperature_max=0.4)})
    return write_student(tmp_path / "student.safetensors", process, {"low_res_upsampling": "bilinear"})


@pytest.fixture
def exported(ours, student, tmp_path):
    """The same as a file of weights that spandrel detects."""
    return ours.export(student, tmp_path / "for_spandrel.safetensors")


def wanted(file, image, strengths):
    restorer = Restorer.from_checkpoint(file, "cpu", tile=0)
    return torch.stack([restorer(one, strengths, temperature=0.0) for one in image])


def pictures(count=2, height=11, width=14):
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(height))


def test_spandrel_detects_a_student_and_restores_as_the_library_does(exported, student):
    import spandrel

    model = spandrel.ModelLoader().load_from_file(exported)
    assert isinstance(model, spandrel.ImageModelDescriptor)
    assert model.architecture.id == "TesseraStudent"
    assert (model.scale, model.input_channels, model.output_channels, model.purpose) == (2, 3, 3, "SR")
    image = pictures()
    result = model(image)
    assert result.shape == (2, 3, 22, 28)
    assert (result - wanted(student, image, [0.2, 0.2])).abs().max() < 2e-6  # at its own sigma, upsampled in its way
    model.model.strengths = torch.tensor([0.9, 0.1])
    assert (model(image) - wanted(student, image, [0.9, 0.1])).abs().max() < 2e-6
    assert (model(image) - result).abs().max() > 1e-3


@pytest.mark.usefixtures("ours")
def test_the_student_that_comes_with_the_project_is_detected_as_it_is():
    import spandrel

    file = ROOT / "codes/weights/tessera-photo-2x-fast.safetensors"
    model = spandrel.ModelLoader().load_from_file(file)
    image = pictures(1, 16, 12)
    assert (model(image) - wanted(file, image, [0.2, 0.2])).abs().max() < 2e-6
    assert model.tags == ["one step", "6.6M"]
    with pytest.raises(spandrel.UnsupportedModelError):
        spandrel.ModelLoader().load_from_file(file.with_name("tessera-photo-2x.safetensors"))  # its teacher


def test_a_teacher_of_the_same_shapes_is_refused_and_not_exported(ours, tmp_path, student):
    import spandrel
    from tessera import ConfigError

    teacher = write_weights(tmp_path / "teacher.safetensors", KNOWN, PLAIN)
    shapes = {name: value.shape for name, value in read_weights(teacher)[0].items()}
    assert shapes == {name: value.shape for name, value in read_weights(student)[0].items()}
    for file in (teacher, student):  # a student's own file says what it is only where spandrel does not look
        with pytest.raises(spandrel.UnsupportedModelError):
            spandrel.ModelLoader().load_from_file(file)
    with pytest.raises(ConfigError, match="is no one-step student"):
        ours.export(teacher, tmp_path / "no.safetensors")
    with pytest.raises(ConfigError, match=r"ends in \.safetensors"):
        ours.export(student, tmp_path / "no.pth")
    with pytest.raises(ConfigError, match="record no one-step student"):
        ours.TesseraStudentArch().load(read_weights(teacher)[0])
    assert not (tmp_path / "no.safetensors").exists()


def test_a_record_that_is_damaged_is_no_student(ours, exported):
    state = read_weights(exported)[0]
    arch = ours.TesseraStudentArch()
    assert arch.detect(state)
    for broken in (state[ours.RECORD][:-9], torch.zeros(5, dtype=torch.uint8), torch.tensor([*b"{}"]).to(torch.uint8)):
        assert not arch.detect({**state, ours.RECORD: broken})


def test_half_precision_stays_near(ours, student):
    model = ours.load(student)
    image = pictures(1)
    exact = model(image)
    half = model.bfloat16()(image.bfloat16())
    assert half.dtype == torch.bfloat16
    assert (half.float() - exact).abs().max() < 0.1


@pytest.mark.parametrize(
    ("which_model", "options"),
    [
        ("unet_diffusion", {"num_corruptions": 2}),  # learns its variance: no student
        ("unet_diffusion", {"out_channels": 3}),  # takes no image
        ("unet_diffusion", {"out_channels": 3, "num_corruptions": 2, "num_classes": 4}),
        ("patch_diffusion_unet", {}),
    ],
)
def test_other_networks_are_not_taken_for_students(ours, which_model, options):
    assert not ours.TesseraStudentArch().detect(small_network(which_model, **options).state_dict())
    assert not ours.TesseraStudentArch().detect({"conv.weight": torch.zeros(3, 3, 1, 1)})


def test_spandrels_own_architectures_do_not_take_a_student(ours, exported):
    import spandrel

    state = read_weights(exported)[0]
    assert ours.TesseraStudentArch().detect(state)
    claims = [arch.architecture.id for arch in spandrel.MAIN_REGISTRY if arch.detect(dict(state))]
    assert claims == ["TesseraStudent"]


def test_the_record_of_a_file_decides_where_it_is_read(ours, tmp_path):
    from tessera import ConfigError

    once = write_student(
        tmp_path / "once.safetensors", changes={"low_res_upsampling": "bilinear"}, data={**KNOWN, "scale": 1}
    )
    model = ours.load(once)
    assert (model.scale, model.purpose) == (1, "Restoration")
    image = pictures()
    assert (model(image) - wanted(once, image, [0.2, 0.2])).abs().max() < 2e-6
    teacher = write_weights(tmp_path / "teacher.safetensors", KNOWN, PLAIN)
    with pytest.raises(ConfigError, match="is no one-step student"):
        ours.load(teacher)
