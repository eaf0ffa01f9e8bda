"""The work of a test run: every image with its sizes and files, those that are finished, and who restores the rest."""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...config.fingerprint import fingerprint
from ...data.companions import Roots
from ...models.diffusion.tiling.plan import TilePlan
from ...runtime.rank_messages import RankMessages
from ...utils.console import counted, get_logger, progress
from ...utils.errors import DataError
from ...utils.files import digest_of
from .job import Inputs
from .output import ImageRecord
from .results import Order, OutputNames, Planned, PlannedResult
from .setup import Setup

logger = get_logger(__name__)


@dataclass(frozen=True)
class Work:
    """All images in their order, those that are finished, and the groups that this rank restores."""

    images: Sequence[Planned]
    earlier: Mapping[Order, ImageRecord]
    groups: Sequence[Sequence[Planned]]


def work_of(setup: Setup, messages: RankMessages) -> Work:
    """What is left to do, and this rank's share of it. Rank 0 looks at the files; every rank must call this."""
    first, skip = messages.ranks.first, setup.output.skip_existing
    images = messages.from_first(planned_images(setup) if first else [])
    earlier = messages.from_first(setup.records.earlier(images, skip) if first else {})
    todo = [image for image in images if image.order not in earlier]
    if first:
        _announce(setup, len(images), len(todo), begun=setup.records.clean(todo))
        warn_of_sizes(setup, todo)
    messages.from_first(None)  # nobody begins before the leftovers are gone
    at_once = min((_at_once(setup, image) for image in todo), default=1)
    mine = share_of(todo, messages.ranks.rank, messages.ranks.world_size)
    return Work(images, earlier, groups(mine, at_once))


def planned_images(setup: Setup) -> list[Planned]:
    """Every image of every dataset, in their order."""
    names = OutputNames(setup.output, setup.chain.outputs)
    roots = {phase: Roots(given.options.path_list) for phase, given in setup.inputs.items()}
    places = [(phase, position) for phase, given in setup.inputs.items() for position in range(len(given.dataset))]
    shown = progress(places, len(places), "looking at the files")
    return [_planned(setup, names, phase, position, roots[phase]) for phase, position in shown]


def _planned(setup: Setup, names: OutputNames, phase: str, position: int, roots: Roots) -> Planned:
    given = setup.inputs[phase]
    source, target = given.dataset.files[position], given.targets[position]
    low_res = _low_res_size(given, position)
    results = setup.chain.results(given.key, low_res)
    alpha = setup.output.alpha == "restore" and given.as_they_are and _may_have_alpha(given, position)
    states = setup.output.num_samples * (2 if alpha else 1)
    made_from = _fingerprint(given, position)
    return Planned(
        phase, position, source, roots.below(source).as_posix(), target, names.files(target), low_res, results,
        tiles=max(len(tiles_of(setup, result)) for result in results),
        states=states,
        pixels=states * sum(height * width for height, width in (result.size for result in results)),
        input=made_from,
        key=fingerprint(setup.decided_by[phase], made_from) if made_from else "",
    )  # fmt: skip


def _low_res_size(given: Inputs, position: int) -> tuple[int, int]:
    """By the header; where transparency is cut off the real image is smaller."""
    options, info = given.options, given.dataset.infos[position]
    target, scale = options.target_size, options.scale
    height, width = (target, target) if target else (info.height, info.width)
    if options.square:
        height = width = min(height, width)
    return (max(height // scale, 1), max(width // scale, 1)) if given.key == "lq" else (height, width)


def _may_have_alpha(given: Inputs, position: int) -> bool:
    return "A" in given.dataset.infos[position].mode.upper()


def _fingerprint(given: Inputs, position: int) -> str:
    """Of what an image is made from: the name and the content of its files; "" where one cannot be read."""
    dataset, drawn = given.dataset, not (given.as_they_are and given.options.target_size is None)
    try:
        maps = dataset.map_files(dataset.files[position])
        digests = [digest_of(path) for path in (*dataset.sources(position), *maps.values())]
    except (OSError, DataError):
        return ""  # restoring it says what is wrong
    # What is drawn for an image depends on its place in the list; its noise depends on its name alone.
    return fingerprint(dataset.names[position], digests, position if drawn else None)


def tiles_of(setup: Setup, result: PlannedResult, later: int = 0) -> TilePlan:
    """The tiles of a result in its last pass, or in a pass so many before it."""
    height, width = (side // result.scale**later for side in result.size)
    return setup.engines[result.key].plan(height, width, result.scale)


def _announce(setup: Setup, images: int, todo: int, begun: int) -> None:
    if todo < images:
        skip = str(setup.output.skip_existing).lower()
        logger.info("%d of %d images are restored already (output.skip_existing: %s)", images - todo, images, skip)
    if begun:
        logger.info("going on with %s where an earlier run was interrupted", counted(begun, "image"))


def warn_of_sizes(setup: Setup, images: Sequence[Planned]) -> None:
    """Say which of these images are restored more than once or enlarged by interpolation, and what that means."""
    passes = [max(result.passes for result in image.results) for image in images]
    if often := sum(count > 1 for count in passes):
        logger.warning(
            "%s: output.%s: %s restored up to %d times in a row; what the later passes draw is invented from what "
            "the first one has drawn, so fine detail is not to be trusted",
            setup.source.file, setup.output.in_words, counted(often, "image"), max(passes),
        )  # fmt: skip
    short = sum(any(result.interpolated for result in image.results) for image in images)
    if short:
        logger.warning(
            "%s: output.%s is more than the network gives; %s enlarged by interpolation for the rest",
            setup.source.file, setup.output.in_words, counted(short, "image"),
        )  # fmt: skip


def _at_once(setup: Setup, image: Planned) -> int:
    """Tiles of its results that go through the network together."""
    return min(setup.engines[result.key].tiles_at_once(tiles_of(setup, result)) for result in image.results)


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
