"""Images and options for the data tests."""

import itertools
from pathlib import Path

import cv2
import numpy as np

from codes.data import ImageFolderDataset, ImageFolderOptions
from codes.data.loader import Batch, TrainLoader
from codes.images.files import write_image


def picture(seed: int, height: int, width: int) -> np.ndarray:
    """float32 (H, W, 3): smooth colours with texture, so that every corruption has something to damage."""
    rng = np.random.default_rng(seed)
    coarse = cv2.resize(rng.random((4, 5, 3)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    fine = rng.random((height, width, 1)).astype(np.float32)
    return np.clip(coarse * 0.7 + fine * 0.3, 0.0, 1.0)


def fill(folder: Path, count: int, height: int = 40, width: int = 52) -> list[Path]:
    """Write `count` different images with sizes that differ as well."""
    paths = [folder / f"img{number}.png" for number in range(count)]
    for number, path in enumerate(paths):
        write_image(path, picture(number, height + number, width + 2 * number))
    return paths


def options(folder: Path | tuple[Path, ...], **changes: object) -> ImageFolderOptions:
    """Options of a small training set: 16 px random tiles, scale 2, JPEG and blur."""
    paths = str(folder) if isinstance(folder, Path) else tuple(map(str, folder))
    given = {
        "paths": paths,
        "target_size": 16,
        "scale": 2,
        "tile": "random",
        "batch_size": 4,
        "fixed_corruptions": ("jpeg", "gaussian_blur"),
    }
    return ImageFolderOptions.model_validate({**given, **changes})


def dataset(
    folder: Path | tuple[Path, ...], *, seed: int = 5, shuffle: bool = True, **changes: object
) -> ImageFolderDataset:
    return ImageFolderDataset(options(folder, **changes), seed=seed, shuffle=shuffle)


def first(loader: TrainLoader, count: int) -> list[Batch]:
    """The first batches."""
    return list(itertools.islice(loader, count))


def damage(path: Path) -> None:
    """A PNG whose beginning and end are fine; only decoding shows that bytes in the middle are wrong."""
    write_image(path, np.random.default_rng(2).random((50, 60, 3)).astype(np.float32))
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 40] = bytes(40)
    path.write_bytes(data)
