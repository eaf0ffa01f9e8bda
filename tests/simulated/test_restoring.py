"""Restoring on a pretended CUDA device: the host's pictures, within budgets of copies, reads and casts."""

import pytest

pytestmark = pytest.mark.simulated


@pytest.fixture(scope="module")
def restored(scenario):
    return scenario("restoring")


def test_results_are_those_of_the_host_wherever_the_canvas_lies(restored) -> None:
    assert all(restored["alike"].values()), restored["alike"]
    assert "two passes, streamed" in restored["alike"]
    assert "out of memory" in restored["alike"]


def test_a_device_canvas_is_never_copied_and_read_once_a_row_of_tiles(restored) -> None:
    first, second = restored["costs"]
    assert second["tiles"] == 15
    assert second["to_device_blocking"] == 0
    assert second["to_device"] == 2  # the weights of the blending
    assert second["to_host"] + second["reads"] == second["rows"] == 3  # whether the tiles are finite
    assert first["to_host"] + first["reads"] == 3  # the first of a process fills its tables, too


def test_weights_are_cast_once(restored) -> None:
    casts = restored["casts"]
    assert casts["once_1"] == casts["once_3"] <= 8  # of images and of the answer, however deep the network is
    assert casts["always_3"] > casts["always_1"] > 100


def test_sweep_dry_run_and_library_run_on_the_device(restored) -> None:
    assert restored["sweep"] == restored["dry_run"] == 0
    assert restored["library"] == [36, 54, 3]


def test_a_forward_of_the_reference_network_takes_no_more_launches_than_before(scenario) -> None:
    found = scenario("reference_network")
    assert found["bf16"] <= 861
    assert found["fp32"] <= 861
