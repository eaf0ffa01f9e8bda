"""Two ranks under NCCL's rule: it exchanges tensors of the GPU alone. Rank 0 prints JSON."""

import simulated_card as card  # isort: skip - before torch

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from scenario_helpers import NETWORK, ROOT, pictures
from torch.utils._pytree import tree_map

from codes import train

asked: list[str] = []


class Done:
    """The handle of an exchange that is over."""

    def wait(self, *_: Any) -> bool:
        return True


def on_host(exchange: Any) -> Any:
    """A collective of gloo behind NCCL's rule; the tensors are copied to the host and back."""

    def checked(*given_first: Any, async_op: bool = False, **options: Any) -> Any:
        first, *rest = given_first or (options.pop("tensor"),)
        tensors = (
            [*first, *(one for one in rest if isinstance(one, torch.Tensor))] if isinstance(first, list) else [first]
        )
        for tensor in tensors:
            if not tensor.is_cuda:
                raise RuntimeError(f"nccl cannot exchange a CPU tensor of shape {tuple(tensor.shape)}")
        host = [tensor.cpu() for tensor in tensors]
        given = [host[: len(first)], *host[len(first) :]] if isinstance(first, list) else [host[0], *rest]
        exchange(*given, **options)
        for tensor, shared in zip(tensors, host, strict=True):
            tensor.copy_(shared)
        return Done() if async_op else None

    return checked


def install() -> None:
    for name in ("all_reduce", "all_gather", "broadcast"):
        setattr(dist, name, on_host(getattr(dist, name)))
    start = dist.init_process_group
    dist.init_process_group = lambda backend, **options: (asked.append(backend), start("gloo", **options))[1]
    dist.get_backend = lambda *_: "nccl"
    torch.cuda.device_count = lambda: 2
    load = torch.load

    def load_by_host(file: Any, map_location: Any = None, **options: Any) -> Any:
        loaded = load(file, map_location="cpu", **options)
        if map_location is None or torch.device(map_location).type == "cpu":
            return loaded
        return tree_map(lambda value: value.to("cuda:0") if isinstance(value, torch.Tensor) else value, loaded)

    torch.load = load_by_host


def main() -> None:
    install()
    import codes.runtime.devices as devices
    import codes.trainer.trainer as trainer

    choose = devices.choose_device
    trainer.choose_device = lambda name, ids=None, _local=None: choose(name, ids, 0)  # one card
    pictures(Path("in"))
    sets = [
        "device=cuda", "name=ranks", "datasets.train.batch_size=4", "datasets.train.target_size=64",
        "datasets.train.n_workers=0", "datasets.train.paths=in", f"networks.generator.args={NETWORK}",
        "eval.evaluators={}", "train.val_freq=~", "steps.strengths.injectors.cut.size=32",
        "use_tb_logger=false", "logger.print_freq=1", "precision=bf16",
        *sys.argv[1:],
    ]  # fmt: skip
    recipe = ["-opt", str(ROOT / "recipes/diffusion/train_sr.yml"), "--debug", "--launcher", "pytorch"]
    resume = ["--auto_resume"] if os.environ.get("RESUME") else []
    code = train.main([*recipe, *resume, "--set", *sets])
    if os.environ["RANK"] == "0":
        sys.stdout.write("\n" + json.dumps({"code": code, "asked": asked, "peak": card.counts().peak}) + "\n")
        sys.stdout.flush()


main()
