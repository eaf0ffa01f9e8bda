"""What restorers do to the same photographs: fidelity, texture, perceptual distance and time, as one table.

    python benchmarks/restorer.py --images set14 large --weights tessera-photo-2x --student tessera-photo-2x-fast \
        --regression experiments/regression/models/1000_generator_ema.safetensors --cache restorer_rows

Every photograph is made small and corrupted as in training, at each pair of strengths, then restored by bicubic
upsampling, by each of --weights with every --spacings x --temperatures, and with each of --once at temperature 1
(one step, which is the mean, and the field's reference of 50 ancestral steps), by each --student at every temperature,
and by each --regression. Spacings are those of recipes, with /SAMPLER for another rule than ddim, @SNR for stop_at_snr
and +BLEND for a share of the mean: `trailing8`, `50/ancestral`, `karras8@20`, `karras8+0.5`.

Prints Markdown, and writes the means and the numbers of each image as JSON. --crop 192 takes the middle of each image
alone, --most 4 the first images of a folder: minutes instead of an hour on one core.

--cache keeps a JSON file for each row, written anew after every image, so that the same command goes on where an
interrupted one stopped. A row is known by the content of its weights, the settings and the photographs: with other
weights of the same name, or after a change of --crop, it is measured anew. The code is not looked at: remove the folder
when it changes. CPU seconds are those of this process, which other work on the machine hardly lengthens.
"""

import argparse
import json
import platform
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from codes import Restorer
from codes.config.fingerprint import fingerprint
from codes.data import ImageFolderDataset, ImageFolderOptions
from codes.evaluation import effnet_lite0
from codes.evaluation.effnet_lite0 import EffnetLite0
from codes.evaluation.metrics import fidelity, mean_fidelity
from codes.graph.graph import StepContext
from codes.graph.injectors.regression import RegressionInjector, RegressionOptions
from codes.images.files import find_images, quantise, resize_bicubic, to_rgb
from codes.models.diffusion.checkpoints.metadata import load_into, network_of, read_metadata
from codes.models.diffusion.checkpoints.shipped import weights_file
from codes.models.diffusion.request import Request
from codes.runtime.devices import Precision, autocast_for
from codes.utils.errors import ConfigError, TesseraError
from codes.utils.files import digest_of, write_json, write_text

CORRUPTIONS = ("jpeg", "gaussian_blur")
SCALE = 2
MEGA = 1e6
COLUMNS = (("psnr", "PSNR", 2), ("ssim", "SSIM", 4), ("swd", "SWD", 3), ("grain", "grain", 2))
TIMES = (("wall_s_per_mp", "s/MP", 2), ("cpu_s_per_mp", "CPU s/MP", 2))
SPACING = re.compile(
    r"(?P<spacing>[a-z]*[\d,]+)(/(?P<sampler>[a-z_]+))?(@(?P<snr>\d+(\.\d+)?))?(\+(?P<blend>\d(\.\d+)?))?"
)
Restore = Callable[[torch.Tensor, tuple[float, ...]], np.ndarray]


class Photograph(NamedTuple):
    """A truth, float32 (H, W, 3) in [0, 1], and its corrupted small version, (3, H / 2, W / 2) in [-1, 1]."""

    name: str
    truth: np.ndarray
    low_res: torch.Tensor


class Method(NamedTuple):
    """A way to restore: its name in the table, what its results follow from, and what builds the call."""

    name: str
    identity: tuple[object, ...]
    build: Callable[[], Restore]


class Arithmetic(NamedTuple):
    """How a network is run over an image."""

    precision: Precision
    tile: int | None


def photographs(folder: Path, strengths: tuple[float, ...], crop: int | None, most: int | None) -> list[Photograph]:
    """The first photographs of a folder, corrupted; `crop` takes their middle."""
    images = find_images(folder).files[:most]
    given: dict[str, Any] = {"target_size": crop, "tile": "center"} if crop else {}
    options = ImageFolderOptions(
        paths=tuple(map(str, images)), scale=SCALE, rgb_n1_to_1=True, fixed_corruptions=CORRUPTIONS,
        fixed_parameters={"corruption_entropy": strengths}, index=False, **given,
    )  # fmt: skip
    dataset = ImageFolderDataset(options, seed=0, shuffle=False)
    items = [dataset.item(position) for position in range(len(dataset))]
    return [Photograph(str(item["HQ_path"]), to_rgb(item["hq"], True), item["lq"]) for item in items]


def bicubic(low_res: torch.Tensor, _: tuple[float, ...]) -> np.ndarray:
    """Upsampling alone."""
    height, width = (SCALE * side for side in low_res.shape[-2:])
    return resize_bicubic(to_rgb(low_res, True), height, width)


