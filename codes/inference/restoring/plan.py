"""What a test run restores, and with what: networks, data, the graph, the place and the size of every result.

Everything that is known before the first image, and which images are left to do.
"""

import heapq
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...config.fingerprint import fingerprint
from ...config.yaml_source import Issue, KeyPath, Source
from ...data.companions import Roots
from ...data.corruptions.strength_map import StrengthMap
from ...data.datasets import DATASETS
from ...data.image_dataset import ImageDataset
from ...evaluation.evaluators.base import EVALUATORS
from ...graph.graph import StepContext
from ...graph.injectors.tiled import tiled_injector
from ...graph.node_options import TiledOptions
from ...graph.step_graph import StepGraph
from ...images.output_size import Framing, passes_for
from ...models.diffusion.engine import Engine
from ...models.diffusion.tiling.plan import TilePlan
from ...recipe.checks import check_inference
from ...recipe.recipe import Recipe
from ...runtime.devices import Ranks
from ...runtime.rank_messages import RankMessages
from ...utils.console import counted, get_logger, progress
from ...utils.errors import ConfigError, DataError
from ...utils.files import digest_of
from ...utils.names import same_file
from ..run import Run
from ..strength_reader import StrengthReader
from .output import ImageRecord, Order, OutputNames, Planned, Records, clash

logger = get_logger(__name__)


@dataclass(frozen=True)
class Work:
    """All images in their order, those that are finished, and the groups that this rank restores."""

    images: Sequence[Planned]
    earlier: Mapping[Order, ImageRecord]
    groups: Sequence[Sequence[Planned]]


