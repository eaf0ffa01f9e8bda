"""What a card does with this project, in one command of less than ten minutes.

    python benchmarks/gpu.py --output gpu.json
    python benchmarks/gpu.py --device cpu --quick          # the same parts on a small network, to see that they run

Parts, each on its own, so that a failure of one is told in its place and loses nothing of the others: the bf16 and fp32
products that the card reaches (the peak that shares are of); the tests that need a GPU; the network at several batches,
eager in contiguous memory, in channels_last, with weights cast once, compiled, and as a CUDA graph; one step of a whole
picture with the share of each part and of the time in which the device waits; training on ready batches against the
loader; the noise against the CPU's; memory that runs out; a run that is killed and resumed. Prints and writes JSON.
"""

import argparse
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from codes.models.diffusion.checkpoints.metadata import build
from codes.models.diffusion.engine import Engine
from codes.models.diffusion.networks.base import DiffusionNetwork
from codes.models.diffusion.networks.cast import cast_once
from codes.models.diffusion.networks.graphed import Graphed
from codes.models.diffusion.noise import NoiseField
from codes.models.diffusion.process_options import ProcessOptions
from codes.models.diffusion.request import Request
from codes.models.diffusion.sampling_options import SamplingOptions
from codes.models.diffusion.tiling.canvas_sampling import _Step
from codes.models.diffusion.tiling.runner import TileRunner
from codes.recipe.networks import place
from codes.runtime.devices import autocast_for

ROOT = Path(__file__).resolve().parents[1]
MEGA, TERA = 1e6, 1e12
PROCESS = {
    "beta_schedule": {"schedule_name": "linear", "num_diffusion_timesteps": 4000},
    "diffusion_args": {"model_mean_type": "residual", "model_var_type": "learned_range"},
}


@dataclass(frozen=True)
class Bench:
    """What all parts are given."""

    device: torch.device
    quick: bool
    seconds: float  # of a part that repeats

    @property
    def network_options(self) -> dict[str, Any]:
        section = yaml.safe_load((ROOT / "recipes/diffusion/train_sr.yml").read_text())["networks"]["generator"]["args"]
        small = {"image_size": 64, "model_channels": 32, "channel_mult": [1, 2], "num_res_blocks": 1}
        return {**section, **(small | {"attention_resolutions": [2], "num_head_channels": 32} if self.quick else {})}

    def network(self) -> DiffusionNetwork:
        """The reference network with the weights that it begins with."""
        made = build("unet_diffusion", self.network_options)
        return place(made, self.device).eval().requires_grad_(False)

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def timed(self, call: Callable[[], object]) -> float:
        """Median seconds of a call, after two that warm up."""
        for _ in range(2):
            call()
        self.synchronize()
        found, end = list[float](), time.perf_counter() + self.seconds
        while len(found) < 3 or time.perf_counter() < end:
            start = time.perf_counter()
            call()
            self.synchronize()
            found.append(time.perf_counter() - start)
        return statistics.median(found)


def peak(bench: Bench) -> dict[str, float]:
    """TFLOP/s of a large matrix product."""
    side = 256 if bench.quick else 8192
    found = {}
    for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        a, b = (torch.randn(side, side, device=bench.device).to(dtype) for _ in range(2))
        found[name] = 2 * side**3 / bench.timed(lambda a=a, b=b: a @ b) / TERA  # type: ignore[misc]
    return found


def gpu_tests(bench: Bench) -> dict[str, Any]:
    """The tests that are marked gpu."""
    if bench.device.type != "cuda":
        return {"left out": "needs a CUDA device"}
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", str(ROOT / "tests")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    return {"code": done.returncode, "last line": (done.stdout.splitlines() or [""])[-1]}


def inputs(bench: Bench, batch: int) -> dict[str, torch.Tensor]:
    """A batch of noise."""
    side = bench.network_options["image_size"]
    x = torch.randn(batch, 3, side, side, device=bench.device)
    strengths = torch.zeros(batch, 2, device=bench.device)
    t = torch.zeros(batch, dtype=torch.int64, device=bench.device)
    return {"x": x, "timesteps": t, "low_res": x, "corruption_factor": strengths}


def denoiser(bench: Bench) -> dict[str, Any]:
    """Milliseconds a tile and TFLOP/s of a forward pass."""
    plain, kind = bench.network(), bench.device.type
    contiguous = build("unet_diffusion", bench.network_options).to(bench.device).eval().requires_grad_(False)
    cast = cast_once(plain, torch.bfloat16)
    ways: dict[str, Any] = {"eager": contiguous, "channels_last": plain, "cast once": cast}
    if kind == "cuda":
        ways |= {"compiled": torch.compile(cast), "graphs": Graphed(cast)}
    with FlopCounterMode(display=False) as counted:
        contiguous(**inputs(bench, 1))
    found: dict[str, Any] = {"GFLOP a tile": counted.get_total_flops() / 1e9}
    for batch in (1, 2) if bench.quick else (1, 4, 16, 64):
        given = inputs(bench, batch)
        for name, call in ways.items():
            try:
                with torch.no_grad(), torch.autocast(kind, torch.bfloat16):
                    seconds = bench.timed(lambda call=call, given=given: call(**given))  # type: ignore[misc]
                reached = counted.get_total_flops() * batch / seconds / TERA
                found[f"{name}, batch {batch}"] = {"ms a tile": 1000 * seconds / batch, "TFLOP/s": reached}
            except RuntimeError as error:
                found[f"{name}, batch {batch}"] = {"failed": str(error)[:300]}
    return found


