"""What a resume may change, and what it refuses."""

import json
from pathlib import Path

import pytest
from trainer_helpers import fill, make_trainer, read, recipe_data, write_recipe

from codes.config.fingerprint import all_settings
from codes.train import main
from codes.trainer.saving.changes import take_changes, to_text
from codes.utils.errors import ConfigError

STEP = "steps.generator"
DIFFUSION = f"{STEP}.injectors.diffusion"


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_recipe(tmp_path / "recipe.yml", recipe_data(fill(tmp_path / "im")))


def changed(recipe: Path, *overrides: str) -> None:
    before, _ = read(recipe)
    take_changes(to_text(before), *read(recipe, *overrides))


@pytest.mark.parametrize(
    ("override", "path"),
    [
        ("networks.generator.args.model_channels=32", "networks.generator.args.model_channels"),
        ("networks.generator.args.num_heads=4", "networks.generator.args.num_heads"),  # weights of the same shapes
        ("networks.generator.trainable=false", "networks.generator.trainable"),
        (f"{STEP}.optimizer=sgd", f"{STEP}.optimizer"),
        (f"{DIFFUSION}.beta_schedule.num_diffusion_timesteps=50", f"{DIFFUSION}.beta_schedule"),
        (f"{DIFFUSION}.beta_schedule.schedule_name=cosine", f"{DIFFUSION}.beta_schedule.schedule_name"),
        (f"{DIFFUSION}.diffusion_args.model_mean_type=v", f"{DIFFUSION}.diffusion_args.model_mean_type"),
        ("train.post_hoc_ema={every: 1}", "train.post_hoc_ema"),
        ("datasets.train.fixed_corruptions=[gaussian_blur, jpeg]", "datasets.train.fixed_corruptions"),
        ("datasets.train.fixed_corruptions=[jpeg, webp]", "datasets.train.fixed_corruptions"),
    ],
)
def test_what_cannot_change_is_refused_with_its_key_path(recipe: Path, override: str, path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        changed(recipe, override)
    line = str(caught.value).splitlines()[0]
    assert path in line
    assert "cannot change on a resume" in line
    assert "another `name`" in line


def test_a_network_that_comes_or_goes_is_refused(recipe: Path) -> None:
    data = recipe_data(recipe.parent / "im")
    both = {**data, "networks": {**data["networks"], "second": data["networks"]["generator"]}}
    one, two = (read(write_recipe(recipe.with_name(name), of)) for name, of in (("1.yml", data), ("2.yml", both)))
    for before, now in ((one, two), (two, one)):
        with pytest.raises(ConfigError, match=r"networks\.second\.which_model_G: was .* and is "):
            take_changes(to_text(before[0]), *now)


def test_changes_that_are_honoured_are_logged_one_a_line(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-opt", str(recipe)]) == 0
    overrides = [f"{STEP}.optimizer_params.lr=0.25", "datasets.train.batch_size=3", "train.niter=4"]
    overrides += ["networks.generator.args.dropout=0.125", "logger.print_freq=7"]
    capsys.readouterr()
    assert main(["-opt", str(recipe), "--auto_resume", "--set", *overrides]) == 0
    said = [line.partition("resume changes ")[2] for line in capsys.readouterr().err.splitlines() if "changes" in line]
    assert sorted(said) == [
        "datasets.train.batch_size: 4 -> 3",
        "logger.print_freq: 1000 -> 7",
        "networks.generator.args.dropout: 0.0 -> 0.125",
        f"{STEP}.optimizer_params.lr: 0.001 -> 0.25",
        "train.niter: 3 -> 4",
    ]


def test_a_refused_resume_touches_nothing_and_exits_2(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-opt", str(recipe)]) == 0
    before = {path: path.stat().st_mtime_ns for path in Path("experiments").rglob("*") if path.is_file()}
    capsys.readouterr()
    arguments = ["--auto_resume", "--set", "train.niter=9", f"{STEP}.optimizer=radam"]
    assert main(["-opt", str(recipe), *arguments]) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if " E " in line]
    assert f'{STEP}.optimizer: was "adamw" and is "radam"' in error
    assert {p: p.stat().st_mtime_ns for p in Path("experiments").rglob("*") if p.is_file()} == before


def test_the_same_recipe_changes_nothing(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed(recipe)
    changed(recipe, "name=other", "path.strict_load=false")
    assert "resume changes" not in capsys.readouterr().err


def test_an_option_that_only_another_version_knows_refuses_nothing(recipe: Path) -> None:
    now, source = read(recipe)
    rows = json.loads(to_text(now))
    assert any(row[0][-1] == "num_heads" for row in rows)
    take_changes(json.dumps([row for row in rows if row[0][-1] != "num_heads"]), now, source)
    take_changes(json.dumps([*rows, [["networks", "generator", "args", "gone"], 3]]), now, source)


def test_options_are_named_as_a_recipe_names_them(recipe: Path) -> None:
    names = {".".join(map(str, path)) for path, *_ in all_settings(read(recipe)[0])}
    assert {"networks.generator.which_model_G", f"{DIFFUSION}.in", f"{STEP}.losses.mse.weight"} <= names
    assert f"{DIFFUSION}.model_input_keys.low_res" in names


def test_a_trainer_resumes_with_the_options_in_the_state(recipe: Path) -> None:
    trainer = make_trainer(recipe)
    trainer.run()
    with pytest.raises(ConfigError, match=r"num_heads: was 2 and is 4"):
        make_trainer(recipe, "networks.generator.args.num_heads=4", auto_resume=True)
