"""How many bits a model needs for an image: the full variational bound, averaged over a dataset."""

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from ...config.options import OneOf
from ...config.yaml_source import Issue
from ...data.datasets import DATASETS, DatasetOptions
from ...graph.graph import StepContext
from ...graph.injectors.gaussian_diffusion import conditioning_problems
from ...models.diffusion.bound import variational_bound
from ...models.diffusion.engine import Engine
from ...models.diffusion.mixed_precision import AutocastDenoiser
from ...models.diffusion.networks.base import DiffusionNetwork
from ...models.diffusion.process import check_image_range
from ...models.diffusion.sampling_options import SamplingOptions
from ...runtime.devices import to_device
from ...utils.console import get_logger
from ...utils.errors import ConfigError
from ...utils.rng import normal
from .base import EVALUATORS, Evaluation, Evaluator, EvaluatorOptions
from .measuring import measuring, weights_in_words

logger = get_logger(__name__)


class BitsPerDimensionOptions(EvaluatorOptions):
    """Options of `bits_per_dimension`."""

    dataset: Annotated[DatasetOptions, OneOf(DATASETS, "mode")] = Field(description="Images in [-1, 1] (rgb_n1_to_1).")
    diffusion_params: SamplingOptions = Field(
        SamplingOptions(), description="The steps of the bound: every step of training, unless respaced."
    )
    model_input_keys: dict[str, str] = Field(
        {}, description="Network argument -> key of the dataset, e.g. low_res: lq."
    )
    use_ema: bool = Field(True, description="Measure the averaged weights where there are some.")
    max_images: int = Field(64, ge=1, description="At most this many images of the dataset, the first ones.")

    @property
    def measures_ema(self) -> bool:
        return self.use_ema and self.diffusion_params.use_ema

    @property
    def held_out(self) -> DatasetOptions:
        return self.dataset

    def problems(self, networks: Mapping[str, DiffusionNetwork]) -> list[Issue]:
        issues = [
            Issue(("for",) if issue.path == ("generator",) else issue.path, issue.message)
            for issue in conditioning_problems(self.for_network, self.model_input_keys, networks)
        ]
        provided = self.dataset.provides()
        issues += [
            Issue(("diffusion_params", name), "changes what is drawn, and the bound draws no image; remove it")
            for name in ("temperature", "blend")
            if name in self.diffusion_params.model_fields_set
        ]
        return issues + [
            Issue(("model_input_keys", name), f"the dataset has no key {key!r} (it has: {', '.join(sorted(provided))})")
            for name, key in self.model_input_keys.items()
            if key not in provided
        ]


@EVALUATORS.register("bits_per_dimension")
class BitsPerDimensionEvaluator(Evaluator):
    """Mean over the images of the variational bound and of its parts: prior, and the terms of the reverse steps."""

    Options = BitsPerDimensionOptions

    def __init__(self, options: BitsPerDimensionOptions) -> None:
        self.options = options
        # Read here, so that a folder that is not there is an error at the start and not after hours.
        self.dataset: Any = DATASETS.get(options.dataset.mode)(options.dataset, seed=0, shuffle=False)

    def evaluate(self, context: StepContext) -> Evaluation:
        name, use_ema = self.options.for_network, self.options.measures_ema
        logger.info("bits_per_dimension of %s: %s", name, weights_in_words(name, context, use_ema))
        count = min(len(self.dataset), self.options.max_images)
        with measuring(context, use_ema) as own:
            rows = [self._bound(self.dataset.item(position), own.networks[name], own) for position in range(count)]
        total, prior, first = np.mean(rows, axis=0)
        return Evaluation({"bits_per_dimension": total, "prior": prior, "last_step": first, "images": float(count)})

    def _bound(
        self, item: Mapping[str, Any], network: DiffusionNetwork, context: StepContext
    ) -> tuple[float, float, float]:
        options = self.options
        x_start = to_device(item["hq"][None], context.device)
        check_image_range(x_start)
        height, width = x_start.shape[-2:]
        if height % network.multiple_of or width % network.multiple_of:
            raise ConfigError(
                f"bits_per_dimension: {item['HQ_path']} is {width}x{height}, the network needs multiples of "
                f"{network.multiple_of}; set target_size and `tile: center` in its dataset"
            )
        cond = {name: to_device(item[key][None], context.device) for name, key in options.model_input_keys.items()}
        params, name = options.diffusion_params, options.for_network
        process = params.build_process(context.processes.get(name), name)
        engine = Engine(network, process, params, context.device, context.autocast)
        draw = partial(normal, tuple(x_start.shape), context.device, context.seed, "bits", item["image_name"])
        bound = variational_bound(AutocastDenoiser(engine.denoiser(), engine.autocast), process, x_start, cond, draw)
        return float(bound.total), float(bound.prior), float(bound.terms[0, 0])
