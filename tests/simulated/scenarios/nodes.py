"""Every injector, loss and evaluator on the simulated card, in training and in a test run. Prints JSON by name."""

import simulated_card as card  # isort: skip - before torch

import json
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from evaluator_helpers import (
    PROCESS,
    ForFeatures,
    ForLpips,
    Plain,
    _tuples,
    context,
    dataset,
    evaluator,
    photographs,
    scripted,
)  # fmt: skip
from torch import Tensor

from codes.config.plugins import import_submodules
from codes.evaluation.evaluators.base import EVALUATORS
from codes.graph.graph import INJECTORS, LOSSES, StepContext
from codes.graph.step_graph import StepGraph
from codes.graph.step_options import StepOptions
from codes.models.diffusion.networks.base import NETWORKS
from codes.models.diffusion.timestep_sampling import TIMESTEP_SAMPLERS
from codes.utils import philox

import_submodules("codes.graph.losses", str(Path(__file__).parents[3] / "codes/graph/losses"))
COND = {"low_res": "lq", "corruption_factor": "corruption_entropy"}
STEPS = {"respaced_timestep_spacing": 2, "sampler": "ddim"}
SAMPLING = {"generator": "generator", "model_input_keys": COND, "output_scale_factor": 2, **STEPS, "tile": 16}
# Options beside those that `guessed` finds.
INJECTOR_OPTIONS: dict[str, dict[str, Any]] = {
    "gaussian_diffusion": {
        "generator": "generator", "model_input_keys": COND, "out_key_vb_loss": "vb", "out_key_x_start": "x0",
        "sampler_type": "loss-second-moment", "input_perturbation": 0.1, **PROCESS,
    },
    "gaussian_diffusion_inference": SAMPLING,
    "regression": {"generator": "plain", "model_input_keys": COND, "output_scale_factor": 2},
    "generator": {"generator": "plain", "model_input_keys": COND},
    "distillation": {"generator": "generator", "teacher": "teacher", "steps": 2, "out_target": "taught", **PROCESS},
    "strength_estimator": {"in": "lq", "generator": "estimator", "out_map": "map"},
    "add_noise": {"amplitude": [0.1, 0.2]},
    "interpolate": {"factor": 0.5},
    "crop": {"size": 8},
    "pad": {"multiple_of": 24},
    "concatenate": {"in": ["hq", "more"]},
    "for_each": {"in": ["hq", "more"], "out": ["a", "b"], "injector": {"type": "add_noise", "amplitude": 0.1}},
}  # fmt: skip
LOSS_OPTIONS: dict[str, dict[str, Any]] = {
    "direct": {"key": "per_sample"},
    "pixel": {"key": "image", "target": "hq"},
    "perceptual": {"key": "image", "target": "hq"},
    "strength": {"key": "strengths", "spread": "spread", "target": "corruption_entropy"},
}
# A recipe of a test run in which something reads what a sampling injector made.
AFTER_SAMPLING = ("add_noise", "generator", "interpolate", "crop", "pad", "gray", "direct", "for_each")


def guessed(kind: str, chosen: Mapping[str, Any], read: str = "hq") -> dict[str, Any]:
    """The options of an injector: what is chosen, and images in and out where it takes such."""
    fields = INJECTORS.get(kind).Options.model_fields
    known = {"in": read} if "in_key" in fields or "in_keys" in fields else {}
    written = {"out": "written"} if "out" in fields or "out_keys" in fields else {}
    return {"type": kind, **known, **written, **chosen}


def networks(device: torch.device) -> StepContext:
    """Those that the injectors run, on a device."""
    base = context()
    diffusing = base.networks["generator"]
    plain = NETWORKS.get("unet_diffusion")(type(diffusing.options)(**{**dict(diffusing.options), "out_channels": 3}))
    kind = NETWORKS.get("strength_estimator")
    estimator = kind(kind.Options(num_corruptions=2, model_channels=8))
    all_of = {"generator": diffusing, "teacher": base.ema_networks["generator"], "plain": plain, "estimator": estimator}
    moved = {name: network.to(device) for name, network in all_of.items()}
    averages = {"generator": moved["teacher"]}
    processes = dict.fromkeys(("generator", "teacher"), base.processes["generator"])
    return replace(
        base, networks=moved, ema_networks=averages, processes=processes, device=device, positions=(0, 1),
        autocast=lambda: torch.autocast(device.type, torch.bfloat16),
    )  # fmt: skip


