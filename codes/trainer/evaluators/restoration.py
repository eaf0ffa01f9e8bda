"""How well the averaged network restores held-out images, during training: PSNR, SSIM and a picture to look at."""

import math
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from ...data.datasets import DATASETS, DatasetOptions
from ...models.diffusion.networks import DiffusionNetwork
from ...utils.images import quantise, resize_bicubic, to_rgb
from ...utils.options import OneOf
from ...utils.picture_grid import picture_grid
from ...utils.rng import derive_seed
from ...utils.yaml_source import Issue
from ..graph import StepContext
from ..injectors.gaussian_diffusion import conditioning_problems, sampling_problems
from ..metrics import fidelity
from ..sampling import Engine, SamplingOptions
from .base import EVALUATORS, Evaluation, Evaluator, EvaluatorOptions

Image = npt.NDArray[Any]


class RestorationOptions(EvaluatorOptions):
    """Options of `restoration`."""

    dataset: Annotated[DatasetOptions, OneOf(DATASETS, "mode")] = Field(description="Images with their ground truth.")
    diffusion_params: SamplingOptions = Field(SamplingOptions(), description="How to sample: steps, sampler, tiles.")
    model_input_keys: dict[str, str] = Field(
        {"low_res": "lq", "corruption_factor": "corruption_entropy"},
        description="Network argument -> key of the dataset.",
    )
    max_images: int = Field(8, ge=1, description="At most this many images of the dataset, the first ones.")

    def problems(self, networks: Mapping[str, DiffusionNetwork]) -> list[Issue]:
        issues = [
            Issue(("for",) if issue.path == ("generator",) else issue.path, issue.message)
            for issue in conditioning_problems(self.for_network, self.model_input_keys, networks)
        ]
        scale = getattr(self.dataset, "scale", 1)
        for issue in sampling_problems(self.diffusion_params, self.for_network, networks, scale):
            issues.append(Issue(("diffusion_params", *issue.path), issue.message))
        provided = self.dataset.provides()
        for argument, key in self.model_input_keys.items():
            if key not in provided:
                issues.append(
                    Issue(
                        ("model_input_keys", argument),
                        f"the dataset has no key {key!r} (it has: {', '.join(sorted(provided))})",
                    )
                )
        if "lq" not in provided:
            issues.append(Issue(("dataset", "skip_lq"), "must be false: the evaluation needs lq and its ground truth"))
        return issues


@EVALUATORS.register("restoration")
class RestorationEvaluator(Evaluator):
    """Restores the dataset's lq and compares with its hq; bicubic upsampling stands beside as the plain baseline."""

    Options = RestorationOptions

    def __init__(self, options: RestorationOptions) -> None:
        self.options = options
        # Read here, so that a folder that is not there is an error at the start and not after hours.
        self.dataset: Any = DATASETS.get(options.dataset.mode)(options.dataset, seed=0, shuffle=False)

    def evaluate(self, context: StepContext) -> Evaluation:
        rows: list[list[Image]] = []
        found: dict[str, list[float]] = {}
        count = min(len(self.dataset), self.options.max_images)
        for position in range(count):
            bicubic, restored, truth = self._restore(self.dataset.item(position), context)
            for prefix, image in (("", restored), ("bicubic_", bicubic)):
                for name, value in fidelity(truth, image).items():
                    found.setdefault(prefix + name, []).append(value)
            rows.append([quantise(image) for image in (bicubic, restored, truth)])
        metrics = {name: float(np.mean(values)) for name, values in found.items() if all(map(math.isfinite, values))}
        return Evaluation(metrics, {"bicubic_restored_truth": picture_grid(rows)})

    def _restore(self, item: Mapping[str, Any], context: StepContext) -> tuple[Image, Image, Image]:
        """(H, W, 3) float images in [0, 1], as they would be saved in 8 bits: bicubic, restored, truth."""
        n1_to_1 = self.options.dataset.rgb_n1_to_1  # type: ignore[attr-defined]
        truth = item["hq"]
        height, width = truth.shape[-2:]
        cond = {name: item[key][None] for name, key in self.options.model_input_keys.items()}
        scale = height // item["lq"].shape[-2]
        own = () if self.options.diffusion_params.noise_type == "fixed" else (item["HQ_path"],)
        seeds = [derive_seed(context.seed, "evaluate", *own)]
        network = context.ema_networks.get(self.options.for_network, context.networks[self.options.for_network])
        was_training = network.training
        network.eval()
        try:
            *_, last = self._engine(network, context).sample(cond, height, width, scale, seeds)
        finally:
            network.train(was_training)
        bicubic = resize_bicubic(to_rgb(item["lq"], n1_to_1), height, width)
        images = (bicubic, to_rgb(last.x_t[0], True), to_rgb(truth, n1_to_1))
        return tuple(quantise(image).astype(np.float32) / 255 for image in images)  # type: ignore[return-value]

    def _engine(self, network: DiffusionNetwork, context: StepContext) -> Engine:
        params, name = self.options.diffusion_params, self.options.for_network
        process = params.build_process(context.processes.get(name), name)
        return Engine(network, process, params, context.device, context.autocast)
