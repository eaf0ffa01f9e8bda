"""One photograph of a user in a folder of its own: read, previewed, restored, and written in the format asked for."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from ...data.corruptions.strength import Estimate, in_words
from ...images.channels import enlarged, pixels_of
from ...images.decode import without_alpha
from ...images.files import (
    LARGEST_SIDE,
    MAX_PIXELS,
    WRITERS,
    Picture,
    count_frames,
    probe_image,
    quantise,
    read_image,
    resize_area,
    to_float,
    write_image,
    write_picture,
)
from ...images.output_size import Framing, SizeOptions
from ...images.room import Refused, check_memory
from ...utils.errors import DataError, reason_of
from ...utils.files import atomic_write
from ...utils.names import FORBIDDEN, LONGEST_PART, RESERVED, cut_to_bytes
from ...viewer.layers import BICUBIC, Pixels, RowsLayer
from ...viewer.pictures import Pictures, encode
from ..restorer_sizes import ResultSize
from .jobs import Progress, QueuedJob
from .models import Models
from .region import Box, exactly, region_side, regions, window_of
from .settings import Dials, PreviewChoice, RequestError

UPLOAD, SAMPLES, THUMBNAIL, RESULT, VIEWS = "upload", "samples.npy", "thumbnail.jpg", "result.png", "view"
RESTORED = "restored"
THUMBNAIL_SIDE = 1280  # pixels, of the picture in which a region is chosen
VIEW_BYTES = 48 * 2**20  # of the pictures that are shown of one result
BYTES_A_PIXEL = 64  # of a result, while it is made
# Formats of photographs. Pillow opens others, some by programs outside (EPS by Ghostscript), which nobody's upload may.
TAKEN = frozenset(("JPEG", "MPO", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF", "HEIF", "JXL"))
SUFFIXES = {"png": ".png", "jpeg": ".jpg", "webp": ".webp", "tiff": ".tif"}


@dataclass(frozen=True)
class StrengthsRead:
    """What is known of an upload once it was decoded; sizes are (height, width), upright."""

    size: tuple[int, int]
    format: str
    bit_depth: int
    gray: bool
    alpha: bool
    strengths: Mapping[str, Estimate]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class PageView:
    """A pair of pictures to compare: what `Comparison` needs to know, and label -> name of the file."""

    shape: Mapping[str, str | int | float]
    files: Mapping[str, str]


@dataclass(frozen=True)
class Outcome:
    """A preview or a result: the pictures to compare, what it was made by, how long, what is to be said of it."""

    views: tuple[PageView, ...]
    dials: Dials
    seconds: float
    size: tuple[int, int]
    notes: tuple[str, ...] = ()


@dataclass(eq=False)
class Photograph:
    """`name` is what the user's file is called, only ever shown; `folder` has a name of ours.

    `reading`, `previewing` and `restoring` are the last job of each kind.
    """

    id: str
    name: str
    folder: Path
    reading: QueuedJob | None = None
    previewing: QueuedJob | None = None
    restoring: QueuedJob | None = None
    read: StrengthsRead | None = None
    result: Outcome | None = None
    number: int = field(default=0)  # of its outcomes, so that no browser shows an old one

    @property
    def upload(self) -> Path:
        return self.folder / UPLOAD

    @property
    def jobs(self) -> list[QueuedJob]:
        return [job for job in (self.reading, self.previewing, self.restoring) if job is not None]

    def understand(self, models: Models, max_pixels: int, progress: Progress) -> StrengthsRead:
        """Decode, read the strengths, make the small picture. Raises DataError with the reason alone."""
        progress(0, 1)
        picture = self._picture(max_pixels)
        progress(0, 1)
        height, width = picture.rgb.shape[:2]
        scale = min(1.0, THUMBNAIL_SIDE / max(height, width))
        small = resize_area(
            _on_white(picture) / np.float32(255), *(max(1, round(side * scale)) for side in (height, width))
        )
        write_image(self.folder / THUMBNAIL, small, quality=88)
        np.save(self.folder / SAMPLES, _samples(picture))
        strengths = models.strengths(picture)
        self.read = StrengthsRead(
            (height, width), picture.format, picture.bit_depth, picture.gray, picture.alpha is not None,
            strengths, (*self._notes(), *_unexplained(strengths.values())),
        )  # fmt: skip
        return self.read

    def preview(self, models: Models, choice: PreviewChoice, progress: Progress) -> Outcome:
        """Restore the region around a point with what surrounds it, at the size of the result; only that is read."""
        begin, wanted = monotonic(), self.wanted(choice.output, models.scale)
        samples = np.load(self.folder / SAMPLES, mmap_mode="r")
        inner, outer = regions(samples.shape[:2], (choice.y, choice.x), region_side(wanted, models.scale))
        part = self._cut(samples, outer)
        factors = wanted.framing.magnifications(*samples.shape[:2])
        size, window = window_of(inner, outer, factors)
        # In one piece, because that is less work than tiles that overlap; a part has no other edge to go on at.
        own = choice.model_copy(update={"output": exactly(size, choice.output), "wrap": "none"})
        restored = models.restore(part, own, progress, {"tile": 0})
        bicubic = pixels_of(enlarged(_on_white(part), size), 0, size.height)
        self.number += 1
        files = {
            label: self._put(f"preview{place}", layer[window])
            for place, (label, layer) in enumerate([(BICUBIC, bicubic), (RESTORED, _on_white(restored))])
        }
        height, width = bicubic[window].shape[:2]
        shape: dict[str, str | int | float] = {
            "name": "Preview", "note": "", "width": width, "height": height, "scale": 1.0,
        }  # fmt: skip
        return Outcome((PageView(shape, files),), choice, monotonic() - begin, (height, width), wanted.warnings)

    def restore(self, models: Models, dials: Dials, max_pixels: int, progress: Progress) -> Outcome:
        """Restore all of it into the folder: a lossless file, and the pictures to compare."""
        begin = monotonic()
        progress(0, 1)
        picture = self._picture(max_pixels)
        wanted = self.wanted(dials.output, models.scale)
        _refuse_too_large(wanted)
        restored = models.restore(picture, dials, progress)
        self.forget_results()
        write_picture(self.folder / RESULT, restored)
        progress(1, 1)
        self.number += 1
        small, large = _on_white(picture), _on_white(restored)
        views = self._views(small, large, wanted.framing)
        height, width = large.shape[:2]
        self.result = Outcome(views, dials, monotonic() - begin, (height, width), wanted.warnings)
        return self.result

    def wanted(self, output: SizeOptions, scale: int) -> ResultSize:
        """How large a result of this photograph is to be. Raises ConfigError."""
        assert self.read is not None
        return ResultSize.of(output, *self.read.size, scale)

    def forget_results(self) -> None:
        """Remove what an earlier restoration wrote."""
        self.result = None
        for file in (self.folder / RESULT, *self.folder.glob(f"{RESTORED}-*")):
            file.unlink(missing_ok=True)

    def formats(self) -> list[str]:
        """The formats that can hold the result; the first one is that of the upload, or the nearest to it."""
        assert self.read is not None
        assert self.result is not None
        usable = [
            name
            for name, suffix in SUFFIXES.items()
            if max(self.result.size) <= LARGEST_SIDE.get(WRITERS[suffix], max(self.result.size))
            and not (name == "jpeg" and self.read.alpha)
        ]
        own = {"MPO": "jpeg", "JPEG": "jpeg", "WEBP": "webp", "TIFF": "tiff"}.get(self.read.format, "png")
        return sorted(usable, key=lambda name: name != own)

    def file(self, wanted: str) -> Path:
        """The result in a format, with EXIF and profile; written when it is first asked for. Raises RequestError."""
        if self.result is None:
            raise RequestError("this photograph is not restored yet", 404)
        formats = self.formats()
        name = formats[0] if wanted == "same" else wanted
        if name not in formats:
            raise RequestError(f"{name} cannot hold this result; choose one of {', '.join(formats)}")
        stored = self.folder / RESULT
        target = stored if name == "png" else stored.with_name(f"{RESTORED}-{self.number}{SUFFIXES[name]}")
        if not target.is_file():
            write_picture(target, read_image(stored))
        return target

    def download_name(self, file: Path) -> str:
        """What a result is called on the user's disk."""
        return safe_name(self.name) + "_restored" + file.suffix

    def _picture(self, max_pixels: int) -> Picture:
        try:
            info = probe_image(self.upload, max_pixels=MAX_PIXELS)
            if info.format not in TAKEN:
                raise DataError(f"{info.format} is not taken; save it as PNG, TIFF or JPEG")
            if info.height * info.width > max_pixels:
                most = f"{max_pixels / 1e6:g} megapixels, the limit of this app"
                raise DataError(f"{info.width} × {info.height} pixels are more than {most}")
            return read_image(self.upload, max_pixels=max_pixels)
        except DataError as error:
            raise DataError(reason_of(error, self.upload)) from None

    def _cut(self, samples: np.ndarray, box: Box) -> Picture:
        """A rectangle of the photograph, from what `understand` kept of it."""
        assert self.read is not None
        (y0, y1), (x0, x1) = box
        values = to_float(np.asarray(samples[y0:y1, x0:x1]))
        return Picture(
            rgb=np.ascontiguousarray(values[..., :3]),
            alpha=np.ascontiguousarray(values[..., 3]) if self.read.alpha else None,
            gray=self.read.gray,
            bit_depth=self.read.bit_depth,
            exif=None,
            icc=None,
            format=self.read.format,
        )

    def _notes(self) -> tuple[str, ...]:
        frames = count_frames(self.upload)
        return (f"{frames} frames or pages; the first one is restored",) if frames > 1 else ()

    def _put(self, stem: str, pixels: Pixels) -> str:
        suffix, data = encode(pixels, lossless=True)
        folder = self.folder / VIEWS
        folder.mkdir(exist_ok=True)
        for old in folder.glob(f"{stem}-*"):
            old.unlink()
        name = f"{stem}-{self.number}.{suffix}"
        with atomic_write(folder / name) as temporary:
            temporary.write_bytes(data)
        return name

    def _views(self, small: Pixels, large: Pixels, framing: Framing) -> tuple[PageView, ...]:
        """The comparison page's choice of what can be shown: all of it, or a smaller picture and a detail."""
        bicubic = enlarged(small, framing)
        layers: dict[str, Any] = {
            BICUBIC: RowsLayer(large.shape[0], large.shape[1], lambda y0, y1: pixels_of(bicubic, y0, y1)),
            RESTORED: RowsLayer(large.shape[0], large.shape[1], lambda y0, y1: large[y0:y1]),
        }
        pictures = Pictures(self.folder / VIEWS, 0, VIEW_BYTES, 1)
        shown = pictures.place(layers)
        pictures.remove_others()
        return tuple(
            PageView(one.shape, {label: url.rpartition("/")[2] for label, url in one.urls.items()}) for one in shown
        )


