"""The U-Net that both families share: conditioning, levels, skip connections.

A family says how its blocks, resampling layers, embeddings and head are made; the order of construction here is the
order of the parameters in its checkpoints.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ....utils.console import get_logger, warn_once
from .attention import AttentionBlock
from .backbone_options import BackboneOptions
from .base import DiffusionNetwork
from .blocks import (
    BlockSettings,
    Embedding,
    Resampling,
    ResBlock,
    TimestepEmbedSequential,
    space_to_depth,
)

logger = get_logger(__name__)


class Backbone(DiffusionNetwork):
    """U-Net over patches. Subclasses provide the hooks named `_build_*` and `_make_*`, `_embed` and `_head`."""

    Options: ClassVar[type[BackboneOptions]]
    options: BackboneOptions
    time_embed: nn.Sequential
    out: nn.Sequential

    def __init__(self, options: BackboneOptions) -> None:
        super().__init__()
        self.options = options
        self.in_channels = options.in_channels
        self.out_channels = options.out_channels
        self.image_size = options.image_size
        self.low_res_upsampling = options.low_res_upsampling
        self.learns_variance = options.out_channels == 2 * options.in_channels
        self.multiple_of = options.patch_size * options.factors[-1]
        self.minimum_size = self.multiple_of
        self.cond_names = _cond_names(options)
        self.num_classes, self.num_strengths = options.num_classes, options.num_corruptions
        self.null_label = options.num_classes if options.classifier_free else None
        self.adds_low_res = options.residual_from_low_res
        self.use_checkpoint = options.use_checkpoint
        self.settings = self._build_embeddings()
        self._build_levels()
        self._build_head()

    @property
    def weight_dtype(self) -> torch.dtype:
        """Precision of the parameters; autocast may compute in another one."""
        return next(self.parameters()).dtype

    def _build_embeddings(self) -> BlockSettings:
        """Create the time (and label) embedding; say what blocks receive."""
        raise NotImplementedError

    def _build_head(self) -> None:
        raise NotImplementedError

    def _make_res_block(self, channels: int, out_channels: int, resample: Resampling | None = None) -> ResBlock:
        raise NotImplementedError

    def _make_resampler(self, channels: int, out_channels: int, way: Resampling) -> nn.Module:
        raise NotImplementedError

    def _width_between(self, width: int, next_width: int) -> int:
        """Channels that leave a resampling layer between two levels."""
        raise NotImplementedError

    def _embed(self, timesteps: Tensor, y: Tensor | None) -> Embedding:
        raise NotImplementedError

    def _head(self, h: Tensor, first: Tensor, emb: Embedding) -> Tensor:
        """The last features and the first ones -> (B, out_channels, H, W)."""
        raise NotImplementedError

    def _first_features(self, h: Tensor) -> Tensor:
        """What is done to the first convolution's output."""
        return h

    def _build_levels(self) -> None:
        o = self.options
        last = len(o.widths) - 1
        channels = o.widths[0]
        first = nn.Conv2d(o.conditioned_channels * o.patch_size**2, channels, 3, padding=1)
        self.input_blocks = nn.ModuleList([TimestepEmbedSequential(first)])
        skips = [channels]
        for level, width in enumerate(o.widths):
            for _ in range(o.num_res_blocks):
                self.input_blocks.append(self._make_stage(channels, level, way_up=False))
                channels = width
                skips.append(channels)
            if level != last:
                narrowed = self._width_between(width, o.widths[level + 1])
                self.input_blocks.append(TimestepEmbedSequential(self._make_resampler(channels, narrowed, "down")))
                channels = narrowed
                skips.append(channels)
        self.middle_block = TimestepEmbedSequential(
            self._make_res_block(channels, channels),
            AttentionBlock(self.settings.norm(channels), o.heads(channels, way_up=False), o.use_new_attention_order),
            self._make_res_block(channels, channels),
        )
        self.output_blocks = nn.ModuleList()
        for level in range(last, -1, -1):
            for index in range(o.num_res_blocks + 1):
                stage = self._make_stage(channels + skips.pop(), level, way_up=True)
                channels = o.widths[level]
                if level and index == o.num_res_blocks:
                    widened = self._width_between(channels, o.widths[level - 1])
                    stage.append(self._make_resampler(channels, widened, "up"))
                    channels = widened
                self.output_blocks.append(stage)

    def _make_stage(self, channels: int, level: int, way_up: bool) -> TimestepEmbedSequential:
        """A residual block to the level's width, with attention where the options ask for it."""
        o = self.options
        width = o.widths[level]
        layers: list[nn.Module] = [self._make_res_block(channels, width)]
        if o.factors[level] in o.attention_resolutions:
            layers.append(AttentionBlock(self.settings.norm(width), o.heads(width, way_up), o.use_new_attention_order))
        return TimestepEmbedSequential(*layers)

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        low_res: Tensor | None = None,
        corruption_factor: Tensor | None = None,
        y: Tensor | None = None,
    ) -> Tensor:
        self._check(x, timesteps, low_res, corruption_factor, y)
        upsampled = None if low_res is None else resized(low_res.to(x.dtype), x, self.options.low_res_upsampling)
        emb = self._embed(timesteps, y)
        planes = self._conditioned(x, upsampled, corruption_factor)
        first = self.input_blocks[0](space_to_depth(planes, self.options.patch_size).to(self.weight_dtype), emb)
        first = self._first_features(first)
        output = self._head(self._features(first, emb), first, emb).to(x.dtype)
        if upsampled is None or not self.options.residual_from_low_res:
            return output
        image, variance = output.split([self.in_channels, self.out_channels - self.in_channels], dim=1)
        return torch.cat([image * self.options.residual_scale + upsampled, variance], dim=1)

    def _features(self, h: Tensor, emb: Embedding) -> Tensor:
        skips = [h]
        for block in self.input_blocks[1:]:
            h = self._run(block, h, emb)
            skips.append(h)
        h = self._run(self.middle_block, h, emb)
        for block in self.output_blocks:
            h = self._run(block, torch.cat([h, skips.pop()], dim=1), emb)
        return h

    def _run(self, block: nn.Module, h: Tensor, emb: Embedding) -> Tensor:
        if self.use_checkpoint and torch.is_grad_enabled():
            return checkpoint(block, h, emb, use_reentrant=False)
        return block(h, emb)

    def _conditioned(self, x: Tensor, upsampled: Tensor | None, corruption_factor: Tensor | None) -> Tensor:
        """x, the upsampled low resolution and the planes of corruption strength, concatenated."""
        parts = [x] if upsampled is None else [x, upsampled]
        count = self.options.corruption_planes
        if count:
            parts.append(corruption_planes(corruption_factor, count, x))
        elif corruption_factor is not None:
            _warn_cut(corruption_factor.shape[1], count)
        return torch.cat(parts, dim=1) if len(parts) > 1 else x

    def _check(
        self, x: Tensor, timesteps: Tensor, low_res: Tensor | None, factor: Tensor | None, y: Tensor | None
    ) -> None:
        given = {"low_res": low_res, "corruption_factor": factor, "y": y}
        refused = sorted(name for name, value in given.items() if value is not None and name not in self.cond_names)
        if refused:
            takes = ", ".join(sorted(self.cond_names)) or "no conditioning"
            raise ValueError(f"the network was given {refused[0]} but takes {takes}; see its options")
        missing = sorted(
            self.cond_names & {"low_res", "y"} - {name for name, value in given.items() if value is not None}
        )
        if missing:
            raise ValueError(f"the network is conditioned on {missing[0]}, which is missing")
        self._check_image(x, low_res)
        for name, value in (("timesteps", timesteps), ("y", y)):
            if value is not None and value.shape != x.shape[:1]:
                raise ValueError(f"{name} has shape {tuple(value.shape)}, expected one per sample, ({x.shape[0]},)")

    def _check_image(self, x: Tensor, low_res: Tensor | None) -> None:
        for name, image in (("x", x), ("low_res", low_res)):
            if image is not None and (image.ndim != 4 or image.shape[:2] != (x.shape[0], self.in_channels)):
                raise ValueError(
                    f"{name} has shape {tuple(image.shape)}, expected ({x.shape[0]}, {self.in_channels}, height, width)"
                )
        height, width = x.shape[2:]
        if height % self.multiple_of or width % self.multiple_of:
            raise ValueError(
                f"x is {height} x {width} pixels (height x width), expected multiples of {self.multiple_of}; pad it"
            )


