"""What the size and the overlap of tiles cost and what they do to the picture, with weights that come with the project.

    python benchmarks/tiles.py --images FOLDER --tiles 128/32 192/24 256/32 --steps 1 8

Every photograph is made small and corrupted, then restored with each tile/overlap and without tiles. Prints a table
of means: pixels computed a pixel of the result, seconds a megapixel and step, PSNR against the truth and against the
result without tiles, and the seam score (1 is seamless) at the borders of the tiles, with that of the result without
tiles at the same places beside it. Without --images the held-out sample is taken.
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from codes import Restorer
from codes.data import ImageFolderDataset, ImageFolderOptions
from codes.data.samples import held_out_photograph
from codes.evaluation.metrics import psnr, seam_score
from codes.images.files import find_images, quantise, to_rgb
from codes.inference.restorer import NETWORK
from codes.models.diffusion.engine import Engine

CORRUPTIONS = ("jpeg", "gaussian_blur")
SCALE = 2
MEGA = 1e6


class Photograph(NamedTuple):
    """A truth, float32 (H, W, 3) in [0, 1], and its corrupted small version (3, H / 2, W / 2) in [-1, 1]."""

    truth: np.ndarray
    low_res: torch.Tensor


class Setting(NamedTuple):
    """A side and an overlap; None, None is the default, 0 without tiles."""

    tile: int | None
    overlap: int | None

    @classmethod
    def of(cls, text: str) -> "Setting":
        if text == "default":
            return cls(None, None)
        tile, _, overlap = text.partition("/")
        return cls(int(tile), int(overlap) if overlap else None)

    @property
    def name(self) -> str:
        if self.tile is None:
            return "default"
        return f"{self.tile} px, {self.overlap} shared" if self.tile else "no tiles"


def photographs(paths: Sequence[str], strengths: Sequence[float], crop: int | None) -> list[Photograph]:
    """The photographs, corrupted; `crop` takes their middle."""
    given: dict[str, Any] = {"target_size": crop, "tile": "center"} if crop else {}
    options = ImageFolderOptions(
        paths=tuple(paths), scale=SCALE, rgb_n1_to_1=True, fixed_corruptions=CORRUPTIONS,
        fixed_parameters={"corruption_entropy": tuple(strengths)}, index=False, **given,
    )  # fmt: skip
    dataset = ImageFolderDataset(options, seed=0, shuffle=False)
    items = [dataset.item(position) for position in range(len(dataset))]
    return [Photograph(to_rgb(item["hq"], True), item["lq"]) for item in items]


def measured(
    restorer: Restorer,
    setting: Setting,
    steps: int,
    strengths: Sequence[float],
    group: Sequence[Photograph],
    whole: list[np.ndarray],
) -> dict[str, Any]:
    """Means over the photographs; `whole` holds their results without tiles, and is filled by that setting."""
    told = dict(zip(CORRUPTIONS, strengths, strict=True))
    rows = []
    for number, photograph in enumerate(group):
        options = {"tile": setting.tile, "tile_overlap": setting.overlap, "respaced_timestep_spacing": f"karras{steps}"}
        engine = restorer.run.engine(NETWORK, restorer.options.model_copy(update=options))
        start = time.perf_counter()
        result = restorer(to_rgb(photograph.low_res, True), told, options=options)
        seconds = time.perf_counter() - start
        if setting.tile == 0:
            whole.append(result)
        rows.append(
            {
                "s_per_mp_and_step": seconds / steps / (result.shape[0] * result.shape[1] / MEGA),
                **compared(engine, result, photograph.truth, whole[number]),
            }
        )
    return {"name": setting.name, "steps": steps} | {
        key: float(np.nanmean([row[key] for row in rows])) if any(row[key] == row[key] for row in rows) else None
        for key in rows[0]
    }


def compared(engine: Engine, result: np.ndarray, truth: np.ndarray, whole: np.ndarray) -> dict[str, float]:
    """What the tiles of a result cost and show."""
    plan = engine.plan(*result.shape[:2], SCALE)
    seams = [seam_score(quantise(image), *plan.borders, engine.network.multiple_of) for image in (result, whole)]
    shown = [np.nan if seam is None else seam for seam in seams]
    return {
        "work": len(plan) * plan.tile[0] * plan.tile[1] / (result.shape[0] * result.shape[1]),
        "psnr": psnr(quantise(truth), quantise(result)),
        "psnr_to_whole": min(psnr(whole, result), 99.0),
        "seam": shown[0],
        "seam_of_whole": shown[1],
    }


COLUMNS = {
    "work": ("work", 2), "s_per_mp_and_step": ("s/MP and step", 2), "psnr": ("PSNR", 2),
    "psnr_to_whole": ("PSNR to untiled", 1), "seam": ("seam score", 3), "seam_of_whole": ("untiled, same places", 3),
}  # fmt: skip


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a table."""
    lines = ["| tiles | steps | " + " | ".join(title for title, _ in COLUMNS.values()) + " |"]
    lines.append("|---" * (len(COLUMNS) + 2) + "|")
    for row in rows:
        cells = ["-" if row[key] is None else f"{row[key]:.{digits}f}" for key, (_, digits) in COLUMNS.items()]
        lines.append(f"| {row['name']} | {row['steps']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="a folder or file")
    parser.add_argument("--most", type=int, help="the first images alone")
    parser.add_argument("--crop", type=int, help="the middle of each, this many pixels a side")
    parser.add_argument("--weights", default="tessera-photo-2x")
    parser.add_argument("--tiles", nargs="+", default=["default", "128/32", "192/24", "256/32"], metavar="SIDE/OVERLAP")
    parser.add_argument("--steps", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--strengths", nargs=2, type=float, default=[0.2, 0.5])
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16", "auto"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=Path("tiles.json"))
    arguments = parser.parse_args(argv)
    restorer = Restorer.from_pretrained(arguments.weights, arguments.device, precision=arguments.precision)
    paths = find_images(arguments.images).files[: arguments.most] if arguments.images else [held_out_photograph()]
    group = photographs([str(path) for path in paths], arguments.strengths, arguments.crop)
    rows = []
    for steps in arguments.steps:
        whole: list[np.ndarray] = []
        for text in dict.fromkeys(["0", *arguments.tiles]):
            rows.append(measured(restorer, Setting.of(text), steps, arguments.strengths, group, whole))
            sys.stderr.write(f"{rows[-1]}\n")
    machine = {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
    options = {key: str(value) for key, value in vars(arguments).items()}
    arguments.output.write_text(json.dumps({"machine": machine, "options": options, "rows": rows}, indent=1))
    sys.stdout.write(markdown(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
