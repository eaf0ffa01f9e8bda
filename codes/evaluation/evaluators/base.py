"""What an evaluator is: measurements of the networks as they stand at one iteration."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy.typing as npt
from pydantic import Field

from ...config.registry import Registry
from ...config.yaml_source import Issue, Source
from ...data.datasets import DatasetOptions
from ...graph.graph import StepContext
from ...graph.node_options import NodeOptions
from ...models.diffusion.sampling_options import SamplingOptions
from ...utils.errors import ConfigError


class EvaluatorOptions(NodeOptions):
    """Options common to all evaluators: `eval.evaluators.<name>`."""

    type: str = Field(description="Which evaluator: its registered name.")
    for_network: str = Field(validation_alias="for", description="Name of the network that is evaluated.")

    @property
    def held_out(self) -> DatasetOptions | None:
        """The dataset that is measured on, where there is one."""
        return None

    @property
    def params(self) -> SamplingOptions | None:
        """How it samples, where it samples by options of its own."""
        return None

    def network_names(self) -> list[str]:
        """The networks that have to be there."""
        return [self.for_network]

    @property
    def measures_ema(self) -> bool:
        """Whether the averaged weights are measured, where there are some."""
        return True


@dataclass(frozen=True)
class Evaluation:
    """Numbers by name, and pictures (H, W, 3) uint8 by name."""

    metrics: Mapping[str, float]
    images: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)


class Evaluator(ABC):
    """Measures without touching: networks' modes, weights and every generator are afterwards as they were before."""

    Options: ClassVar[type[EvaluatorOptions]]

    @abstractmethod
    def evaluate(self, context: StepContext) -> Evaluation:
        """Measure with the networks of `context`: the averaged ones where it holds some."""


EVALUATORS: Registry[Any] = Registry("evaluator")


def build_evaluators(sections: Mapping[str, EvaluatorOptions], source: Source) -> dict[str, Evaluator]:
    """The evaluators of a recipe, their networks and data read.

    Raises ConfigError with the place in the recipe for what is missing, DataError for data that cannot be read.
    """
    evaluators: dict[str, Evaluator] = {}
    for name, section in sections.items():
        try:
            evaluators[name] = EVALUATORS.get(section.type)(section)
        except ConfigError as error:
            raise source.error([Issue(("eval", "evaluators", name), str(error))]) from None
    return evaluators
