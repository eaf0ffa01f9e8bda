"""The recipes of PatchDiffusion's published runs and of the small run with classes: their numbers, and that they run.

The networks are narrow and the images small; depth, multipliers, patches and schedules are those of the recipes.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from command_helpers import restore, save_picture, train
from generation_helpers import draw_shapes, npz

from codes.config.yaml_source import load_source
from codes.models.diffusion.networks.patch_unet import PatchUNetModel
from codes.models.diffusion.parameterizations import StartX
from codes.recipe.networks import describe_networks
from codes.recipe.recipe import read_recipe

RECIPES = Path(__file__).resolve().parents[2] / "recipes" / "diffusion"
FOLDER = RECIPES / "patch_diffusion"
# patch, image, channels, multipliers, residual blocks, channels a head, schedule
RUNS = {
    "example_256_p4": (4, 256, 128, (1, 1, 2, 2), 2, -1, "linear"),
    "ffhq_1024_p4": (4, 1024, 128, (1, 2, 2, 4, 4, 4), 2, 64, "linear0.025"),
    "imagenet_256_p4": (4, 256, 256, (1, 2, 2, 2), 3, 64, "linear"),
    "lsun_256_p2": (2, 256, 128, (1, 2, 2, 4, 4), 2, 64, "linear"),
    "lsun_256_p4": (4, 256, 256, (1, 1, 2, 2), 2, 64, "linear"),
    "lsun_256_p8": (8, 256, 256, (1, 1.5, 2), 3, 64, "linear"),
}


def recipe(kind, name):
    return read_recipe(load_source(FOLDER / f"{kind}_{name}.yml"))


def networks_of(name):
    return ("low", "high") if name.startswith("imagenet") else ("generator",)


def small(name):
    """Overrides for a network of few channels on an image of one cell at its lowest level."""
    patch, _, _, multipliers, *_ = RUNS[name]
    side = patch * 2 ** (len(multipliers) - 1)
    sets = ["device=cpu"]
    for network in networks_of(name):
        args = f"networks.{network}.args"
        sets += [f"{args}.image_size={side}", f"{args}.num_res_blocks=1", f"{args}.num_head_channels=32"]
        sets += [f"{args}.model_channels={64 if 1.5 in multipliers else 32}"]
        sets += [f"{args}.num_classes=10"] if len(networks_of(name)) > 1 else []
    return side, sets


def test_every_published_run_has_its_two_recipes():
    expected = {f"{kind}_{name}.yml" for kind in ("train", "sample") for name in RUNS}
    assert {file.name for file in FOLDER.iterdir()} == expected


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("kind", ["train", "sample"])
def test_the_numbers_are_those_of_the_published_run(kind, name):
    read = recipe(kind, name)
    patch, image, channels, multipliers, blocks, head_channels, schedule = RUNS[name]
    assert tuple(read.networks) == networks_of(name)
    for section in read.networks.values():
        args = section.args
        assert section.which_model_G == "patch_diffusion_unet"
        assert (args.patch_size, args.image_size, args.model_channels) == (patch, image, channels)
        assert (args.channel_mult, args.num_res_blocks) == (multipliers, blocks)
        assert args.num_head_channels == head_channels
        cells = {image // patch // factor for factor in args.attention_resolutions}
        assert cells == {16, 8}
        assert args.learn_sigma
        assert args.out_channels == 6
        assert args.use_scale_shift_norm
        assert args.use_new_attention_order
        assert args.position_embedding
        assert args.num_classes == (1000 if name.startswith("imagenet") else None)
    assert read.arithmetic == "fp16"
    assert read.name == f"patch_{name}"
    nodes = [node for step in read.steps.values() for node in step.injectors.values()]
    for node in nodes:
        process = node.diffusion_args
        assert (node.beta_schedule.schedule_name, node.beta_schedule.num_diffusion_timesteps) == (schedule, 1000)
        assert (process.parameterization, process.model_var_type) == (StartX(), "learned_range")
        assert (process.weight_schedule, process.variance_convention) == ("sqrt_snr", "patch")
        assert node.snr_splits == ((0.25,) if name.startswith("imagenet") else ())


@pytest.mark.parametrize("name", RUNS)
def test_what_belongs_to_training_and_to_sampling_alone(name):
    training, sampling = recipe("train", name), recipe("sample", name)
    assert training.train.ema_rate == 0.9999
    assert training.datasets["train"].batch_size == 128
    assert training.datasets["train"].target_size == RUNS[name][1]
    assert {step.optimizer_params.lr for step in training.steps.values()} == {1e-4}
    (node,) = sampling.steps["sample"].injectors.values()
    assert node.respaced_timestep_spacing == 250
    assert node.generators == networks_of(name)
    assert sampling.path.experiment == training.name
    classes = name.startswith("imagenet")
    assert node.guidance_scale == (1.5 if classes else 1.0)
    assert node.dynamic_threshold == classes
    assert training.networks == sampling.networks
    if classes:
        experts = [step.injectors[f"diffusion_{name}"] for name, step in training.steps.items()]
        assert [expert.sampler_type for expert in experts] == ["uniform_split_0", "uniform_split_1"]
        assert {expert.label_dropout for expert in experts} == {0.1}


@pytest.mark.parametrize("name", RUNS)
def test_the_networks_of_full_size_can_be_built(name):
    for network in describe_networks(recipe("train", name)).values():
        patch, image, _, multipliers, *_ = RUNS[name]
        assert network.image_size == image
        assert network.multiple_of == patch * 2 ** (len(multipliers) - 1)
        assert image % network.multiple_of == 0


@pytest.mark.parametrize("name", RUNS)
def test_a_run_trains_two_steps_and_samples_two(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    side, sets = small(name)
    if name.startswith("imagenet"):
        draw_shapes("images", size=side, per_class=1)
    else:
        for number in range(2):
            save_picture(f"images/{number}.png", side, side + 8, number)
    data = ["datasets.train.paths=images", f"datasets.train.target_size={side}", "datasets.train.batch_size=2"]
    loop = ["datasets.train.n_workers=0", "train.niter=2", "train.mega_batch_factor=1", "use_tb_logger=false"]
    code, said = train("-opt", FOLDER / f"train_{name}.yml", "--set", *sets, *data, *loop)
    assert code == 0, said
    root = Path("experiments") / f"patch_{name}" / "models"
    assert all((root / f"2_{network}_ema.safetensors").is_file() for network in networks_of(name))
    few = ["steps.sample.injectors.sample.respaced_timestep_spacing=2", "generate.num_samples=3"]
    code, said = restore("-opt", FOLDER / f"sample_{name}.yml", "--set", *sets, *few)
    assert code == 0, said
    file, arrays = npz(Path("results") / f"patch_{name}")
    assert file == f"samples_3x{side}x{side}x3.npz"
    assert arrays["arr_0"].shape == (3, side, side, 3)
    assert ("arr_1" in arrays) == name.startswith("imagenet")


def test_bare_weights_as_they_were_published_are_sampled(tmp_path, monkeypatch):
    """Two .pt files of parameters alone: network and process come from the recipe, names of classes from a file."""
    monkeypatch.chdir(tmp_path)
    name = "imagenet_256_p4"
    side, sets = small(name)
    args = (
        recipe("sample", name)
        .networks["low"]
        .args.model_copy(
            update={
                "image_size": side,
                "num_res_blocks": 1,
                "num_head_channels": 32,
                "model_channels": 32,
                "num_classes": 10,
            }
        )
    )
    weights = []
    for number, network in enumerate(("low", "high")):
        torch.save(PatchUNetModel(args).state_dict(), f"imagenet_weights_{number}.pt")
        weights.append(f"path.pretrain_model_{network}=imagenet_weights_{number}.pt")
    Path("names.json").write_text('{"0": ["n01440764", "tench"], "1": ["n01443537", "goldfish"]}')
    few = ["steps.sample.injectors.sample.respaced_timestep_spacing=2", "generate.num_samples=2"]
    named = ["generate.class_names=names.json", "generate.classes=[goldfish]"]
    code, said = restore("-opt", FOLDER / f"sample_{name}.yml", "--set", *sets, *few, *weights, *named)
    assert code == 0, said
    assert [file.name for file in Path(f"results/patch_{name}/samples/goldfish").iterdir()]
    assert npz(f"results/patch_{name}")[1]["arr_1"].tolist() == [1, 1]


def test_three_commands_make_classes(tmp_path, monkeypatch):
    """As the recipes say, with fewer images and a narrower network."""
    monkeypatch.chdir(tmp_path)
    draw_shapes("shapes", size=32, per_class=1)
    args = "networks.generator.args"
    sets = ["device=cpu", "train.niter=2", "datasets.train.batch_size=2", "datasets.train.n_workers=0"]
    sets += [f"{args}.model_channels=32", f"{args}.num_res_blocks=1", "use_tb_logger=false"]
    code, said = train("-opt", RECIPES / "train_classes.yml", "--set", *sets)
    assert code == 0, said
    fewer = ["device=cpu", "generate.num_samples=20", "steps.sample.injectors.sample.respaced_timestep_spacing=2"]
    code, said = restore("-opt", RECIPES / "generate.yml", "--set", *fewer)
    assert code == 0, said
    name, arrays = npz("results/generate")
    assert name == "samples_20x32x32x3.npz"
    assert np.bincount(arrays["arr_1"]).tolist() == [2] * 10
    assert sorted(folder.name for folder in Path("results/generate/samples").iterdir())[0] == "checkers"
    assert Path("results/generate/grid.png").is_file()
