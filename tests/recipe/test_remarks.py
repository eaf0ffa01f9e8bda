"""What a recipe says in vain is told with file and line; what contradicts a checkpoint is refused."""

from pathlib import Path

import pytest
import yaml
from command_helpers import RESTORING, TRAINING, changed, restore

from codes.config.effect import without_effect
from codes.config.yaml_source import load_source
from codes.recipe.recipe import read_recipe
from codes.recipe.remarks import remarks_of

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted([*(ROOT / "recipes").rglob("*.yml"), *(ROOT / "options").rglob("*.yml")])
INJECTOR = "steps.generator.injectors.diffusion."


def told(text, *overrides):
    Path("r.yml").write_text(text)
    recipe = read_recipe(load_source("r.yml", overrides))
    return [f"{'.'.join(map(str, issue.path))}: {issue.message}" for issue in remarks_of(recipe)]


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_shipped_recipe_says_anything_in_vain(file):
    # The device is that of the machine, and fp16 on a CPU is said where there is no GPU.
    assert list(remarks_of(read_recipe(load_source(file, ["precision=fp32", "fp16=false"])))) == []


@pytest.mark.parametrize("file", ["dlas_train.yml", "dlas_infer.yml"])
def test_dlas_recipes_are_accepted_whatever_they_say_in_vain(file):
    for issue in without_effect(read_recipe(load_source(ROOT / "tests" / "fixtures" / file))):
        assert issue.message.startswith("has no effect here")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.val_freq=10", "train.val_freq: has no effect here: it needs eval.evaluators"),
        ("train.lr_gamma=0.2", "train.lr_gamma: has no effect here: it needs gen_lr_steps"),
        ("train.gen_lr_steps=[5000000]", "train.gen_lr_steps: 5000000 is never reached"),
        ("train.warmup_iter=1000000", "train.warmup_iter: is longer than the training"),
        ("logger.visual_debug_rate=7", "logger.visual_debug_rate: has no effect here: it needs visuals"),
        ("logger.wandb_project=x", "logger.wandb_project: has no effect here: it needs wandb"),
        ("path.strict_load=false", "path.strict_load: has no effect here: it needs pretrain"),
        (f"{INJECTOR}diffusion_args.min_snr_gamma=3",
         f"{INJECTOR}diffusion_args.min_snr_gamma: has no effect here: it needs weight_schedule: min_snr"),
        (f"{INJECTOR}diffusion_args.weight_clamp=[1, 2]", f"{INJECTOR}diffusion_args.weight_clamp: has no effect"),
        ("steps.generator.losses.mse.weight=-1", "steps.generator.losses.mse.weight: is -1: the loss is made as large"),
        ("steps.generator.losses.mse.weight=0", "steps.generator.losses.mse.weight: is 0: the loss changes nothing"),
        ("networks.generator.args.image_size=64", "networks.generator.args.image_size: is 64, but datasets.train"),
        ("networks.generator.args.classifier_free=true", "networks.generator.args.classifier_free: has no effect"),
        ("networks.other={which_model_G: strength_estimator, args: {image_size: 32, num_corruptions: 1}}",
         "networks.other: nothing in steps or eval uses this network"),
        ("precision=fp16", "precision: fp16 is for GPUs"),
        ("gpu_ids=[3]", "gpu_ids: is [3], but device is cpu"),
        ("path.experiment=other", "path.experiment: has no effect here: no weights are `auto`"),
    ],
)  # fmt: skip
def test_an_option_in_vain_is_told(tmp_path, monkeypatch, override, said):
    monkeypatch.chdir(tmp_path)
    before = told(changed(TRAINING, ("logger.visuals", []), ("logger.visual_debug_rate", 1000)))
    remarks = told(changed(TRAINING, ("logger.visuals", []), ("logger.visual_debug_rate", 1000)), override)
    assert [line for line in remarks if line not in before], remarks
    assert any(line.startswith(said) for line in remarks), remarks


