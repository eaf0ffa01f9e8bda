"""Bad recipes: exit 2, one line a problem with file, line and key, all at once, never a traceback."""

import re

import pytest
from command_helpers import RESTORING, TRAINING, changed, restore, save_picture, train

from codes.config.yaml_source import load_source
from codes.recipe.recipe import read_recipe, settled
from codes.runtime.experiment import Experiment

NETWORK = "networks.generator.args."
INJECTOR = "steps.generator.injectors.diffusion."


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusals(text, *arguments, main=train, name="recipe.yml"):
    """The problems that a command finds in a recipe, without the clock; it must refuse with 2 and show no traceback."""
    with open(name, "w", encoding="utf-8") as file:
        file.write(text)
    code, said = main("-opt", name, *arguments)
    assert code == 2, said
    assert "Traceback" not in said
    return [line.split(" E ", 1)[1] for line in said.splitlines() if " E " in line]


@pytest.mark.usefixtures("here")
def test_the_misspelt_key_of_the_house():
    text = TRAINING.replace("  niter: 2\n", "  niter: 2\n  mega_batch_facter: 1\n")
    line = text.splitlines().index("  mega_batch_facter: 1") + 1
    assert refusals(text) == [
        f"recipe.yml:{line}: train.mega_batch_facter: unknown key (did you mean mega_batch_factor?)"
    ]


