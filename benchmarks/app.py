"""How long the app takes to read a photograph and to preview a region of it, without HTTP:

python benchmarks/app.py --megapixels 12 --threads 2
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image
from skimage import data

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from codes.inference.app.models import ESTIMATOR, FAST, FULL, Models
from codes.inference.app.photograph import Photograph
from codes.inference.app.settings import PreviewChoice

REPEATS = 3


def nothing(done: int, total: int) -> None:
    """Nobody looks at the progress."""


def main() -> None:
    """Write a table of seconds, of the clock and of the processor, the best of some repeats."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megapixels", type=float, default=12.0)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    models = Models.load(FULL, FAST, ESTIMATOR, "cpu", "fp32")
    with tempfile.TemporaryDirectory() as folder:
        photograph = Photograph("1", "photograph.jpg", Path(folder))
        height = round((arguments.megapixels * 1e6 * 3 / 4) ** 0.5)
        Image.fromarray(data.astronaut()).resize((height * 4 // 3, height)).save(photograph.upload, "JPEG", quality=85)
        begin = time.monotonic(), time.process_time()
        photograph.understand(models, 10**9, nothing)
        tell("read", time.monotonic() - begin[0], time.process_time() - begin[1])
        for steps in (1, 4, 8):
            choice = PreviewChoice(steps=steps, x=height // 2, y=height // 2)
            photograph.preview(models, choice, nothing)
            times = []
            for _ in range(REPEATS):
                begin = time.monotonic(), time.process_time()
                photograph.preview(models, choice, nothing)
                times.append((time.monotonic() - begin[0], time.process_time() - begin[1]))
            tell(f"preview, steps {steps}", *(min(column) for column in zip(*times, strict=True)))


def tell(what: str, clock: float, processor: float) -> None:
    """A row of the table."""
    sys.stdout.write(f"{what:18} {clock:6.2f} s, {processor:6.2f} s of the processor\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
