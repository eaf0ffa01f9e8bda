"""What is made of an image follows from the recipe alone: the results in a row, their sizes, passes and framings."""

from pathlib import Path

import pytest
import yaml
from command_helpers import RESTORING

from codes.config.yaml_source import load_source
from codes.images.output_size import Framing
from codes.inference.restoring.results import Chain
from codes.recipe.recipe import read_recipe
from codes.utils.errors import ConfigError

LOW = (30, 20)


def chain(tmp_path: Path, outputs: object = None, low_res: str = "hq", **output: object) -> Chain:
    """`restored`, twice the size of the data's image, and `larger`, three times that of `restored`."""
    recipe = yaml.safe_load(RESTORING)
    injectors = recipe["steps"]["restore"]["injectors"]
    injectors["detail"]["model_input_keys"]["low_res"] = low_res
    injectors["more"] = {
        **injectors["detail"],
        "model_input_keys": {"low_res": "restored"},
        "output_scale_factor": 3,
        "undo_n1_to_1": True,
        "out": "larger",
    }
    recipe |= {"output": output, "eval": {"output_state": outputs}}
    file = tmp_path / "infer.yml"
    file.write_text(yaml.safe_dump(recipe))
    return Chain.of_recipe(read_recipe(load_source(file)))


def test_a_result_may_start_from_an_earlier_one(tmp_path: Path) -> None:
    restored, larger = chain(tmp_path).results("hq", LOW)
    assert (restored.key, restored.size, restored.passes, restored.unit) == ("restored", (60, 40), 1, False)
    assert (larger.key, larger.size, larger.passes, larger.unit) == ("larger", (180, 120), 1, True)
    assert (restored.framing, larger.framing) == (Framing(60, 40), Framing(180, 120))


def test_what_is_written_comes_first_and_the_others_have_no_framing(tmp_path: Path) -> None:
    larger, restored = chain(tmp_path, "larger").results("hq", LOW)
    assert (larger.key, larger.framing) == ("larger", Framing(180, 120))
    assert (restored.key, restored.framing) == ("restored", None)


def test_a_size_that_is_asked_for_decides_the_passes_of_what_is_written(tmp_path: Path) -> None:
    larger, restored = chain(tmp_path, "larger", scale=30.0).results("hq", LOW)
    assert (restored.size, restored.passes) == ((60, 40), 1)
    assert (larger.size, larger.passes) == ((60 * 27, 40 * 27), 3)  # 15 times what it starts from: 3 and 9 are too few
    assert larger.framing == Framing(900, 600)
    assert not larger.interpolated
    (alone,) = [one for one in chain(tmp_path, "restored", scale=64.0).results("hq", LOW) if one.framing]
    assert (alone.size, alone.passes, alone.interpolated) == ((30 * 16, 20 * 16), 4, True)


def test_an_image_of_unknown_size_is_refused(tmp_path: Path) -> None:
    assert chain(tmp_path).low_res_key({"hq", "lq"}) == "hq"
    with pytest.raises(ConfigError, match="low_res: elsewhere is neither an image of the data"):
        chain(tmp_path, low_res="elsewhere").low_res_key({"hq", "lq"})
