"""The PatchDiffusion family (`patch_diffusion_unet`).

Source: Luhman and Luhman, "Improving diffusion model efficiency through patching", arXiv 2207.04316, and its published
networks, whose parameter names these are.
"""

from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from .backbone import Backbone
from .backbone_options import BackboneOptions
from .base import NETWORKS
from .blocks import (
    BlockSettings,
    Downsample,
    Embedding,
    GroupRule,
    PatchResBlock,
    Resampling,
    ResBlock,
    Upsample,
    depth_to_space,
    label_table,
    position_embedding_2d,
    timestep_embedding,
    zero_init,
)


class PatchUNetOptions(BackboneOptions):
    """Options of `patch_diffusion_unet`."""

    patch_size: int = Field(default=4, gt=0, description="Side P of the square patches folded into channels, in pixels")
    use_scale_shift_norm: bool = Field(default=True, description="The time scales and shifts the second norm (FiLM)")
    classifier_free: bool = Field(
        default=True, description="Keep one more label, index num_classes, that means no class (for guidance)"
    )
    group_norm: GroupRule | None = Field(
        default="adm", description="Groups of the normalisation layers: adm always 32, dlas fewer for narrow layers"
    )
    learn_sigma: bool = Field(
        default=True,
        description="A head of its own, on detached features, gives the variance channels (out_channels is then twice "
        "in_channels); false: the main head gives all out_channels, as in the published super-resolution network",
    )
    position_embedding: bool = Field(
        default=True,
        description="Add a 2-d position embedding after the first convolution; off for tiles, whose place in the image "
        "it would misstate",
    )

    @model_validator(mode="after")
    def _variance_head_fits(self) -> Self:
        if self.learn_sigma and self.out_channels != 2 * self.in_channels:
            raise ValueError(
                f"learn_sigma is true but out_channels is {self.out_channels}; "
                f"set out_channels: {2 * self.in_channels} or learn_sigma: false"
            )
        return self

    @model_validator(mode="after")
    def _resampling_fits(self) -> Self:
        if not self.conv_resample and not self.resblock_updown and len(set(self.widths)) > 1:
            raise ValueError("conv_resample: false cannot change the width between levels; set resblock_updown: true")
        return self


@NETWORKS.register("patch_diffusion_unet")
class PatchUNetModel(Backbone):
    """PatchDiffusion's U-Net.

    The variance channels come from a sigmoid, in [0, 1]: the weight of the lower bound (variance convention "patch").
    """

    Options: ClassVar[type[PatchUNetOptions]] = PatchUNetOptions
    options: PatchUNetOptions

    def _build_embeddings(self) -> BlockSettings:
        o = self.options
        label_channels = None
        if o.num_classes is not None:
            label_channels = o.widths[0]
            self.label_embs = label_table(o.num_classes + int(o.classifier_free), label_channels)
        width, hidden = o.widths[-1], 4 * o.model_channels
        self.time_embed = nn.Sequential(
            nn.Linear(o.model_channels, hidden), nn.SiLU(), nn.Linear(hidden, width), nn.SiLU()
        )
        return BlockSettings(width, o.dropout, o.use_scale_shift_norm, o.group_rule, label_channels)

    def _make_res_block(self, channels: int, out_channels: int, resample: Resampling | None = None) -> ResBlock:
        return PatchResBlock(channels, out_channels, self.settings, resample)

    def _make_resampler(self, channels: int, out_channels: int, way: Resampling) -> nn.Module:
        if self.options.resblock_updown:
            return self._make_res_block(channels, out_channels, way)
        if way == "up":
            return Upsample(channels, out_channels, self.options.conv_resample)
        return Downsample(channels, out_channels, self.options.conv_resample, same=True)

    def _width_between(self, width: int, next_width: int) -> int:  # noqa: ARG002
        return next_width

    def _build_head(self) -> None:
        o = self.options
        width = o.widths[0]
        channels = (o.in_channels if o.learn_sigma else o.out_channels) * o.patch_size**2
        self.out = nn.Sequential(
            self.settings.norm(width), nn.SiLU(), zero_init(nn.Conv2d(width, channels, 3, padding=1))
        )
        if o.learn_sigma:
            self.variance_output_t_emb = nn.Conv2d(self.settings.emb_channels, 2 * width, 1)
            self.variance_output_model = nn.Sequential(
                nn.Conv2d(2 * width, width, 3, padding=1),
                nn.SiLU(),
                nn.Conv2d(width, channels, 3, padding=1),
                nn.Sigmoid(),
            )

    def _embed(self, timesteps: Tensor, y: Tensor | None) -> Embedding:
        table = timestep_embedding(timesteps, self.options.model_channels, "patch")
        time = self.time_embed(table.to(self.weight_dtype))
        return Embedding(time, None if y is None else self.label_embs(y))

    def _first_features(self, h: Tensor) -> Tensor:
        if not self.options.position_embedding:
            return h
        return h + position_embedding_2d(h.shape[1], h.shape[2], h.shape[3], h.device).to(h.dtype)

    def _head(self, h: Tensor, first: Tensor, emb: Embedding) -> Tensor:
        patch_size = self.options.patch_size
        image = depth_to_space(self.out(h), patch_size)
        if not self.options.learn_sigma:
            return image
        # Detached: the variance term trains this head and the time embedding, and leaves the image alone.
        features = torch.cat([first, h], dim=1).detach()
        variance = self.variance_output_model(features + self.variance_output_t_emb(F.silu(emb.time)[:, :, None, None]))
        return torch.cat([image, depth_to_space(variance, patch_size)], dim=1)
