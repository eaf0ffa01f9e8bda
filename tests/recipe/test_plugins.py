"""One file of a user's own brings in any of the parts that a recipe names."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_helpers import RESTORING, restore, train
from PIL import Image
from trainer_helpers import fill, merged, recipe_data, write_recipe

from codes.data.corruptions.all import CORRUPTIONS
from codes.data.datasets import DATASETS
from codes.evaluation.evaluators.base import EVALUATORS
from codes.graph.graph import INJECTORS, LOSSES
from codes.models.diffusion.checkpoints.metadata import read_metadata
from codes.models.diffusion.networks.base import NETWORKS
from codes.models.diffusion.parameterizations import PARAMETERIZATIONS
from codes.models.diffusion.samplers import SAMPLERS
from codes.recipe.recipe import import_registered

INJECTOR = '''
from pydantic import Field
from codes.graph.graph import INJECTORS, Injector
from codes.graph.node_options import InjectorOptions

class NegateOptions(InjectorOptions):
    """Options of `own_negate`."""
    key: str = Field(description="State key to negate.")
    out: str = Field(description="State key of the result.")

    def reads(self):
        return {("key",): self.key}

    def writes(self):
        return {("out",): self.out}

@INJECTORS.register("own_negate")
class Negate(Injector):
    Options = NegateOptions

    def __init__(self, options):
        self.options = options

    def __call__(self, state, context):
        return {self.options.out: -state[self.options.key]}
'''
LOSS = '''
from codes.graph.graph import LOSSES, Loss
from codes.graph.node_options import LossOptions

class BrightnessOptions(LossOptions):
    """Options of `own_brightness`."""

    def reads(self):
        return {(): "mse"}

@LOSSES.register("own_brightness")
class Brightness(Loss):
    Options = BrightnessOptions

    def __init__(self, options):
        pass

    def __call__(self, state, context):
        return state["mse"].square()
'''
NETWORK = '''
from pydantic import Field
from codes.models.diffusion.checkpoints.metadata import read_metadata
from codes.models.diffusion.networks.base import NETWORKS
from codes.models.diffusion.networks.unet import UNetModel, UNetOptions

class OwnOptions(UNetOptions):
    """Options of `own_unet`."""
    gain: float = Field(1.0, description="Factor of the output.")

@NETWORKS.register("own_unet")
class Own(UNetModel):
    Options = OwnOptions

    def forward(self, *args, **kwargs):
        return self.options.gain * super().forward(*args, **kwargs)
'''
DATASET = '''
from typing import Literal
from pydantic import Field
from codes.data.datasets import DATASETS
from codes.data.imagefolder import ImageFolderDataset
from codes.data.imagefolder_options import ImageFolderOptions

class OwnOptions(ImageFolderOptions):
    """Options of `own_folder`."""
    mode: Literal["own_folder"] = Field("own_folder", description="Upside down.")

@DATASETS.register("own_folder")
class Own(ImageFolderDataset):
    Options = OwnOptions

    def item(self, position):
        item = super().item(position)
        return {**item, "hq": item["hq"].flip(-2), "lq": item["lq"].flip(-2)}
'''
CORRUPTION = '''
from dataclasses import dataclass
from codes.data.corruptions.all import CORRUPTIONS, Corruption

@CORRUPTIONS.register("own_dimming")
@dataclass(frozen=True)
class Dimming(Corruption):
    """Darker with more strength."""

    def __call__(self, image, strength, rng):
        return image * (1 - 0.5 * strength)
'''
EVALUATOR = '''
from codes.evaluation.evaluators.base import EVALUATORS, Evaluation, Evaluator, EvaluatorOptions

class OwnOptions(EvaluatorOptions):
    """Options of `own_count`."""

@EVALUATORS.register("own_count")
class Own(Evaluator):
    Options = OwnOptions

    def __init__(self, options):
        self.options = options

    def evaluate(self, context):
        network = context.networks[self.options.for_network]
        return Evaluation({"tensors": float(len(list(network.parameters())))})
'''
SAMPLER = '''
from pydantic import Field
from codes.models.diffusion.parameterizations import PARAMETERIZATIONS
from codes.models.diffusion.samplers import SAMPLERS, Sampler

@SAMPLERS.register("own_churn")
class Churned(Sampler):
    """DDIM that adds noise after every step but the last."""
    churn: float = Field(0.0, ge=0, description="Its deviation, over that of the noise that is left.")

    def __call__(self, at):
        before = float(at.process.schedule.alphas_cumprod_prev[at.t])
        after = before**0.5 * at.prediction.x_start + (1 - before) ** 0.5 * at.prediction.eps
        return after + self.churn * (1 - before) ** 0.5 * at.noise() if at.t else after
'''
PARAMETERIZATION = '''
from pydantic import Field
from codes.models.diffusion.parameterizations import PARAMETERIZATIONS, Parameterization

@PARAMETERIZATIONS.register("own_scaled_x")
class ScaledImage(Parameterization):
    """The clean image over its typical deviation."""
    image_std: float = Field(0.5, gt=0, description="Deviation of the images.")

    def target(self, at, x_start, noise):
        return x_start / self.image_std

    def x_start(self, at, output):
        return output * self.image_std
'''
PARTS: dict[str, tuple[str, dict[str, Any], str]] = {
    "injector": (
        INJECTOR,
        {
            "steps": {"generator": {"injectors": {"own": {"type": "own_negate", "key": "hq", "out": "negative"}}}},
            "logger": {"visuals": ["negative"], "visual_debug_rate": 1},
        },
        "",
    ),
    "loss": (LOSS, {"steps": {"generator": {"losses": {"own": {"type": "own_brightness"}}}}}, "own "),
    "network": (NETWORK, {"networks": {"generator": {"which_model_G": "own_unet", "args": {"gain": 0.5}}}}, ""),
    "parameterization": (
        PARAMETERIZATION,
        {
            "steps": {
                "generator": {
                    "injectors": {
                        "diffusion": {"diffusion_args": {"model_mean_type": "own_scaled_x", "image_std": 0.25}}
                    }
                }
            }
        },
        "",
    ),
    "dataset": (DATASET, {"datasets": {"train": {"mode": "own_folder"}}}, ""),
    "corruption": (CORRUPTION, {"datasets": {"train": {"fixed_corruptions": ["jpeg", "own_dimming"]}}}, ""),
    "evaluator": (
        EVALUATOR,
        {"eval": {"evaluators": {"own": {"type": "own_count", "for": "generator"}}}, "train": {"val_freq": 1}},
        "evaluation own at 1: tensors ",
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def registries_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a plugin brings in stays for the rest of a process; other tests look at everything that is registered."""
    import_registered()
    for registry in (INJECTORS, LOSSES, NETWORKS, DATASETS, CORRUPTIONS, EVALUATORS, SAMPLERS, PARAMETERIZATIONS):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))


