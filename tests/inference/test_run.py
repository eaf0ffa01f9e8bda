"""What every use of trained networks shares: one seed rule, one results folder, one context."""

from pathlib import Path

import pytest
import torch
import yaml
from door_helpers import RESTORING, TRAINING, changed, save_picture

from codes.config.yaml_source import load_source
from codes.inference.evaluation.run import RecipeEvaluation
from codes.inference.restoring.plan import Plan
from codes.inference.run import Run, results_folder
from codes.recipe.recipe import read_recipe
from codes.runtime.devices import Ranks
from codes.trainer.trainer import Trainer

pytestmark = pytest.mark.usefixtures("here")
EVALUATORS = """
measured:
  type: restoration
  for: generator
  dataset:
    mode: imagefolder
    paths: small
    scale: 2
    rgb_n1_to_1: true
    fixed_corruptions: [jpeg, gaussian_blur]
"""


def written(text, *changes):
    Path("some.yml").write_text(changed(text, *changes))
    source = load_source(Path("some.yml"), [])
    return read_recipe(source), source


@pytest.mark.parametrize(
    ("seed", "manual_seed", "expected"), [(..., ..., 0), (..., 3, 3), (4, ..., 4), (4, 3, 4), (0, 3, 0)]
)
def test_the_seed_is_that_of_the_recipe_else_that_of_training_else_0(seed, manual_seed, expected):
    save_picture("photos/a.png", 40, 56)
    values = [(key, value) for key, value in (("seed", seed), ("train.manual_seed", manual_seed)) if value is not ...]
    recipe, source = written(TRAINING, *values)
    assert recipe.seed_in_use == expected
    trainer = Trainer(recipe, source, Ranks(), auto_resume=False)
    assert (trainer.context().seed, trainer.dataset.seed) == (expected, expected)


def test_all_uses_take_seed_folder_and_networks_from_one_rule():
    train = {"niter": 1, "manual_seed": 5}
    recipe, source = written(RESTORING, ("seed", ...), ("train", train), ("path.results", "elsewhere"))
    measuring, measuring_source = written(
        RESTORING,
        ("seed", ...),
        ("train", train),
        ("path.results", "elsewhere"),
        ("eval", {"evaluators": yaml.safe_load(EVALUATORS)}),
    )
    restoring = Plan(recipe, source, Ranks()).use
    evaluating = RecipeEvaluation(measuring, measuring_source).use
    for use in (restoring, evaluating):
        assert (use.seed, use.folder, use.precision, use.device.type) == (5, Path("elsewhere"), "fp32", "cpu")
        assert [*use.networks] == ["generator"]
        assert use.weights["generator"].name == "2_generator_ema.safetensors"
        assert use.processes["generator"].beta_schedule.num_diffusion_timesteps == 100


def test_the_folder_is_named_by_the_recipe_unless_it_says_where():
    assert results_folder(written(RESTORING)[0]) == Path("results/restored")
    assert results_folder(written(RESTORING, ("path.results", "a/b"))[0]) == Path("a/b")


def test_a_context_is_that_of_the_run():
    recipe, _ = written(RESTORING, ("precision", "bf16"), ("seed", 9))
    use = Run.of_recipe(recipe, ["generator"])
    context = use.context((4, 7), sample=2, scratch=Path("kept"))
    assert (context.seed, context.positions, context.sample, context.scratch) == (9, (4, 7), 2, Path("kept"))
    assert context.networks is use.networks
    assert context.processes is use.processes
    with context.autocast():
        assert (torch.ones(2, 3) @ torch.ones(3, 2)).dtype == torch.bfloat16
