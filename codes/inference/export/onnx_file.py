"""ONNX files of trained networks: written, described in their metadata, and checked against PyTorch."""

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...models.diffusion.checkpoints.metadata import CheckpointMetadata, load_into, network_of, read_metadata
from ...models.diffusion.checkpoints.shipped import weights_file
from ...models.diffusion.networks.base import DiffusionNetwork
from ...models.diffusion.process_options import ProcessOptions
from ...utils.errors import ConfigError, TesseraError
from ...utils.files import atomic_write
from ...utils.rng import numpy_generator, torch_globals_at
from .graphs import DenoiserGraph, StudentGraph

OPSET = 18
LARGEST = 2**31 - 2**20  # bytes that protobuf holds
TOLERANCE = 1e-3  # of an image in [-1, 1], far above the rounding of float32
ODD_SIZES = ((41, 35), (17, 23), (63, 9))  # height and width of low_res
INSTALL = "pip install 'tessera-restoration[onnx]', or in a checkout pip install onnx onnxruntime"


@dataclass(frozen=True)
class OnnxGraph:
    """A network as a function of named tensors.

    `axes`: the dimensions of each tensor, by name where they may vary. `about`: what the file says of itself.
    """

    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    axes: Mapping[str, tuple[str, ...]]
    about: Mapping[str, Any]
    network: DiffusionNetwork
    scale: int

    def sample(self, height: int, width: int, batch: int = 2) -> dict[str, Tensor]:
        """Inputs for an image whose low resolution is (height, width); the same at every call."""
        rng = numpy_generator(0, "export", height * 4096 + width)
        large = (height * self.scale, width * self.scale)
        planes, channels = getattr(self.network.options, "num_corruptions", None) or 0, self.network.in_channels
        strengths: tuple[int, ...] = (batch, planes)
        if len(self.axes.get("strengths", ())) == 4:
            strengths = (batch, planes, height, width)
        shapes = {"low_res": (batch, channels, height, width), "strengths": strengths}
        made = {name: torch.from_numpy(rng.random(shape, "float32")) for name, shape in shapes.items()}
        for name in ("noise", "x_t"):
            made[name] = torch.from_numpy(rng.standard_normal((batch, channels, *large), "float32"))
        last = int(self.about.get("num_timesteps", 1))
        classes = getattr(self.network.options, "num_classes", None) or 1
        made["temperature"] = torch.tensor([0.15])
        made["t"] = torch.from_numpy(rng.integers(0, last, batch))
        made["y"] = torch.from_numpy(rng.integers(0, classes, batch))
        return {name: made[name] for name in self.inputs}

    def __call__(self, given: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """What PyTorch says: `outputs`."""
        with torch.no_grad():
            answer = self.module(*self.arguments(given))
        return answer if isinstance(answer, tuple) else (answer,)

    def arguments(self, given: Mapping[str, Tensor]) -> tuple[Tensor | None, ...]:
        """In the order of `forward`, None for what this network does not take."""
        names: tuple[str, ...] = ("low_res", "strengths", "noise", "temperature")
        if isinstance(self.module, DenoiserGraph):
            names = ("x_t", "t", "low_res", "strengths", "y")
        return tuple(given.get(name) for name in names)


def graphs_of(named: str | Path, strength_maps: bool = False) -> dict[str, OnnxGraph]:
    """`student`, where it is one, and `denoiser` of a checkpoint by its name, file or folder.

    strength_maps: strengths are (B, K, h, w) instead of (B, K). Raises ConfigError for a checkpoint that does not say
    what it is, or that holds no diffusion network.
    """
    file = weights_file(named)
    metadata = read_metadata(file)
    process = metadata.process_options if metadata else None
    if metadata is None or process is None:
        raise ConfigError(
            f"{file}: does not say its network and its diffusion process; use a .safetensors file of a diffusion "
            "network that tessera-train wrote"
        )
    with torch_globals_at("cpu", 0, "network"):
        network = network_of(metadata)
    load_into(network, file, strict=True)
    network.eval().requires_grad_(False)
    graphs = {"denoiser": _denoiser(network, process, metadata, strength_maps)}
    if process.student is not None and metadata.scale is not None:
        graphs["student"] = _student(network, process, metadata, strength_maps)
    return graphs


def write_onnx(graph: OnnxGraph, path: Path) -> None:
    """Trace a graph at one size and write it, with dynamic height, width and batch, atomically.

    Raises ConfigError without the package `onnx`, or for a network that is too large for one file.
    """
    onnx = _package("onnx")
    size = sum(value.numel() * value.element_size() for value in graph.module.state_dict().values())
    if size > LARGEST:
        raise ConfigError(f"{path}: {size / 2**30:.1f} GiB of weights, but one ONNX file holds 2")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        _trace(graph, temporary)
        model = onnx.load(temporary)
        for key, value in graph.about.items():
            model.metadata_props.add(key=key, value=value if isinstance(value, str) else json.dumps(value))
        onnx.checker.check_model(model, full_check=True)
        temporary.write_bytes(model.SerializeToString())


def _trace(graph: OnnxGraph, path: Path) -> None:
    """The bare graph.

    torch.export does not do here: the checks of sizes in the networks become guards that fix height and width. The
    tracer warns of every one of them; `max_error` looks at several sizes instead.
    """
    axes = {
        name: {at: axis for at, axis in enumerate(given) if not axis.isdecimal()} for name, given in graph.axes.items()
    }
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph.module, graph.arguments(graph.sample(*_traced_size(graph))), str(path), dynamo=False,
            opset_version=OPSET, dynamic_axes=axes, input_names=[*graph.inputs], output_names=[*graph.outputs],
        )  # fmt: skip


