"""Gradients of several processes summed in buckets, in one order on every rank."""

import pytest
import torch
import torch.distributed as dist
from torch import nn

from codes.runtime.devices import Ranks
from codes.trainer.buckets import GradientBuckets

TWO = Ranks(0, 2)


class Sent:
    """A sum over two equal ranks, which is there when it is waited for."""

    def __init__(self, value: torch.Tensor) -> None:
        self.value = value

    def wait(self) -> None:
        self.value.mul_(2)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of what was exchanged, in order."""
    lengths: list[int] = []

    def all_reduce(value: torch.Tensor, async_op: bool) -> Sent:
        assert async_op
        lengths.append(value.numel())
        return Sent(value)

    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    return lengths


def layers() -> nn.Sequential:
    """Three layers of 12, 20 and 10 numbers."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 5), nn.Linear(5, 2, bias=False))


def test_buckets_go_out_during_the_backward_pass_from_the_last_layer_on(sent: list[int]) -> None:
    network = layers()
    seen: list[int] = []
    network[0].weight.register_hook(lambda _: seen.append(len(sent)))
    buckets = GradientBuckets([*network.parameters()], bucket_bytes=4 * 15)
    buckets.begin(TWO)
    network(torch.ones(4, 3)).sum().backward()
    assert seen == [2]  # those of the last two layers were on their way when the first layer's gradient came
    expected = [2 * parameter.grad for parameter in network.parameters()]
    buckets.finish()
    assert sent == [15, 15, 12]
    for parameter, value in zip(network.parameters(), expected, strict=True):
        assert torch.equal(parameter.grad, value)


def test_the_order_is_the_same_whatever_is_there_first_and_what_is_unused_counts_as_zero(sent: list[int]) -> None:
    network = layers()
    buckets = GradientBuckets([*network.parameters()], bucket_bytes=1)
    buckets.begin(TWO)
    (network[0](torch.ones(4, 3)).sum() + 0 * network[2].weight.sum()).backward()  # nothing reaches the middle
    assert sent == [10]
    buckets.finish()
    assert sent == [10, 5, 15, 3, 9]
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert not network[1].weight.grad.any()
    assert network[0].bias.grad.tolist() == [8.0, 8.0, 8.0]


def test_only_the_last_part_of_a_batch_is_exchanged_with_all_that_was_added_up(sent: list[int]) -> None:
    network = layers()
    buckets = GradientBuckets([*network.parameters()])
    network(torch.ones(1, 3)).sum().backward()
    assert sent == []
    buckets.begin(TWO)
    network(torch.ones(1, 3)).sum().backward()
    buckets.finish()
    assert sent == [42]
    assert network[2].weight.grad is not None
    both = 4 * network[1](network[0](torch.ones(1, 3))).detach()
    torch.testing.assert_close(network[2].weight.grad, both.expand(2, 5))
    network(torch.ones(1, 3)).sum().backward()  # another step's backward pass
    assert sent == [42]


def test_one_process_exchanges_nothing(sent: list[int]) -> None:
    network = layers()
    buckets = GradientBuckets([*network.parameters()])
    buckets.begin(Ranks())
    network(torch.ones(1, 3)).sum().backward()
    before = [parameter.grad.clone() for parameter in network.parameters()]
    buckets.finish()
    assert sent == []
    assert all(
        torch.equal(parameter.grad, value) for parameter, value in zip(network.parameters(), before, strict=True)
    )