def engine(bench: Bench, **changes: Any) -> Engine:
    """One step of the reference network."""
    given = {"respaced_timestep_spacing": "trailing1", "sampler": "ddim", **PROCESS, **changes}
    options = SamplingOptions.model_validate(given)
    process = options.build_process(ProcessOptions.model_validate(PROCESS), "network")
    return Engine(bench.network(), process, options, bench.device, autocast_for(bench.device, "bf16"))


def whole_step(bench: Bench) -> dict[str, Any]:
    """Seconds of a step of a picture; parts measured by waiting for the device around each, in a run of their own."""
    side = 96 if bench.quick else 2048
    low_res = torch.zeros(1, 3, side, side)
    request = Request({"low_res": low_res, "corruption_factor": torch.zeros(1, 2)}, 2 * side, 2 * side, 0)
    subject = engine(bench)
    seconds = bench.timed(lambda: subject.restore([request], 2))
    parts = {"denoised": 0.0, "blended": 0.0, "advanced": 0.0}
    timed = [(TileRunner, "_run", "denoised"), (TileRunner, "_settled", "blended"), (_Step, "advance", "advanced")]
    kept = [(owner, name, getattr(owner, name)) for owner, name, _ in timed]

    def watched(call: Callable[..., Any], part: str) -> Callable[..., Any]:
        def waiting(*given: Any) -> Any:
            bench.synchronize()
            start = time.perf_counter()
            result = call(*given)
            bench.synchronize()
            parts[part] += time.perf_counter() - start
            return result

        return waiting

    try:
        for (owner, name, part), (_, _, call) in zip(timed, kept, strict=True):
            setattr(owner, name, watched(call, part))
        bench.synchronize()
        start = time.perf_counter()
        subject.restore([request], 2)
        bench.synchronize()
        apart = time.perf_counter() - start
    finally:
        for owner, name, call in kept:
            setattr(owner, name, call)
    shares = {name: value / apart for name, value in parts.items()}
    idle = idle_share(bench, lambda: subject.restore([request], 2))
    megapixels = 4 * side**2 / MEGA
    return {"megapixels": megapixels, "seconds": seconds, "s/MP": seconds / megapixels, "shares": shares, **idle}


def idle_share(bench: Bench, call: Callable[[], object]) -> dict[str, float]:
    """The share of the time in which no kernel runs, by torch's profiler."""
    if bench.device.type != "cuda":
        return {}
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        start = time.perf_counter()
        call()
        bench.synchronize()
        seconds = time.perf_counter() - start
    busy = sum(event.self_device_time_total for event in profile.key_averages()) / 1e6
    return {"idle share": max(1 - busy / seconds, 0.0)}


def train_command(bench: Bench, iterations: int, *more: str) -> list[str]:
    """A training of the reference recipe, or of its small form."""
    sets = [f"device={bench.device.type}", "name=bench", f"train.niter={iterations}", "eval.evaluators={}",
            "train.val_freq=~", "use_tb_logger=false", "logger.print_freq=1",
            "networks.generator.args=" + json.dumps({**bench.network_options, "image_size": 256})]  # fmt: skip
    if bench.quick:
        sets += ["datasets.train.batch_size=1", "datasets.train.n_workers=0"]
    recipe = ["-opt", str(ROOT / "recipes/diffusion/train_sr.yml")]
    return [sys.executable, str(ROOT / "codes/train.py"), *recipe, *more, "--set", *sets]


def training(bench: Bench) -> dict[str, Any]:
    """Iterations of the network on a batch that is there already, and the log of a run that loads its photographs."""
    network = bench.network().train().requires_grad_(True)
    optimizer = torch.optim.AdamW(network.parameters(), fused=bench.device.type == "cuda")
    given = inputs(bench, 2 if bench.quick else 32)

    def iteration() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(bench.device.type, torch.bfloat16):
            loss = network(**given).float().square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    ready = bench.timed(iteration)
    with tempfile.TemporaryDirectory() as name:
        count, start = (2 if bench.quick else 60), time.perf_counter()
        command = train_command(bench, count)
        done = subprocess.run(command, cwd=name, capture_output=True, text=True, timeout=300, check=False)
        whole = time.perf_counter() - start
        if done.returncode:
            raise RuntimeError(f"train.py ended with {done.returncode}: {done.stderr[-300:]}")
        said = [line for line in done.stderr.splitlines() if "it/s" in line or "data" in line][-3:]
    return {"iterations/s on a ready batch": 1 / ready, "whole run, seconds": whole,
            "log of the loader's run": said or done.stderr.splitlines()[-3:]}  # fmt: skip