INFER = ROOT / "recipes" / "diffusion" / "infer.yml"
DETAIL = "steps.restore.injectors.detail."


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["scale=4"], "scale: is 4, but output_scale_factor is 2, and that counts"),
        (["output.num_samples=2", f"{DETAIL}temperature=0"], "output.num_samples: is 2, but sampling draws no noise"),
        (["output.num_samples=2", f"{DETAIL}temperature=1", f"{DETAIL}noise_type=zero"],
         "output.num_samples: is 2, but sampling draws no noise"),
        (["datasets.test.batch_size=4"], "datasets.test.batch_size: has no effect here: it is for datasets.train"),
        (["datasets.test.cosine_bias=false"],
         "datasets.test.cosine_bias: has no effect here: it needs another skip_lq than true"),
        (["datasets.test.fixed_parameters={corruption_entropy: [0.1, 0.2], auto_default: 0.3}"],
         "datasets.test.fixed_parameters.auto_default: has no effect here: no strength is `auto`"),
        ([f"{DETAIL}tile=0", f"{DETAIL}tile_overlap=8"], f"{DETAIL}tile_overlap: has no effect here"),
    ],
)  # fmt: skip
def test_an_option_in_vain_of_a_test_run_is_told(overrides, said):
    remarks = [*remarks_of(read_recipe(load_source(INFER, overrides)))]
    lines = [f"{'.'.join(map(str, issue.path))}: {issue.message}" for issue in remarks]
    assert any(line.startswith(said) for line in lines), lines


def test_of_two_seeds_the_one_that_counts_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "train.manual_seed: is 2, but seed is 1, and that counts" in told(TRAINING, "seed=1", "train.manual_seed=2")


def test_samplers_that_draw_nothing_but_their_start_are_not_blamed():
    recipe = read_recipe(load_source(INFER, ["output.num_samples=2"]))
    assert not [*remarks_of(recipe)]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.gen_lr_steps=[20, 10]", "train.gen_lr_steps: must ascend from 1, found [20, 10]"),
        ("steps.generator.optimizer_params.lr=1e30", "optimizer_params.lr: expected less than or equal to 1000"),
        ("datasets.train.n_workers=1000000000", "datasets.train.n_workers: expected less than or equal to 1024"),
        ("datasets.train.target_size=100000000", "datasets.train.target_size: expected less than or equal to 65536"),
        ("datasets.train.tiles_per_image=1000000000", "tiles_per_image: expected less than or equal to 1000000"),
        ("datasets.train.min_tile_std=200", "datasets.train.min_tile_std: expected less than or equal to 127.5"),
        ("scale=10000000000", "scale: expected less than or equal to 1024"),
    ],
)
def test_nonsense_is_refused(tmp_path, monkeypatch, override, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Exception, match=said.replace("[", r"\[")):
        told(TRAINING, override)


@pytest.mark.usefixtures("here")
def test_a_warning_names_its_line_and_the_run_goes_on():
    code, said = restore("-opt", "infer.yml", "--set", "logger.wandb_project=x")
    assert code == 0
    assert "W --set logger.wandb_project=x: logger.wandb_project: has no effect here: it needs wandb" in said


NODE = f"steps.{next(iter(yaml.safe_load(RESTORING)['steps']))}.injectors." + next(
    iter(next(iter(yaml.safe_load(RESTORING)["steps"].values()))["injectors"])
)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([f"{NODE}.output_scale_factor=4", "scale=4"],
         "output_scale_factor: is 4, but generator (checkpoint experiments/tiny/models/2_generator_ema.safetensors) "
         "was trained at scale 2"),
        (["datasets.test.fixed_corruptions=[gaussian_blur, jpeg]"],
         "datasets.test.fixed_corruptions: are [gaussian_blur, jpeg], but checkpoint "),
        (["datasets.test.fixed_corruptions=[jpeg, noise]"], "datasets.test.fixed_corruptions: are [jpeg, noise], but"),
        ([f"{NODE}.beta_schedule={{schedule_name: cosine, num_diffusion_timesteps: 100}}"],
         "beta_schedule: schedule_name is cosine, but checkpoint "),
        ([f"{NODE}.diffusion_args={{model_mean_type: v}}"],
         "diffusion_args: model_mean_type is v, but checkpoint "),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("here")
def test_a_contradiction_to_the_checkpoint_is_refused(overrides, said):
    """A network works on whatever it is given; strengths in another order would reach inputs that mean others."""
    code, text = restore("-opt", "infer.yml", "--set", *overrides)
    assert code == 2, text
    assert said in text


@pytest.mark.usefixtures("here")
def test_what_agrees_with_the_checkpoint_runs():
    code, text = restore(
        "-opt", "infer.yml", "--set", "datasets.test.fixed_corruptions=[jpeg, gaussian_blur]",
        f"{NODE}.beta_schedule={{schedule_name: linear, num_diffusion_timesteps: 100}}",
        f"{NODE}.diffusion_args={{model_mean_type: epsilon, loss_type: l1}}",
    )  # fmt: skip
    assert code == 0, text
