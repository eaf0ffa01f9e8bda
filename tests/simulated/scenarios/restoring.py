"""Restores on the simulated card by every command and the library, and counts what crosses the bus. Prints JSON."""

import simulated_card as card  # isort: skip - before torch

import json
import sys
from pathlib import Path
from typing import Any

import torch
from command_helpers import RESTORING, changed
from restorer_helpers import KNOWN, network, picture, write_weights

from codes import Restorer, test
from codes.images.files import read_samples, write_image
from codes.models.diffusion.networks.cast import cast_once
from codes.models.diffusion.tiling import memory
from codes.models.diffusion.tiling.runner import TileRunner
from codes.scripts import sweep

NODE = "steps.restore.injectors.detail"
BASE = [("path.pretrain_model_generator", "w.safetensors"), ("path.experiment", ...), ("device", "cuda")]


class Counted:
    """What every call of the tile runner's denoiser costs, and the steps of an image around them."""

    def __init__(self) -> None:
        self.costs: list[dict[str, int]] = []
        run, bands = TileRunner._run, TileRunner.bands

        def counted_run(runner: Any, items: Any) -> Any:
            found = run(runner, items)
            self.tiles += len(items)
            return found

        def counted_bands(runner: Any, views: Any) -> Any:
            card.counts()
            self.tiles = 0
            rows = sum(len(view.plan.ys) for view in views)
            yield from bands(runner, views)
            self.costs.append({**vars(card.counts()), "tiles": self.tiles, "rows": rows})

        self.tiles = 0
        TileRunner._run, TileRunner.bands = counted_run, counted_bands  # type: ignore[method-assign]


def restored(name: str, *changes: tuple[str, Any]) -> torch.Tensor:
    """The result of test.py on the card, or with ("device", "cpu") on the host."""
    Path(f"{name}.yml").write_text(changed(RESTORING, *BASE, ("name", name), *changes))
    assert test.main(["-opt", f"{name}.yml", "--debug"]) == 0, name
    return torch.from_numpy(read_samples(Path(f"results/{name}/test/0.png")).astype("int16"))


def same(first: torch.Tensor, second: torch.Tensor, levels: int = 1) -> bool:
    return first.shape == second.shape and int((first - second).abs().max()) <= levels


def casts_of_forwards() -> dict[str, int]:
    """Casts of a forward in bf16 of networks of 1 and 3 blocks a level: weights cast once, and as autocast does it."""
    found = {}
    for blocks in (1, 3):
        made = network({"num_res_blocks": blocks}).eval().requires_grad_(False).to("cuda")
        x = torch.zeros(2, 3, 32, 32).to("cuda")
        cond = {"low_res": x, "corruption_factor": torch.zeros(2, 2).to("cuda")}
        t = torch.zeros(2, dtype=torch.int64).to("cuda")
        for name, ready in (("once", cast_once(made, torch.bfloat16)), ("always", made)):
            with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
                card.counts()
                ready(x, t, **cond)
                found[f"{name}_{blocks}"] = card.counts().casts
    return found


def main() -> None:
    write_weights(Path("w.safetensors"), KNOWN)
    write_image(Path("small/0.png"), picture(40, 58))
    counted = Counted()
    tiles = [(f"{NODE}.tile", 32), (f"{NODE}.tile_overlap", 8)]
    on_host = restored("host", *tiles, ("device", "cpu"))
    counted.costs.clear()
    alike = {"device canvas": same(restored("card", *tiles), on_host)}
    costs = list(counted.costs)
    room = memory.BYTES_A_PIXEL
    memory.BYTES_A_PIXEL = 2**40  # nothing fits, so rows are streamed
    alike["streamed"] = same(restored("streamed", *tiles), on_host)
    alike["disk"] = same(restored("disk", *tiles, (f"{NODE}.canvas", "disk")), on_host)
    adjusted = [(f"{NODE}.dynamic_threshold", True)]
    alike["two passes, streamed"] = same(
        restored("passes", *tiles, *adjusted), restored("host_passes", *tiles, *adjusted, ("device", "cpu"))
    )
    memory.BYTES_A_PIXEL = room
    alike["two passes"] = same(
        restored("passes_card", *tiles, *adjusted), restored("host_passes", *tiles, *adjusted, ("device", "cpu"))
    )
    for sampler in ("ddim", "dpm_solver_pp"):
        options = [*tiles, (f"{NODE}.sampler", sampler)]
        alike[sampler] = same(restored(sampler, *options), restored(f"host_{sampler}", *options, ("device", "cpu")))
    half = restored("half", *tiles, ("precision", "bf16"))
    alike["bf16"] = same(half, on_host, 60)
    card.limit(max(cost["peak"] for cost in costs) - 500_000)
    alike["out of memory"] = same(restored("full", *tiles, (f"{NODE}.tile_batch_size", 15)), on_host)
    card.limit(0)
    dry = test.main(["-opt", "card.yml", "--dry_run"])
    code = sweep.main(["-opt", "card.yml", "--axis", "steps", "1,2", "--image", "small/0.png"])
    library = Restorer.from_checkpoint(Path("w.safetensors"), "cuda", tile=32)(picture(18, 27))
    result = {
        "alike": alike, "costs": costs, "casts": casts_of_forwards(), "sweep": code,
        "dry_run": dry, "library": list(library.shape),
    }  # fmt: skip
    sys.stdout.write("\n" + json.dumps(result) + "\n")


main()
