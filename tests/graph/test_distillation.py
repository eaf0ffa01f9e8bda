"""A student that says in one call where the sampler of its teacher ends."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_helpers import restore
from network_helpers import small_network
from torch import Tensor
from trainer_helpers import NETWORK, different, everything, fill, make_trainer, merged, recipe_data, write_recipe

from codes import Restorer
from codes.config.options import validate_nested
from codes.graph.graph import StepContext
from codes.graph.injectors.distillation import DistillationInjector, DistillationOptions
from codes.images.files import read_image, write_image
from codes.models.diffusion.checkpoints.metadata import read_metadata
from codes.models.diffusion.networks.backbone import resized
from codes.models.diffusion.process_options import ProcessOptions, StudentOptions
from codes.models.diffusion.sampling_options import SamplingOptions
from codes.models.diffusion.schedule import NoiseSchedule

KEYS = {"low_res": "lq", "corruption_factor": "corruption_entropy"}
ARGS = {"model_mean_type": "residual", "model_var_type": "fixed_small"}
OWN = {"type": "distillation", "generator": "g", "teacher": "t", "out": "said", "out_target": "taught"}


def injector(**changes: Any) -> DistillationInjector:
    return DistillationInjector(validate_nested(DistillationOptions, {**OWN, "diffusion_args": ARGS, **changes}))


def networks() -> dict[str, Any]:
    student, teacher = (small_network(out_channels=3, num_corruptions=2) for _ in "gt")
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.mul_(1.05)
    return {"g": student, "t": teacher.requires_grad_(False)}


def context(nets: dict[str, Any], positions: Any = range(2)) -> StepContext:
    return StepContext(nets, torch.device("cpu"), 5, positions, nullcontext)


def state() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    lq = torch.rand(2, 3, 8, 12, generator=generator) * 1.6 - 0.8
    return {"hq": torch.zeros(2, 3, 16, 24), "lq": lq, "corruption_entropy": torch.rand(2, 2, generator=generator)}


@torch.no_grad()
def by_hand(teacher: Any, own: DistillationInjector, given: dict[str, Tensor], at: StepContext) -> Tensor:
    """DDIM (Song et al. 2021, eq. 12) with the residual's formulas written out (`docs/theory.md`)."""
    schedule = NoiseSchedule.named("linear", 4000).respaced(own.options.spacing)
    prior = resized(given["lq"], given["hq"], teacher.low_res_upsampling)
    temperature = (at.uniform("temperature") * own.options.temperature_max).float().view(-1, 1, 1, 1)
    abar = schedule.alphas_cumprod
    x = abar[-1] ** 0.5 * prior + (1 - abar[-1]) ** 0.5 * temperature * at.normal("noise", given["hq"])
    x = x.float()
    for step in range(len(abar) - 1, -1, -1):
        a = float(abar[step])
        t = torch.full((2,), step)
        process = own.process
        output = teacher(
            process.network_input(x, t, prior), torch.full((2,), int(schedule.timesteps[step])),
            low_res=given["lq"], corruption_factor=given["corruption_entropy"],
        )  # fmt: skip
        x_start = process.predict(output, x, t, True, prior).x_start
        eps = (x - a**0.5 * x_start) / (1 - a) ** 0.5
        before = float(abar[step - 1]) if step else 1.0
        x = before**0.5 * x_start + (1 - before) ** 0.5 * eps
    return x


def test_the_target_is_where_the_teachers_deterministic_sampler_ends() -> None:
    own, nets, given = injector(steps=5, temperature_max=0.5), networks(), state()
    at = context(nets)
    made = own(given, at)
    torch.testing.assert_close(made["taught"], by_hand(nets["t"], own, given, at), rtol=1e-4, atol=1e-5)
    assert made["taught"].abs().max() <= 1
    assert not torch.allclose(made["taught"], injector(steps=2, temperature_max=0.5)(given, at)["taught"], atol=1e-3)


