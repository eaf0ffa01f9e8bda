"""How many kernels a forward of the reference network launches. Prints JSON."""

import simulated_card as card  # isort: skip - before torch

import json
import sys
from contextlib import nullcontext

import torch
import yaml
from scenario_helpers import ROOT

from codes.models.diffusion.checkpoints.metadata import build
from codes.models.diffusion.networks.cast import cast_once


def main() -> None:
    recipe = yaml.safe_load((ROOT / "recipes/diffusion/train_sr.yml").read_text())
    section = recipe["networks"]["generator"]
    network = build(section["which_model_G"], section["args"]).eval().requires_grad_(False).to("cuda")
    x = torch.zeros(2, 3, 64, 64).to("cuda")
    cond = {"low_res": x, "corruption_factor": torch.zeros(2, 2).to("cuda")}
    t = torch.zeros(2, dtype=torch.int64).to("cuda")
    found = {}
    half = cast_once(network, torch.bfloat16)
    for name, made, arithmetic in (
        ("fp32", network, nullcontext()),
        ("bf16", half, torch.autocast("cuda", torch.bfloat16)),
    ):
        with torch.no_grad(), arithmetic:
            card.counts()
            made(x, t, **cond)
            found[name] = card.counts().launches
    sys.stdout.write("\n" + json.dumps(found) + "\n")


main()
