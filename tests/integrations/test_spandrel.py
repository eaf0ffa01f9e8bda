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
from codes.models.diffusion.process_options import BetaScheduleOptions

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
    # What weights cannot tell is as recognise() and the recipe of distillation take it.
    process = STUDENT.model_copy(update={"beta_schedule": BetaScheduleOptions()})
    return write_student(tmp_path / "student.safetensors", process, {"num_heads": 4})


def wanted(file, image, strengths):
    restorer = Restorer.from_checkpoint(file, "cpu", tile=0)
    return torch.stack([restorer(one, strengths, temperature=0.0) for one in image])


def pictures(count=2, height=11, width=14):
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(height))


@pytest.mark.usefixtures("ours")
def test_spandrel_detects_a_student_and_restores_as_the_library_does(student):
    import spandrel

    model = spandrel.ModelLoader().load_from_file(student)
    assert isinstance(model, spandrel.ImageModelDescriptor)
    assert model.architecture.id == "TesseraStudent"
    assert (model.scale, model.input_channels, model.output_channels, model.purpose) == (2, 3, 3, "SR")
    image = pictures()
    result = model(image)
    assert result.shape == (2, 3, 22, 28)
    assert (result - wanted(student, image, [0.2, 0.2])).abs().max() < 2e-6
    model.model.strengths = torch.tensor([0.9, 0.1])
    assert (model(image) - wanted(student, image, [0.9, 0.1])).abs().max() < 2e-6
    assert (model(image) - result).abs().max() > 1e-3


def test_the_shipped_student_is_detected_from_its_weights_alone(ours):
    model = ours.TesseraStudentArch().load(read_weights(ROOT / "codes/weights/tessera-photo-2x-fast.safetensors")[0])
    image = pictures(1, 16, 12)
    recorded = ours.load("tessera-photo-2x-fast")
    assert (model(image) - recorded(image)).abs().max() < 2e-6
    assert model.tags == ["one step", "6.6M"]


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


def test_spandrels_own_architectures_do_not_take_a_student(ours, student):
    import spandrel

    state = read_weights(student)[0]
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