def test_a_student_that_equals_a_teacher_of_one_step_has_nothing_to_learn() -> None:
    nets, given = networks(), state()
    made = injector(steps=1)(given, context({**nets, "g": nets["t"]}))
    torch.testing.assert_close(made["said"].clamp(-1, 1), made["taught"], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(injector(steps=1)(given, context(nets))["said"], made["said"], atol=1e-3)


def test_a_student_is_called_at_its_own_sigma_with_the_teachers_noise_and_sampled_there() -> None:
    nets, given = networks(), state()
    own = injector(steps=3, student_sigma=0.4)
    # A teacher of one step from 0.4 does what a student of equal weights should.
    lower = injector(steps=1, sigma_max=0.4)(given, context(nets))
    found = own(given, context({**nets, "g": nets["t"]}))
    torch.testing.assert_close(found["said"].clamp(-1, 1), lower["taught"], rtol=1e-4, atol=1e-5)
    assert torch.equal(found["taught"], injector(steps=3)(given, context(nets))["taught"])
    recorded = own.options.processes()["g"]
    assert recorded.student == StudentOptions(sigma=0.4, temperature_max=0.6)
    sigma = SamplingOptions().build_process(recorded, "g").schedule.sigma
    assert sigma == pytest.approx([0.4], rel=1e-2)


def test_gradients_reach_the_student_alone_and_the_teacher_evaluates() -> None:
    nets = networks()
    nets["t"].train()
    made = injector(steps=2)(state(), context(nets))
    assert not made["taught"].requires_grad
    assert not nets["t"].training
    (made["said"] - made["taught"]).square().mean().backward()
    assert all(parameter.grad is None for parameter in nets["t"].parameters())
    assert sum(float(p.grad.abs().sum()) for p in nets["g"].parameters() if p.grad is not None) > 0


def test_noise_and_temperature_of_a_sample_follow_from_its_position() -> None:
    own, nets, given = injector(steps=2), networks(), state()
    both = own(given, context(nets, (7, 9)))
    second = own({key: value[1:] for key, value in given.items()}, context(nets, (9,)))
    torch.testing.assert_close(both["said"][1:], second["said"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(both["taught"][1:], second["taught"], rtol=1e-4, atol=1e-5)
    many = context(nets, range(400))
    drawn = injector(temperature_max=0.5)._noise(torch.zeros(400, 3, 8, 8), many).flatten(1).std(dim=1)
    assert drawn.min() < 0.02
    assert 0.45 < drawn.max() < 0.56
    assert drawn.mean() == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize(
    ("changes", "path", "said"),
    [
        ({"teacher": "g"}, "teacher", "cannot teach itself"),
        ({"teacher": "x"}, "teacher", "no network 'x'"),
        ({"generator": "x"}, "generator", "no network 'x'"),
        ({"model_input_keys": {}}, "model_input_keys", "missing"),
        ({"sigma_min": 2.0}, "sigma_min", "must be below sigma_max of 1"),
        ({"steps": 3900}, "steps", "timesteps only"),
        ({"teacher": "other"}, "teacher", "its out_channels is 6, the student's 3"),
    ],
)
def test_what_cannot_be_distilled_is_said_before_anything_starts(changes: Any, path: str, said: str) -> None:
    options = injector(**changes).options if "steps" not in changes else None
    options = options or validate_nested(DistillationOptions, {**OWN, "diffusion_args": ARGS, **changes})
    nets = {**networks(), "other": small_network(num_corruptions=2)}
    assert any(issue.path[0] == path and said in issue.message for issue in options.problems(nets))


def test_a_students_sampling_is_one_step_and_no_hotter_than_it_has_learned() -> None:
    trained = ProcessOptions(student=StudentOptions(sigma=0.8, temperature_max=0.5))
    for given in ({}, {"respaced_timestep_spacing": 50, "stop_at_snr": 2.0}, {"respaced_timestep_spacing": "karras8"}):
        options = SamplingOptions(**given)
        process = options.build_process(trained, "g")
        assert process.num_timesteps == 1
        assert process.schedule.sigma[0] == pytest.approx(0.8, rel=1e-2)
        assert options.suited_to(trained).temperature == 0.5
    assert SamplingOptions(temperature=0.2).suited_to(trained).temperature == 0.2
    plain = SamplingOptions(respaced_timestep_spacing=50)
    assert plain.suited_to(ProcessOptions()) is plain


CHANGES = {
    "networks": {
        "generator": {"args": {"out_channels": 3}},
        "teacher": {"which_model_G": "unet_diffusion", "trainable": False, "args": {**NETWORK, "out_channels": 3}},
    },
    "steps": {
        "generator": {
            "injectors": {
                "diffusion": None,
                "taught": {
                    **OWN, "generator": "generator", "teacher": "teacher", "diffusion_args": ARGS, "steps": 3,
                    "model_input_keys": KEYS,
                },
            },
            "losses": {
                "mse": None, "vb": None,
                "image": {"type": "pixel", "kind": "l2", "weight": 70, "key": "said", "target": "taught"},
            },
        }
    },
    "train": {"niter": 4},
}  # fmt: skip


def without_none(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: without_none(value) for key, value in data.items() if value is not None}
    return data


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_recipe(tmp_path / "r.yml", without_none(merged(recipe_data(fill(tmp_path / "im")), CHANGES)))


def test_a_distillation_resumes_bit_for_bit_and_leaves_the_teacher_alone(recipe: Path) -> None:
    whole = make_trainer(recipe, "name=whole")
    before = {key: value.clone() for key, value in whole.parts.networks["teacher"].state_dict().items()}
    whole.run()
    after = whole.parts.networks["teacher"].state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    make_trainer(recipe, "train.niter=2").run()
    again = make_trainer(recipe, auto_resume=True)
    again.run()
    assert different(everything(whole), everything(again)) == []


def test_a_students_checkpoint_says_that_it_is_one_and_restores_in_one_step_with_a_dial(recipe: Path) -> None:
    make_trainer(recipe).run()
    file = "experiments/tiny/models/4_generator_ema.safetensors"
    process = read_metadata(file).process
    assert process["student"] == {"sigma": 1.0, "temperature_max": 0.6}
    assert read_metadata("experiments/tiny/models/4_teacher.safetensors").process["student"] is None
    restorer = Restorer.from_checkpoint(file, "cpu")
    image = np.random.default_rng(0).random((12, 17, 3)).astype(np.float32)
    steps = []
    one = restorer(image, [0.2, 0.5], steps=8, progress=lambda _, total: steps.append(total))
    assert one.shape == (24, 34, 3)
    assert set(steps) == {steps[0]}
    again = restorer(image, [0.2, 0.5], steps=50, options={"sampler": "ancestral"})
    assert np.array_equal(one, again)
    assert not np.array_equal(one, restorer(image, [0.2, 0.5], options={"temperature": 0.05}))
    hottest = [restorer(image, [0.2, 0.5], options={"temperature": value}) for value in (0.6, 1.0)]
    assert np.array_equal(*hottest)


def test_a_student_restores_files_in_tiles_as_the_library_does(recipe: Path) -> None:
    make_trainer(recipe).run()
    file = Path("experiments/tiny/models/4_generator_ema.safetensors")
    image = np.random.default_rng(0).integers(0, 256, (24, 37, 3), dtype=np.uint8)
    write_image("in/a.png", image)
    text = """
name: infer
model: extensibletrainer
scale: 2
device: cpu
precision: fp32
datasets: {test: {mode: imagefolder, paths: in, skip_lq: true, rgb_n1_to_1: true,
  fixed_corruptions: [jpeg, gaussian_blur], fixed_parameters: {corruption_entropy: [0.2, 0.5]}}}
path: {pretrain_model_generator: FILE}
steps: {restore: {injectors: {detail: {type: gaussian_diffusion_inference, generator: generator,
  model_input_keys: {low_res: hq, corruption_factor: corruption_entropy}, output_scale_factor: 2,
  respaced_timestep_spacing: karras8, sampler: ddim, temperature: 0.3, tile: 32, tile_overlap: 16, out: restored}}}}
eval: {output_state: restored}
"""
    Path("infer.yml").write_text(text.replace("FILE", str(file)))
    code, said = restore("-opt", "infer.yml")
    assert code == 0, said
    assert "distilled: one step at sigma 1" in said
    written = read_image(next(Path("results/infer").rglob("a.png"))).rgb
    restorer = Restorer.from_checkpoint(file, "cpu", tile=32, tile_overlap=16)
    expected = restorer(image, [0.2, 0.5], name="a.png", options={"temperature": 0.3})
    assert np.abs(written * 255 - expected).max() <= 1
