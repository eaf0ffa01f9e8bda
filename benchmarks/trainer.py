"""What the trainer costs beyond the training itself: iterations per second of a whole run and of a bare loop.

    python benchmarks/trainer.py [--iterations 20] [--repeats 7] [--batch 16] [--side 96]

The bare loop has the same network, batch, optimiser, clipping and loss, and nothing else: its batches are made
beforehand and cycled, timesteps and noise come from one torch generator, no average, no log, no checkpoint. The whole
trainer runs options/demo_cpu.yml as it is used: tiles from files, noise of every sample's own, averaged weights, checks
for what is not finite, log lines. Three extents of it stand beside the bare loop, so that each cost has a name:

- step: the trainer's iteration alone, averages included, on the bare loop's batches
- loop, one worker: with its log and its data, which a second process makes
- loop, no workers: the data are made by the same process, between the iterations

Turns are taken in a random order, so that other work on the machine meets all alike. Medians of wall-clock time and of
processor time of this process (without its worker's, which runs on another core) stand with the slowest and fastest.
"""

import argparse
import itertools
import os
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.networks import processor
from codes.config.yaml_source import load_source
from codes.images.files import write_image
from codes.models.diffusion.denoiser import run_network
from codes.recipe.recipe import read_recipe
from codes.runtime.devices import Ranks, to_device
from codes.trainer.logs.run_log import RunLog
from codes.trainer.logs.writers import JsonLines, TensorBoard
from codes.trainer.results import Results, Unread, files_in
from codes.trainer.trainer import Trainer

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Times:
    """Seconds an iteration, one value a turn."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def tiles(folder: Path, count: int = 64, side: int = 192) -> Path:
    """Textured pictures as PNG."""
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = cv2.resize(rng.random((12, 12, 3)).astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
        image = np.clip(0.8 * coarse + 0.2 * rng.random((side, side, 3)).astype(np.float32), 0, 1)
        write_image(folder / f"{number}.png", image)
    return folder


def trainer_of(folder: Path, name: str, chosen: argparse.Namespace, *overrides: str) -> Trainer:
    """A run of the demo's recipe that neither evaluates nor saves while it is timed."""
    settings = [
        f"name={name}", f"datasets.train.paths={folder}", f"datasets.train.batch_size={chosen.batch}", "device=cpu",
        f"datasets.train.target_size={chosen.side}", f"networks.generator.args.image_size={chosen.side}",
        "train.niter=1000000", "train.val_freq=1000000", "logger.save_checkpoint_freq=1000000", "eval.evaluators={}",
        "logger.visuals=[]", *overrides,
    ]  # fmt: skip
    source = load_source(ROOT / "options" / "demo_cpu.yml", settings)
    return Trainer(read_recipe(source), source, Ranks(), auto_resume=False)


def bare_loop(trainer: Trainer, batches: list[dict[str, Any]]) -> Callable[[int], None]:
    """The training of the recipe, written as a loop."""
    (step,) = trainer.parts.steps
    injector = step.graph.injectors["diffusion"]
    process, options = injector.process, injector.options
    network, optimizer = trainer.parts.networks["generator"], step.optimizer
    vb_weight = step.options.losses["vb"].weight if "vb" in step.options.losses else 0.0
    generator = torch.Generator().manual_seed(0)
    feed = itertools.cycle(batches)

    def run(count: int) -> None:
        for _ in range(count):
            batch = {key: to_device(value, torch.device("cpu")) for key, value in next(feed).items()}
            x_start = batch["hq"]
            t = torch.randint(process.schedule.num_timesteps, (len(x_start),), generator=generator)
            noise = torch.randn(x_start.shape, generator=generator)
            x_t = process.q_sample(x_start, t, noise)
            cond = {name: batch[key] for name, key in options.model_input_keys.items()}
            with trainer.autocast():
                output, prior = run_network(network, process, x_t, t, cond, network.low_res_upsampling)
            terms = process.training_terms(output.float(), x_start, x_t, t, noise, prior)
            loss = terms.mse if terms.vb is None else terms.mse + vb_weight * terms.vb
            optimizer.zero_grad(set_to_none=True)
            loss.mean().backward()
            torch.nn.utils.clip_grad_norm_(step.parameters, step.options.clip_grad_eps or float("inf"))
            optimizer.step()

    return run


def steps_alone(trainer: Trainer, batches: list[dict[str, Any]]) -> Callable[[int], None]:
    """The trainer's iteration on batches that are there already."""
    feed = itertools.cycle(batches)

    def run(count: int) -> None:
        for _ in range(count):
            trainer._iterate(next(feed))

    return run


