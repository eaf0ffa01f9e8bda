"""What every use of trained networks shares: one seed rule, one results folder, one context."""

from pathlib import Path

import pytest
import torch
import yaml
from command_helpers import RESTORING, TRAINING, changed, save_picture

from codes.config.fingerprint import all_settings
from codes.config.options import Options, field_keys
from codes.config.yaml_source import load_source
from codes.inference.evaluation.run import RecipeEvaluation
from codes.inference.restoring.setup import Setup
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
    restoring = Setup(recipe, source, Ranks()).use
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


def replaced(value, path, new):
    """Options, mappings and lists with what stands at a path of field names replaced."""
    if not path:
        return new
    if isinstance(value, Options):
        names = {field_keys(name, field)[0]: name for name, field in type(value).model_fields.items()}
        name = names.get(path[0], path[0])
        return value.model_copy(update={name: replaced(getattr(value, name), path[1:], new)})
    if isinstance(value, tuple):
        index = int(path[0])
        return (*value[:index], replaced(value[index], path[1:], new), *value[index + 1 :])
    return {**value, path[0]: replaced(value[path[0]], path[1:], new)}


def test_every_option_of_a_recipe_decides_a_result_unless_its_field_says_that_it_does_not():
    recipe, _ = written(RESTORING, ("networks", {"generator": yaml.safe_load(TRAINING)["networks"]["generator"]}))
    use = Run({}, torch.device("cpu"))
    before = use.settings(recipe, "test")
    counted = {True: 0, False: 0}
    in_use = {("seed",), ("precision",), ("fp16",)}  # the run says what they come to
    for path, value, mark in all_settings(recipe):
        if path not in in_use:
            other = replaced(recipe, path, "something else" if value != "something else" else 1)
            assert (use.settings(other, "test") != before) == (mark is None), path
            counted[mark is None] += 1
    assert counted[True] > 60
    assert counted[False] > 30


def test_what_the_run_comes_to_decides_however_the_recipe_says_it():
    recipe, _ = written(RESTORING)
    plain = Run({}, torch.device("cpu")).settings(recipe, "test")
    said = recipe.model_copy(update={"seed": None, "fp16": True})
    assert Run({}, torch.device("cpu")).settings(said, "test") == plain
    assert Run({}, torch.device("cpu"), seed=1).settings(recipe, "test") != plain
    assert Run({}, torch.device("cpu"), precision="bf16").settings(recipe, "test") != plain
    data = {"test": recipe.datasets["test"], "other": recipe.datasets["test"].model_copy(update={"scale": 4})}
    more = recipe.model_copy(update={"datasets": data})
    assert Run({}, torch.device("cpu")).settings(more, "test") == plain
    assert Run({}, torch.device("cpu")).settings(more, "other") != plain
