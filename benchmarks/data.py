"""How fast training items are made, where the time goes, and how that compares with what a training step consumes.

    python benchmarks/data.py [--photographs 3] [--items 192] [--repeats 5] [--workers 1 2] [--work FOLDER] [--step]

Everything is synthetic: photographs of 24 megapixels (textured noise with the spectrum of photographs, JPEG quality 92)
and 256 px tiles cut from them, made in a temporary folder. An item is a 256 px tile, halved by area, with JPEG and
blur. Rates of one core count processor time, so that other work on the machine changes them little; rates of the
loader with workers count wall-clock time. Variants take turns; medians stand beside the slowest and fastest run.
"""

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.networks import processor
from codes.config.yaml_source import load_source
from codes.data import CORRUPTIONS, ImageFolderDataset, ImageFolderOptions, TrainLoader
from codes.data.eight_bit import EightBit
from codes.data.tiles import TileSettings, cut_folders
from codes.images.files import read_samples, resize_area, to_float, to_tensor, write_image
from codes.recipe.networks import build_network
from codes.recipe.recipe import read_recipe
from codes.utils.rng import numpy_generator

HEIGHT, WIDTH = 4000, 6000
RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "diffusion" / "train_sr.yml"
TILES_PER_IMAGE = (1, 4, 16, 32, 64)
BATCH = 32


