"""A network whose calls are replayed as CUDA graphs: one launch instead of hundreds."""

from collections.abc import Mapping

import torch
from torch import Tensor

from .base import DiffusionNetwork

WARM_UP = 2  # calls before a capture, in which libraries choose their algorithms and take their workspaces


class Graphed:
    """Calls `network` (on CUDA, in evaluation mode) by a graph for each shape of them.

    A graph reads the weights where they lay when it was captured, and keeps the memory of a call.
    """

    def __init__(self, network: DiffusionNetwork) -> None:
        self.network = network
        self.low_res_upsampling, self.cond_names = network.low_res_upsampling, network.cond_names
        self._graphs: dict[tuple[object, ...], _Captured] = {}

    def __call__(
        self,
        x: Tensor,
        timesteps: Tensor,
        low_res: Tensor | None = None,
        corruption_factor: Tensor | None = None,
        y: Tensor | None = None,
    ) -> Tensor:
        named = {"x": x, "timesteps": timesteps, "low_res": low_res, "corruption_factor": corruption_factor, "y": y}
        given = {name: value for name, value in named.items() if value is not None}
        key = tuple((name, value.shape, value.dtype) for name, value in given.items())
        if key not in self._graphs:
            self._graphs[key] = _Captured(self.network, given)
        return self._graphs[key].replayed(given)


class _Captured:
    """A graph, with the tensors that it reads and writes."""

    def __init__(self, network: DiffusionNetwork, given: Mapping[str, Tensor]) -> None:
        self.inputs = {name: value.clone() for name, value in given.items()}
        device = given["x"].device
        side, current = torch.cuda.Stream(device), torch.cuda.current_stream(device)
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                network(**self.inputs)
        current.wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.output = network(**self.inputs)

    def replayed(self, given: Mapping[str, Tensor]) -> Tensor:
        for name, value in given.items():
            self.inputs[name].copy_(value)
        self.graph.replay()
        return self.output.clone()
