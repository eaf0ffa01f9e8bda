"""One use of trained networks: what restoring, generating, sweeping, measuring and the library all work with."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch

from ..config.fingerprint import deciding
from ..graph.graph import StepContext
from ..models.diffusion.checkpoints.metadata import CheckpointMetadata
from ..models.diffusion.engine import Engine
from ..models.diffusion.networks.base import DiffusionNetwork
from ..models.diffusion.process_options import ProcessOptions
from ..models.diffusion.sampling_options import SamplingOptions
from ..recipe.networks import load_trained
from ..recipe.recipe import Recipe
from ..runtime.devices import Precision, Ranks, autocast_for, choose_device
from ..utils.console import get_logger
from ..utils.files import digest_of

logger = get_logger(__name__)
OnStep = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Run:
    """Networks on a device, the arithmetic that they compute in, and the seed that every draw follows from.

    `root`: the folder that everything is written below; None for a use that writes nothing. `processes` and
    `weights`: what a network was trained under, where its checkpoint says it, and the file that it came from;
    `records`: what that file records of itself.
    """

    networks: Mapping[str, DiffusionNetwork]
    device: torch.device
    seed: int = 0
    precision: Precision = "fp32"
    root: Path | None = None
    processes: Mapping[str, ProcessOptions] = field(default_factory=dict)
    weights: Mapping[str, Path] = field(default_factory=dict)
    records: Mapping[str, CheckpointMetadata] = field(default_factory=dict)
    ranks: Ranks = field(default_factory=Ranks)

    @classmethod
    def of_recipe(cls, recipe: Recipe, names: Iterable[str], ranks: Ranks | None = None) -> Self:
        """Load the named networks with the weights that `path` says. Raises ConfigError when something is missing."""
        ranks = ranks or Ranks()
        device = choose_device(recipe.device, recipe.gpu_ids, ranks.local_rank if ranks.world_size > 1 else None)
        trained = {name: load_trained(name, recipe, device) for name in names}
        return cls(
            networks={name: one.network for name, one in trained.items()},
            device=device,
            seed=recipe.seed_in_use,
            precision=recipe.arithmetic,
            root=results_folder(recipe),
            processes={name: one.process for name, one in trained.items() if one.process},
            weights={name: one.file for name, one in trained.items()},
            records={name: one.metadata for name, one in trained.items() if one.metadata},
            ranks=ranks,
        )

    @property
    def folder(self) -> Path:
        """`root` of a run that writes."""
        assert self.root is not None, "this run writes nothing"
        return self.root

    @cached_property
    def autocast(self) -> Callable[[], AbstractContextManager[Any]]:
        """Contexts of the arithmetic."""
        return autocast_for(self.device, self.precision)

    def settings(
        self, recipe: Recipe, phase: str | None = None, networks: Iterable[str] | None = None
    ) -> dict[str, Any]:
        """What every result of this run follows from besides its input: option, or weights of a network -> value.

        Of the datasets only that of `phase` counts, which makes the input; of the weights those of `networks`, or all.
        """
        data = {phase: recipe.datasets[phase]} if phase else {}
        in_use = {"seed": self.seed, "precision": self.precision, "fp16": False, "datasets": data}
        return deciding(recipe.model_copy(update=in_use)) | {
            f"weights of {name}": self._digests[name] for name in (self.weights if networks is None else networks)
        }

    @cached_property
    def _digests(self) -> dict[str, str]:
        return {name: digest_of(file) for name, file in self.weights.items()}

    def engine(self, name: str, sampling: SamplingOptions) -> Engine:
        """A network ready to sample by these options. Raises ConfigError where its process is not known."""
        trained = self.processes.get(name)
        process, mean = sampling.build_process(trained, name), sampling.build_mean(trained, name)
        options = sampling.suited_to(trained)
        return Engine(self.networks[name], process, options, self.device, self.autocast, mean=mean)

    def context(
        self,
        positions: Sequence[int] = (0,),
        on_step: OnStep | None = None,
        sample: int = 0,
        scratch: Path | None = None,
        passes: Mapping[str, int] | None = None,
    ) -> StepContext:
        """What injectors and evaluators are given for one state: of these positions, and of this sample of them."""
        return StepContext(
            networks=self.networks,
            device=self.device,
            seed=self.seed,
            positions=positions,
            autocast=self.autocast,
            processes=self.processes,
            on_step=on_step,
            on_event=logger.warning,
            sample=sample,
            scratch=scratch,
            passes=passes or {},
            corruptions={name: record.corruptions for name, record in self.records.items() if record.corruptions},
        )


def results_folder(recipe: Recipe) -> Path:
    """Where a recipe writes its results: `path.results`, else results/<name>."""
    return Path(recipe.path.results or Path("results") / recipe.name)