def whole_loop(trainer: Trainer) -> Callable[[int], None]:
    """The trainer as `run` drives it, so many iterations at a time, with its data and its log."""
    root = trainer.experiment.root
    writers = [JsonLines(root / "log.jsonl", 0), TensorBoard(root / "tb_logger", 0, "benchmark")]
    log = RunLog(root, 0, 10**6, trainer.recipe.logger.print_freq, trainer.options.batch_size, writers)
    results = Results(log, trainer.parts.steps, trainer.ranks, 50, lambda: None)
    batches: Iterator[Any] = trainer._batches()

    def run(count: int) -> None:
        for _ in range(count):
            start = time.monotonic()
            batch = next(batches)
            waited = time.monotonic() - start
            launched = trainer._iterate(batch)
            seconds = time.monotonic() - start
            results.add(
                Unread(trainer.iteration, launched, files_in(batch), seconds, waited), log.due(trainer.iteration)
            )
            trainer._after(log, launched)

    return run


def processor_time() -> float:
    """Seconds of this process; a worker's count in `RUSAGE_CHILDREN` only once it has ended, so it stays out."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def measure(variants: dict[str, Callable[[int], None]], iterations: int, repeats: int) -> dict[str, Times]:
    """`repeats` turns of every variant in a random order, after one to warm up."""
    found = {name: Times() for name in variants}
    order = random.Random(0)
    for turn in range(repeats + 1):
        names = list(variants)
        order.shuffle(names)
        for name in names:
            wall, cpu = time.perf_counter(), processor_time()
            variants[name](iterations if turn else 2)
            if turn:
                found[name].wall.append((time.perf_counter() - wall) / iterations)
                found[name].cpu.append((processor_time() - cpu) / iterations)
    return found


def show(found: dict[str, Times]) -> None:
    """A row for each variant: milliseconds an iteration, and against the bare loop turn by turn."""
    bare = found["bare loop"]
    say("| | wall, ms | slowest | fastest | it/s | against bare | processor, ms | against bare |")
    say("|---|---|---|---|---|---|---|---|")
    for name, times in found.items():
        middle = statistics.median(times.wall)
        against = [statistics.median([a / b for a, b in zip(getattr(times, kind), getattr(bare, kind), strict=True)])
                   for kind in ("wall", "cpu")]  # fmt: skip
        say(
            f"| {name} | {1000 * middle:.1f} | {1000 * max(times.wall):.1f} | {1000 * min(times.wall):.1f} "
            f"| {1 / middle:.2f} | {100 * (against[0] - 1):+.1f} % | {1000 * statistics.median(times.cpu):.1f} "
            f"| {100 * (against[1] - 1):+.1f} % |"
        )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Time the trainer against a bare loop.")
    parser.add_argument("--iterations", type=int, default=20, help="of one turn (default: 20)")
    parser.add_argument("--repeats", type=int, default=7, help="turns of each (default: 7)")
    parser.add_argument("--batch", type=int, default=16, help="images a batch (default: 16, as the demo)")
    parser.add_argument("--side", type=int, default=96, help="side of a tile (default: 96, as the demo)")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    cv2.setNumThreads(0)
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as temporary:
        os.chdir(temporary)
        try:
            folder = tiles(Path("tiles"))
            made = {
                name: trainer_of(folder, name, chosen, f"datasets.train.n_workers={int(name == 'worker')}")
                for name in ("bare", "step", "worker", "alone")
            }
            batches = [dict(batch) for batch in itertools.islice(made["bare"]._batches(), 8)]
            variants = {
                "bare loop": bare_loop(made["bare"], batches),
                "step": steps_alone(made["step"], batches),
                "loop, one worker": whole_loop(made["worker"]),
                "loop, no workers": whole_loop(made["alone"]),
            }
            size = sum(value.numel() for value in made["bare"].parts.networks["generator"].parameters())
            say(
                f"{processor()}, {torch.get_num_threads()} thread(s), load {os.getloadavg()[0]:.1f} on "
                f"{os.cpu_count()} cores; Python {sys.version.split()[0]}, torch {torch.__version__}; "
                f"{size / 1e6:.1f} M parameters, batch {chosen.batch}, {chosen.side} px\n"
            )
            show(measure(variants, chosen.iterations, chosen.repeats))
        finally:
            os.chdir(before)
    return 0


if __name__ == "__main__":
    sys.exit(main())