def state(device: torch.device) -> dict[str, Any]:
    """B = 2, C = 3, H = 16, W = 32, low_res of half the size, strengths of two corruptions."""
    draws = torch.Generator().manual_seed(0)
    shapes = {"hq": (2, 3, 16, 32), "more": (2, 3, 16, 32), "image": (2, 3, 16, 32), "lq": (2, 3, 8, 16)}
    images = {key: torch.rand(shape, generator=draws) * 2 - 1 for key, shape in shapes.items()}
    small = {"corruption_entropy": (2, 2), "strengths": (2, 2), "spread": (2, 2), "per_sample": (2,)}
    numbers = {key: torch.rand(shape, generator=draws) + 0.1 for key, shape in small.items()}
    return {key: value.to(device) for key, value in {**images, **numbers}.items()}


def places(values: Mapping[str, Any]) -> dict[str, str]:
    return {key: value.device.type for key, value in values.items() if isinstance(value, Tensor)}


def step(injectors: Mapping[str, Any], losses: Mapping[str, Any] | None = None) -> StepGraph:
    return StepGraph(StepOptions.model_validate({"injectors": _tuples(dict(injectors)), "losses": dict(losses or {})}))


def injector(kind: str, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """In training: the batch on the device, a backward pass through what was written, the end of an iteration."""
    device = torch.device("cuda", 0)
    graph, given = step({"node": guessed(kind, chosen)}), state(device)
    given["hq"].requires_grad_(True)
    after = graph.at(1, given.keys()).inject(given, networks(device))
    written = {key: value for key, value in after.items() if key not in given}
    learned = [value.float().sum() for value in written.values() if isinstance(value, Tensor) and value.requires_grad]
    if learned:
        torch.stack([value.to(device) for value in learned]).sum().backward()
    for node in graph.injectors.values():
        node.end_iteration(lambda value: value)
        for value in (*node.log_values().values(), *node.log_distributions().values()):
            assert torch.isfinite(value).all()
    return {"places": places(written)}


def test_run(kind: str, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """In a test run: the state from files, on the host, and what the node writes is read by two more."""
    device = torch.device("cuda", 0)
    nodes = {"node": guessed(kind, chosen)}
    with torch.no_grad():
        first = step(nodes).at(None, state(torch.device("cpu")).keys()).inject(
            state(torch.device("cpu")), networks(device)
        )  # fmt: skip
    images = [key for key in first if key not in state(device) and getattr(first[key], "ndim", 0) == 4]
    for key in images:
        nodes[f"noise of {key}"] = {"type": "add_noise", "in": key, "out": f"{key} with noise", "amplitude": 0.1}
        nodes[f"gray of {key}"] = {
            "type": "interpolate",
            "in": f"{key} with noise",
            "out": f"{key} small",
            "factor": 0.5,
        }
    with torch.no_grad():
        after = step(nodes).at(None, state(torch.device("cpu")).keys()).inject(
            state(torch.device("cpu")), networks(device)
        )  # fmt: skip
    return {"read further": images, "places": places({key: after[f"{key} small"] for key in images})}


def after_sampling(kind: str, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """In a test run: on what was sampled just before."""
    device = torch.device("cuda", 0)
    chosen = {**chosen, "in": ["sampled", "lq"]} if "in" in chosen else chosen
    own = {**guessed(kind, chosen, "sampled")}
    graph = step({"sampled": {"type": "gaussian_diffusion_inference", **SAMPLING, "out": "sampled"}, "node": own})
    given = state(torch.device("cpu"))
    with torch.no_grad():
        after = graph.at(None, given.keys()).inject(given, networks(device))
    return {"places": places({key: value for key, value in after.items() if key not in given and key != "sampled"})}


def loss(kind: str, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """One number a sample, with a gradient that reaches what it reads; also where a key still lies on the host."""
    device = torch.device("cuda", 0)
    given = state(device)
    given["image"] = given["image"].cpu().requires_grad_(True)
    for key in ("strengths", "per_sample"):
        given[key].requires_grad_(True)
    graph = step({}, {"loss": {"type": kind, **chosen}}).at(1, given.keys())
    total, parts = graph.evaluate(given, networks(device))
    total.sum().backward()
    assert any(
        given[key].grad is not None and given[key].grad.abs().sum() > 0 for key in chosen.values() if key in given
    )
    return {"places": places({"total": total, **parts}), "shape": list(total.shape)}


def timesteps(kind: str, _: Mapping[str, Any]) -> dict[str, Any]:
    """The training injector with another way to draw timesteps."""
    splits = {"snr_splits": [1.0, 0.5, 0.1, 0.05, 0.02, 0.01, 0.005]} if "split" in kind else {}
    chosen = {**INJECTOR_OPTIONS["gaussian_diffusion"], "sampler_type": kind, **splits}
    return injector("gaussian_diffusion", chosen)


def evaluate(kind: str, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """On the device, with the networks as training has them; and what the CPU measures."""
    found = {}
    for name in ("cuda", "cpu"):
        device = torch.device(name, 0) if name == "cuda" else torch.device(name)
        given = replace(networks(device), autocast=context().autocast)
        found[name] = evaluator(kind, **chosen).evaluate(given).metrics
    return found


def evaluator_options(folder: Path) -> dict[str, dict[str, Any]]:
    features, lpips = (scripted(folder / f"{net.__name__}.pt", net()) for net in (ForFeatures, ForLpips))
    photos = photographs(folder / "photos", [(24, 32), (24, 32), (20, 48)])
    square = dataset(photos, target_size=16, tile="center")
    params = {key: value for key, value in SAMPLING.items() if key != "tile"}
    return {
        "restoration": {"diffusion_params": STEPS, "dataset": dataset(photos), "lpips": str(lpips)},
        "fid": {"diffusion_params": STEPS, "dataset": square, "feature_network": str(features)},
        "kid": {"diffusion_params": STEPS, "dataset": square, "feature_network": str(features)},
        "sr_diffusion_fid": {"diffusion_params": params, "dataset": square, "feature_network": str(features)},
        "bits_per_dimension": {"diffusion_params": STEPS, "dataset": square, "model_input_keys": COND},
    }


def told(work: Callable[[str, Mapping[str, Any]], dict[str, Any]], kind: str, chosen: Mapping[str, Any]) -> Any:
    try:
        return work(kind, chosen)
    except Exception as error:  # the test says which part failed and why
        return {"error": f"{type(error).__name__}: {error}"[:1500]}


def main() -> None:
    warnings.simplefilter("ignore")
    LOSS_OPTIONS["perceptual"]["network"] = str(scripted(Path("plain.pt"), Plain()))
    options = evaluator_options(Path.cwd())
    plain = {kind: INJECTOR_OPTIONS.get(kind, {}) for kind in INJECTORS.names()}
    everything = {
        "injectors": {kind: told(injector, kind, chosen) for kind, chosen in plain.items()},
        "test_run": {kind: told(test_run, kind, chosen) for kind, chosen in plain.items()},
        "after_sampling": {kind: told(after_sampling, kind, plain[kind]) for kind in AFTER_SAMPLING},
        "losses": {kind: told(loss, kind, LOSS_OPTIONS.get(kind, {})) for kind in LOSSES.names()},
        "evaluators": {kind: told(evaluate, kind, options.get(kind, {})) for kind in EVALUATORS.names()},
    }
    card.doubles(False)
    philox.lacks_float64 = lambda device: device.type == "cuda"
    everything["without float64"] = {
        **{kind: told(injector, kind, chosen) for kind, chosen in plain.items()},
        **{f"loss {kind}": told(loss, kind, LOSS_OPTIONS.get(kind, {})) for kind in LOSSES.names()},
        **{f"timesteps {kind}": told(timesteps, kind, {}) for kind in TIMESTEP_SAMPLERS.names()},
    }
    sys.stdout.write("\n" + json.dumps(everything) + "\n")
    sys.stdout.flush()
    os._exit(0)  # autograd's thread for a device that torch was not built for may outlive the interpreter's end


main()
