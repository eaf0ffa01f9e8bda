"""How far made images lie from real ones as a set: FID and KID over the features of a network of the user's."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from ...config.options import nested
from ...config.yaml_source import Issue
from ...graph.graph import StepContext
from ...models.diffusion.networks.base import DiffusionNetwork
from ...utils.console import get_logger, progress, warn_once
from ...utils.errors import ConfigError
from ...utils.rng import numpy_generator
from .base import EVALUATORS, Evaluation, Evaluator
from .feature_networks import FeatureNetwork, FeatureNetworkOptions
from .feature_statistics import FeatureStatistics, frechet_distance, kernel_distance_of_subsets
from .measuring import measuring, weights_in_words
from .restoring import ImagesOptions, ItemRestorer, Pixels, RestoringOptions, batches, stacked

logger = get_logger(__name__)
Metric = Literal["fid", "kid"]
KID_FIELDS = ("kid_subsets", "kid_subset_size", "kid_images")


class FeatureDistanceOptions(ImagesOptions):
    """What `fid`, `kid` and `sr_diffusion_fid` share."""

    batch_size: int = Field(16, ge=1, description="Images, and tiles where diffusion_params does not say, at once.")
    feature_network: FeatureNetworkOptions = Field(
        FeatureNetworkOptions(network="inception"),
        description="The network whose features are compared: a TorchScript file, an https address with sha256, or "
        "`inception`: the network of the published scores, downloaded once.",
    )
    metrics: tuple[Metric, ...] = Field(
        (), description="fid, kid or both, on the same images; empty: what `type` names."
    )
    kid_subsets: int = Field(100, ge=1, description="KID is the mean over this many draws of a subset.")
    kid_subset_size: int = Field(1000, ge=2, description="Images of a subset of KID; smaller sets are taken whole.")
    kid_images: int = Field(10000, ge=2, description="KID keeps the features of at most so many images, spread evenly.")

    @model_validator(mode="after")
    def _kid_is_measured(self) -> "FeatureDistanceOptions":
        unused = [name for name in KID_FIELDS if name in self.model_fields_set and "kid" not in self.measured]
        if unused:
            raise nested([Issue((unused[0],), "belongs to KID; add `metrics: [fid, kid]`, or remove this key")])
        return self

    @property
    def generated(self) -> int | None:
        """How many images are generated, where that is what is measured."""
        return None

    @property
    def measured(self) -> tuple[Metric, ...]:
        return self.metrics or (("kid",) if self.type == "kid" else ("fid",))

    def problems(self, networks: Mapping[str, DiffusionNetwork]) -> list[Issue]:
        own = [Issue(("feature_network", *issue.path), issue.message) for issue in self.feature_network.problems()]
        return [*super().problems(networks), *own]


class FidOptions(FeatureDistanceOptions, RestoringOptions):
    """Options of `fid` and `kid`."""

    generate: int | None = Field(
        None,
        ge=2,
        description="Generate this many images instead of restoring those of the dataset, and compare with the "
        "dataset; model_input_keys (e.g. y: y) then takes conditions from its items in turn. ~ restores.",
    )

    @property
    def generated(self) -> int | None:
        return self.generate

    @property
    def input_keys(self) -> dict[str, str]:
        chosen = self.generate is None or "model_input_keys" in self.model_fields_set
        return self.model_input_keys if chosen else {}


@dataclass
class FeatureSet:
    """The features of a set of images of known size: their statistics, and some of them for KID, spread evenly."""

    total: int
    kept_at_most: int
    statistics: FeatureStatistics = field(default_factory=FeatureStatistics)
    kept: list[npt.NDArray[np.float32]] = field(default_factory=list)
    seen: int = 0

    def add(self, features: npt.NDArray[np.float32]) -> None:
        self.statistics.add(features)
        keep = min(self.kept_at_most, self.total)
        for row in features:
            if self.seen * keep // self.total != (self.seen + 1) * keep // self.total:
                self.kept.append(row)
            self.seen += 1


@EVALUATORS.register("fid", "kid")
class FeatureDistanceEvaluator(Evaluator):
    """Distance between the restored or generated images and the ground truth of the dataset; lower is better."""

    Options: ClassVar[type[FeatureDistanceOptions]] = FidOptions

    def __init__(self, options: FeatureDistanceOptions) -> None:
        self.options = options
        self.network = FeatureNetwork(options.feature_network, "feature_network")
        self.restorer = ItemRestorer(options)
        self.generate = options.generated
        self.real: FeatureSet | None = None
        if min(len(self.restorer), self.generate or len(self.restorer)) < 2:
            raise ConfigError(f"{options.type}: needs at least 2 images, the dataset has {len(self.restorer)}")

    def evaluate(self, context: StepContext) -> Evaluation:
        options, name = self.options, self.options.for_network
        logger.info("%s of %s: %s", options.type, name, weights_in_words(name, context, options.measures_ema))
        made = self._set(self.generate or len(self.restorer))
        with measuring(context, options.measures_ema) as own, self.network.on(context.device):
            if self.real is None:
                self.real = self._reference()
            for images in self._made(own, made.total):
                self._add(made, images)
        metrics: dict[str, float] = {}
        if "fid" in options.measured:
            self._warn_of_few(self.real, made)
            metrics["fid"] = frechet_distance(self.real.statistics, made.statistics)
        if "kid" in options.measured:
            metrics["kid"], metrics["kid_std"] = self._kid(self.real, made, context.seed)
        return Evaluation({**metrics, "images": float(made.seen), "real_images": float(self.real.seen)})

    def _set(self, total: int) -> FeatureSet:
        return FeatureSet(total, self.options.kid_images if "kid" in self.options.measured else 0)

    def _add(self, into: FeatureSet, images: Sequence[Pixels]) -> None:
        for batch in stacked(images):
            try:
                into.add(self.network.features(batch))
            except ValueError as error:
                raise ConfigError(f"feature_network: {self.network.file}: {error}") from None

    def _reference(self) -> FeatureSet:
        """The features of the ground truth, computed once."""
        real, restorer = self._set(len(self.restorer)), self.restorer
        parts = batches(len(restorer), self.options.batch_size)
        for positions in progress(parts, -(-len(restorer) // self.options.batch_size), "real images"):
            self._add(real, [restorer.truth(restorer.dataset.item(position)) for position in positions])
        return real

    def _made(self, context: StepContext, count: int) -> Iterator[list[Pixels]]:
        """The images to measure, in batches."""
        parts = batches(count, self.options.batch_size)
        for positions in progress(parts, -(-count // self.options.batch_size), self.options.type):
            items = [self._item(position) for position in positions]
            yield self.restorer.made(positions, items, context)

    def _item(self, position: int) -> Mapping[str, object]:
        """What an image is made from; of an item only its conditions where images are generated."""
        if self.generate is None:
            return self.restorer.dataset.item(position)
        keys = {key for node in self.restorer.nodes.values() for key in node.reads().values()}
        if not keys:
            return {}
        item = self.restorer.dataset.item(position % len(self.restorer))
        return {key: item[key] for key in keys & item.keys()}

    def _kid(self, real: FeatureSet, made: FeatureSet, seed: int) -> tuple[float, float]:
        options, sets = self.options, (np.stack(real.kept), np.stack(made.kept))
        whole = max(len(features) for features in sets) <= options.kid_subset_size
        draws = 1 if whole else options.kid_subsets
        generators = [numpy_generator(seed, "kid", draw) for draw in range(draws)]
        return kernel_distance_of_subsets(*sets, draws, options.kid_subset_size, generators)

    def _warn_of_few(self, real: FeatureSet, made: FeatureSet) -> None:
        features, fewest = len(real.statistics.mean), min(real.seen, made.seen)
        if fewest <= features:
            warn_once(
                logger,
                f"{self.options.type} of {fewest} images",
                f"{self.options.type}: {fewest} images for {features} features: the covariance is rank-deficient and "
                "the score too high; compare it only with scores of as many images, or take kid",
            )
