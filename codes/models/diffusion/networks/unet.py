"""The ADM family (`unet_diffusion`): the U-Net of guided-diffusion and DL-Art-School, optionally on patches.

Source: Dhariwal and Nichol, "Diffusion models beat GANs on image synthesis", arXiv 2105.05233.
"""

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from .backbone import Backbone
from .backbone_options import BackboneOptions
from .base import NETWORKS
from .blocks import (
    ADMResBlock,
    BlockSettings,
    Downsample,
    Embedding,
    Resampling,
    ResBlock,
    Upsample,
    depth_to_space,
    label_table,
    timestep_embedding,
    zero_init,
)


class UNetOptions(BackboneOptions):
    """Options of `unet_diffusion`; with patch_size 1 and no conditioning it is ADM's network exactly."""


@NETWORKS.register("unet_diffusion")
class UNetModel(Backbone):
    """ADM's U-Net. Takes a low resolution and corruption strengths when `num_corruptions` is given (DL-Art-School)."""

    Options: ClassVar[type[UNetOptions]] = UNetOptions

    def _build_embeddings(self) -> BlockSettings:
        o = self.options
        width = 4 * o.model_channels
        self.time_embed = nn.Sequential(nn.Linear(o.model_channels, width), nn.SiLU(), nn.Linear(width, width))
        if o.num_classes is not None:
            self.label_emb = label_table(o.num_classes + int(o.classifier_free), width)
        return BlockSettings(width, o.dropout, o.use_scale_shift_norm, o.group_rule)

    def _make_res_block(self, channels: int, out_channels: int, resample: Resampling | None = None) -> ResBlock:
        return ADMResBlock(channels, out_channels, self.settings, resample)

    def _make_resampler(self, channels: int, out_channels: int, way: Resampling) -> nn.Module:
        if self.options.resblock_updown:
            return self._make_res_block(channels, out_channels, way)
        layer = Upsample if way == "up" else Downsample
        return layer(channels, out_channels, self.options.conv_resample)

    def _width_between(self, width: int, next_width: int) -> int:  # noqa: ARG002 - the other family's width changes here
        return width

    def _build_head(self) -> None:
        o = self.options
        head = zero_init(nn.Conv2d(o.widths[0], o.out_channels * o.patch_size**2, 3, padding=1))
        self.out = nn.Sequential(self.settings.norm(o.widths[0]), nn.SiLU(), head)

    def _embed(self, timesteps: Tensor, y: Tensor | None) -> Embedding:
        table = timestep_embedding(timesteps, self.options.model_channels, "adm")
        emb = self.time_embed(table.to(self.weight_dtype))
        return Embedding(F.silu(emb if y is None else emb + self.label_emb(y)))

    def _head(self, h: Tensor, first: Tensor, emb: Embedding) -> Tensor:  # noqa: ARG002
        return depth_to_space(self.out(h), self.options.patch_size)