def noise(bench: Bench) -> dict[str, Any]:
    """How many values of a noise field differ from the CPU's, and the time of a megapixel."""
    side = 128 if bench.quick else 1024
    field = NoiseField(7, 3)
    here, there = (field(3, 0, side, 5, side + 5, device) for device in (bench.device, torch.device("cpu")))
    different = int((here.cpu() != there).sum())
    seconds = bench.timed(lambda: field(3, 0, side, 5, side + 5, bench.device))
    largest = float((here.cpu() - there).abs().max())
    per_pixel = seconds / side**2 * MEGA
    return {"values": there.numel(), "different": different, "largest": largest, "s/MP": per_pixel}


def out_of_memory(bench: Bench) -> dict[str, Any]:
    """A restoration on a device of which only a little is free; it must go on with smaller batches."""
    if bench.device.type != "cuda":
        return {"left out": "needs a CUDA device"}
    subject = engine(bench, tile=256, tile_batch_size=64)
    low_res = torch.zeros(1, 3, 512, 512)
    request = Request({"low_res": low_res, "corruption_factor": torch.zeros(1, 2)}, 1024, 1024, 0)
    told: list[str] = []
    free, whole = torch.cuda.mem_get_info(bench.device)
    torch.cuda.set_per_process_memory_fraction((whole - free + 3 * 2**30) / whole, bench.device)
    try:
        subject.restore([request], 2, on_event=told.append)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, bench.device)
        torch.cuda.empty_cache()
    return {"events": told}


def kill_and_resume(bench: Bench) -> dict[str, Any]:
    """A training that is killed after its first checkpoint and taken up again."""
    with tempfile.TemporaryDirectory() as name:
        folder, count = Path(name), 6 if bench.quick else 40
        saving, finished = (
            "logger.save_checkpoint_freq=2",
            "[0-9]*.state",
        )  # one that is being written begins with a dot
        command = train_command(bench, count)
        process = subprocess.Popen([*command, saving], cwd=name, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        end = time.monotonic() + 120
        while time.monotonic() < end and process.poll() is None and not any(folder.rglob(finished)):
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed = sorted(path.name for path in folder.rglob(finished))
        again = [*train_command(bench, count, "--auto_resume"), saving]
        done = subprocess.run(again, cwd=name, capture_output=True, text=True, timeout=300, check=False)
        resumed = [line for line in done.stderr.splitlines() if "resumed from" in line]
        if done.returncode or not resumed:
            raise RuntimeError(f"train.py --auto_resume ended with {done.returncode}: {done.stderr[-300:]}")
    return {"states when it was killed": killed, "resumed": resumed[0], "last line": done.stderr.splitlines()[-1]}


PARTS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "peak": peak, "denoiser": denoiser, "whole step": whole_step, "noise": noise, "training": training,
    "out of memory": out_of_memory, "kill and resume": kill_and_resume, "gpu tests": gpu_tests,
}  # fmt: skip


def run_part(name: str, bench: Bench) -> dict[str, Any]:
    """What a part found, or what went wrong in it."""
    start = time.perf_counter()
    try:
        found = PARTS[name](bench)
    except Exception as error:  # every part is told on its own, whatever becomes of the others
        found = {"failed": f"{type(error).__name__}: {error}"[:1000]}
    return {**found, "seconds of the part": round(time.perf_counter() - start, 2)}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the parts and write what they found; 1 when one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="a small network and small pictures")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--output", type=Path, default=Path("gpu.json"))
    arguments = parser.parse_args(argv)
    bench = Bench(torch.device(arguments.device), arguments.quick, 0.1 if arguments.quick else 2.0)
    cuda = bench.device.type == "cuda"
    name = torch.cuda.get_device_name(bench.device) if cuda else "CPU"
    found: dict[str, Any] = {"device": name, "torch": torch.__version__}
    for part in arguments.parts:
        found[part] = run_part(part, bench)
        reached = [row["TFLOP/s"] for row in found[part].values() if isinstance(row, dict) and "TFLOP/s" in row]
        if reached and "bf16" in found.get("peak", {}):
            found[part]["best share of the bf16 peak"] = max(reached) / found["peak"]["bf16"]
        arguments.output.write_text(json.dumps(found, indent=1))
        sys.stderr.write(f"{part}: {found[part]['seconds of the part']} s\n")
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
    return int(any("failed" in value for value in found.values() if isinstance(value, dict)))


if __name__ == "__main__":
    sys.exit(main())
