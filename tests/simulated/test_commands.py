"""All that makes images, on a pretended CUDA device: the host's pictures, also where memory runs out."""

import pytest

pytestmark = pytest.mark.simulated


@pytest.fixture(scope="module")
def made(scenario) -> dict:
    return scenario("commands")


def test_generated_images_are_those_of_the_host_with_classes_guidance_and_experts(made) -> None:
    assert made["generated"].keys() == {"classes", "guidance", "experts", "guided experts"}
    assert max(made["generated"].values()) <= 1, made["generated"]


def test_restored_images_are_those_of_the_host_in_every_way_of_restoring(made) -> None:
    assert max(made["restored"].values()) <= 1, made["restored"]


def test_strengths_are_read_on_the_device_as_on_the_host(made) -> None:
    assert made["read"]["means"] < 1e-4
    assert made["read"]["result"] <= 1


def test_the_app_restores_on_the_device_what_it_restores_on_the_host(made) -> None:
    assert made["app"] <= 1


def test_the_expert_of_a_step_is_read_once_however_many_batches_it_has(made) -> None:
    found = made["experts"]
    # Four steps of 15 tiles in batches of 4, 4, 4 and 3: two shapes of t a step. And the batch that tells what fits.
    assert 0 < found["two"] - found["one"] <= 2 * 4 + 1, found


def test_results_do_not_change_whatever_memory_there_is(made) -> None:
    told = [line for one in made["memory"].values() for line in one["told"]]
    assert any("going on with" in line for line in told), made["memory"]
    for one in made["memory"].values():
        if not any("with tiles of" in line for line in one["told"]):  # smaller tiles see less
            assert one["difference"] <= 1, made["memory"]


def test_memory_that_runs_out_beside_the_network_moves_the_canvas_to_the_host(made) -> None:
    assert made["update"]["difference"] <= 1
    assert made["update"]["failed"]
    assert made["update"]["said"]