def sampling(text: str, temperature: float) -> dict[str, Any]:
    """Options of the sampling injector for SPACING[/SAMPLER][@SNR][+BLEND]. Raises ConfigError where it is not one."""
    parts = SPACING.fullmatch(text)
    if parts is None:
        raise ConfigError(
            f"{text!r}: expected SPACING[/SAMPLER][@SNR][+BLEND], as karras8, 50/ancestral or karras8+0.5"
        )
    spacing, sampler = parts["spacing"], parts["sampler"] or "ddim"
    chosen = {"respaced_timestep_spacing": spacing, "sampler": sampler, "temperature": temperature}
    # With eta 0 ddim draws no noise on its way, so that temperature is the start's alone.
    steady = {"eta": 0.0} if sampler == "ddim" else {}
    told = {"stop_at_snr": float(parts["snr"]) if parts["snr"] else None, "blend": float(parts["blend"] or 0.0)}
    return {**chosen, **steady, **told}


@cache
def restorer(named: str, arithmetic: Arithmetic) -> Restorer:
    """A network, loaded once for all its rows."""
    return Restorer.from_pretrained(named, "cpu", precision=arithmetic.precision, tile=arithmetic.tile)


def diffusion(named: str, label: str, text: str, temperature: float, arithmetic: Arithmetic) -> Method:
    """A network at one setting."""
    changes = sampling(text, temperature)

    def restore(low_res: torch.Tensor, strengths: tuple[float, ...]) -> np.ndarray:
        told = dict(zip(CORRUPTIONS, strengths, strict=True))
        return restorer(named, arithmetic)(to_rgb(low_res, True), told, options=changes)

    name = f"{label}, {text}, temperature {temperature:g}"
    return Method(name, (digest_of(weights_file(named)), changes, *arithmetic), lambda: restore)


def regression(named: str, arithmetic: Arithmetic) -> Method:
    """A network of recipes/diffusion/train_sr_regression.yml: one pass, no diffusion."""
    file = weights_file(named)
    identity = (digest_of(file), "regression", *arithmetic)
    return Method(f"regression ({file.stem})", identity, partial(one_pass, file, arithmetic))


def one_pass(file: Path, arithmetic: Arithmetic) -> Restore:
    """The call of a regression's weights."""
    metadata = read_metadata(file)
    if metadata is None:
        raise ConfigError(f"{file}: does not say what network it holds")
    network = network_of(metadata).eval()
    load_into(network, file)
    options = RegressionOptions.model_validate(
        {"type": "regression", "generator": "g", "model_input_keys": {"low_res": "lq"}, "out": "o",
         "tile": arithmetic.tile}
    )  # fmt: skip
    device = torch.device("cpu")
    context = StepContext({"g": network}, device, 0, (0,), autocast_for(device, arithmetic.precision))
    engine = RegressionInjector(options).engine(context)

    def restore(low_res: torch.Tensor, strengths: tuple[float, ...]) -> np.ndarray:
        cond = {"low_res": low_res[None], "corruption_factor": torch.tensor([strengths])}
        height, width = (SCALE * side for side in low_res.shape[-2:])
        canvas = engine.restore([Request(cond, height, width, 0)], SCALE)[0]
        return to_rgb(canvas.rows(0, canvas.height), True)

    return restore


class Row:
    """One row of the table: the numbers of a method on each photograph, kept in a file where there is one."""

    def __init__(self, method: Method, strengths: tuple[float, ...], group: Sequence[Photograph], folder: Path | None):
        self.method, self.strengths, self.group = method, strengths, group
        self.file = folder and folder / f"{self._slug}.json"
        self.images: dict[str, dict[str, float]] = {}
        if self.file and self.file.exists():
            self.images = json.loads(self.file.read_text(encoding="utf-8"))["images"]

    @property
    def _slug(self) -> str:
        """A file name: what is measured in words, and a fingerprint of all that the numbers follow from."""
        told = "_".join(f"{value:g}" for value in self.strengths)
        which = [(one.name, one.truth.shape, float(one.truth.mean()), float(one.low_res.mean())) for one in self.group]
        facts = (self.method.identity, self.strengths, which, torch.get_num_threads(), effnet_lite0.is_installed())
        words = re.sub(r"[^\w.@]+", "_", self.method.name)
        return f"{words}_{told}_{fingerprint(*facts)[:12]}"

    def measure(self, perceptual: EffnetLite0 | None) -> None:
        """Measure what is not measured yet, keeping each image's numbers as soon as they are there."""
        left = [one for one in self.group if one.name not in self.images]
        if not left:
            return
        restore = self.method.build()
        restore(left[0].low_res[:, :32, :32], self.strengths)  # the first call is slower
        for photograph in left:
            self.images[photograph.name] = numbers(photograph, restore, self.strengths, perceptual)
            if self.file:
                write_json(self.file, {"name": self.method.name, "strengths": self.strengths, "images": self.images})

    def result(self) -> dict[str, Any]:
        """Means over the photographs, seconds per megapixel of the results, and the numbers of each."""
        rows = [self.images[one.name] for one in self.group]
        total = {key: sum(row[key] for row in rows) for key in ("wall", "cpu", "pixels")}
        times = {f"{key}_s_per_mp": total[key] / (total["pixels"] / MEGA) for key in ("wall", "cpu")}
        means = mean_fidelity([{key: row[key] for key in row if key not in total} for row in rows])
        return {"name": self.method.name, "strengths": self.strengths, **means, **times, "images": self.images}


