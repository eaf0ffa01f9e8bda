"""ONNX files say what PyTorch says, at every size, and describe themselves."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from export_helpers import STUDENT, write_student
from network_helpers import small_network
from PIL import Image
from restorer_helpers import KNOWN, picture, write_weights

from codes import ConfigError, Restorer, TesseraError
from codes.inference.export import onnx_file
from codes.inference.export.onnx_file import graphs_of, max_error, session_of, write_onnx
from codes.inference.export.restored import restored_error
from codes.models.diffusion.checkpoints.metadata import CheckpointMetadata, save_checkpoint
from codes.models.diffusion.checkpoints.shipped import weights_file
from codes.models.diffusion.denoiser import NetworkDenoiser
from codes.models.diffusion.noise import NoiseField
from codes.models.diffusion.process_options import BetaScheduleOptions, DiffusionArgs, ProcessOptions, build_process
from codes.scripts import export_onnx
from codes.utils.rng import image_seed

onnx = pytest.importorskip("onnx", reason="the package onnx is not installed")
pytest.importorskip("onnxruntime", reason="the package onnxruntime is not installed")
CLOSE = 2e-6


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """A checkpoint, its ONNX file, and the restorer of the checkpoint, which takes images whole."""
    folder = tmp_path_factory.mktemp("student")
    checkpoint = write_student(folder / "student.safetensors")
    target = folder / "student.onnx"
    write_onnx(graphs_of(checkpoint)["student"], target)
    return checkpoint, target, Restorer.from_checkpoint(checkpoint, "cpu", tile=0)


def images(batch, height, width):
    rng = np.random.default_rng((batch, height, width))
    return rng.random((batch, 3, height, width), dtype=np.float32)


def run(file, low_res, strengths, noise, temperature):
    given = {"low_res": low_res, "strengths": strengths, "noise": noise}
    given["temperature"] = np.array([temperature], np.float32)
    return session_of(file, 1).run(None, given)[0]


@pytest.mark.parametrize("size", [(13, 21), (9, 5), (1, 3)])
def test_a_student_restores_as_the_library_does(student, size):
    low_res = images(2, *size)
    strengths = np.array([[0.2, 0.5], [0.9, 0.0]], np.float32)
    noise = np.zeros((2, 3, 2 * size[0], 2 * size[1]), np.float32)
    answer = run(student[1], low_res, strengths, noise, 0.0)
    for image, told, one in zip(low_res, strengths, answer, strict=True):
        wanted = student[2](torch.from_numpy(image), told.tolist(), temperature=0.0)
        assert np.abs(one - wanted.numpy()).max() < CLOSE
    assert answer.shape == (2, 3, 2 * size[0], 2 * size[1])
    assert answer.std() > 0.05


def test_noise_and_temperature_are_those_of_the_library_up_to_what_the_student_knows(student):
    low_res = images(1, 16, 24)
    noise = NoiseField(image_seed(5, 0, 0), 3)(-1, 0, 32, 0, 48)[None].numpy()
    results = {}
    for temperature in (0.3, 0.6, 2.0):
        results[temperature] = run(student[1], low_res, np.array([[0.2, 0.5]], np.float32), noise, temperature)
        wanted = student[2](torch.from_numpy(low_res[0]), [0.2, 0.5], temperature=temperature, seed=5)
        assert np.abs(results[temperature][0] - wanted.numpy()).max() < CLOSE
    assert np.array_equal(results[0.6], results[2.0])
    assert np.abs(results[0.3] - results[0.6]).max() > 1e-3


def test_maps_of_strength_are_those_of_the_library(student, tmp_path):
    graph = graphs_of(student[0], strength_maps=True)["student"]
    write_onnx(graph, tmp_path / "maps.onnx")
    low_res, height, width = images(1, 11, 18), 11, 18
    planes = [np.linspace(0, 1, width)[None].repeat(height, 0), np.linspace(1, 0, height)[:, None].repeat(width, 1)]
    maps = np.stack(planes).astype(np.float32)
    noise = np.zeros((1, 3, 22, 36), np.float32)
    answer = run(tmp_path / "maps.onnx", low_res, maps[None], noise, 0.0)[0]
    wanted = student[2](torch.from_numpy(low_res[0]), [maps[0], maps[1]], temperature=0.0)
    assert np.abs(answer - wanted.numpy()).max() < CLOSE
    assert np.abs(answer - run(student[1], low_res, maps.mean((1, 2))[None], noise, 0.0)[0]).max() > 1e-3


def test_the_file_says_what_it_needs(student):
    told = {entry.key: entry.value for entry in onnx.load(student[1]).metadata_props}
    assert told["kind"] == "student"
    wanted = {"scale": 2, "multiple": 1, "image_size": 32, "corruptions": ["jpeg", "gaussian_blur"], "range": [0, 1]}
    assert {key: json.loads(told[key]) for key in wanted} == wanted
    assert json.loads(told["temperature_max"]) == 0.6
    assert json.loads(told["process"]) == STUDENT.model_dump(mode="json")
    shapes = {value.name: value.shape for value in session_of(student[1]).get_inputs()}
    assert shapes["low_res"] == ["batch", 3, "height", "width"]
    assert shapes["noise"] == ["batch", 3, "large_height", "large_width"]


def write_generator(path, which_model, process, options):
    network = small_network(which_model, **options)
    metadata = CheckpointMetadata.of(network, "ema", 3, process.model_dump(mode="json"), {"scale": 1})
    save_checkpoint(path, network.state_dict(), metadata)
    return network


@pytest.mark.parametrize(
    ("which_model", "kind", "options"),
    [
        ("unet_diffusion", "epsilon", {"num_classes": 4}),
        ("patch_diffusion_unet", "v", {"num_corruptions": 2, "low_res_upsampling": "bicubic"}),
    ],
)
def test_a_denoiser_predicts_what_the_network_does(tmp_path, which_model, kind, options):
    convention = "patch" if which_model == "patch_diffusion_unet" else "adm"
    process = ProcessOptions(
        beta_schedule=BetaScheduleOptions(num_diffusion_timesteps=50),
        diffusion_args=DiffusionArgs(model_mean_type=kind, variance_convention=convention),
    )
    network = write_generator(tmp_path / "any.safetensors", which_model, process, options)
    graphs = graphs_of(tmp_path / "any.safetensors")
    assert set(graphs) == {"denoiser"}
    graph = graphs["denoiser"]
    write_onnx(graph, tmp_path / "any.onnx")
    assert max(max_error(graph, tmp_path / "any.onnx", [(16, 20), (28, 8)])) < 1e-4
    given = graph.sample(12, 20)
    cond = {"y": given["y"]} if "y" in given else {"low_res": given["low_res"], "corruption_factor": given["strengths"]}
    with torch.no_grad():
        wanted = NetworkDenoiser(network, build_process(process), False, low_res_upsampling="bilinear")(
            given["x_t"], given["t"], cond
        )
        expected = (wanted.x_start, wanted.eps, wanted.log_variance)
    answer = session_of(tmp_path / "any.onnx").run(None, {name: value.numpy() for name, value in given.items()})
    for mine, theirs in zip(answer, expected, strict=True):
        assert np.abs(mine - theirs.numpy()).max() < 1e-4 * max(theirs.abs().max(), 1)


@pytest.mark.parametrize("maps", [False, True])
def test_whole_images_are_those_of_a_restorer_by_both_graphs_of_a_student(student, tmp_path, maps):
    for kind, graph in graphs_of(student[0], maps).items():
        write_onnx(graph, tmp_path / f"{kind}.onnx")
        assert max(restored_error(student[0], graph, tmp_path / f"{kind}.onnx", [(13, 21), (16, 24)])) < 1e-5


@pytest.mark.parametrize("upsampling", ["bilinear", "bicubic"])
def test_a_teachers_graph_restores_in_the_samplers_steps_what_a_restorer_does(tmp_path, upsampling):
    file = write_weights(tmp_path / "teacher.safetensors", KNOWN, {"low_res_upsampling": upsampling})
    graph = graphs_of(file)["denoiser"]
    write_onnx(graph, tmp_path / "teacher.onnx")
    assert max(restored_error(file, graph, tmp_path / "teacher.onnx", [(12, 20)])) < 1e-4


def test_a_graph_that_upsamples_otherwise_than_its_network_is_told(student, tmp_path):
    graph = graphs_of(student[0])["denoiser"]
    graph.module.denoiser.low_res_upsampling = "bilinear"  # the network's is bicubic
    write_onnx(graph, tmp_path / "wrong.onnx")
    assert max(max_error(graph, tmp_path / "wrong.onnx")) < CLOSE  # it is what the graph computes
    with pytest.raises(TesseraError, match="away from the library"):
        restored_error(student[0], graph, tmp_path / "wrong.onnx")


def test_the_command_writes_and_checks(student, tmp_path, capsys):
    assert export_onnx.main([str(student[0]), "--kind", "all", "--output", str(tmp_path)]) == 0
    assert capsys.readouterr().err.count("whole images are restored as by the library") == 2
    assert sorted(file.name for file in tmp_path.iterdir()) == ["student-denoiser.onnx", "student-student.onnx"]


def test_the_code_of_the_documentation_runs_as_it_stands(student, tmp_path, monkeypatch):
    page = (Path(__file__).resolve().parents[3] / "docs" / "ecosystem.md").read_text(encoding="utf-8")
    code = page.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    Path("results/onnx").mkdir(parents=True)
    shutil.copyfile(student[1], "results/onnx/tessera-photo-2x-fast-student.onnx")
    Image.fromarray(picture(11, 14)).save("photo.jpg")
    exec(compile(code, "docs/ecosystem.md", "exec"), {})
    with Image.open("photo_2x.png") as restored, Image.open("photo.jpg") as photo:
        wanted = student[2](np.asarray(photo), [0.2, 0.5], temperature=0.0)
        assert np.abs(np.asarray(restored).astype(int) - wanted).max() <= 1


def test_another_network_than_a_student_is_no_image_to_image_graph(tmp_path, capsys):
    file = write_weights(tmp_path / "teacher.safetensors", {"scale": 2})
    assert export_onnx.main([str(file), "--kind", "student", "--output", str(tmp_path)]) == 2
    assert export_onnx.main([str(weights_file("tessera-photo-strengths")), "--output", str(tmp_path)]) == 2
    assert export_onnx.main(["nothing", "--output", str(tmp_path)]) == 2
    assert list(tmp_path.glob("*.onnx")) == []
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 3
    assert "is no one-step student" in told[0]


def test_a_file_that_differs_from_pytorch_is_told(student):
    graph = graphs_of(student[0])["student"]
    with torch.no_grad():
        graph.network.out[2].bias.add_(0.5)
    with pytest.raises(TesseraError, match=r"differs from PyTorch by .* at 41x35"):
        max_error(graph, student[1])


def test_without_the_package_one_line_says_how_to_install_it(student, monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(onnx_file, "import_module", missing)
    with pytest.raises(ConfigError, match="onnxruntime is not installed; pip install 'tessera-restoration"):
        session_of(student[1])
