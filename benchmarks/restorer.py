"""What restorers do to the same photographs: fidelity, texture, perceptual distance and time, as one table.

    python benchmarks/restorer.py --images set14 large --weights tessera-photo-2x --student tessera-photo-2x-fast

Every photograph is made small and corrupted as in training, at each pair of strengths, then restored by bicubic
upsampling, by each of --weights at every --steps x --temperatures, by each --student at every temperature, and by each
--regression. Prints Markdown, and writes the means and the numbers of each image as JSON. --crop 192 takes the middle
of each image alone, --most 4 the first images of a folder: minutes instead of an hour on one core.
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from codes import Restorer
from codes.data import ImageFolderDataset, ImageFolderOptions
from codes.evaluation import effnet_lite0
from codes.evaluation.effnet_lite0 import EffnetLite0
from codes.evaluation.metrics import fidelity, mean_fidelity
from codes.graph.injectors.regression import RegressionEngine, RegressionOptions
from codes.images.files import find_images, quantise, resize_bicubic, to_rgb
from codes.models.diffusion.checkpoints.metadata import load_into, network_of, read_metadata
from codes.models.diffusion.checkpoints.shipped import weights_file
from codes.models.diffusion.engine import Request
from codes.runtime.devices import Precision, autocast_for
from codes.utils.errors import ConfigError, TesseraError

CORRUPTIONS = ("jpeg", "gaussian_blur")
SCALE = 2
MEGA = 1e6
COLUMNS = (("psnr", "PSNR", 2), ("ssim", "SSIM", 4), ("swd", "SWD", 3), ("grain", "grain", 2))
Restore = Callable[[torch.Tensor, tuple[float, ...]], np.ndarray]


class Photograph(NamedTuple):
    """A truth, float32 (H, W, 3) in [0, 1], and its corrupted small version, (3, H / 2, W / 2) in [-1, 1]."""

    name: str
    truth: np.ndarray
    low_res: torch.Tensor


class Method(NamedTuple):
    """A way to restore: its name in the table, and the call."""

    name: str
    restore: Restore


def photographs(folder: Path, strengths: tuple[float, ...], crop: int | None, most: int | None) -> list[Photograph]:
    """The first photographs of a folder, corrupted; `crop` takes their middle."""
    found = find_images(folder).files[:most]
    given: dict[str, Any] = {"target_size": crop, "tile": "center"} if crop else {}
    options = ImageFolderOptions(
        paths=tuple(map(str, found)), scale=SCALE, rgb_n1_to_1=True, fixed_corruptions=CORRUPTIONS,
        fixed_parameters={"corruption_entropy": strengths}, index=False, **given,
    )  # fmt: skip
    dataset = ImageFolderDataset(options, seed=0, shuffle=False)
    items = [dataset.item(position) for position in range(len(dataset))]
    return [Photograph(str(item["HQ_path"]), to_rgb(item["hq"], True), item["lq"]) for item in items]


def bicubic(low_res: torch.Tensor, _: tuple[float, ...]) -> np.ndarray:
    """Upsampling alone."""
    height, width = (SCALE * side for side in low_res.shape[-2:])
    return resize_bicubic(to_rgb(low_res, True), height, width)


def diffusion(
    named: str, label: str, steps: Sequence[str], temperatures: Sequence[float], precision: Precision, tile: int | None
) -> Iterator[Method]:
    """A network at every setting: deterministic steps, so that temperature is the start's alone."""
    restorer = Restorer.from_pretrained(named, "cpu", precision=precision, tile=tile)

    def at(spacing: str, temperature: float) -> Restore:
        chosen = {"respaced_timestep_spacing": spacing, "sampler": "ddim", "eta": 0.0, "temperature": temperature}

        def restore(low_res: torch.Tensor, strengths: tuple[float, ...]) -> np.ndarray:
            named = dict(zip(CORRUPTIONS, strengths, strict=True))
            changes = {**chosen, "stop_at_snr": None}
            return restorer(to_rgb(low_res, True), named, options=changes)

        return restore

    for spacing in steps:
        for temperature in temperatures:
            yield Method(f"{label}, {spacing}, temperature {temperature:g}", at(spacing, temperature))


def regression(named: str, precision: Precision, tile: int | None) -> Method:
    """A network of recipes/diffusion/train_sr_regression.yml: one pass, no diffusion."""
    file = weights_file(named)
    metadata = read_metadata(file)
    if metadata is None:
        raise ConfigError(f"{file}: does not say what network it holds")
    network = network_of(metadata).eval()
    load_into(network, file)
    options = RegressionOptions.model_validate(
        {"type": "regression", "generator": "g", "model_input_keys": {"low_res": "lq"}, "out": "o", "tile": tile}
    )
    device = torch.device("cpu")
    process = options.build_process(None, "g")
    engine = RegressionEngine(network, process, options, device, autocast_for(device, precision))

    def restore(low_res: torch.Tensor, strengths: tuple[float, ...]) -> np.ndarray:
        cond = {"low_res": low_res[None], "corruption_factor": torch.tensor([strengths])}
        height, width = (SCALE * side for side in low_res.shape[-2:])
        canvas = engine.restore([Request(cond, height, width, 0)], SCALE)[0]
        return to_rgb(canvas.rows(0, canvas.height), True)

    return Method(f"regression ({Path(named).stem})", restore)