@pytest.mark.parametrize("part", PARTS)
def test_a_plugin_brings_in_a_part(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, changes, expected = PARTS[part]
    monkeypatch.chdir(tmp_path)
    data = recipe_data(fill(tmp_path / "im"), merged({"train": {"niter": 1}}, changes))
    write_recipe(tmp_path / "without.yml", data)
    code, said = train("-opt", "without.yml", "--check")
    assert code == 2
    assert "unknown" in said
    (tmp_path / "own.py").write_text(text)
    write_recipe(tmp_path / "with.yml", {**data, "plugins": ["own.py"]})
    code, said = train("-opt", "with.yml")
    assert code == 0, said
    assert expected in said
    assert list((tmp_path / "experiments/tiny/models").glob("1_generator*"))
    if part == "parameterization":
        checkpoint = next((tmp_path / "experiments/tiny/models").glob("1_generator*"))
        metadata = read_metadata(checkpoint)
        assert metadata is not None
        args = metadata.process["diffusion_args"]
        assert (args["model_mean_type"], args["image_std"]) == ("own_scaled_x", 0.25)
        assert "residual_std" not in args
    if part == "injector":
        assert list((tmp_path / "experiments/tiny/visual_dbg/negative").glob("*.png"))


@pytest.mark.parametrize("text", [SAMPLER, PARAMETERIZATION, CORRUPTION, NETWORK])
def test_a_plugin_is_one_short_file(text: str) -> None:
    assert text.count("\n") < 30


def test_a_plugin_brings_in_a_sampler_with_its_options(here: Path) -> None:
    (here / "own.py").write_text(SAMPLER)
    (here / "infer.yml").write_text(RESTORING + "plugins: [own.py]\n")
    detail = "steps.restore.injectors.detail"

    def restored(name: str, *overrides: str) -> np.ndarray:
        chosen = [f"path.results={name}", *(f"{detail}.{option}" for option in overrides)]
        code, said = restore("-opt", "infer.yml", "--set", *chosen)
        assert code == 0, said
        return np.asarray(Image.open(next(Path(name).rglob("ok.png"))).convert("RGB")).astype(int)

    code, said = restore("-opt", "infer.yml", "--set", f"{detail}.sampler=own_churm")
    assert code == 2
    assert "unknown sampler 'own_churm' (did you mean own_churn?" in said
    for wrong, expected in (("churn=-1", "greater than or equal to 0"), ("chrun=1", "did you mean churn?")):
        code, said = restore("-opt", "infer.yml", "--set", f"{detail}.sampler=own_churn", f"{detail}.{wrong}")
        assert code == 2
        assert f"{detail}.{wrong.partition('=')[0]}" in said
        assert expected in said
    ddim, own = restored("a", "sampler=ddim"), restored("b", "sampler=own_churn")
    assert np.array_equal(ddim, own)
    assert not np.array_equal(restored("c", "sampler=own_churn", "churn=0.5"), ddim)


def test_a_part_whose_name_is_taken_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(LOSS.replace('"own_brightness"', '"direct"'))
    write_recipe(tmp_path / "r.yml", {**recipe_data(fill(tmp_path / "im")), "plugins": ["own.py"]})
    code, said = train("-opt", "r.yml", "--check")
    assert code == 2
    assert "loss 'direct' is registered twice; choose another name" in said


@pytest.mark.parametrize("way", ["own", "base", "set"])
def test_no_plugins_refuses_a_recipe_that_names_code_before_any_of_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "code.py").write_text("from pathlib import Path\nPath('ran').touch()\n")
    named = {} if way == "set" else {"plugins": ["code.py"]}
    recipe = write_recipe(tmp_path / "recipe.yml", recipe_data(fill(tmp_path / "im"), named))
    if way == "base":
        recipe = tmp_path / "child.yml"
        recipe.write_text("base: recipe.yml\n")
    more = ("--set", "plugins=[code.py]") if way == "set" else ()
    code, said = train("-opt", str(recipe), "--check", "--no_plugins", *more)
    assert code == 2
    assert "plugins: this recipe names code that would run, and --no_plugins refuses that" in said
    assert ("--set plugins" if way == "set" else "recipe.yml:") in said
    assert not Path("ran").exists()
    assert train("-opt", str(recipe), "--check", *more)[0] == 0
    assert Path("ran").exists()


def test_no_plugins_lets_other_recipes_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = write_recipe(tmp_path / "recipe.yml", recipe_data(fill(tmp_path / "im"), {"plugins": []}))
    assert train("-opt", str(recipe), "--check", "--no_plugins")[0] == 0


@pytest.mark.parametrize(
    "text", ["raise SystemExit(0)\n", "import sys\nsys.exit()\n", "def f(:\n", "import no_such_module\n"]
)
def test_a_plugin_that_fails_or_ends_the_program_is_an_error_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(text)
    write_recipe(tmp_path / "recipe.yml", recipe_data(fill(tmp_path / "im"), {"plugins": ["own.py"]}))
    for _ in range(2):  # a failure is not remembered as done
        code, said = train("-opt", "recipe.yml", "--check")
        assert code == 2
        assert re.search(r"recipe\.yml:\d+: plugins: own\.py fails on import", said)
