"""How long the networks take, forward and forward+backward, against a plain float32 port of the same network.

    python benchmarks/networks.py [--family unet_diffusion] [--size 256] [--batch 4] [--repeats 9] [--device cpu]

The plain variant is the same network written the usual way: float32, contiguous tensors, attention by einsum, scale
and shift as two operations. Ours runs in bfloat16 autocast and channels_last. Variants take turns within one run, so
that a busy machine slows all of them alike; medians are reported with the fastest and slowest run. diffusers'
UNet2DModel of about the same size joins as an outside peer where it is installed.
"""

import argparse
import contextlib
import math
import platform
import statistics
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from codes.models.diffusion.checkpoints.metadata import build
from codes.models.diffusion.networks.attention import AttentionBlock
from codes.models.diffusion.networks.blocks import ResBlock
from codes.utils.errors import ConfigError

FAMILIES = ("unet_diffusion", "patch_diffusion_unet")
ARGUMENTS = {
    "model_channels": 128,
    "out_channels": 6,
    "num_res_blocks": 2,
    "attention_resolutions": [4, 8],
    "channel_mult": [1, 1, 2, 2],
    "patch_size": 4,
    "num_heads": 4,
    "use_scale_shift_norm": True,
    "use_new_attention_order": True,
}
WARM_UP = 2


class Variant(NamedTuple):
    """One way to compute: a name, a forward call that returns the output, and whether bfloat16 is used."""

    name: str
    network: nn.Module
    call: Callable[[], Tensor]
    autocast: bool


class Timing(NamedTuple):
    """Seconds over the repeats."""

    median: float
    fastest: float
    slowest: float


def plain_attention(self: AttentionBlock, x: Tensor) -> Tensor:
    """Attention as the field usually writes it: einsum over (batch*heads, channels, positions)."""
    b, channels, height, width = x.shape
    flat = x.reshape(b, channels, height * width)
    size = channels // self.num_heads
    scale = 1 / math.sqrt(math.sqrt(size))
    q, k, v = (part.reshape(b * self.num_heads, size, -1) for part in self.qkv(self.norm(flat)).chunk(3, dim=1))
    weight = torch.softmax(torch.einsum("bct,bcs->bts", q * scale, k * scale).float(), dim=-1)
    h = torch.einsum("bts,bcs->bct", weight, v).reshape(b, channels, -1)
    return (flat + self.proj_out(h)).reshape(x.shape)


def plain_modulation(self: ResBlock, h: Tensor, time_embedding: Tensor) -> Tensor:
    """Scale and shift as two operations."""
    scale, shift = time_embedding.chunk(2, dim=1)
    return self._second_norm(h) * (1 + scale) + shift


def make_plain(network: nn.Module) -> nn.Module:
    """Replace our formulations in a network by the usual ones; its parameters stay."""
    for module in network.modules():
        if isinstance(module, AttentionBlock):
            module.forward = types.MethodType(plain_attention, module)  # type: ignore[method-assign]
        if isinstance(module, ResBlock):
            module._modulate = types.MethodType(plain_modulation, module)  # type: ignore[method-assign]
    first = network.get_submodule("input_blocks.0")
    first.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(), *inputs[1:]))
    return network


def variants(family: str, x: Tensor, timesteps: Tensor) -> list[Variant]:
    """The plain and our way of computing the same network."""
    options = {"image_size": x.shape[-1], **ARGUMENTS}
    plain = make_plain(build(family, options)).to(x.device)
    ours = build(family, options).to(x.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    ours.load_state_dict(plain.state_dict())
    images = x.contiguous(memory_format=torch.channels_last)
    return [
        Variant(f"{family}, plain fp32", plain, lambda: plain(x, timesteps), False),
        Variant(f"{family}, fp32 channels_last", ours, lambda: ours(images, timesteps), False),
        Variant(f"{family}, bf16 channels_last", ours, lambda: ours(images, timesteps), True),
    ]


def diffusers_variant(x: Tensor, timesteps: Tensor) -> list[Variant]:
    """diffusers' network on the patches, with the same widths and attention levels; empty where it is missing."""
    try:
        from diffusers import UNet2DModel
    except ImportError:
        return []
    patches = torch.nn.functional.pixel_unshuffle(x, 4).contiguous(memory_format=torch.channels_last)
    arguments: dict[str, Any] = {
        "in_channels": 48,
        "out_channels": 96,
        "block_out_channels": (128, 128, 256, 256),
        "layers_per_block": 2,
        "attention_head_dim": 64,
        "down_block_types": ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        "resnet_time_scale_shift": "scale_shift",
    }
    peer = UNet2DModel(**arguments).to(x.device).to(memory_format=torch.channels_last)
    return [Variant("diffusers UNet2DModel, bf16 channels_last", peer, lambda: peer(patches, timesteps).sample, True)]


def forward(variant: Variant, device: str) -> None:
    with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=variant.autocast):
        variant.call()


