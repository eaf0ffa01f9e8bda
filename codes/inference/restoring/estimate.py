"""What a test run would do, how long it would take and what memory it needs: everything is read, nothing is written."""

from collections.abc import Iterable

from ...config.yaml_source import Source
from ...models.diffusion.pace import Pace, timed
from ...recipe.recipe import Recipe
from ...runtime.devices import Ranks
from ...utils.console import counted, format_seconds, get_logger, progress, size_text
from ...utils.errors import EXIT_OK, TesseraError, reason_of
from .job import Job
from .output import Planned
from .plan import Plan

logger = get_logger(__name__)
FLOAT_BYTES = 4
GIB = 2**30


def estimate(recipe: Recipe, source: Source) -> int:
    """Read every image, time a step of each result on a batch of tiles, and tell. 0 even where images are broken."""
    plan = Plan(recipe, source, Ranks())
    if not plan.nodes:
        raise TesseraError(f"{source.file}: no image is restored by this recipe, so there is nothing to estimate")
    images = plan.images()
    earlier = plan.records.earlier(images, plan.output.skip_existing)
    paces = {key: timed(engine) for key, engine in plan.engines.items()}
    readable = 0
    total = 0.0
    for image in progress(images, len(images), "reading"):
        name = image.name
        try:
            job = Job(plan, image)
        except (TesseraError, OSError, RuntimeError, ValueError, MemoryError) as error:
            logger.error("%s: would fail: %s", name, reason_of(error, image.source))
            continue
        readable += 1
        seconds = 0.0 if image.order in earlier else _seconds(plan, image, paces, len(job.units))
        total += seconds
        logger.info("%s", _line(plan, image, name, len(job.units), seconds, image.order in earlier))
    broken = [entry for dataset in plan.datasets.values() for entry in dataset.report().failed]
    for rejected in broken:
        logger.error("%s: would fail: %s", rejected.path, rejected.reason)
    plan.warn_of_passes(images)
    _tell_total(plan, len(images) + len(broken), readable, len(earlier), total, paces.values())
    return EXIT_OK


def _seconds(plan: Plan, image: Planned, paces: dict[str, Pace], states: int) -> float:
    total = 0.0
    for key, size in image.sizes.items():
        engine, scale = plan.engines[key], plan.node(key).output_scale_factor
        for later in range(image.passes[key]):  # the last pass first
            tiles = plan.tiles(key, (size[0] // scale**later, size[1] // scale**later))
            pixels = len(tiles) * tiles.tile[0] * tiles.tile[1] * states
            total += pixels * engine.calls * paces[key].seconds
    return total


def _line(plan: Plan, image: Planned, name: str, states: int, seconds: float, earlier: bool) -> str:
    key, size = next(iter(image.sizes.items()))
    text = f"{name}: {size_text(image.low_res)} -> {size_text(size)}"
    if image.passes[key] > 1:
        text += f" in {image.passes[key]} passes"
    if image.framings[key].size != size:
        text += f" -> {size_text(image.framings[key].size)}"
    text += f", {counted(image.tiles, 'tile')}"
    if states > 1:
        text += f" x {states} (samples, transparency)"
    if earlier:
        return f"{text}; done already"
    return f"{text}, {_canvas_memory(plan, image, states)}, about {format_seconds(seconds)}"


def _canvas_memory(plan: Plan, image: Planned, states: int) -> str:
    """What its canvases take, in memory or on disk: two of float32, which sometimes hold a second image."""
    sizes = {"ram": 0.0, "disk": 0.0}
    for key, (height, width) in image.sizes.items():
        engine = plan.engines[key]
        sizes[engine.options.canvas] += states * height * width * 2 * FLOAT_BYTES * engine.canvas_channels
    words = {"ram": "memory", "disk": "disk"}
    return ", ".join(f"{value / GIB:.2f} GiB of {words[kind]}" for kind, value in sizes.items() if value)


def _tell_total(plan: Plan, images: int, readable: int, earlier: int, total: float, paces: Iterable[Pace]) -> None:
    logger.info(
        "%d of %d images can be read, %d are done already; about %s in all on one %s",
        readable, images, earlier, format_seconds(total), plan.use.device.type,
    )  # fmt: skip
    device_bytes = max(pace.device_bytes for pace in paces)
    if device_bytes:
        logger.info("device memory: %.2f GiB for a batch of tiles, whatever the size of an image", device_bytes / GIB)
    else:
        logger.info("device memory: that of one batch of tiles, whatever the size of an image")