ONE_MISTAKE = [
    ("datasets.train.target_size", 33, "33 is not divisible by scale 2"),
    ("datasets.train.target_size", 36, "generator needs a multiple of 8"),
    ("datasets.train.target_size", "big", "expected a whole number, found 'big'"),
    ("datasets.train.target_size", 0, "expected greater than or equal to 1"),
    ("datasets.train.batch_size", 2.5, "expected a whole number, found 2.5"),
    ("datasets.train.rgb_n1_to_1", 1, "expected true or false, found 1"),
    ("datasets.train.tile", "randm", "found 'randm' (did you mean random?)"),
    ("networks.generator.which_model_G", "unet_difusion", "unknown network 'unet_difusion' (did you mean unet_"),
    (NETWORK + "num_corruptions", 3, "is 3, but datasets.train.fixed_corruptions lists 2"),
    (NETWORK + "patch_size", "4", "expected a whole number, found '4'"),
    (NETWORK + "num_res_blocks", 0, "expected greater than 0"),
    (NETWORK + "image_size", None, "expected a whole number, found nothing (~)"),
    (INJECTOR + "in", "hqq", "nothing writes the state key 'hqq' before this (did you mean hq?"),
    (INJECTOR + "sampler_type", "uniorm", "'uniorm' (did you mean uniform?"),
    (INJECTOR + "out_key_vb_loss", "mse", "state key 'mse' is already written"),
    (INJECTOR + "out_key_x_start", "lq", "state key 'lq' is already written by datasets.train"),
    ("train.niter", "many", "expected a whole number, found 'many'"),
    ("train.niter", 0, "expected greater than or equal to 1"),
    ("train.manual_seed", -1, "expected greater than or equal to 0"),
    ("train.mega_batch_factor", 3, "cannot split a batch of 2 into 3 parts"),
    ("train.ema_rate", 1.0, "expected less than 1"),
    ("train.gen_lr_steps", 5, "expected a list, found 5"),
    ("device", "gpu", "expected 'auto', 'cpu', 'cuda' or 'mps', found 'gpu'"),
    ("model", "extensible", "expected 'extensibletrainer'"),
    ("wandb", "perhaps", "expected true or false, found 'perhaps'"),
    ("name", ".", "expected a part of a file's name"),
    ("name", "..", "expected a part of a file's name"),
    ("name", "a/b", "expected a part of a file's name"),
    ("name", "", "expected a part of a file's name"),
    ("plugins", 5, "expected a list, found 5"),
    ("gpu_ids", 0, "expected a list, found 0"),
]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(("key", "value", "message"), ONE_MISTAKE, ids=lambda value: str(value)[-30:])
def test_one_mistake_is_one_line_with_its_place(key, value, message):
    text = changed(TRAINING, (key, value))
    lines = refusals(text)
    # A state key written twice also leaves the loss of the old key without its input; that line comes second.
    assert len(lines) == (2 if key.endswith("out_key_vb_loss") else 1)
    match = re.match(r"recipe\.yml:(\d+): (\S+): ", lines[0])
    assert match[2] == key
    assert text.splitlines()[int(match[1]) - 1].strip().startswith(f"{key.split('.')[-1]}:")
    assert message in lines[0]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([(NETWORK + "out_channels", 3)],
         ["diffusion_args.model_var_type: learned_range needs generator with out_channels 6, found 3"]),
        ([(NETWORK + "out_channels", 5)], ["networks.generator.args: out_channels is 5, expected 3"]),
        ([(INJECTOR + "diffusion_args", {"model_var_type": "fixed_small"})],
         ["needs generator with out_channels 3, found 6", "out_key_vb_loss: fixed_small has no variational term"]),
        ([(INJECTOR + "out_key_vb_loss", ...)],
         ["diffusion.out_key_vb_loss: learned_range needs this key",
          "losses.vb.key: nothing writes the state key 'vb'"]),
        ([(INJECTOR + "model_input_keys", {"low_res": "lqq", "corruption_facter": "corruption_entropy"})],
         ["model_input_keys.low_res: nothing writes the state key 'lqq' before this (did you mean lq?",
          "model_input_keys.corruption_facter: generator takes no input 'corruption_facter'"]),
        ([("steps.generator.losses.mse.key", "msee")], ["losses.mse.key: nothing writes the state key 'msee'"]),
        ([("steps.generator.losses.mse.type", "dirct")],
         ["losses.mse.type: unknown loss 'dirct' (did you mean direct?"]),
        ([("steps.generator.losses.mse.type", ...)], ["losses.mse.type: missing (one of: direct"]),
        ([(INJECTOR + "type", "gausian_diffusion")],
         ["diffusion.type: unknown injector 'gausian_diffusion' (did you mean gaussian_diffusion?"]),
        ([("datasets.train.fixed_corruptions", ["jpeg", "gausian_blur"])],
         ["fixed_corruptions.1: unknown corruption 'gausian_blur' (did you mean gaussian_blur?"]),
        ([("datasets.train.random_corruptions", ["noise"])],
         ["datasets.train.random_corruptions: num_corrupts_per_image"]),
        ([("datasets.train.mode", "imagefoldr")],
         ["datasets.train.mode: unknown dataset mode 'imagefoldr' (did you mean imagefolder?"]),
        ([("steps.generator.training", "genrator")], ["steps.generator.training: no network 'genrator'"]),
        ([("steps.generator.training", ...)], ["steps.generator.training: missing"]),
        ([("networks.generator.trainable", False)], ["steps.generator.training: generator has trainable: false"]),
        ([(INJECTOR + "generator", "genrator")], ["diffusion.generator: no network 'genrator'"]),
        ([(INJECTOR + "beta_schedule", {"schedule_name": "lnear"})], ["beta_schedule: unknown beta schedule 'lnear'"]),
        ([("logger.visuals", ["hq", "x_strat"])], ["logger.visuals.1: no state key 'x_strat'"]),
        ([("train", ...)], ["train: missing; a training recipe needs this section"]),
        ([("steps", ...)], ["steps: missing"]),
        ([("datasets", ...)], ["datasets.train: missing; a training recipe needs a dataset of this name"]),
        ([("networks", ...)], ["training: no network 'generator'", "generator: no network 'generator'"]),
        ([("networks", 5)], ["networks: expected a mapping (key: value), found 5"]),
        ([("path", {"pretrain_model_genrator": "x.pth"})], ["path.pretrain_model_genrator: no network 'genrator'"]),
        ([("path", {"pretrain_model_generator": [5]})], ["path.pretrain_model_generator: expected a file name or ~"]),
        ([("path", {"pretrain": {"generator": "x"}})], ["path.pretrain: unknown key"]),
        ([("path", {"strict_laod": True})], ["path.strict_laod: unknown key (did you mean strict_load?)"]),
        ([("path", {"pretrain_model_generator": "gone.pth"})],
         ["path.pretrain_model_generator: no such file gone.pth"]),
        ([("fp16", True), ("precision", "bf16")], ["fp16: fp16: true contradicts precision: bf16"]),
        ([("eval", {"evaluators": {"x": {"type": "restration"}}})],
         ["eval.evaluators.x.type: unknown evaluator 'restration' (did you mean restoration?"]),
        ([("eval", {"output_state": []})], ["eval.output_state: an empty list"]),
    ],
)  # fmt: skip
def test_contradictions_and_missing_parts(changes, expected):
    lines = refusals(changed(TRAINING, *changes), "--check")
    for message in expected:
        assert any(message in line for line in lines), f"{message!r} is not among {lines}"
    if not any("path" in key for key, _ in changes):
        assert all(line.startswith("recipe.yml:") for line in lines), lines


