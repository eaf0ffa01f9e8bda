"""`sr_diffusion_fid`: FID of a diffusion upsampler, configured with DLAS's keys."""

from collections.abc import Mapping

from pydantic import Field

from ...config.yaml_source import Issue
from ...graph.injectors.gaussian_diffusion_inference import GaussianDiffusionInferenceOptions
from ...graph.node_options import InjectorOptions
from ...models.diffusion.networks.base import DiffusionNetwork
from ...models.diffusion.sampling_options import SamplingOptions
from .base import EVALUATORS
from .fid import FeatureDistanceEvaluator, FeatureDistanceOptions
from .restoring import SAMPLED


class SrDiffusionParams(GaussianDiffusionInferenceOptions):
    """The options of `gaussian_diffusion_inference`, whose type goes without saying here."""

    type: str = Field("gaussian_diffusion_inference", description="Which injector; only this one samples.")
    out: str = Field("restored", description="State key of the sampled images.")

    def issues(self) -> list[Issue]:
        """What these options say that an evaluation cannot do."""
        if self.type != "gaussian_diffusion_inference":
            return [Issue(("type",), f"must be gaussian_diffusion_inference, found {self.type!r}")]
        if self.train or self.requires:
            name = "train" if self.train else "requires"
            return [Issue((name,), "keeps this from running in an evaluation; remove this key")]
        return []


class SrDiffusionFidOptions(FeatureDistanceOptions):
    """Options of `sr_diffusion_fid`."""

    batch_size: int = Field(16, ge=1, description="Images at once; output_batch_size may lower it.")
    diffusion_params: SrDiffusionParams = Field(
        description="How to sample: the options of gaussian_diffusion_inference. output_batch_size bounds how many "
        "images are sampled at once; all of the dataset are measured."
    )

    @property
    def params(self) -> SamplingOptions:
        return self.diffusion_params

    @property
    def out_key(self) -> str:
        return self.diffusion_params.out

    def nodes(self) -> dict[str, InjectorOptions]:
        params = self.diffusion_params
        at_once = min(self.batch_size, params.output_batch_size or self.batch_size)
        tiles = params.tile_batch_size if "tile_batch_size" in params.model_fields_set else at_once
        return {SAMPLED: params.model_copy(update={"tile_batch_size": tiles, "output_batch_size": None})}

    def problems(self, networks: Mapping[str, DiffusionNetwork]) -> list[Issue]:
        params, issues = self.diffusion_params, super().problems(networks)
        of_params = [*params.issues(), *params.problems(networks), *self.unknown_keys(params.model_input_keys)]
        scale = self.dataset.scale
        if params.model_input_keys.get("low_res") == "lq" and params.output_scale_factor != scale:
            message = f"is {params.output_scale_factor}, but the dataset makes lq at scale {scale}"
            of_params.append(Issue(("output_scale_factor",), message))
        return [*issues, *(Issue(("diffusion_params", *issue.path), issue.message) for issue in of_params)]


@EVALUATORS.register("sr_diffusion_fid")
class SrDiffusionFidEvaluator(FeatureDistanceEvaluator):
    """FID of the dataset's restored images; without `feature_network` the usual Inception is downloaded once."""

    Options = SrDiffusionFidOptions
