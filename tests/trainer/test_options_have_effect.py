"""Every option of the process, of the optimiser and of the loop changes what is trained, or is listed with a reason."""

import functools

import pytest
import torch
from trainer_helpers import DIFFUSION, everything, fill, make_trainer, recipe_data, write_recipe

from codes.graph.injectors.gaussian_diffusion import GaussianDiffusionOptions
from codes.graph.node_options import InjectorOptions
from codes.graph.optimizer_options import OptimizerParams
from codes.graph.step_options import StepOptions
from codes.models.diffusion.parameterizations import PARAMETERIZATIONS
from codes.models.diffusion.process_options import BetaScheduleOptions, DiffusionArgs
from codes.recipe.train_options import TrainOptions

STEP = "steps.generator"
NODE = f"{STEP}.injectors.diffusion"
ARGS = f"{NODE}.diffusion_args"
SGD = [f"{STEP}.optimizer=sgd", f"{STEP}.optimizer_params.lr=0.5"]  # unlike Adam it minds the size of a gradient


def of(optimizer, key, value, *more):
    """An option of an optimiser: what is set without it and with it."""
    return [f"{STEP}.optimizer={optimizer}", *more], [f"{STEP}.optimizer_params.{key}={value}"]


# Option -> what a recipe says besides, and what sets the option to another value than its default.
CHANGES = {
    "BetaScheduleOptions.schedule_name": ([], [f"{NODE}.beta_schedule.schedule_name=cosine"]),
    "BetaScheduleOptions.num_diffusion_timesteps": ([], [f"{NODE}.beta_schedule.num_diffusion_timesteps=200"]),
    "DiffusionArgs.model_mean_type": ([], [f"{ARGS}.model_mean_type=start_x"]),
    "DiffusionArgs.model_var_type": ([], [f"{ARGS}.model_var_type=learned"]),
    "DiffusionArgs.loss_type": (SGD, [f"{ARGS}.loss_type=l1"]),
    "DiffusionArgs.weight_schedule": (SGD, [f"{ARGS}.weight_schedule=snr+1"]),
    "DiffusionArgs.weight_clamp": ([*SGD, f"{ARGS}.weight_schedule=clamped_snr"], [f"{ARGS}.weight_clamp=[0.5, 1]"]),
    "DiffusionArgs.min_snr_gamma": ([*SGD, f"{ARGS}.weight_schedule=min_snr"], [f"{ARGS}.min_snr_gamma=0.1"]),
    "DiffusionArgs.variance_convention": ([], [f"{ARGS}.variance_convention=patch"]),
    "Residual.residual_std": ([f"{ARGS}.model_mean_type=residual"], [f"{ARGS}.residual_std=0.5"]),
    "GaussianDiffusionOptions.sampler_type": ([], [f"{NODE}.sampler_type=log_normal"]),
    "GaussianDiffusionOptions.input_perturbation": ([], [f"{NODE}.input_perturbation=0.1"]),
    "GaussianDiffusionOptions.snr_splits": (
        [f"{NODE}.sampler_type=uniform_split_1", f"{NODE}.snr_splits=[1.0]"], [f"{NODE}.snr_splits=[10.0]"],
    ),
    "StepOptions.optimizer": ([], [f"{STEP}.optimizer=radam"]),
    "StepOptions.clip_grad_eps": (SGD, [f"{STEP}.clip_grad_eps=0.001"]),
    "TrainOptions.niter": ([], ["train.niter=2"]),
    "TrainOptions.warmup_iter": ([], ["train.warmup_iter=2"]),
    "TrainOptions.ema_rate": ([], ["train.ema_rate=0.1"]),
    "TrainOptions.ema_warmup": ([], ["train.ema_warmup=false"]),
    "TrainOptions.manual_seed": ([], ["train.manual_seed=8"]),
    "TrainOptions.default_lr_scheme": ([], ["train.default_lr_scheme=CosineAnnealingLR"]),
    "TrainOptions.gen_lr_steps": ([], ["train.gen_lr_steps=[1]"]),
    "TrainOptions.lr_gamma": (["train.gen_lr_steps=[1]"], ["train.lr_gamma=0.1"]),
    "TrainOptions.lr_min_ratio": (["train.default_lr_scheme=CosineAnnealingLR"], ["train.lr_min_ratio=0.9"]),
    "OptimizerParams.lr": of("adamw", "lr", 0.01),
    "OptimizerParams.weight_decay": of("adamw", "weight_decay", 0.5),
    "OptimizerParams.beta1": of("adamw", "beta1", 0.1),
    "OptimizerParams.beta2": of("adamw", "beta2", 0.1),
    "OptimizerParams.eps": of("adamw", "eps", 0.01),
    "OptimizerParams.amsgrad": of("adamw", "amsgrad", "true", f"{STEP}.optimizer_params.beta2=0.01"),
    "OptimizerParams.decoupled_weight_decay": of("radam", "decoupled_weight_decay", "true"),
    "OptimizerParams.momentum": of("sgd", "momentum", 0.9),
    "OptimizerParams.nesterov": of("sgd", "nesterov", "true", f"{STEP}.optimizer_params.momentum=0.9"),
    "OptimizerParams.dampening": of("sgd", "dampening", 0.5, f"{STEP}.optimizer_params.momentum=0.9"),
    "OptimizerParams.alpha": of("rmsprop", "alpha", 0.5),
    "OptimizerParams.centered": of("rmsprop", "centered", "true"),
    "OptimizerParams.momentum_decay": of("nadam", "momentum_decay", 0.5),
    "OptimizerParams.rho": of("adadelta", "rho", 0.5),
    "OptimizerParams.lr_decay": of("adagrad", "lr_decay", 0.5),
    "OptimizerParams.initial_accumulator_value": of("adagrad", "initial_accumulator_value", 0.1),
    "OptimizerParams.beta2_decay": of("adafactor", "beta2_decay", -0.3),
    "OptimizerParams.d": of("adafactor", "d", 1e6, f"{STEP}.optimizer_params.lr=0.1"),
    "OptimizerParams.lambd": of("asgd", "lambd", 0.5),
}  # fmt: skip