@pytest.mark.usefixtures("here")
def test_evaluators_that_would_never_run():
    evaluator = {"type": "restoration", "for": "generator", "dataset": {"mode": "imagefolder", "scale": 2}}
    lines = refusals(changed(TRAINING, ("eval", {"evaluators": {"x": evaluator}})))
    assert any("train.val_freq: missing; without it eval.evaluators would never run" in line for line in lines)


@pytest.mark.usefixtures("here")
def test_everything_wrong_with_a_file_is_told_at_once_in_its_order():
    text = changed(
        TRAINING,
        ("device", "gpu"),
        ("datasets.train.target_size", "x"),
        ("datasets.train.btach_size", 1),
        (NETWORK + "patch_size", 0),
        (INJECTOR + "type", "nonesuch"),
        ("train.nitr", 3),
        ("logger.print_freq", 0),
    )
    lines = refusals(text)
    assert len(lines) == 7
    rows = [int(line.split(":")[1]) for line in lines]
    assert rows == sorted(rows)
    contradictions = changed(
        TRAINING,
        ("train.mega_batch_factor", 9),
        (NETWORK + "out_channels", 3),
        ("datasets.train.target_size", 36),
        ("logger.visuals", ["nothing"]),
        ("steps.generator.losses.vb.key", "vbb"),
    )
    assert len(refusals(contradictions)) == 5


@pytest.mark.usefixtures("here")
def test_files_that_are_no_recipe(here):
    assert refusals("a: [1\nb: 2\n")[0].startswith("recipe.yml:2: YAML syntax: ")
    assert refusals(TRAINING + "name: again\n")[0].endswith("name: this key stands twice; remove one")
    code, said = train("-opt", "recpe.yml")
    assert code == 2
    assert "recpe.yml: no such recipe file (did you mean recipe.yml?)" in said
    code, said = restore("-opt", here)
    assert code == 2
    assert "cannot be read as a recipe" in said
    assert "name: missing" in refusals("")[0]


@pytest.mark.usefixtures("here")
def test_bases_and_their_mistakes_name_the_right_file(here):
    (here / "base.yml").write_text(TRAINING.replace("niter: 2", "niter: two"))
    row = TRAINING.splitlines().index("  niter: 2") + 1
    assert refusals("base: base.yml\nname: child\n") == [f"base.yml:{row}: train.niter: expected a whole number, "
                                                        "found 'two'"]  # fmt: skip
    assert refusals("base: base.yml\ntrain: {niter: 3, warmup_itr: 1}\n") == [
        "recipe.yml:2: train.warmup_itr: unknown key (did you mean warmup_iter?)"
    ]
    assert "no such file bse.yml (did you mean base.yml?)" in refusals("base: bse.yml\n")[0]
    assert "in a circle" in refusals("base: recipe.yml\n")[0]


@pytest.mark.usefixtures("here")
def test_overrides_on_the_command_line():
    (line,) = refusals(TRAINING, "--set", "train.nitr=5")
    assert line == "--set train.nitr=5: train.nitr: unknown key (did you mean niter?)"
    (line,) = refusals(TRAINING, "--force_yml", "train.niter=abc")
    assert line == "--set train.niter=abc: train.niter: expected a whole number, found 'abc'"
    assert "expected KEY.PATH=VALUE" in refusals(TRAINING, "--set", "train.niter")[0]
    assert len(refusals(TRAINING, "--set", "train.niter=x", "device=y", "--set", "scale=0")) >= 3


