"""What else makes images, on the simulated card and on the host: generation, edges that meet, passes, consistency,
strengths that are read, the app, and memory that runs out anywhere. Prints JSON.
"""

import simulated_card as card  # isort: skip - before torch

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from app_helpers import DIALS, photograph, pixels, settled, upload
from app_helpers import restored as restored_by_app
from command_helpers import RESTORING, changed
from generation_helpers import SAMPLING
from restorer_helpers import KNOWN, PROCESS, network, picture, write_weights
from starlette.testclient import TestClient

from codes import Restorer, test
from codes.images.files import read_samples, write_image
from codes.inference.app import models as app_models
from codes.inference.app.folder import ProcessFolder
from codes.inference.app.routes import build_app
from codes.inference.app.service import Service
from codes.inference.app.settings import Limits
from codes.inference.strength_reader import StrengthReader
from codes.models.diffusion.checkpoints.metadata import CheckpointMetadata, build, save_checkpoint
from codes.models.diffusion.networks.strength_estimator import StrengthEstimator, StrengthEstimatorOptions
from codes.models.diffusion.tiling.canvas_sampling import _Step

NODE = "steps.restore.injectors.detail"
BASE = [("path.pretrain_model_generator", "w.safetensors"), ("path.experiment", ...)]
TILES = [(f"{NODE}.tile", 32), (f"{NODE}.tile_overlap", 8)]
CLASSES = {
    "image_size": 16, "in_channels": 3, "out_channels": 6, "patch_size": 4, "num_classes": 3, "model_channels": 32,
    "channel_mult": [1], "num_res_blocks": 1, "attention_resolutions": [1],
}  # fmt: skip


def run(name: str, device: str, recipe: str) -> str:
    """What a run of test.py said, with its results in results/NAME-DEVICE."""
    file = Path(f"{name}-{device}.yml")
    file.write_text(changed(recipe, ("name", file.stem), ("device", device)))
    log = Path(f"results/{file.stem}/test.log")
    assert test.main(["-opt", str(file), "--debug"]) == 0, name
    return log.read_text() if log.exists() else ""


def levels(name: str) -> int:
    """The largest difference of a result of the card to the host's, in levels of 8 bits."""
    card_files, host_files = (sorted(Path(f"results/{name}-{device}").rglob("*.png")) for device in ("cuda", "cpu"))
    assert [file.name for file in card_files] == [file.name for file in host_files] != []
    pairs = zip(card_files, host_files, strict=True)
    return max(int(np.abs(read_samples(a).astype(int) - read_samples(b)).max()) for a, b in pairs)


def both(name: str, *changes: tuple[str, Any], recipe: str = RESTORING, base: Any = BASE) -> int:
    for device in ("cuda", "cpu"):
        run(name, device, changed(recipe, *base, *changes))
    return levels(name)


def class_weights(file: str, seed: int) -> None:
    made, generator = build("patch_diffusion_unet", CLASSES), torch.Generator().manual_seed(seed)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    metadata = CheckpointMetadata.of(made, "ema", 5, PROCESS.model_dump(mode="json"), {"classes": ["a", "b", "c"]})
    save_checkpoint(Path(file), made.state_dict(), metadata)


def generated() -> dict[str, int]:
    class_weights("low.safetensors", 0)
    class_weights("high.safetensors", 1)
    node = "steps.sample.injectors.sample"
    one = [("path", {"pretrain_model_generator": "low.safetensors"}), ("generate.num_samples", 3)]
    two = [
        ("path", {"pretrain_model_low": "low.safetensors", "pretrain_model_high": "high.safetensors"}),
        ("generate.num_samples", 3), (f"{node}.generator", ["low", "high"]), (f"{node}.snr_splits", [0.25]),
    ]  # fmt: skip
    guided = [(f"{node}.guidance_scale", 2.0), (f"{node}.guidance_rescale", 0.5)]
    return {
        "classes": both("classes", recipe=SAMPLING, base=one),
        "guidance": both("guidance", *guided, recipe=SAMPLING, base=one),
        "experts": both("experts", (f"{node}.respaced_timestep_spacing", 4), recipe=SAMPLING, base=two),
        "guided experts": both("guided_experts", *guided, recipe=SAMPLING, base=two),
    }


def restored() -> dict[str, int]:
    return {
        "wrap": both("wrap", *TILES, (f"{NODE}.wrap", "xy")),
        "passes": both("passes", *TILES, ("output", {"scale": 4})),
        "consistency at the end": both("end", *TILES, (f"{NODE}.consistency", "end")),
        "consistency of each step": both("each", *TILES, (f"{NODE}.consistency", "each_step")),
        "blend": both("blend", *TILES, (f"{NODE}.blend", 0.25)),
        "jitter": both("jitter", *TILES, (f"{NODE}.tile_jitter", True)),
    }


def estimator() -> StrengthEstimator:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = StrengthEstimator(StrengthEstimatorOptions(num_corruptions=2, model_channels=8))
        torch.nn.init.normal_(made.head[-1].weight, std=3.0)
    made.distance_moments.copy_(torch.tensor([0.0, 1e6]))
    return made.eval()


