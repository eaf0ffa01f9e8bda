"""The strengths of a call of a `Restorer`: numbers, maps and `auto`, by name or in order, as one tensor."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from ..config.registry import nearest
from ..data.corruptions.strength import Estimate, Reader, Reading, estimators, in_words, told_strength
from ..images.files import quantise
from ..images.objects import ImageObject
from ..utils.console import get_logger

logger = get_logger(__name__)
AUTO = ("auto", "auto_map")
Strength = float | str | np.ndarray
"""A number in [0, 1]; an array (H, W) of them, one a pixel of the upright image; or `auto`."""
Strengths = Mapping[str, Strength] | Sequence[Strength] | Strength | None


def strength_tensor(
    given: Strengths,
    count: int,
    names: Sequence[str] | None,
    image: ImageObject,
    auto_default: float,
    reader: Reader | None = None,
) -> torch.Tensor | None:
    """float32 (1, K), or (1, K, H, W) where one is a map; None for a network that is told none (count 0).

    given: by name (those not named are 0), in the order of training, or one for all; None is 0 for all. 0 is clean, 1
    the strongest of training. `auto` reads a JPEG corruption's strength from the quantisation tables of a Pillow image
    opened from a JPEG file, else from the 8x8 blocks of the pixels; where neither is sure it is `auto_default`. With a
    `reader` the pixels are read by it, for every corruption that it knows; `auto_map` is a strength for every pixel.
    Raises TypeError or ValueError.
    """
    if count == 0:
        if given is not None:
            raise ValueError("strengths: this network is told none; leave them out")
        return None
    _numbers("auto_default", auto_default)
    labels = list(names) if names is not None else [f"strengths[{index}]" for index in range(count)]
    listed = _listed(given, count, names)
    asked = [value for value in listed if isinstance(value, str) and value in AUTO]
    reading = reader.read(image.rgb, "auto_map" in asked) if reader is not None and asked else None
    if reading is not None and reading.unexplained:
        logger.warning("the image %s", in_words(reading.unexplained))
    values = [
        _read_auto(label, value, image, names is not None, auto_default, reader, reading)
        if isinstance(value, str) and value in AUTO
        else value
        for label, value in zip(labels, listed, strict=True)
    ]
    planes = [_as_plane(label, value, image) for label, value in zip(labels, values, strict=True)]
    if all(plane.ndim == 0 for plane in planes):
        return torch.from_numpy(np.stack(planes))[None]
    shape = image.rgb.shape[:2]
    return torch.from_numpy(np.stack([np.broadcast_to(plane, shape) for plane in planes]))[None]


def read_strengths(
    names: Sequence[str], image: ImageObject, auto_default: float, reader: Reader | None = None
) -> dict[str, Estimate]:
    """What `auto` is for an image and why, of those of the named corruptions whose strength can be read."""
    _numbers("auto_default", auto_default)
    read_by_network = [name for name in names if reader is not None and name in reader.names]
    reading = reader.read(image.rgb) if reader is not None and read_by_network else None
    samples = quantise(image.rgb, image.bit_depth)
    return {
        name: told_strength(name, auto_default, image.jpeg_table, samples, reading if name in read_by_network else None)
        for name in names
        if name in estimators() or name in read_by_network
    }


def _listed(given: Strengths, count: int, names: Sequence[str] | None) -> list[Strength]:
    """One for each corruption, in order."""
    if given is None:
        return [0.0] * count
    if isinstance(given, Mapping):
        return _by_name(given, names)
    if isinstance(given, str) or not isinstance(given, Sequence | np.ndarray):
        return [given] * count
    if isinstance(given, np.ndarray) and given.ndim != 1:
        return [given] * count
    listed: list[Strength] = list(given)
    if len(listed) != count:
        order = f" ({', '.join(names)})" if names else ""
        raise ValueError(f"strengths: expected {count}, one for each corruption{order}, found {len(listed)}")
    return listed


def _by_name(given: Mapping[str, Strength], names: Sequence[str] | None) -> list[Strength]:
    if names is None:
        raise ValueError(
            "strengths: the checkpoint does not record the names of its corruptions; load it with corruptions=[...] "
            "in the order of training, or pass a list"
        )
    for name in given:
        if name not in names:
            close = nearest(str(name), list(names))
            hint = f"did you mean {close}? " if close else ""
            raise ValueError(f"strengths: no corruption {name!r} ({hint}this network knows: {', '.join(names)})")
    return [given.get(name, 0.0) for name in names]


def _read_auto(
    name: str,
    asked: str,
    image: ImageObject,
    named: bool,
    default: float,
    reader: Reader | None,
    reading: Reading | None,
) -> float | np.ndarray:
    if not named:
        raise ValueError("strengths: auto needs the names of the corruptions; load with corruptions=[...]")
    read_by_network = reader is not None and reading is not None and name in reader.names
    if asked == "auto_map":
        if not read_by_network:
            raise ValueError(f"strengths: auto_map of {name} needs an estimator that knows it; load with estimator=...")
        assert reading is not None
        return reading.map(name, default)
    if name not in estimators() and not read_by_network:
        known = ", ".join(estimators())
        raise ValueError(
            f"strengths: auto cannot be read for {name} without an estimator (only for: {known}); pass a number"
        )
    samples = quantise(image.rgb, image.bit_depth)
    estimate = told_strength(name, default, image.jpeg_table, samples, reading if read_by_network else None)
    logger.info("strength of %s: %.2f (%s)", name, estimate.strength, estimate.reason)
    return estimate.strength


def _as_plane(name: str, value: Strength, image: ImageObject) -> np.ndarray:
    """float32, () or (H, W)."""
    plane = _numbers(name, value)
    if plane.shape not in ((), image.rgb.shape[:2]):
        height, width = image.rgb.shape[:2]
        raise ValueError(
            f"strengths: {name}: expected a number or an array of the upright image's size ({height}, {width}), "
            f"found shape {plane.shape}"
        )
    return plane.astype(np.float32)


def _numbers(name: str, value: Strength) -> np.ndarray:
    values = np.asarray(value)
    if values.dtype.kind not in "fiu":
        raise TypeError(f"strengths: {name}: expected a number in [0, 1], an array of them or auto, found {value!r}")
    if values.size and not (values.min() >= 0 and values.max() <= 1):  # false for NaN as well
        span = f"{values.min():g} to {values.max():g}" if values.ndim else f"{values:g}"
        raise ValueError(f"strengths: {name}: expected 0 to 1, found {span}")
    return values