def measure(
    method: Method, group: Sequence[Photograph], strengths: tuple[float, ...], perceptual: Any
) -> dict[str, Any]:
    """Means over the photographs, seconds per megapixel of the result, and the numbers of each."""
    method.restore(group[0].low_res[:, :32, :32], strengths)  # the first call is slower
    rows: dict[str, dict[str, float]] = {}
    seconds = pixels = 0.0
    for photograph in group:
        start = time.perf_counter()
        result = method.restore(photograph.low_res, strengths)
        seconds += time.perf_counter() - start
        pixels += result.shape[0] * result.shape[1]
        truth, image = quantise(photograph.truth), quantise(result)
        rows[photograph.name] = fidelity(truth, image)
        if perceptual is not None:
            rows[photograph.name][effnet_lite0.NAME] = perceptual.distance(truth, image)
    means = mean_fidelity(list(rows.values()))
    return {"name": method.name, "strengths": strengths, **means, "s_per_mp": seconds / (pixels / MEGA), "images": rows}


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """One table for each pair of strengths."""
    lines = []
    columns = [*COLUMNS, *([(effnet_lite0.NAME, "EffNet distance", 4)] if effnet_lite0.NAME in rows[0] else [])]
    columns.append(("s_per_mp", "s/MP", 2))
    for strengths in dict.fromkeys(row["strengths"] for row in rows):
        named = ", ".join(f"{name} {value:g}" for name, value in zip(CORRUPTIONS, strengths, strict=True))
        lines += [f"\nStrengths: {named}\n", "| | " + " | ".join(title for _, title, _ in columns) + " |"]
        lines.append("|---" * (len(columns) + 1) + "|")
        for row in (row for row in rows if row["strengths"] == strengths):
            cells = [f"{row[key]:.{digits}f}" if key in row else "-" for key, _, digits in columns]
            lines.append(f"| {row['name']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def methods_of(arguments: argparse.Namespace) -> list[Method]:
    """All that is compared, bicubic first."""
    found = [Method("bicubic", bicubic)]
    settings = arguments.temperatures, arguments.precision, arguments.tile
    for named in arguments.weights:
        found += diffusion(named, Path(named).stem, [f"karras{count}" for count in arguments.steps], *settings)
    for named in arguments.student:
        found += diffusion(named, f"student {Path(named).stem}", ["karras1"], *settings)
    found += [regression(named, arguments.precision, arguments.tile) for named in arguments.regression]
    return found


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare restorers on the same photographs.")
    parser.add_argument("--images", nargs="+", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--weights", nargs="*", default=[], help="names or files of diffusion networks")
    parser.add_argument("--student", nargs="*", default=[], help="names or files of distilled networks")
    parser.add_argument("--regression", nargs="*", default=[], help="files of regression networks")
    parser.add_argument("--strengths", nargs="+", default=["0.2,0.5", "0.6,0.6"], help="JPEG,blur in [0, 1]")
    parser.add_argument("--steps", nargs="+", type=int, default=[1, 4, 8, 50])
    parser.add_argument("--temperatures", nargs="+", type=float, default=[0.0, 0.15, 0.3, 1.0])
    parser.add_argument("--crop", type=int, help="side of the middle that is taken of each image; default: all of it")
    parser.add_argument("--most", type=int, help="images of each folder, the first")
    parser.add_argument("--tile", type=int, help="default: the size of training")
    parser.add_argument("--precision", default="bf16", choices=["fp32", "bf16"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("restorer.json"))
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the tables, write the numbers; returns the exit code."""
    arguments = parsed(argv)
    torch.set_num_threads(arguments.threads)
    perceptual = EffnetLite0() if effnet_lite0.is_installed() else None
    rows = []
    try:
        methods = methods_of(arguments)
        for text in arguments.strengths:
            strengths = tuple(float(value) for value in text.split(","))
            group = [
                photograph
                for folder in arguments.images
                for photograph in photographs(folder, strengths, arguments.crop, arguments.most)
            ]
            for method in methods:
                rows.append(measure(method, group, strengths, perceptual))
                sys.stderr.write(f"{method.name}, {text}: {rows[-1]['psnr']:.2f} dB\n")
    except TesseraError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    machine = {"processor": platform.processor() or platform.machine(), "threads": arguments.threads}
    options = {key: str(value) for key, value in vars(arguments).items()}
    arguments.output.write_text(json.dumps({"machine": machine, "options": options, "rows": rows}, indent=1))
    sys.stdout.write(markdown(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