GRAPH = "names networks, keys or parts of the graph; tests/graph and tests/recipe/test_graph_checks.py"
WITHOUT = {
    **dict.fromkeys((f"{StepOptions.__name__}.{name}" for name in StepOptions.model_fields), GRAPH),
    **dict.fromkeys((f"{GaussianDiffusionOptions.__name__}.{name}" for name in InjectorOptions.model_fields), GRAPH),
    **dict.fromkeys((f"GaussianDiffusionOptions.{name}" for name in (
        "in_key", "generator", "model_input_keys", "out", "out_key_vb_loss", "out_key_x_start",
    )), GRAPH),
    "GaussianDiffusionOptions.beta_schedule": "a section, whose options are here one by one",
    "GaussianDiffusionOptions.diffusion_args": "a section, whose options are here one by one",
    "StepOptions.optimizer_params": "a section, whose options are here one by one",
    "GaussianDiffusionOptions.label_dropout": "needs classes; tests/graph/test_wiring.py",
    "TrainOptions.mega_batch_factor": "by its purpose the same update with less memory; test_training_step.py",
    "TrainOptions.val_freq": "when to evaluate; test_evaluation_in_training.py",
    "TrainOptions.post_hoc_ema": "averages beside the weights; test_post_hoc_ema.py",
    "TrainOptions.max_skipped_in_a_row": "when to give up; test_training_inputs.py",
    "TrainOptions.shard_optimizer": "where the optimiser's state lies; test_ddp.py",
    "OptimizerParams.t0": "when asgd's own average of the weights begins, which lies in the training state alone",
}  # fmt: skip
CLASSES = (
    BetaScheduleOptions, DiffusionArgs, GaussianDiffusionOptions, StepOptions, TrainOptions, OptimizerParams,
    *(PARAMETERIZATIONS.get(name) for name in PARAMETERIZATIONS.names()),
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What `train.niter` iterations give, averages included, under overrides of a recipe; each is trained once."""
    folder = tmp_path_factory.mktemp("effect")
    fill(folder / "photos")
    recipe = write_recipe(folder / "r.yml", recipe_data(folder / "photos"))

    @functools.cache
    def weights(*overrides):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            trainer = make_trainer(recipe, *overrides)
            for _, batch in zip(range(trainer.train.niter), trainer._batches(), strict=False):
                trainer._iterate(batch)
            return {key: value for key, value in everything(trainer).items() if key.startswith(("network/", "ema/"))}

    return weights


def test_every_option_is_tried_or_listed_with_a_reason():
    """An option that is added is added here, too, or it may be accepted and ignored."""
    options = {f"{cls.__name__}.{name}" for cls in CLASSES for name in cls.model_fields}
    assert options - CHANGES.keys() - WITHOUT.keys() == set()
    assert CHANGES.keys() - options == set()
    assert WITHOUT.keys() - options == set()


@pytest.mark.parametrize("option", CHANGES)
def test_an_option_that_is_accepted_changes_the_weights(trained, option):
    besides, change = CHANGES[option]
    without, with_it = trained(*besides), trained(*besides, *change)
    assert all(torch.isfinite(value).all() for value in with_it.values())
    assert any(not torch.equal(value, with_it[key]) for key, value in without.items())


@pytest.mark.parametrize("loss_type", ["rescaled_mse", "kl", "rescaled_kl", "l1"])
def test_every_objective_is_another(trained, loss_type):
    """rescaled_mse differs from mse by the share of the variational term alone, T / 1000."""
    kl = loss_type.endswith("kl")
    besides = [*SGD, *([f"{NODE}.out_key_vb_loss=~", f"{STEP}.losses.vb=~"] if kl else [])]
    other = trained(*besides, f"{ARGS}.loss_type={loss_type}")
    plain = trained(*SGD)
    assert any(not torch.equal(value, other[key]) for key, value in plain.items())
    assert DIFFUSION["diffusion_args"]["loss_type"] == "mse"
