"""Which images a test run restores, in which groups, and on which rank."""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...config.fingerprint import fingerprint
from ...data.imagefolder import ImageFolderDataset
from ...models.diffusion.tiling.plan import TilePlan
from ...utils.console import progress
from ...utils.errors import DataError
from ...utils.files import digest_of
from .setup import Setup


@dataclass(frozen=True)
class Planned:
    """One image to restore: sizes (height, width) from its header, of the low resolution and of each result.

    `tiles`: network tiles of one state at once (of the largest result); `states`: samples, twice with transparency
    that is restored. `key`: fingerprint of file, options, weights and seed; "" where the file cannot be read.
    """

    phase: str
    position: int
    source: Path
    target: Path
    low_res: tuple[int, int]
    sizes: Mapping[str, tuple[int, int]]
    tiles: int
    states: int
    key: str

    @property
    def pixels(self) -> int:
        """Output pixels of all states: what the work is in proportion to."""
        return self.states * sum(height * width for height, width in self.sizes.values())

    @property
    def order(self) -> tuple[str, int]:
        return self.phase, self.position


def plan_images(setup: Setup) -> list[Planned]:
    """Every image of every dataset, in their order."""
    shared = {phase: fingerprint(setup.use.settings(setup.recipe, phase)) for phase in setup.datasets}
    places = [(phase, position) for phase, data in setup.datasets.items() for position in range(len(data))]
    counted = progress(places, len(places), "looking at the files")
    return [_planned(setup, phase, position, shared[phase]) for phase, position in counted]


def _planned(setup: Setup, phase: str, position: int, shared: str) -> Planned:
    dataset = setup.datasets[phase]
    low_res = _low_res_size(setup, phase, position)
    sizes = setup.sizes(low_res, dataset.state_keys)
    tiles = max(len(tile_plan(setup, key, size)) for key, size in sizes.items())
    restored_alpha = setup.output.alpha == "restore" and setup.is_input(phase) and _may_have_alpha(dataset, position)
    return Planned(
        phase, position, dataset.files[position], setup.targets[phase][position], low_res, sizes, tiles,
        setup.output.num_samples * (2 if restored_alpha else 1), _fingerprint(setup, phase, position, shared),
    )  # fmt: skip


def tile_plan(setup: Setup, key: str, size: tuple[int, int]) -> TilePlan:
    """The tiles of a result of (height, width)."""
    return setup.engines[key].plan(*size, setup.node(key).output_scale_factor)


def _low_res_size(setup: Setup, phase: str, position: int) -> tuple[int, int]:
    """By the header; where transparency is cut off the real image is smaller."""
    options = setup.recipe.datasets[phase]
    info = setup.datasets[phase].infos[position]
    target, scale = getattr(options, "target_size", None), getattr(options, "scale", 1)
    height, width = (target, target) if target else (info.height, info.width)
    if getattr(options, "square", False):
        height = width = min(height, width)
    if setup.low_res_key(setup.datasets[phase].state_keys) == "lq":
        return max(height // scale, 1), max(width // scale, 1)
    return height, width


def _may_have_alpha(dataset: Any, position: int) -> bool:
    return "A" in dataset.infos[position].mode.upper()


def groups(images: Sequence[Planned], tiles_at_once: int) -> list[list[Planned]]:
    """Images that go through the network together: about as many tiles as it takes at once; large ones go alone."""
    result: list[list[Planned]] = []
    open_group: list[Planned] = []
    filled = 0
    for image in images:
        tiles = image.tiles * image.states
        if tiles >= tiles_at_once:
            result.append([image])
            continue
        if filled + tiles > tiles_at_once or (open_group and open_group[0].phase != image.phase):
            result.append(open_group)
            open_group, filled = [], 0
        open_group.append(image)
        filled += tiles
    return [*result, open_group] if open_group else result


def share_of(images: Sequence[Planned], rank: int, world_size: int) -> list[Planned]:
    """The images of a rank: the largest first, each to the rank with the fewest pixels so far. In listed order."""
    loads = [(0, number) for number in range(world_size)]
    mine = []
    for index in sorted(range(len(images)), key=lambda index: (-images[index].pixels, index)):
        load, number = heapq.heappop(loads)
        heapq.heappush(loads, (load + images[index].pixels, number))
        if number == rank:
            mine.append(index)
    return [images[index] for index in sorted(mine)]


def _fingerprint(setup: Setup, phase: str, position: int, shared: str) -> str:
    """32 hexadecimal digits that change with anything that a result depends on; `shared`: those of its phase."""
    dataset, options = setup.datasets[phase], setup.recipe.datasets[phase]
    file = dataset.files[position]
    drawn = not (setup.is_input(phase) and getattr(options, "target_size", None) is None)
    try:
        maps = dataset.map_files(file) if isinstance(dataset, ImageFolderDataset) else {}
        digests = [digest_of(path) for path in (*dataset.sources(position), *maps.values())]
    except (OSError, DataError):
        return ""  # restoring it says what is wrong
    # What is drawn for an image depends on its place in the list; its noise depends on its name alone.
    return fingerprint(shared, digests, dataset.names[position], position if drawn else None)