def read() -> dict[str, Any]:
    """Strengths for all of an image and for every place, read on the card and on the host."""
    made = estimator()
    metadata = CheckpointMetadata.of(made, "ema", 1, {}, KNOWN)
    save_checkpoint(Path("strengths.safetensors"), made.state_dict(), metadata)
    told = {"corruption_entropy": ["auto", "auto_map"], "estimator": "strengths"}
    changes = [
        ("datasets.test.fixed_corruptions", ["jpeg", "gaussian_blur"]),
        ("datasets.test.fixed_parameters", told),
        ("path.pretrain_model_strengths", "strengths.safetensors"),
    ]
    result = both("auto", *TILES, *changes)
    image = picture(40, 58).astype(np.float32) / 255
    host, device = (
        StrengthReader(estimator(), ("jpeg", "gaussian_blur"), torch.device(kind)).read(image, everywhere=True)
        for kind in ("cpu", "cuda")
    )
    return {"result": result, "means": float(np.abs(host.mean - device.mean).max())}


def app() -> int:
    """The largest difference, in levels, of what the app restores on the card to the host's."""
    answers = []
    for device in ("cuda", "cpu"):
        both_networks = [Restorer(network(), PROCESS, device=device, **KNOWN) for _ in range(2)]
        made = app_models.Models(*both_networks)
        with tempfile.TemporaryDirectory() as folder:
            service = Service(made, Limits(free_bytes=0), ProcessFolder(Path(folder)))
            origin = "http://127.0.0.1:7860"
            with TestClient(build_app(service, ()), base_url=origin, headers={"origin": origin}) as client:
                assert client.get("/").status_code == 200
                key = upload(client, photograph())
                assert settled(client, key)["state"] == "ready"
                preview = client.post(f"/api/photographs/{key}/preview", json={**DIALS, "x": 9, "y": 9})
                assert preview.status_code == 200, preview.text
                key = restored_by_app(client, photograph(seed=1), steps=4)
                answers.append(pixels(client.get(f"/api/photographs/{key}/result?format=png")).astype(int))
    return int(np.abs(answers[0] - answers[1]).max())


def reads_of_experts() -> dict[str, int]:
    """Reads of a restoration in three rows of tiles and batches of four, by one network and by two experts."""
    two = [
        ("path", {"pretrain_model_low": "w.safetensors", "pretrain_model_high": "w.safetensors"}),
        (f"{NODE}.generator", ["low", "high"]), (f"{NODE}.snr_splits", [0.25]),
    ]  # fmt: skip
    found = {}
    for name, changes in (("warm", two), ("one", BASE), ("two", two)):  # the first of a process fills tables
        steps = (f"{NODE}.respaced_timestep_spacing", 4), (f"{NODE}.tile_batch_size", 4)
        card.counts()
        run(f"reads_{name}", "cuda", changed(RESTORING, *changes, *TILES, *steps))
        counted = card.counts()
        found[name] = counted.to_host + counted.reads
    return found


def out_of_memory() -> dict[int, Any]:
    """Results at limits of the card's memory, from plenty down to too little, and what was said on the way."""
    recipe = changed(RESTORING, *BASE, *TILES, (f"{NODE}.tile_batch_size", 15))
    run("memory", "cpu", recipe)
    card.counts()
    run("memory", "cuda", recipe)
    peak, used = card.counts().peak, card.counts().in_use
    expected, found = read_samples(Path("results/memory-cpu/test/0.png")).astype(int), {}
    for percent in (99, 90, 75, 60):
        card.limit(used + (peak - used) * percent // 100)
        try:
            said = run(f"limit{percent}", "cuda", recipe)
        finally:
            card.limit(0)
        result = read_samples(Path(f"results/limit{percent}-cuda/test/0.png")).astype(int)
        told = [line.split("memory ")[1] for line in said.splitlines() if "ran out of memory" in line]
        found[percent] = {"difference": int(np.abs(result - expected).max()), "told": told}
    return found


def out_of_memory_beside_the_network() -> dict[str, Any]:
    """Memory runs out in a step's update, once: the canvas leaves the card, and nothing else changes."""
    advance, left = _Step.advance, [1]

    def failing(step: Any, image: Any, band: Any, writer: Any) -> None:
        if step.index == 1 and left and image.store.state.device.type == "cuda":
            left.clear()
            raise torch.OutOfMemoryError("CUDA out of memory")
        advance(step, image, band, writer)

    recipe = changed(RESTORING, *BASE, *TILES)
    _Step.advance = failing  # type: ignore[method-assign]
    said = run("update", "cuda", recipe)
    _Step.advance = advance  # type: ignore[method-assign]
    run("update", "cpu", recipe)
    return {"difference": levels("update"), "said": "they go on in host memory" in said, "failed": not left}


def main() -> None:
    write_weights(Path("w.safetensors"), KNOWN)
    write_image(Path("small/0.png"), picture(40, 58))
    result = {
        "generated": generated(), "restored": restored(), "read": read(), "app": app(), "experts": reads_of_experts(),
        "memory": out_of_memory(), "update": out_of_memory_beside_the_network(),
    }  # fmt: skip
    sys.stdout.write("\n" + json.dumps(result) + "\n")


main()
