"""How well strengths are read from images, and what it does to a restoration: four tables in Markdown.

    python benchmarks/strengths.py --images set14 large --jpegs photos --crop 192

1. Restored with the true strengths, those read from the image, fixed ones and zeros, at drawn strengths.
2. The error of what is read, by corruption: mean absolute, rank correlation, and where each true strength lands.
3. JPEGs of unknown history, saved again at known qualities as pixels alone (--jpegs).
4. What is read of images that no corruption of training explains, and the time of a reading beside one step.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.restorer import CORRUPTIONS, Photograph, bicubic, photographs
from codes import Restorer
from codes.data.corruptions.all import CORRUPTIONS as REGISTERED
from codes.data.corruptions.all import Jpeg
from codes.data.corruptions.strength import strength_of_quality
from codes.evaluation.metrics import fidelity, mean_fidelity
from codes.images.files import find_images, quantise, read_image, resize_area, to_rgb
from codes.utils.rng import numpy_generator

FIXED = (0.2, 0.5)
QUALITIES = (95, 75, 50, 30, 25, 20, 15, 10)
BINS = 5
Pair = tuple[float, ...]


def drawn(count: int, purpose: str) -> list[Pair]:
    """`count` pairs of strengths, the same in every run."""
    rng = numpy_generator(0, purpose)
    return [tuple(round(float(value), 3) for value in rng.random(len(CORRUPTIONS))) for _ in range(count)]


def readings(restorer: Restorer, group: Sequence[Photograph]) -> list[Pair]:
    """What `auto` takes for each photograph."""
    told = [restorer.estimate(to_rgb(one.low_res, True)) for one in group]
    return [tuple(one[name] for name in CORRUPTIONS) for one in told]


def restored(restorer: Restorer, group: Sequence[Photograph], told: Sequence[Pair], steps: str) -> dict[str, float]:
    """Means of the metrics over photographs that are restored with these strengths."""
    rows = []
    for photograph, strengths in zip(group, told, strict=True):
        named = dict(zip(CORRUPTIONS, strengths, strict=True))
        result = restorer(to_rgb(photograph.low_res, True), named, steps=steps)
        rows.append(fidelity(quantise(photograph.truth), quantise(result)))
    return mean_fidelity(rows)


def does_it_help(restorer: Restorer, groups: Sequence[tuple[Pair, list[Photograph]]], steps: str) -> Iterator[str]:
    """Table 1."""
    yield "| true strengths (jpeg, blur) | bicubic | true | read | fixed (0.2, 0.5) | zeros |"
    yield "|---|---|---|---|---|---|"
    columns: list[list[dict[str, float]]] = []
    for true, group in groups:
        small = mean_fidelity([fidelity(quantise(one.truth), quantise(bicubic(one.low_res, true))) for one in group])
        ways = ([true] * len(group), readings(restorer, group), [FIXED] * len(group), [(0.0, 0.0)] * len(group))
        cells = [small, *(restored(restorer, group, told, steps) for told in ways)]
        columns.append(cells)
        yield _row(", ".join(f"{value:.2f}" for value in true), cells)
    yield _row("mean", [mean_fidelity(list(cells)) for cells in zip(*columns, strict=True)])


def _row(title: str, cells: Sequence[dict[str, float]]) -> str:
    return f"| {title} | " + " | ".join(f"{cell['psnr']:.2f} / {cell['swd']:.3f}" for cell in cells) + " |"


def errors(restorer: Restorer, groups: Sequence[tuple[Pair, list[Photograph]]]) -> Iterator[str]:
    """Table 2."""
    assert restorer.estimator is not None
    true = np.array([pair for pair, group in groups for _ in group])
    read = [restorer.estimator.read(to_rgb(one.low_res, True)) for _, group in groups for one in group]
    order = [restorer.estimator.names.index(name) for name in CORRUPTIONS]
    means, spreads = (np.array([getattr(one, key)[order] for one in read]) for key in ("mean", "spread"))
    for index, name in enumerate(CORRUPTIONS):
        error = means[:, index] - true[:, index]
        rank = np.corrcoef(_ranks(means[:, index]), _ranks(true[:, index]))[0, 1]
        yield (
            f"{name}: mean absolute error {np.abs(error).mean():.3f}, rank correlation {rank:.2f}, mean spread told "
            f"{spreads[:, index].mean():.3f}, deviation over spread {np.sqrt((error / spreads[:, index]).var()):.2f}"
        )
        yield ""
        yield f"| true {name} | " + " | ".join(f"read {low:.1f} to {low + 1 / BINS:.1f}" for low in _lows()) + " |"
        yield "|---" * (BINS + 1) + "|"
        where, told = (np.minimum((values[:, index] * BINS).astype(int), BINS - 1) for values in (true, means))
        for number, low in enumerate(_lows()):
            shares = [
                (told[where == number] == other).mean() if (where == number).any() else 0 for other in range(BINS)
            ]
            yield (
                f"| {low:.1f} to {low + 1 / BINS:.1f} | "
                + " | ".join(f"{100 * share:.0f} %" for share in shares)
                + " |"
            )
        yield ""


def _lows() -> list[float]:
    return [number / BINS for number in range(BINS)]


def _ranks(values: np.ndarray) -> np.ndarray:
    return values.argsort().argsort().astype(float)


def saved_again(restorer: Restorer, folder: Path, most: int) -> Iterator[str]:
    """Table 3: mean and deviation over photographs, which are JPEGs already; halved, then saved at a quality."""
    kind = REGISTERED.get("jpeg")
    assert issubclass(kind, Jpeg)
    yield "| quality | its strength | halved and saved: read | deviation | saved at full size: read | deviation |"
    yield "|---|---|---|---|---|---|"
    images = [_middle(read_image(file).rgb, 512) for file in find_images(folder).files[:most]]
    halves = [resize_area(image, image.shape[0] // 2, image.shape[1] // 2) for image in images]
    for quality in QUALITIES:
        told = [[_jpeg_of(restorer, _saved(image, quality)) for image in group] for group in (halves, images)]
        cells = " | ".join(f"{np.mean(values):.2f} | {np.std(values):.2f}" for values in told)
        yield f"| {quality} | {strength_of_quality(kind, quality):.2f} | {cells} |"


def _middle(image: np.ndarray, side: int) -> np.ndarray:
    y, x = (max(length - side, 0) // 2 for length in image.shape[:2])
    rows, columns = (min(length, side) // 2 * 2 for length in image.shape[:2])
    return image[y : y + rows, x : x + columns]


def _saved(image: np.ndarray, quality: int) -> np.ndarray:
    """Through a JPEG and cut, so that the blocks begin anywhere."""
    _, data = cv2.imencode(".jpg", quantise(image)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None
    return np.ascontiguousarray(decoded[3:, 5:, ::-1])


def _jpeg_of(restorer: Restorer, image: np.ndarray) -> float:
    return restorer.estimate(image)["jpeg"]


def strangers(restorer: Restorer, group: Sequence[Photograph]) -> Iterator[str]:
    """Table 4: what `auto` takes, and the distance from training in deviations."""
    assert restorer.estimator is not None
    yield "| image | jpeg | gaussian_blur | distance | taken as strange |"
    yield "|---|---|---|---|---|"
    for title, make in STRANGERS.items():
        images = [make(one.truth) for one in group]
        told = [restorer.estimate(image) for image in images]
        read = [restorer.estimator.read(image) for image in images]
        cells = " | ".join(f"{np.mean([one[name] for one in told]):.2f}" for name in CORRUPTIONS)
        far = [one.distance for one in read]
        yield f"| {title} | {cells} | {np.mean(far):.1f} | {100 * np.mean([one.strange for one in read]):.0f} % |"


def _half(image: np.ndarray) -> np.ndarray:
    return resize_area(image, image.shape[0] // 2, image.shape[1] // 2)


def _noisy(image: np.ndarray) -> np.ndarray:
    small = _half(image)
    return (small + numpy_generator(0, "noise").normal(0, 0.1, small.shape)).clip(0, 1).astype(np.float32)


def _drawing(image: np.ndarray) -> np.ndarray:
    """Flat colours with black outlines."""
    flat = np.round(cv2.bilateralFilter(_half(image), 9, 0.3, 9) * 4) / 4
    edges = np.abs(np.diff(flat.sum(2), axis=1, prepend=0)) > 0.2
    return np.where(edges[..., None], 0.0, flat).astype(np.float32)


def _screen(image: np.ndarray) -> np.ndarray:
    """A page with lines of text, a menu and a picture."""
    page = np.full((256, 256, 3), 244, np.uint8)
    page[:24] = (52, 58, 64)
    for row in range(4):
        cv2.putText(page, "Settings   View   Help", (8, 60 + 22 * row), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (30, 30, 30), 1)
    page[150:246, 10:138] = quantise(cv2.resize(_half(image), (128, 96), interpolation=cv2.INTER_AREA))
    return (page / np.float32(255)).astype(np.float32)


STRANGERS = {
    "photograph as it is": lambda image: image,
    "halved": _half,
    "halved, noise of deviation 0.1": _noisy,
    "flat colours with outlines": _drawing,
    "screen with text": _screen,
    "halved and enlarged": lambda image: cv2.resize(_half(image), None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC).clip(
        0, 1
    ),
}


def speed(restorer: Restorer, image: np.ndarray, repeats: int = 5) -> str:
    """Median seconds of a reading and of a one-step restoration, in turns."""
    assert restorer.estimator is not None
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for which, work in enumerate((restorer.estimator.read, lambda given: restorer(given, 0.3, steps=1))):
            start = time.perf_counter()
            work(image)
            taken[which].append(time.perf_counter() - start)
    reading, step = (float(np.median(values)) for values in taken)
    size = f"{image.shape[1]}x{image.shape[0]}"
    return f"{size}: a reading {1000 * reading:.0f} ms, one step {1000 * step:.0f} ms: {100 * reading / step:.1f} %"


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--images", nargs="+", type=Path, required=True, help="folders of truths")
    parser.add_argument("--jpegs", type=Path, help="a folder of photographs that are JPEGs")
    parser.add_argument("--weights", default="tessera-photo-2x-fast", help="of the restorer")
    parser.add_argument("--estimator", help="another one than that of the weights: a file")
    parser.add_argument("--steps", default="karras1", help="spacing of the restorer")
    parser.add_argument("--crop", type=int, help="the middle of each image alone")
    parser.add_argument("--most", type=int, help="images of a folder")
    parser.add_argument("--pairs", type=int, default=6, help="drawn strengths that are restored")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """The tables on standard output."""
    arguments = _arguments(argv)
    restorer = Restorer.from_pretrained(
        arguments.weights, "cpu", precision=arguments.precision, estimator=arguments.estimator
    )

    def groups(count: int, purpose: str) -> list[tuple[Pair, list[Photograph]]]:
        return [
            (
                pair,
                [
                    one
                    for folder in arguments.images
                    for one in photographs(folder, pair, arguments.crop, arguments.most)
                ],
            )
            for pair in drawn(count, purpose)
        ]

    many = groups(4 * arguments.pairs, "errors")
    tables: list[tuple[str, Iterator[str]]] = [
        ("PSNR / SWD", does_it_help(restorer, groups(arguments.pairs, "restored"), arguments.steps)),
        ("What is read", errors(restorer, many)),
        ("Images of other kinds", strangers(restorer, many[0][1])),
    ]
    if arguments.jpegs:
        tables.insert(2, ("Saved again", saved_again(restorer, arguments.jpegs, arguments.most or 24)))
    for title, lines in tables:
        _say(f"\n{title}\n")
        for line in lines:
            _say(line)
    _say("\n" + speed(restorer, numpy_generator(0, "speed").random((384, 512, 3)).astype(np.float32)))
    return 0


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