class Plan:
    """A recipe as a test run uses it.

    Building it loads the networks and reads the headers of the data; it raises ConfigError or DataError when something
    does not fit.
    """

    def __init__(self, recipe: Recipe, source: Source, ranks: Ranks) -> None:
        self.recipe = recipe
        self.source = source
        self.output = recipe.output
        nodes = [node for step in recipe.steps.values() for node in step.injectors.values() if not node.train]
        self.nodes = [node.tiled for node in nodes if node.tiled and node.tiled.restores]
        if not self.nodes and not recipe.eval.evaluators:
            raise ConfigError(
                f"{source.file}: neither an injector gaussian_diffusion_inference in steps nor an evaluator in eval, "
                "so there is nothing to do; for training run train.py"
            )
        self.outputs = self._outputs()
        restoring = self._restoring_networks()
        evaluated = [name for section in recipe.eval.evaluators.values() for name in section.network_names()]
        self.use = Run.of_recipe(recipe, dict.fromkeys([*restoring, *evaluated]), ranks)
        self.root, context = self.use.folder, self.use.context()
        # Phase -> fingerprint of everything but the image that its results depend on.
        self.decided_by = {
            phase: fingerprint(self.use.settings(recipe, phase, restoring), self.outputs) for phase in recipe.datasets
        }
        check_inference(recipe, source, self.use.networks, self.use.records)
        self.steps = {name: StepGraph(step) for name, step in recipe.steps.items()}
        self.engines = self._engines(context)
        _refuse_own_results(recipe, self.root)
        _refuse_missing_files(recipe, source)
        self.datasets = {
            phase: DATASETS.get(options.mode)(options, seed=self.use.seed, shuffle=False)
            for phase, options in recipe.datasets.items()
            if self.nodes
        }
        self._check_data()
        self.records = Records(self.root)
        self.names = OutputNames(self.output, self.outputs)
        self.targets = self._plan_files()
        self.evaluators = {
            name: EVALUATORS.get(options.type)(options) for name, options in recipe.eval.evaluators.items()
        }

    def work(self, messages: RankMessages) -> Work:
        """What is left to do, and this rank's share of it. Rank 0 looks at the files; every rank must call this."""
        first = messages.ranks.first
        images = messages.from_first(self.images() if first else [])
        earlier = messages.from_first(self.records.earlier(images, self.output.skip_existing) if first else {})
        todo = [image for image in images if image.order not in earlier]
        if first:
            self._announce(len(images), len(todo), self.records.clean(todo))
            self.warn_of_passes(todo)
        messages.from_first(None)  # nobody begins before the leftovers are gone
        at_once = min((self._at_once(image) for image in todo), default=1)
        mine = share_of(todo, messages.ranks.rank, messages.ranks.world_size)
        return Work(images, earlier, groups(mine, at_once))

    def _at_once(self, image: Planned) -> int:
        """Tiles of its results that go through the network together."""
        return min(
            self.engines[key].tiles_at_once(self.tiles(key, size))
            for key, size in image.sizes.items()
            if key in self.engines
        )

    def images(self) -> list[Planned]:
        """Every image of every dataset, in their order."""
        roots = {phase: Roots(data.options.path_list) for phase, data in self.datasets.items()}
        places = [(phase, position) for phase, data in self.datasets.items() for position in range(len(data))]
        shown = progress(places, len(places), "looking at the files")
        return [self._planned(phase, position, roots[phase]) for phase, position in shown]

    def _planned(self, phase: str, position: int, roots: Roots) -> Planned:
        dataset, target = self.datasets[phase], self.targets[phase][position]
        source = dataset.files[position]
        low_res = self._low_res_size(phase, position)
        sizes, passes = self.sizes(low_res, dataset.state_keys)
        restored_alpha = self.output.alpha == "restore" and self.is_input(phase) and _may_have_alpha(dataset, position)
        made_from = self._input(phase, position)
        states = self.output.num_samples * (2 if restored_alpha else 1)
        return Planned(
            phase, position, source, roots.below(source).as_posix(), target, self.names.files(target), low_res, sizes,
            passes=passes,
            framings={key: self.framing(key, low_res) for key in self.outputs},
            tiles=max(len(self.tiles(key, size)) for key, size in sizes.items()),
            states=states,
            pixels=states * sum(height * width for height, width in sizes.values()),
            input=made_from,
            key=fingerprint(self.decided_by[phase], made_from) if made_from else "",
        )  # fmt: skip

    def _low_res_size(self, phase: str, position: int) -> tuple[int, int]:
        """By the header; where transparency is cut off the real image is smaller."""
        options = self.recipe.datasets[phase]
        info = self.datasets[phase].infos[position]
        target, scale = options.target_size, options.scale
        height, width = (target, target) if target else (info.height, info.width)
        if options.square:
            height = width = min(height, width)
        if self.low_res_key(self.datasets[phase].state_keys) == "lq":
            return max(height // scale, 1), max(width // scale, 1)
        return height, width

    def _input(self, phase: str, position: int) -> str:
        """Fingerprint of what an image is made from: the name and the content of its files."""
        dataset, options = self.datasets[phase], self.recipe.datasets[phase]
        drawn = not (self.is_input(phase) and options.target_size is None)
        try:
            maps = dataset.map_files(dataset.files[position])
            digests = [digest_of(path) for path in (*dataset.sources(position), *maps.values())]
        except (OSError, DataError):
            return ""  # restoring it says what is wrong
        # What is drawn for an image depends on its place in the list; its noise depends on its name alone.
        return fingerprint(dataset.names[position], digests, position if drawn else None)

    def _announce(self, images: int, todo: int, begun: int) -> None:
        if todo < images:
            skip = str(self.output.skip_existing).lower()
            logger.info("%d of %d images are restored already (output.skip_existing: %s)", images - todo, images, skip)
        if begun:
            logger.info("going on with %s where an earlier run was interrupted", counted(begun, "image"))

    def warn_of_passes(self, images: Sequence[Planned]) -> None:
        """Say which of these images are restored more than once, and what that means."""
        often = [image for image in images if max(image.passes.values()) > 1]
        if often:
            passes = max(max(image.passes.values()) for image in often)
            logger.warning(
                "%s: output.%s: %s restored up to %d times in a row; what the later passes draw is invented from what "
                "the first one has drawn, so fine detail is not to be trusted",
                self.source.file, self.output.in_words, counted(len(often), "image"), passes,
            )  # fmt: skip
        short = [image for image in images if self.output.resized and self._interpolates(image)]
        if short:
            logger.warning(
                "%s: output.%s is more than the network gives; %s enlarged by interpolation for the rest",
                self.source.file, self.output.in_words, counted(len(short), "image"),
            )  # fmt: skip

    def _interpolates(self, image: Planned) -> bool:
        return any(image.framings[key].interpolates(*image.sizes[key]) for key in self.outputs)

    @property
    def on_disk(self) -> bool:
        """Whether a canvas lies on disk, so that images may be larger than memory."""
        return any(node.tiled is not None and node.tiled.canvas == "disk" for node in self.nodes)

    @property
    def whole_because(self) -> str | None:
        """What of the recipe, its datasets apart, needs images as a whole; None where large ones are read by rows."""
        nodes = [node for step in self.recipe.steps.values() for node in step.injectors.values() if not node.train]
        if any(node.tiled is None or node.tiled.canvas != "disk" for node in nodes):
            return "injectors without canvas: disk"
        if any(engine.options.consistency != "none" for engine in self.engines.values()):
            return "consistency"
        return f"output.{self.output.in_words}" if self.output.resized else None

    def tiles(self, key: str, size: tuple[int, int]) -> TilePlan:
        """The tiles of a result of (height, width)."""
        return self.engines[key].plan(*size, self.node(key).output_scale_factor)

    def node(self, key: str) -> TiledOptions:
        """The options of the injector that writes a result."""
        return next(node for node in self.nodes if node.out == key)

    def _engines(self, context: StepContext) -> dict[str, Engine]:
        """Result -> what samples it."""
        return {node.out: tiled_injector(node).engine(context) for node in self.nodes}

    def low_res_key(self, keys: Mapping[str, Any] | frozenset[str]) -> str:
        """The key of an item that restoration starts from; a later injector may start from an earlier one's result."""
        named = [node.model_input_keys["low_res"] for node in self.nodes]
        origin = next((key for key in map(self._origin, named) if key in keys), None)
        if origin is None:
            raise ConfigError(
                f"low_res: {named[0]} is neither an image of the data nor made from one of the same size, so the size "
                "of the result is not known beforehand; resize or crop the files themselves"
            )
        return origin

    def _origin(self, key: str) -> str:
        """The key that an image was made from by injectors that keep its height and width."""
        nodes = [node for step in self.recipe.steps.values() for node in step.injectors.values()]
        made_of = {out: read for node in nodes for out, read in node.same_size().items()}
        while key in made_of:
            key = made_of[key]
        return key

    def is_input(self, phase: str) -> bool:
        """Whether the files of a phase are themselves what is restored."""
        return self.recipe.datasets[phase].files_are_lq

    def sizes(
        self, low_res: tuple[int, int], keys: frozenset[str]
    ) -> tuple[dict[str, tuple[int, int]], dict[str, int]]:
        """Restored image -> (height, width), and how often it is restored, of an image of this low resolution.

        Those that are written come first.
        """
        size_of, passes = {self.low_res_key(keys): low_res}, dict[str, int]()
        for node in self.nodes:
            height, width = size_of[self._origin(node.model_input_keys["low_res"])]
            needed = self.framing(node.out, low_res).magnification(height, width) if node.out in self.outputs else 1.0
            passes[node.out] = passes_for(needed, node.output_scale_factor) if self.output.resized else 1
            scale = node.output_scale_factor ** passes[node.out]
            size_of[node.out] = (height * scale, width * scale)
        order = dict.fromkeys([*self.outputs, *(node.out for node in self.nodes)])
        return {key: size_of[key] for key in order}, passes

    def framing(self, key: str, low_res: tuple[int, int]) -> Framing:
        """What is written of a result, and how large, for an input of (height, width)."""
        if self.output.resized:
            return self.output.framing(*low_res, scale=1)
        return Framing(*self._unchanged(key, low_res))

    def _unchanged(self, key: str, low_res: tuple[int, int]) -> tuple[int, int]:
        """The size that the networks give on the way to a result."""
        node = next((node for node in self.nodes if node.out == key), None)
        if node is None:
            return low_res
        height, width = self._unchanged(self._origin(node.model_input_keys["low_res"]), low_res)
        return height * node.output_scale_factor, width * node.output_scale_factor

    def _restoring_networks(self) -> tuple[str, ...]:
        """The networks that results depend on."""
        nodes = [node for step in self.recipe.steps.values() for node in step.injectors.values() if not node.train]
        estimators = [name for data in self.recipe.datasets.values() if (name := data.estimator) is not None]
        run = [name for node in [*self.nodes, *nodes] for name in node.networks()]
        return tuple(dict.fromkeys([*run, *estimators]))

    def _outputs(self) -> tuple[str, ...]:
        named = self.recipe.eval.output_state
        if named is None:
            return tuple(node.out for node in self.nodes)
        return (named,) if isinstance(named, str) else named

    def _check_data(self) -> None:
        for phase, dataset in self.datasets.items():
            dataset.check()
            self._give_reader(phase, dataset)
            if len(dataset) != len(dataset.files):
                raise ConfigError(
                    f"datasets.{phase}: {len(dataset)} items of {len(dataset.files)} images; here each is restored "
                    "once, so remove weights and tiles_per_image, which are for training"
                )

    def _give_reader(self, phase: str, dataset: ImageDataset) -> None:
        """The estimator that a dataset names reads its strengths. Raises ConfigError where it does not know them."""
        name = dataset.image_options.estimator
        if name is None:
            return
        reader = StrengthReader.of_weights(self.use.networks[name], self.use.weights[name], self.use.device)
        wanted = [dataset.image_options.corruption_names[index] for index in dataset.image_options.auto_positions]
        unknown = [corruption for corruption in wanted if corruption not in reader.names]
        if unknown:
            raise ConfigError(
                f"datasets.{phase}.fixed_parameters.estimator: {self.use.weights[name]} does not tell "
                f"{', '.join(unknown)} (it knows: {', '.join(reader.names)}); give numbers in [0, 1] for these"
            )
        dataset.reader = reader

    def _plan_files(self) -> dict[str, list[Path]]:
        """Phase -> the target of every image. Raises ConfigError when a result is itself an input."""
        targets = {
            phase: self.names.targets(self.root / data.options.name, data.files, data.infos, data.options.path_list)
            for phase, data in self.datasets.items()
        }
        inputs = frozenset(same_file(file.resolve()) for dataset in self.datasets.values() for file in dataset.files)
        for phase, planned in targets.items():
            for target in planned:
                input_file = clash(self.names.files(target), inputs)
                if input_file is not None:
                    raise ConfigError(
                        f"datasets.{phase}.paths: {input_file} is an input and would be overwritten by its own result; "
                        "set path.results or another `name`"
                    )
        return targets


def _refuse_own_results(recipe: Recipe, root: Path) -> None:
    for phase, options in recipe.datasets.items():
        for text in options.path_list:
            if root.resolve().is_relative_to(Path(text).resolve()):
                raise ConfigError(
                    f"datasets.{phase}.paths: the results ({root}) would be written into the input folder "
                    f"{text}; set path.results to a folder outside of it"
                )


def _refuse_missing_files(recipe: Recipe, source: Source) -> None:
    """Before the data is read, which knows no key of the recipe."""
    issues = []
    for phase, options in recipe.datasets.items():
        known = options.known_entropy or ()
        places: dict[KeyPath, Sequence[str]] = {
            ("paths",): options.path_list,
            ("ground_truth",): options.truth_list,
            ("fixed_parameters", "corruption_entropy"): [v.map for v in known if isinstance(v, StrengthMap)],
        }
        issues += [
            Issue(("datasets", phase, *key), f"{place}: no such file or folder")
            for key, named in places.items()
            for place in named
            if not os.path.exists(place)  # unlike Path.exists, without an error of permissions
        ]
    if issues:
        raise source.error(issues)


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
