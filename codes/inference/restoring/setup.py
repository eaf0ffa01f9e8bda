"""What a test run works with: networks with their weights, data, the graph, and where results go."""

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from ...config.yaml_source import Issue, KeyPath, Source
from ...data.corruptions.strength_map import StrengthMap
from ...data.datasets import DATASETS
from ...data.imagefolder import ImageFolderDataset
from ...evaluation.evaluators.base import EVALUATORS
from ...graph.graph import Injector
from ...graph.injectors.gaussian_diffusion_inference import (
    GaussianDiffusionInferenceInjector,
    GaussianDiffusionInferenceOptions,
)
from ...graph.step_graph import StepGraph
from ...models.diffusion.engine import Engine
from ...recipe.checks import check_inference
from ...recipe.recipe import Recipe
from ...runtime.devices import Ranks
from ...utils.console import get_logger
from ...utils.errors import ConfigError
from ...utils.names import same_file
from ..run import Run
from .output_files import OutputNames, clashes

logger = get_logger(__name__)
InferenceOptions = GaussianDiffusionInferenceOptions


class Setup:
    """Everything about a test run that is known before the first image.

    Building it loads the networks and reads the headers of the data; it raises ConfigError or DataError when something
    does not fit.
    """

    def __init__(self, recipe: Recipe, source: Source, ranks: Ranks) -> None:
        self.recipe = recipe
        self.source = source
        self.output = recipe.output
        nodes = [node for step in recipe.steps.values() for node in step.injectors.values() if not node.train]
        sampling = [node for node in nodes if isinstance(node, InferenceOptions)]
        self.nodes = [node for node in sampling if "low_res" in node.model_input_keys]
        if not self.nodes and not recipe.eval.evaluators:
            raise ConfigError(
                f"{source.file}: neither an injector gaussian_diffusion_inference in steps nor an evaluator in eval, "
                "so there is nothing to do; for training run train.py"
            )
        self.use = Run.of_recipe(recipe, self._network_names(), ranks)
        self.root = self.use.folder
        check_inference(recipe, source, self.use.networks)
        self.outputs = self._outputs()
        self.names = OutputNames(self.output, self.outputs)
        self.steps = {name: StepGraph(step) for name, step in recipe.steps.items()}
        self._refuse_own_results()
        self._refuse_missing_files()
        self.datasets = {
            phase: DATASETS.get(options.mode)(options, seed=self.use.seed, shuffle=False)
            for phase, options in recipe.datasets.items()
            if self.nodes
        }
        self._check_data()
        self.targets = self._plan_files()
        self.evaluators = {
            name: EVALUATORS.get(options.type)(options) for name, options in recipe.eval.evaluators.items()
        }

    def node(self, key: str) -> InferenceOptions:
        """The options of the injector that writes a result."""
        return next(node for node in self.nodes if node.out == key)

    @cached_property
    def engines(self) -> dict[str, Engine]:
        """Result -> what samples it."""
        context = self.use.context()
        injectors = [_bare(injector) for step in self.steps.values() for injector in step.injectors.values()]
        sampling = [found for found in injectors if isinstance(found, GaussianDiffusionInferenceInjector)]
        restoring = {node.out for node in self.nodes}
        return {found.options.out: found.engine(context) for found in sampling if found.options.out in restoring}

    def low_res_key(self, keys: Mapping[str, Any] | frozenset[str]) -> str:
        """The key of an item that restoration starts from; a later injector may start from an earlier one's result."""
        named = [node.model_input_keys["low_res"] for node in self.nodes]
        found = next((key for key in map(self._origin, named) if key in keys), None)
        if found is None:
            raise ConfigError(
                f"low_res: {named[0]} is neither an image of the data nor made from one of the same size, so the size "
                "of the result is not known beforehand; resize or crop the files themselves"
            )
        return found

    def _origin(self, key: str) -> str:
        """The key that an image was made from by injectors that keep its height and width."""
        nodes = [node for step in self.recipe.steps.values() for node in step.injectors.values()]
        made_of = {out: read for node in nodes for out, read in node.same_size().items()}
        while key in made_of:
            key = made_of[key]
        return key

    def is_input(self, phase: str) -> bool:
        """Whether the files of a phase are themselves what is restored."""
        return bool(getattr(self.recipe.datasets[phase], "skip_lq", False))

    def sizes(self, low_res: tuple[int, int], keys: frozenset[str]) -> dict[str, tuple[int, int]]:
        """Result -> (height, width), of an image whose low resolution has this size."""
        found = {self.low_res_key(keys): low_res}
        for node in self.nodes:
            height, width = found[self._origin(node.model_input_keys["low_res"])]
            found[node.out] = (height * node.output_scale_factor, width * node.output_scale_factor)
        return {node.out: found[node.out] for node in self.nodes}

    def _network_names(self) -> tuple[str, ...]:
        sampled = [name for node in self.nodes for name in node.generators]
        evaluators = self.recipe.eval.evaluators.values()
        evaluated = [name for evaluator in evaluators for name in evaluator.network_names()]
        nodes = [node for step in self.recipe.steps.values() for node in step.injectors.values() if not node.train]
        run = [name for node in nodes for name in node.network_inputs()]
        return tuple(dict.fromkeys([*sampled, *run, *evaluated]))

    def _outputs(self) -> tuple[str, ...]:
        named = self.recipe.eval.output_state
        if named is None:
            return tuple(node.out for node in self.nodes)
        return (named,) if isinstance(named, str) else named

    def _refuse_own_results(self) -> None:
        for phase, options in self.recipe.datasets.items():
            for text in getattr(options, "path_list", ()):
                if self.root.resolve().is_relative_to(Path(text).resolve()):
                    raise ConfigError(
                        f"datasets.{phase}.paths: the results ({self.root}) would be written into the input folder "
                        f"{text}; set path.results to a folder outside of it"
                    )

    def _refuse_missing_files(self) -> None:
        """Before the data is read, which knows no key of the recipe."""
        issues = []
        for phase, options in self.recipe.datasets.items():
            truth = getattr(options, "ground_truth", None)
            known = getattr(options, "known_entropy", None) or ()
            places: dict[KeyPath, Sequence[str]] = {
                ("paths",): getattr(options, "path_list", ()),
                ("ground_truth",): [truth] if truth else [],
                ("fixed_parameters", "corruption_entropy"): [v.map for v in known if isinstance(v, StrengthMap)],
            }
            issues += [
                Issue(("datasets", phase, *key), f"{place}: no such file or folder")
                for key, named in places.items()
                for place in named
                if not os.path.exists(place)  # unlike Path.exists, without an error of permissions
            ]
        if issues:
            raise self.source.error(issues)

    def _check_data(self) -> None:
        for phase, dataset in self.datasets.items():
            if isinstance(dataset, ImageFolderDataset):
                _ = dataset.truths, dataset.maps  # raise what is wrong with them
            if len(dataset) != len(dataset.files):
                raise ConfigError(
                    f"datasets.{phase}: {len(dataset)} items of {len(dataset.files)} images; here each is restored "
                    "once, so remove weights and tiles_per_image, which are for training"
                )

    def _plan_files(self) -> dict[str, list[Path]]:
        """Phase -> the target of every image. Raises ConfigError when a result is itself an input."""
        targets = {
            phase: self.names.plan(self.root / data.options.name, data.files, data.infos, data.options.path_list)
            for phase, data in self.datasets.items()
        }
        inputs = frozenset(same_file(file.resolve()) for dataset in self.datasets.values() for file in dataset.files)
        for phase, planned in targets.items():
            for target in planned:
                clash = clashes(self.names.files(target), inputs)
                if clash is not None:
                    raise ConfigError(
                        f"datasets.{phase}.paths: {clash} is an input and would be overwritten by its own result; "
                        "set path.results or another `name`"
                    )
        return targets


def _bare(injector: Injector) -> Injector:
    """An injector without what was wrapped around it."""
    return getattr(injector, "injector", injector)
