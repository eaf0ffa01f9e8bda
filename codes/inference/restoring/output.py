"""The results of an image: written as files, and remembered, so that a later run neither repeats nor forgets them."""

import hashlib
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from ...data.base import Item
from ...images.canvas import Canvas, as_canvas
from ...images.channels import Channels, FileOptions, Mean, Result, Spread, enlarged, write_channels
from ...images.colour_fix import fix_colours
from ...images.consistency import consistency
from ...images.files import WRITERS
from ...images.output_size import Framing
from ...images.resampling import Resampled
from ...utils.files import remove_temporaries, write_json
from .job import ALPHA, COLOUR, Job
from .results import SPREAD, Order, Placed, Planned, PlannedResult, label_of

FOLDER = ".records"
RESUME = ".resume"
BAND_PIXELS = 2**21  # of a result, converted and written at once


@dataclass(frozen=True)
class ImageRecord(Placed):
    """One finished image: the files written and what was measured, by label of the page.

    Sizes are (height, width); `restored_size` is that before the result was brought to its size. `strengths`: what the
    network was told, in words. `unexplained`: what else the image holds, in words. `consistency`: how close the result,
    made small again, is to the input. `input` and `key`: those of its `Planned`.
    """

    input: str
    key: str
    files: Mapping[str, Path]
    low_res: tuple[int, int] = (0, 0)
    size: tuple[int, int] = (0, 0)
    restored_size: tuple[int, int] = (0, 0)
    seed: int = 0
    strengths: str = ""
    unexplained: str = ""
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    truth: str = ""  # digest of the file that the metrics compare with
    compared: str = ""  # what was done to the truth before it was compared
    consistency: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    earlier: bool = False  # finished by an earlier run


def written(job: Job, states: Sequence[Mapping[str, Any]]) -> ImageRecord:
    """Write the results, given the state of each unit after all injectors; what is to be remembered of them."""
    image, files, sizes = job.image, dict[str, Path](), []
    consistent: dict[str, float] = {}
    for result, framing in job.written:
        canvases = [as_canvas(state[result.key]) for state in states]
        pairs = [*zip(canvases, job.units, strict=True)]
        samples, alphas = ([canvas for canvas, unit in pairs if unit.kind == kind] for kind in (COLOUR, ALPHA))
        _fix_colours(job, result, samples)
        sizes.append((samples[0].height, samples[0].width))
        for part in job.output.labels:
            label = label_of(result.key, part)
            channels = _channels(job, result, framing, part, samples, alphas)
            write_channels(image.files[label], channels, *_form(job, framing, part))
            files[label] = image.files[label]
        consistent |= _consistency(job, result, samples)
    return ImageRecord(
        image.phase, image.position, image.source, image.name, image.input, image.key, files,
        job.low_res, job.written[0][1].size, sizes[0],
        job.use.seed, strengths_in_words(job.input.item), str(job.input.item.get("unexplained", "")),
        consistency=consistent,
    )  # fmt: skip


def _fix_colours(job: Job, result: PlannedResult, samples: Sequence[Canvas]) -> None:
    kind = job.output.color_fix
    if kind != "none":
        for sample in samples:
            fix_colours(sample, job.input.low_res_in(result.unit), kind, n1_to_1=not result.unit)


def _channels(
    job: Job,
    result: PlannedResult,
    framing: Framing,
    part: str,
    colours: Sequence[Canvas],
    alphas: Sequence[Canvas],
) -> list[Channels]:
    """What a file is made of."""
    gray = job.input.traits is not None and job.input.traits.gray
    samples = [_framed(job, result, framing, canvas, gray) for canvas in colours]
    if part == SPREAD:
        return [Spread(samples)]
    transparency = [_framed(job, result, framing, canvas, gray=True, light=False) for canvas in alphas]
    if not transparency and job.input.alpha is not None:
        transparency = [enlarged(job.input.alpha[..., None], framing)] * len(samples)
    layers = [samples, transparency] if transparency else [samples]
    if part == "mean":
        return [Mean(layer) for layer in layers]
    index = int(part or 1) - 1
    return [layer[index] for layer in layers]


def _framed(
    job: Job, result: PlannedResult, framing: Framing, canvas: Canvas, gray: bool, *, light: bool = True
) -> Channels:
    """A restored image as it is written; transparency is no light."""
    picture = Result(canvas, result.unit, gray)
    if framing == Framing(canvas.height, canvas.width):
        return picture
    light = light and job.output.linear_light
    return Resampled(picture, canvas.height, canvas.width, framing, job.output.resampling, light, result.wrapped)