def safe_name(name: str) -> str:
    """A user's name of a file as part of a name that every system takes, without its ending and without folders."""
    last = name.replace("\\", "/").rpartition("/")[2]
    stem = last.rpartition(".")[0] or last
    plain = "".join("_" if sign in FORBIDDEN or not sign.isprintable() else sign for sign in stem)
    short = cut_to_bytes(plain, LONGEST_PART).strip(". ")
    return f"_{short}" if RESERVED.match(short) else short or "photograph"


def _unexplained(estimates: Iterable[Estimate]) -> tuple[str, ...]:
    """What the photograph holds that no trained corruption explains, in words for its user."""
    return tuple(in_words(found) for found in dict.fromkeys(one.unexplained for one in estimates) if found)


def _samples(picture: Picture, bit_depth: int | None = None) -> np.ndarray:
    """Integers (H, W, 3), or (H, W, 4) with alpha, of the picture's own depth or another."""
    depth = bit_depth or picture.bit_depth
    colours = quantise(picture.rgb, depth)
    if picture.alpha is None:
        return colours
    return np.concatenate([colours, quantise(picture.alpha, depth)[..., None]], axis=2)


def _on_white(picture: Picture) -> Pixels:
    """uint8 (H, W, 3), as it is looked at."""
    samples = _samples(picture, 8)
    return samples if picture.alpha is None else without_alpha(samples, "white", Path())


def _refuse_too_large(wanted: ResultSize) -> None:
    height, width = max(wanted.restored, wanted.framing.size, key=math.prod)
    try:
        check_memory(width, height, BYTES_A_PIXEL)
    except Refused as error:
        raise DataError(str(error)) from None