def max_error(graph: OnnxGraph, path: Path, sizes: Sequence[tuple[int, int]] = ODD_SIZES) -> list[float]:
    """The largest difference between onnxruntime and PyTorch, over all outputs, at each size of low_res.

    In units of the output's largest value where that is above 1: x_start from eps is large where little signal is left.
    Raises ConfigError without the package `onnxruntime`, TesseraError for a difference that is no rounding.
    """
    session = session_of(path)
    errors: list[float] = []
    for height, width in sizes:
        given = graph.sample(*allowed_size(graph, height, width), batch=1 + len(errors) % 2)
        answer = session.run([*graph.outputs], {name: value.numpy() for name, value in given.items()})
        pairs = zip(answer, graph(given), strict=True)
        errors.append(max(_difference(torch.from_numpy(mine), theirs) for mine, theirs in pairs))
        if not errors[-1] <= TOLERANCE:
            raise TesseraError(f"{path}: differs from PyTorch by {errors[-1]:.2g} at {height}x{width} pixels")
    return errors


def _difference(mine: Tensor, theirs: Tensor) -> float:
    return float((mine - theirs).abs().max() / theirs.abs().max().clamp(min=1.0))


def session_of(path: str | Path, threads: int = 0) -> Any:
    """An onnxruntime session on the CPU; threads: 0 is as many as there are cores. Raises ConfigError."""
    runtime = _package("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _student(network: DiffusionNetwork, process: ProcessOptions, metadata: CheckpointMetadata, maps: bool) -> OnnxGraph:
    assert process.student is not None
    assert metadata.scale is not None
    module = StudentGraph(network, process, metadata.scale).eval()
    told = _strength_axes(network, maps)
    axes = {
        "low_res": ("batch", str(network.in_channels), "height", "width"),
        **told,
        "noise": ("batch", str(network.in_channels), "large_height", "large_width"),
        "temperature": ("1",),
        "image": ("batch", str(network.in_channels), "large_height", "large_width"),
    }
    about = {
        **_about(metadata, "student", network),
        "range": [0, 1],
        "multiple": 1,
        "temperature_max": process.student.temperature_max,
    }
    inputs = ("low_res", *told, "noise", "temperature")
    return OnnxGraph(module, inputs, ("image",), axes, about, network, metadata.scale)


def _denoiser(
    network: DiffusionNetwork, process: ProcessOptions, metadata: CheckpointMetadata, maps: bool
) -> OnnxGraph:
    module = DenoiserGraph(network, process).eval()
    told = _strength_axes(network, maps)
    large = ("batch", str(network.in_channels), "large_height", "large_width")
    axes = {"x_t": large, "t": ("batch",), **dict.fromkeys(module.outputs, large)}
    if "low_res" in network.cond_names:
        axes |= {"low_res": ("batch", str(network.in_channels), "height", "width"), **told}
    if "y" in network.cond_names:
        axes["y"] = ("batch",)
    about = {
        **_about(metadata, "denoiser", network),
        "range": [-1, 1],
        "multiple": network.multiple_of,
        "schedule": process.beta_schedule.schedule_name,
        "num_timesteps": process.beta_schedule.num_diffusion_timesteps,
    }
    inputs = tuple(name for name in ("x_t", "t", "low_res", "strengths", "y") if name in axes)
    return OnnxGraph(module, inputs, module.outputs, axes, about, network, metadata.scale or 1)


def _about(metadata: CheckpointMetadata, kind: str, network: DiffusionNetwork) -> dict[str, Any]:
    return {
        "tessera_version": metadata.tessera_version,
        "kind": kind,
        "scale": metadata.scale or 1,
        "image_size": network.image_size,
        "minimum_size": network.minimum_size,
        "corruptions": [*(metadata.corruptions or ())],
        "process": dict(metadata.process),
        "network": {"which_model": metadata.which_model, "args": dict(metadata.network)},
    }


def _strength_axes(network: DiffusionNetwork, maps: bool) -> dict[str, tuple[str, ...]]:
    count = getattr(network.options, "num_corruptions", None) or 0
    if not count:
        return {}
    return {"strengths": ("batch", str(count), "height", "width") if maps else ("batch", str(count))}


def _traced_size(graph: OnnxGraph) -> tuple[int, int]:
    """Of low_res: two sides that differ, so that none is taken for the other."""
    return allowed_size(graph, 24, 16)


def allowed_size(graph: OnnxGraph, height: int, width: int) -> tuple[int, int]:
    """The size itself, or for a denoiser, which does not pad, the next that it takes."""
    if isinstance(graph.module, StudentGraph):
        return height, width
    step = graph.network.multiple_of
    while step % graph.scale:
        step += graph.network.multiple_of
    small = step // graph.scale
    return -(-height // small) * small, -(-width // small) * small


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        raise ConfigError(f"the package {name} is not installed; {INSTALL}") from None