def photograph(seed: int) -> np.ndarray:
    """uint8 (HEIGHT, WIDTH, 3): octaves of noise, each finer one weaker, which compresses about as photographs do."""
    rng = np.random.default_rng(seed)
    values = np.full((HEIGHT, WIDTH, 3), 128, np.float32)
    for octave, strength in ((8, 45.0), (32, 25.0), (128, 14.0), (512, 8.0), (2048, 4.0)):
        coarse = rng.standard_normal((octave * 2 // 3, octave, 3)).astype(np.float32)
        values += strength * cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    values += 2.0 * rng.standard_normal((HEIGHT, WIDTH, 1), np.float32)
    return np.clip(values, 0, 255).astype(np.uint8)


def prepare(folder: Path, photographs: int) -> tuple[Path, Path]:
    """The folders of originals and of tiles cut from them; what is there is kept."""
    originals, tiles = folder / "originals", folder / "tiles"
    for number in range(photographs):
        path = originals / f"{number}.jpg"
        if not path.exists():
            write_image(path, photograph(number), quality=92)
    cut_folders([originals / "0.jpg"], tiles, TileSettings(256, 256))
    return originals, tiles


def dataset(folder: Path, tiles_per_image: int | None, cache_megabytes: int, batch: int = 1) -> ImageFolderDataset:
    options = ImageFolderOptions(
        paths=str(folder), target_size=256, scale=2, tile="random", rgb_n1_to_1=True, batch_size=batch, index=False,
        fixed_corruptions=("jpeg", "gaussian_blur"), tiles_per_image=tiles_per_image, cache_megabytes=cache_megabytes,
    )  # fmt: skip
    return ImageFolderDataset(options, seed=0, shuffle=True)


def rates(variants: dict[str, ImageFolderDataset], items: int, repeats: int) -> dict[str, list[float]]:
    """Items per second of processor time, `repeats` values each, in turns."""
    found: dict[str, list[float]] = {name: [] for name in variants}
    for data in variants.values():
        if data.image_options.cache_megabytes:
            for position in range(len(data)):
                data.item(position)
    for turn in range(repeats + 1):
        for name, data in variants.items():
            count = items if data.image_options.tiles_per_image != 1 or "tiles" in name else max(items // 24, 2)
            start = time.process_time()
            for position in range(turn * count, (turn + 1) * count):
                data.item(position)
            if turn:
                found[name].append(count / (time.process_time() - start))
    return found


def stages(original: Path, tile: Path) -> dict[str, Callable[[], object]]:
    """The parts of an item, and other ways to decode, each as a call."""
    data = np.frombuffer(original.read_bytes(), np.uint8)
    samples = read_samples(tile)
    hq = to_float(samples)
    small = resize_area(hq, 128, 128)
    jpeg, blur = (CORRUPTIONS.get(name)() for name in ("jpeg", "gaussian_blur"))
    rng = numpy_generator(0)
    tiles, blurred = (
        to_tensor(image, True).expand(BATCH, -1, -1, -1).contiguous() for image in (hq, blur(small, 0.3, rng))
    )
    return {
        "24 MP JPEG: ours": lambda: read_samples(original),
        "24 MP JPEG: Pillow": lambda: np.array(Image.open(original).convert("RGB")),
        "24 MP JPEG: OpenCV, BGR": lambda: cv2.imdecode(data, cv2.IMREAD_COLOR),
        "24 MP JPEG: ours at 1/2 (tile: none)": lambda: read_samples(original, shortest_side=HEIGHT // 2),
        "24 MP JPEG: ours at 1/8 (tile: none)": lambda: read_samples(original, shortest_side=HEIGHT // 8),
        "tile, PNG: ours": lambda: read_samples(tile),
        "tile to float": lambda: to_float(samples),
        "halved by area": lambda: resize_area(hq, 128, 128),
        "JPEG, 128 px": lambda: jpeg(small, 0.3, rng),
        "blur, 128 px": lambda: blur(small, 0.3, rng),
        f"{BATCH} tiles in 8 bits": lambda: EightBit.of(tiles, True),
        f"{BATCH} low resolutions, which 8 bits do not hold": lambda: EightBit.of(blurred, True),
        "two tensors": lambda: (to_tensor(hq, True), to_tensor(small, True)),
        "five generators": lambda: [numpy_generator(0, "data", 0, 0, number) for number in range(5)],
    }


def milliseconds(call: Callable[[], object], repeats: int) -> list[float]:
    """Processor time of one call, `repeats` values; short calls are repeated within each."""
    call()
    start = time.process_time()
    call()
    inner = max(int(0.02 / max(time.process_time() - start, 1e-6)), 1)
    values = []
    for _ in range(repeats):
        start = time.process_time()
        for _ in range(inner):
            call()
        values.append((time.process_time() - start) / inner * 1000)
    return values


def loader_rate(data: ImageFolderDataset, workers: int, batches: int) -> float:
    """Items per wall-clock second of the loader, after its first batch."""
    loader = iter(TrainLoader(data, BATCH, workers))
    next(loader)
    start = time.perf_counter()
    for _ in itertools.islice(loader, batches):
        pass
    return batches * BATCH / (time.perf_counter() - start)


def step_rate(device: torch.device, batch: int, repeats: int) -> list[float]:
    """Items per second that forward and backward of the reference recipe's network consume."""
    recipe = read_recipe(load_source(RECIPE))
    (name,) = recipe.networks
    network = build_network(name, recipe, 0, device)
    generator = torch.Generator().manual_seed(0)
    x, low_res = (torch.randn(batch, 3, side, side, generator=generator).to(device) for side in (256, 128))
    timesteps = torch.arange(batch, device=device)
    factors = torch.zeros(batch, 2, device=device)
    values = []
    for turn in range(repeats + 1):
        start = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16):
            output = network(x, timesteps, low_res=low_res, corruption_factor=factors)
        value = output.float().square().mean()
        value.backward()
        value.item()  # waits for the device
        if turn:
            values.append(batch / (time.perf_counter() - start))
    return values


def row(name: str, values: list[float], digits: int = 0) -> str:
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"| {name} | {middle:.{digits}f} | {low:.{digits}f} | {high:.{digits}f} |"


def heading(title: str) -> str:
    return f"\n| {title} | median | lowest | highest |\n|---|---|---|---|"


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def run(folder: Path, chosen: argparse.Namespace) -> None:
    originals, tiles = prepare(folder, chosen.photographs)
    variants = {
        "cut tiles, decoded for each item": dataset(tiles, 1, 0),
        "cut tiles, all in the cache": dataset(tiles, 1, 1024),
        **{f"24 MP originals, tiles_per_image {n}": dataset(originals, n, 0) for n in TILES_PER_IMAGE},
        f"24 MP originals, as chosen, in batches of {BATCH}": dataset(originals, None, 0, BATCH),
    }
    say(heading("items per second of one core"))
    for name, values in rates(variants, chosen.items, chosen.repeats).items():
        say(row(name, values))
    say(heading("where the time goes, milliseconds"))
    for name, call in stages(originals / "0.jpg", min(tiles.glob("*.png"))).items():
        say(row(name, milliseconds(call, chosen.repeats), 3))
    say(heading(f"loader, batches of {BATCH}, items per second"))
    for workers, (source, folder_of, many) in itertools.product(
        chosen.workers, (("cut tiles", tiles, 1), ("24 MP originals, as chosen", originals, None))
    ):
        data = dataset(folder_of, many, 0, BATCH)
        values = [loader_rate(data, workers, chosen.items // BATCH) for _ in range(3)]
        say(row(f"{source}, {workers} workers", values))
    if chosen.step:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        batch = BATCH if device.type == "cuda" else 2
        say(heading(f"consumed by recipes/diffusion/{RECIPE.name} on {device} (batch {batch}), items per second"))
        say(row("forward and backward", step_rate(device, batch, 3), 2))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Time the making of training items.")
    parser.add_argument("--photographs", type=int, default=3, help="24 MP originals to make (default: 3)")
    parser.add_argument("--items", type=int, default=192, help="items of one timed run (default: 192)")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of each (default: 5)")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="workers of the loader (default: 1 2)")
    parser.add_argument("--work", type=Path, help="folder for the synthetic files, kept (default: a temporary one)")
    parser.add_argument("--step", action="store_true", help="also time the reference recipe's network on this machine")
    chosen = parser.parse_args(arguments)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    say(f"{processor()}; Python {sys.version.split()[0]}, OpenCV {cv2.__version__}, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as temporary:
        run(chosen.work or Path(temporary), chosen)
    return 0


if __name__ == "__main__":
    sys.exit(main())
