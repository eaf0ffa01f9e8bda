"""What a test run restores, and with what: networks, data and graph, all checked before the first image."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...config.fingerprint import fingerprint
from ...config.yaml_source import Issue, KeyPath, Source
from ...data.corruptions.strength_map import StrengthMap
from ...data.datasets import DATASETS
from ...data.image_dataset import ImageDataset
from ...data.image_options import ImageOptions
from ...evaluation.evaluators.base import EVALUATORS
from ...graph.injectors.tiled import tiled_injector
from ...graph.step_graph import StepGraph
from ...recipe.checks import check_inference
from ...recipe.recipe import Recipe
from ...runtime.devices import Ranks
from ...utils.errors import ConfigError
from ...utils.names import same_file
from ..run import Run
from ..strength_reader import StrengthReader
from .job import Inputs
from .output import Records
from .results import Chain, OutputNames


class Setup:
    """A recipe as a test run uses it.

    Building it loads the networks and reads the headers of the data; it raises ConfigError or DataError when something
    does not fit.
    """

    def __init__(self, recipe: Recipe, source: Source, ranks: Ranks) -> None:
        self.recipe = recipe
        self.source = source
        self.output = recipe.output
        self.chain = Chain.of_recipe(recipe)
        if not self.chain.nodes and not recipe.eval.evaluators:
            raise ConfigError(
                f"{source.file}: neither an injector gaussian_diffusion_inference in steps nor an evaluator in eval, "
                "so there is nothing to do; for training run train.py"
            )
        restoring = _restoring_networks(recipe)
        evaluated = [name for section in recipe.eval.evaluators.values() for name in section.network_names()]
        self.use = Run.of_recipe(recipe, dict.fromkeys([*restoring, *evaluated]), ranks)
        self.root, context = self.use.folder, self.use.context()
        # Phase -> fingerprint of everything but the image that its results depend on.
        self.decided_by = {
            phase: fingerprint(self.use.settings(recipe, phase, restoring), self.chain.outputs)
            for phase in recipe.datasets
        }
        check_inference(recipe, source, self.use.networks, self.use.records)
        _refuse_unrestored(self.chain, source)
        self.steps = {name: StepGraph(step) for name, step in recipe.steps.items()}
        self.engines = {node.out: tiled_injector(node).engine(context) for node in self.chain.nodes}
        _refuse_own_results(recipe, self.root)
        _refuse_missing_files(recipe, source)
        self.inputs = self._inputs() if self.chain.nodes else {}
        self.records = Records(self.root)
        self.evaluators = {
            name: EVALUATORS.get(options.type)(options) for name, options in recipe.eval.evaluators.items()
        }

    def _inputs(self) -> dict[str, Inputs]:
        """Phase -> the images of its dataset, each with the file that its results are named by."""
        datasets = {
            phase: DATASETS.get(options.mode)(options, seed=self.use.seed, shuffle=False)
            for phase, options in self.recipe.datasets.items()
        }
        for phase, dataset in datasets.items():
            dataset.check()
            self._give_reader(phase, dataset)
            _refuse_several_items(phase, dataset)
        names = OutputNames(self.output, self.chain.outputs)
        inputs = {phase: self._inputs_of(dataset, dataset.image_options, names) for phase, dataset in datasets.items()}
        _refuse_overwriting(inputs, names)
        return inputs

    def _inputs_of(self, dataset: ImageDataset, options: ImageOptions, names: OutputNames) -> Inputs:
        return Inputs(
            dataset,
            options,
            as_they_are=options.files_are_lq,
            ground="black" if options.alpha == "black" else "white",
            key=self.chain.low_res_key(dataset.state_keys),
            output=self.output,
            targets=names.targets(self.root / options.name, dataset.files, dataset.infos, options.path_list),
            on_disk=any(node.canvas == "disk" for node in self.chain.nodes),
            whole_because=self._whole_because(),
        )

    def _whole_because(self) -> str | None:
        """What of the recipe, its datasets apart, needs images as a whole; None where large ones are read by rows."""
        nodes = [node for step in self.recipe.steps.values() for node in step.injectors.values() if not node.train]
        if any(node.tiled is None or node.tiled.canvas != "disk" for node in nodes):
            return "injectors without canvas: disk"
        if any(engine.options.consistency != "none" for engine in self.engines.values()):
            return "consistency"
        return f"output.{self.output.in_words}" if self.output.resized else None

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


def _restoring_networks(recipe: Recipe) -> tuple[str, ...]:
    """The networks that results depend on."""
    nodes = [node for step in recipe.steps.values() for node in step.injectors.values() if not node.train]
    restoring = [node for node in nodes if node.tiled and node.tiled.restores]
    estimators = [name for data in recipe.datasets.values() if (name := data.estimator) is not None]
    run = [name for node in [*restoring, *nodes] for name in node.networks()]
    return tuple(dict.fromkeys([*run, *estimators]))


def _refuse_unrestored(chain: Chain, source: Source) -> None:
    made = [node.out for node in chain.nodes]
    for key in chain.outputs if made else ():
        if key not in made:
            message = f"{key!r} is made from no image (low_res); restored are: {', '.join(made)}"
            raise source.error([Issue(("eval", "output_state"), message)])


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


def _refuse_several_items(phase: str, dataset: ImageDataset) -> None:
    if len(dataset) != len(dataset.files):
        raise ConfigError(
            f"datasets.{phase}: {len(dataset)} items of {len(dataset.files)} images; here each is restored "
            "once, so remove weights and tiles_per_image, which are for training"
        )


def _refuse_overwriting(inputs: Mapping[str, Inputs], names: OutputNames) -> None:
    """Raise ConfigError when a result is itself an input."""
    taken = frozenset(same_file(file.resolve()) for given in inputs.values() for file in given.dataset.files)
    for phase, given in inputs.items():
        for target in given.targets:
            files = names.files(target).values()
            input_file = next((file for file in files if same_file(file.resolve()) in taken), None)
            if input_file is not None:
                raise ConfigError(
                    f"datasets.{phase}.paths: {input_file} is an input and would be overwritten by its own result; "
                    "set path.results or another `name`"
                )