def numbers(
    photograph: Photograph, restore: Restore, strengths: tuple[float, ...], perceptual: EffnetLite0 | None
) -> dict[str, float]:
    """All that is measured of one result."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = restore(photograph.low_res, strengths)
    took = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    truth, image = quantise(photograph.truth), quantise(result)
    distance = {effnet_lite0.NAME: perceptual.distance(truth, image)} if perceptual else {}
    return {**fidelity(truth, image), **distance, **took, "pixels": result.shape[0] * result.shape[1]}


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """One table for each pair of strengths."""
    lines = []
    columns = [*COLUMNS, *([(effnet_lite0.NAME, "EffNet distance", 4)] if effnet_lite0.NAME in rows[0] else []), *TIMES]
    for strengths in dict.fromkeys(row["strengths"] for row in rows):
        named = ", ".join(f"{name} {value:g}" for name, value in zip(CORRUPTIONS, strengths, strict=True))
        lines += [f"\nStrengths: {named}\n", "| | " + " | ".join(title for _, title, _ in columns) + " |"]
        lines.append("|---" * (len(columns) + 1) + "|")
        for row in (row for row in rows if row["strengths"] == strengths):
            cells = [f"{row[key]:.{digits}f}" if key in row else "-" for key, _, digits in columns]
            lines.append(f"| {row['name']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def methods_of(arguments: argparse.Namespace) -> Iterator[Method]:
    """All that is compared, bicubic first."""
    yield Method("bicubic", ("bicubic",), lambda: bicubic)
    arithmetic = Arithmetic(arguments.precision, arguments.tile)
    for named in arguments.weights:
        label = Path(named).stem
        for text in arguments.spacings:
            for temperature in arguments.temperatures:
                yield diffusion(named, label, text, temperature, arithmetic)
        for text in arguments.once:
            yield diffusion(named, label, text, 1.0, arithmetic)
    for named in arguments.student:
        for temperature in arguments.temperatures:
            yield diffusion(named, f"student {Path(named).stem}", "karras1", temperature, arithmetic)
    for named in arguments.regression:
        yield regression(named, arithmetic)


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare restorers on the same photographs.")
    parser.add_argument("--images", nargs="+", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--weights", nargs="*", default=[], help="names or files of diffusion networks")
    parser.add_argument("--student", nargs="*", default=[], help="names or files of distilled networks")
    parser.add_argument("--regression", nargs="*", default=[], help="files of regression networks")
    parser.add_argument("--strengths", nargs="+", default=["0.2,0.5", "0.6,0.6"], help="JPEG,blur in [0, 1]")
    parser.add_argument(
        "--spacings", nargs="*", default=["karras4", "karras8", "karras50"],
        metavar="SPACING[/SAMPLER][@SNR][+BLEND]", help="steps, at every temperature",
    )  # fmt: skip
    parser.add_argument(
        "--once", nargs="*", default=["trailing1", "50/ancestral"], help="the same, at temperature 1 alone"
    )
    parser.add_argument("--temperatures", nargs="+", type=float, default=[0.0, 0.15, 0.3, 1.0])
    parser.add_argument("--crop", type=int, help="side of the middle that is taken of each image; default: all of it")
    parser.add_argument("--most", type=int, help="images of each folder, the first")
    parser.add_argument("--tile", type=int, help="default: the size of training")
    parser.add_argument("--precision", default="bf16", choices=["fp32", "bf16"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cache", type=Path, metavar="FOLDER", help="keep each row here, and go on with what is here")
    parser.add_argument("--output", type=Path, default=Path("restorer.json"))
    return parser.parse_args(argv)


def measured(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows, for each pair of strengths those of every method."""
    perceptual = EffnetLite0() if effnet_lite0.is_installed() else None
    rows, methods = [], list(methods_of(arguments))
    for text in arguments.strengths:
        strengths = tuple(float(value) for value in text.split(","))
        group = [
            photograph
            for folder in arguments.images
            for photograph in photographs(folder, strengths, arguments.crop, arguments.most)
        ]
        for method in methods:
            row = Row(method, strengths, group, arguments.cache)
            row.measure(perceptual)
            rows.append(row.result())
            sys.stderr.write(f"{method.name}, {text}: {rows[-1]['psnr']:.2f} dB\n")
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the tables, write the numbers; returns the exit code."""
    arguments = parsed(argv)
    torch.set_num_threads(arguments.threads)
    try:
        rows = measured(arguments)
    except TesseraError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    machine = {"processor": platform.processor() or platform.machine(), "threads": arguments.threads}
    options = {key: str(value) for key, value in vars(arguments).items()}
    write_json(arguments.output, {"machine": machine, "options": options, "rows": rows})
    table = markdown(rows)
    write_text(arguments.output.with_suffix(".md"), table)
    sys.stdout.write(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
