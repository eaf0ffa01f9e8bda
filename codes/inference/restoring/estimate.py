"""What a test run would do, how long it would take and what memory it needs: everything is read, nothing is written."""

from collections.abc import Iterable

from ...config.yaml_source import Source
from ...models.diffusion.pace import Pace, timed
from ...recipe.recipe import Recipe
from ...runtime.devices import Ranks
from ...utils.console import counted, format_seconds, get_logger, progress, size_text
from ...utils.errors import EXIT_OK, TesseraError, reason_of
from .job import Job
from .results import Planned
from .setup import Setup
from .work import planned_images, tiles_of, warn_of_sizes

logger = get_logger(__name__)
FLOAT_BYTES = 4
GIB = 2**30


def estimate(recipe: Recipe, source: Source) -> int:
    """Read every image, time a step of each result on a batch of tiles, and tell. 0 even where images are broken."""
    setup = Setup(recipe, source, Ranks())
    if not setup.chain.nodes:
        raise TesseraError(f"{source.file}: no image is restored by this recipe, so there is nothing to estimate")
    images = planned_images(setup)
    earlier = setup.records.earlier(images, setup.output.skip_existing)
    paces = {key: timed(engine) for key, engine in setup.engines.items()}
    readable = 0
    total = 0.0
    for image in progress(images, len(images), "reading"):
        try:
            job = Job(image, setup.inputs[image.phase], setup.chain, setup.use)
        except (TesseraError, OSError, RuntimeError, ValueError, MemoryError) as error:
            logger.error("%s: would fail: %s", image.name, reason_of(error, image.source))
            continue
        readable += 1
        seconds = 0.0 if image.order in earlier else _seconds(setup, image, paces, len(job.units))
        total += seconds
        logger.info("%s", _line(setup, image, len(job.units), seconds, image.order in earlier))
    broken = [entry for inputs in setup.inputs.values() for entry in inputs.dataset.report().failed]
    for rejected in broken:
        logger.error("%s: would fail: %s", rejected.path, rejected.reason)
    warn_of_sizes(setup, images)
    _tell_total(setup, len(images) + len(broken), readable, len(earlier), total, paces.values())
    return EXIT_OK


def _seconds(setup: Setup, image: Planned, paces: dict[str, Pace], states: int) -> float:
    total = 0.0
    for result in image.results:
        calls, pace = setup.engines[result.key].calls, paces[result.key]
        for later in range(result.passes):  # the last pass first
            tiles = tiles_of(setup, result, later)
            pixels = len(tiles) * tiles.tile[0] * tiles.tile[1] * states
            total += pixels * calls * pace.seconds
    return total


def _line(setup: Setup, image: Planned, states: int, seconds: float, earlier: bool) -> str:
    first = image.results[0]
    text = f"{image.name}: {size_text(image.low_res)} -> {size_text(first.size)}"
    if first.passes > 1:
        text += f" in {first.passes} passes"
    if first.framing and first.framing.size != first.size:
        text += f" -> {size_text(first.framing.size)}"
    text += f", {counted(image.tiles, 'tile')}"
    if states > 1:
        text += f" x {states} (samples, transparency)"
    if earlier:
        return f"{text}; done already"
    return f"{text}, {_canvas_memory(setup, image, states)}, about {format_seconds(seconds)}"


def _canvas_memory(setup: Setup, image: Planned, states: int) -> str:
    """What its canvases take, in memory or on disk: two of float32, which sometimes hold a second image."""
    sizes = {"ram": 0.0, "disk": 0.0}
    for result in image.results:
        engine, (height, width) = setup.engines[result.key], result.size
        sizes[engine.options.canvas] += states * height * width * 2 * FLOAT_BYTES * engine.canvas_channels
    words = {"ram": "memory", "disk": "disk"}
    return ", ".join(f"{value / GIB:.2f} GiB of {words[kind]}" for kind, value in sizes.items() if value)


def _tell_total(setup: Setup, images: int, readable: int, earlier: int, total: float, paces: Iterable[Pace]) -> None:
    logger.info(
        "%d of %d images can be read, %d are done already; about %s in all on one %s",
        readable, images, earlier, format_seconds(total), setup.use.device.type,
    )  # fmt: skip
    device_bytes = max(pace.device_bytes for pace in paces)
    if device_bytes:
        logger.info("device memory: %.2f GiB for a batch of tiles, whatever the size of an image", device_bytes / GIB)
    else:
        logger.info("device memory: that of one batch of tiles, whatever the size of an image")