def _form(job: Job, framing: Framing, part: str) -> tuple[FileOptions, int]:
    """How a file is written, and the rows of a band."""
    band, traits = max(BAND_PIXELS // framing.width, 1), job.input.traits
    options = FileOptions(*framing.size, 8, job.output.quality, None, None)
    if part == SPREAD or traits is None:
        return options, band
    holds_8 = WRITERS[job.image.target.suffix.lower()] in ("JPEG", "WEBP")
    bits = traits.bit_depth if job.output.bit_depth == "same" and not holds_8 else 8
    return replace(options, bit_depth=bits, exif=traits.exif, icc=traits.icc, dpi=traits.dpi), band


def _consistency(job: Job, result: PlannedResult, samples: Sequence[Canvas]) -> dict[str, float]:
    """Label of the page -> dB, of each sample."""
    parts = [""] if len(samples) == 1 else [str(number + 1) for number in range(len(samples))]
    named = {label_of(result.key, part): sample for part, sample in zip(parts, samples, strict=True)}
    low_res = job.input.low_res_in(result.unit)
    return {label: consistency(sample, low_res, n1_to_1=not result.unit) for label, sample in named.items()}


def strengths_in_words(item: Item) -> str:
    """The strengths that the network is told of an item."""
    values = item.get("corruption_entropy")
    if not isinstance(values, torch.Tensor) or not len(values):
        return "none"
    if values.ndim == 1:
        return ", ".join(f"{value:.3g}" for value in values.tolist())
    spans = [(float(strength.min()), float(strength.max())) for strength in values]
    return ", ".join(f"{low:.3g}" if low == high else f"{low:.2f} to {high:.2f} (map)" for low, high in spans)


@dataclass(frozen=True)
class Records:
    """The records of the results below a folder, one file each, written after the results."""

    root: Path

    def earlier(self, images: Sequence[Planned], skip: Literal["same", True, False]) -> dict[Order, ImageRecord]:
        """The images that need not be restored again, as `output.skip_existing` says.

        Results that are known to come from another input never count.
        """
        records = {}
        for image in images if skip is not False else ():
            if not all(_is_file(file) for file in image.files.values()):
                continue
            record = self.get(image)
            if record is not None and image.key and record.key == image.key:
                records[image.order] = record
            elif skip is True and (record is None or record.input == image.input):
                records[image.order] = record or _without_record(image)
        return records

    def put(self, record: ImageRecord, image: Planned) -> None:
        """Remember a finished image."""
        data = asdict(record) | {
            "source": str(record.source),
            "files": {label: str(file.relative_to(self.root)) for label, file in record.files.items()},
        }
        write_json(self._file(image.target), data)

    def get(self, image: Planned) -> ImageRecord | None:
        """What was remembered of the results of an image; None where nothing was."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            data: dict[str, Any] = json.loads(self._file(image.target).read_text(encoding="utf-8"))
            data |= {name: tuple(data[name]) for name in ("low_res", "size", "restored_size")}
            data |= {"metrics": {label: _with_inf(values) for label, values in data["metrics"].items()}}
            data |= {"consistency": _with_inf(data["consistency"])}
            data |= {"phase": image.phase, "position": image.position, "source": image.source, "name": image.name}
            data |= {"files": dict(image.files)}
            return ImageRecord(**data | {"earlier": True})
        return None

    def forget(self, image: Planned) -> None:
        """Before results are written again: from now on they are not what the record says."""
        self._file(image.target).unlink(missing_ok=True)

    def scratch(self, image: Planned) -> Path | None:
        """The folder for what an interruption of this image keeps; None where nothing tells it from another."""
        return self.root / RESUME / image.key if image.key else None

    def finished(self, image: Planned) -> None:
        """Remove what an interruption would have kept."""
        if scratch := self.scratch(image):
            shutil.rmtree(scratch, ignore_errors=True)
            with suppress(OSError):
                (self.root / RESUME).rmdir()  # empty

    def clean(self, images: Sequence[Planned]) -> int:
        """Remove what interruptions kept of anything but these images, and files whose writing was cut off.

        Returns of how many of these images something is kept.
        """
        own = (self.root, self.root / FOLDER, self.root / "index_files")
        remove_temporaries({image.target.parent for image in images}.union(own))
        folder, keys = self.root / RESUME, {image.key for image in images}
        for left in folder.iterdir() if folder.is_dir() else ():
            if left.name not in keys:
                shutil.rmtree(left, ignore_errors=True)
        with suppress(OSError):
            folder.rmdir()
        return sum(scratch.is_dir() for image in images if (scratch := self.scratch(image)))

    def _file(self, target: Path) -> Path:
        # A name as long as a file system takes has no room for more, so a digest stands for it.
        name = str(target.relative_to(self.root)).encode("utf-8", "surrogateescape")
        return self.root / FOLDER / f"{hashlib.blake2b(name, digest_size=16).hexdigest()}.json"


def _without_record(image: Planned) -> ImageRecord:
    """What can be said of results that were there before anything was remembered of them."""
    first = image.results[0]
    assert first.framing is not None, "what is written comes first"
    return ImageRecord(
        image.phase, image.position, image.source, image.name, "", "", image.files, image.low_res, first.framing.size,
        first.size, earlier=True,
    )  # fmt: skip


def _is_file(file: Path) -> bool:
    with suppress(OSError):  # a name so long that the system cannot even be asked
        return file.is_file()
    return False


def _with_inf(values: Mapping[str, float | None]) -> dict[str, float]:
    """JSON has no infinity (the PSNR of equal images), so null stands for it."""
    return {name: math.inf if value is None else value for name, value in values.items()}