def resized(image: Tensor, like: Tensor, mode: str) -> Tensor:
    """`image` (B, C, h, w) at the height and width of `like`; the same tensor when the sizes are equal."""
    size = like.shape[2:]
    return image if image.shape[2:] == size else F.interpolate(image, tuple(size), mode=mode, align_corners=False)


def corruption_planes(factor: Tensor | None, count: int, x: Tensor) -> Tensor:
    """Strengths (B, K) or maps (B, K, h, w) -> (B, count, H, W) at the size of x; None gives zeros.

    Strengths beyond `count` are cut, with one warning; fewer raise ValueError.
    """
    b, _, height, width = x.shape
    if factor is None:
        return x.new_zeros(b, count, height, width)
    if factor.ndim not in (2, 4) or factor.shape[0] != b:
        raise ValueError(
            f"corruption_factor has shape {tuple(factor.shape)}, expected ({b}, {count}) "
            f"or ({b}, {count}, height, width)"
        )
    if factor.shape[1] < count:
        raise ValueError(f"corruption_factor has {factor.shape[1]} strengths per sample, the network takes {count}")
    if factor.shape[1] > count:
        _warn_cut(factor.shape[1], count)
        factor = factor[:, :count]
    factor = factor.to(x.dtype)
    if factor.ndim == 4:
        return resized(factor, x, "bilinear")
    return factor[:, :, None, None].expand(b, count, height, width)


def _warn_cut(given: int, count: int) -> None:
    warn_once(
        logger,
        f"corruption_factor {given} {count}",
        f"{given} corruption strengths per sample were given, the network takes {count}: the last ones are cut",
    )


def _cond_names(options: BackboneOptions) -> frozenset[str]:
    wanted = {
        "low_res": options.has_low_res,
        "corruption_factor": options.num_corruptions is not None,
        "y": options.num_classes is not None,
    }
    return frozenset(name for name, takes in wanted.items() if takes)