@pytest.mark.usefixtures("here")
def test_overrides_are_typed():
    with open("recipe.yml", "w", encoding="utf-8") as file:
        file.write(TRAINING)
    recipe = read_recipe(load_source("recipe.yml", [
        "train.niter=5e2", "steps.generator.optimizer_params={lr: 3e-4, beta2: !!float 1e-1}",
        "datasets.train.fixed_corruptions.1=jpeg", "datasets.train.paths=[a, b]", "train.val_freq=~", "name='7'",
    ]))  # fmt: skip
    assert recipe.train.niter == 500
    assert recipe.steps["generator"].optimizer_params.lr == 3e-4
    assert recipe.steps["generator"].optimizer_params.beta2 == 0.1
    assert recipe.datasets["train"].fixed_corruptions == ("jpeg", "jpeg")
    assert recipe.datasets["train"].paths == ("a", "b")
    assert recipe.train.val_freq is None
    assert recipe.name == "7"
    assert recipe.datasets["train"].scale == 2
    assert recipe.datasets["train"].name == "train"


@pytest.mark.usefixtures("here")
def test_the_wrong_command():
    lines = refusals(RESTORING, main=train)
    assert any("for restoring images run test.py" in line for line in lines)
    lines = refusals(TRAINING, main=restore)
    assert any("run train.py" in line for line in lines)


@pytest.mark.usefixtures("here")
def test_a_command_line_without_a_recipe(capsys):
    for main in (train, restore):
        with pytest.raises(SystemExit) as caught:
            main()
        assert caught.value.code == 2
        with pytest.raises(SystemExit) as caught:
            main("-opt", "x.yml", "--chek")
        assert caught.value.code == 2
    capsys.readouterr()


@pytest.mark.usefixtures("here")
def test_torchrun_is_missed_in_one_line(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    (line,) = refusals(TRAINING, "--launcher", "pytorch")
    assert "needs torchrun" in line


def test_plugins_are_found_beside_the_recipe_and_from_the_command_line(here):
    save_picture("photos/a.png", 40, 48)
    (here / "sub").mkdir()
    (here / "sub" / "mine.py").write_text("x = 1\n")
    (here / "sub" / "r.yml").write_text(TRAINING + "plugins: [mine.py]\n")
    assert train("-opt", "sub/r.yml", "--check")[0] == 0
    (here / "r.yml").write_text(TRAINING)
    assert train("-opt", "r.yml", "--check", "--set", "plugins=[sub/mine.py]")[0] == 0
    code, said = train("-opt", "r.yml", "--check", "--set", "plugins=[sub/mien.py]")
    assert code == 2
    assert "plugins: no such Python file sub/mien.py" in said


def test_a_recorded_recipe_reads_back_as_it_was(here):
    """experiments/<name>/recipe.yml is what reproduces a run, text that looks like a number included."""
    (here / "r.yml").write_text(changed(TRAINING, ("name", "x")).replace("name: x", "name: '1e5'"))
    source = load_source("r.yml", ["steps.generator.optimizer_params.lr=1e-5"])
    Experiment(here / "e").record(source)
    again = load_source(here / "e" / "recipe.yml")
    assert again.data == source.data
    assert read_recipe(again) == read_recipe(source)
    typed = load_source("r.yml", ["name=1e5"])
    assert read_recipe(typed).name == "1e5"
    Experiment(here / "f").record(settled(typed))
    assert "name: '1e5'" in (here / "f" / "recipe.yml").read_text()
    assert read_recipe(load_source(here / "f" / "recipe.yml")).name == "1e5"


@pytest.mark.usefixtures("here")
def test_options_of_a_network_that_are_missing_altogether_have_their_whole_path():
    lines = refusals(TRAINING.replace("    args:", "    argz:", 1))
    assert any("networks.generator.args.image_size: missing; this key is required" in line for line in lines)
    assert any("networks.generator.argz: unknown key (did you mean args?)" in line for line in lines)
