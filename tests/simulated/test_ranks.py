"""Two ranks on pretended CUDA devices, under NCCL's rule that only tensors of the device are exchanged."""

import pytest

pytestmark = pytest.mark.simulated


@pytest.mark.parametrize("more", [(), ("steps.generator.after=3", "train.niter=4")], ids=["plain", "step after 3"])
def test_two_ranks_exchange_tensors_of_the_device_alone(scenario, more: tuple[str, ...]) -> None:
    done = scenario("ranks", "train.niter=3", *more, processes=2)
    assert done["code"] == 0
    assert done["asked"] == ["nccl"]


@pytest.mark.slow
def test_a_sharded_optimizer_resumes(scenario) -> None:
    sets = ("name=sharded", "train.shard_optimizer=true")
    assert scenario("ranks", *sets, "train.niter=2", processes=2)["code"] == 0
    assert scenario("ranks", *sets, "train.niter=3", processes=2, RESUME="1")["code"] == 0