def forward_backward(variant: Variant, device: str) -> None:
    with torch.autocast(device, torch.bfloat16, enabled=variant.autocast):
        output = variant.call()
    output.float().square().mean().backward()
    variant.network.zero_grad()


def measure(
    chosen: list[Variant], step: Callable[[Variant, str], None], device: str, repeats: int
) -> dict[str, Timing]:
    """Time every variant `repeats` times, in turns."""
    seconds: dict[str, list[float]] = {variant.name: [] for variant in chosen}
    for turn in range(WARM_UP + repeats):
        for variant in chosen:
            with synchronised(device):
                start = time.perf_counter()
                step(variant, device)
            if turn >= WARM_UP:
                seconds[variant.name].append(time.perf_counter() - start)
    return {name: Timing(statistics.median(runs), min(runs), max(runs)) for name, runs in seconds.items()}


@contextlib.contextmanager
def synchronised(device: str) -> Iterator[None]:
    """Wait for the device before and after."""
    if device == "cuda":
        torch.cuda.synchronize()
    yield
    if device == "cuda":
        torch.cuda.synchronize()


def table(kind: str, timings: dict[str, Timing], chosen: list[Variant]) -> str:
    """A Markdown table; the ratio is against the first row, of medians and of the fastest runs."""
    base = next(iter(timings.values()))
    lines = [
        f"| {kind} | parameters | median s | fastest s | slowest s | times faster (median) | (fastest) |",
        "|---|---|---|---|---|---|---|",
    ]
    for variant, timing in zip(chosen, timings.values(), strict=True):
        count = sum(parameter.numel() for parameter in variant.network.parameters()) / 1e6
        ratios = f"{base.median / timing.median:.2f} | {base.fastest / timing.fastest:.2f}"
        seconds = " | ".join(f"{value:.3f}" for value in timing)
        lines.append(f"| {variant.name} | {count:.1f} M | {seconds} | {ratios} |")
    return "\n".join(lines)


def processor() -> str:
    """The processor's name, as the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Time the networks against a plain float32 port and diffusers.")
    parser.add_argument("--family", nargs="+", choices=FAMILIES, default=FAMILIES, help="networks to time")
    parser.add_argument("--size", type=int, default=256, help="height and width in pixels (default: 256)")
    parser.add_argument("--batch", type=int, default=4, help="images per batch (default: 4)")
    parser.add_argument("--repeats", type=int, default=9, help="timed runs of each (default: 9)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to run (default: cpu)")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(chosen.batch, 3, chosen.size, chosen.size, generator=generator).to(chosen.device)
    timesteps = torch.arange(chosen.batch, device=chosen.device) * 200
    machine = torch.cuda.get_device_name() if chosen.device == "cuda" else f"{processor()}, {chosen.threads} threads"
    sys.stdout.write(f"{machine}; torch {torch.__version__}; {chosen.batch} x 3 x {chosen.size} x {chosen.size}\n")
    for family in chosen.family:
        try:
            rivals = [*variants(family, x, timesteps), *diffusers_variant(x, timesteps)]
        except ConfigError as error:
            sys.stderr.write(f"error: {error}\n")
            return error.exit_code
        for kind, step in (("forward", forward), ("forward+backward", forward_backward)):
            timings = measure(rivals, step, chosen.device, chosen.repeats)
            sys.stdout.write(f"\n{table(kind, timings, rivals)}\n")
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
