"""The layers that both network families share: embeddings, patching, resampling, residual blocks.

Activations are (B, channels, height, width) in either memory format; nothing here forces one.
Sources: ADM is arXiv 2105.05233, PatchDiffusion arXiv 2207.04316.
"""

import math
from typing import Literal, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .group_norm import GroupNorm

Resampling = Literal["up", "down"]
GroupRule = Literal["adm", "dlas"]
Layer = TypeVar("Layer", bound=nn.Module)


class Embedding(NamedTuple):
    """What every block is told: the time embedding (B, E) and, for a class gate, the label embedding (B, L)."""

    time: Tensor
    label: Tensor | None = None


def label_table(classes: int, width: int) -> nn.Embedding:
    """A vector (width,) for each class, drawn as `nn.Embedding` draws it.

    Drawn by torch.randn: on the meta device `nn.init.normal_` imports torch's compiler, which takes seconds.
    """
    return nn.Embedding.from_pretrained(torch.randn(classes, width), freeze=False)


def timestep_embedding(timesteps: Tensor, dim: int, convention: Literal["adm", "patch"]) -> Tensor:
    """Sinusoids of timesteps (B,), whole or fractional -> (B, dim) float32.

    "adm": [cos, sin] with frequencies 10000^(-k/half); "patch": [sin, cos] with 10000^(-k/(half-1)), half = dim // 2.
    An odd `dim` ends in a zero.
    """
    half = dim // 2
    last = half if convention == "adm" else max(half - 1, 1)
    steps = torch.arange(half, dtype=torch.float32, device=timesteps.device)
    angles = timesteps.float()[:, None] * torch.exp(steps * (-math.log(10000.0) / last))
    waves = (angles.cos(), angles.sin()) if convention == "adm" else (angles.sin(), angles.cos())
    return F.pad(torch.cat(waves, dim=1), (0, dim % 2))


def position_embedding_2d(dim: int, height: int, width: int, device: torch.device) -> Tensor:
    """PatchDiffusion's sinusoidal position embedding -> (1, dim, height, width) float32; `dim` must be even.

    The first half of the channels varies along the width, the second along the height. Each axis is stretched to 64
    units whatever its length, so that a model sees the same range of positions at every size and aspect ratio.
    """
    half = dim // 2
    frequencies = torch.exp(torch.arange(half, dtype=torch.float32, device=device) * (-math.log(10000.0) / (half - 1)))

    def axis(length: int) -> Tensor:
        positions = torch.arange(length, dtype=torch.float32, device=device)
        return torch.sin(frequencies[:, None] * positions * (64 / length))

    along_width = axis(width)[:, None, :].expand(half, height, width)
    along_height = axis(height)[:, :, None].expand(half, height, width)
    return torch.cat([along_width, along_height])[None]


def space_to_depth(x: Tensor, patch_size: int) -> Tensor:
    """(B, C, H, W) -> (B, P*P*C, H/P, W/P): channel index = (row in patch * P + column in patch) * C + channel."""
    if patch_size == 1:
        return x
    b, c, height, width = x.shape
    p = patch_size
    pieces = x.permute(0, 2, 3, 1).reshape(b, height // p, p, width // p, p, c)
    return pieces.permute(0, 1, 3, 2, 4, 5).reshape(b, height // p, width // p, p * p * c).permute(0, 3, 1, 2)


def depth_to_space(x: Tensor, patch_size: int) -> Tensor:
    """The inverse of `space_to_depth`: (B, P*P*C, H, W) -> (B, C, H*P, W*P)."""
    if patch_size == 1:
        return x
    b, channels, height, width = x.shape
    p = patch_size
    c = channels // (p * p)
    pieces = x.permute(0, 2, 3, 1).reshape(b, height, width, p, p, c)
    return pieces.permute(0, 1, 3, 2, 4, 5).reshape(b, height * p, width * p, c).permute(0, 3, 1, 2)


def zero_init(module: Layer) -> Layer:
    """Set a module's parameters to zero, so that its branch starts as nothing; returns the module."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def norm_groups(channels: int, rule: GroupRule) -> int:
    """Groups of a normalisation layer: ADM always takes 32, DL-Art-School 8 up to 16 channels, 16 up to 64, else 32,
    halved until they divide. Raises ValueError when the channels cannot be grouped.
    """
    groups = 32
    if rule == "dlas":
        groups = 8 if channels <= 16 else 16 if channels <= 64 else 32
        while groups > 4 and channels % groups:
            groups //= 2
    if channels % groups:
        raise ValueError(f"{channels} channels cannot be normalised in {groups} groups; choose a multiple of {groups}")
    return groups


class TimestepEmbedSequential(nn.Sequential):
    """A sequence whose residual blocks are handed the embedding as well."""

    def forward(self, x: Tensor, emb: Embedding) -> Tensor:  # type: ignore[override]
        for layer in self:
            x = layer(x, emb) if isinstance(layer, ResBlock) else layer(x)
        return x


class Upsample(nn.Module):
    """Twice the size by nearest neighbour, then a 3x3 convolution if `use_conv`."""

    def __init__(self, channels: int, out_channels: int, use_conv: bool) -> None:
        super().__init__()
        if use_conv:
            self.conv = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.use_conv = use_conv

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        return self.conv(x) if self.use_conv else x


class Downsample(nn.Module):
    """Half the size: a strided 3x3 convolution, or the mean of each 2x2 if not `use_conv`.

    `same` pads as TensorFlow's "same" does for even sizes: one row below and one column to the right, none before.
    """

    def __init__(self, channels: int, out_channels: int, use_conv: bool, same: bool = False) -> None:
        super().__init__()
        self.pad_after = use_conv and same
        self.op = nn.Conv2d(channels, out_channels, 3, 2, 0 if same else 1) if use_conv else nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(F.pad(x, (0, 1, 0, 1)) if self.pad_after else x)


class BlockSettings(NamedTuple):
    """What all residual blocks of a network share."""

    emb_channels: int
    dropout: float
    use_scale_shift_norm: bool
    group_rule: GroupRule = "adm"
    label_channels: int | None = None

    def norm(self, channels: int) -> GroupNorm:
        """A normalisation layer of these blocks."""
        return GroupNorm(norm_groups(channels, self.group_rule), channels)


class ResBlock(nn.Module):
    """norm, SiLU, (resample,) conv; modulate by time; norm, SiLU, dropout, conv; plus the skip connection.

    The families differ in their parameters and their names, not in this order; `_build_second_half` is theirs.
    """

    in_layers: nn.Sequential
    emb_layers: nn.Module
    out_layers: nn.Sequential
    """Ends in dropout and a zero-initialised convolution."""

    def __init__(self, channels: int, out_channels: int, settings: BlockSettings, resample: Resampling | None) -> None:
        super().__init__()
        self.use_scale_shift_norm = settings.use_scale_shift_norm
        self.in_layers = nn.Sequential(
            settings.norm(channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1)
        )
        if resample == "up":
            self.resample: nn.Module = Upsample(channels, channels, use_conv=False)
        elif resample == "down":
            self.resample = Downsample(channels, channels, use_conv=False)
        else:
            self.resample = nn.Identity()
        self._build_second_half(out_channels, settings)
        same = channels == out_channels
        self.skip_connection: nn.Module = nn.Identity() if same else nn.Conv2d(channels, out_channels, 1)

    def _build_second_half(self, channels: int, settings: BlockSettings) -> None:
        raise NotImplementedError

    @property
    def _second_norm(self) -> GroupNorm:
        raise NotImplementedError

    def _projected(self, time: Tensor) -> Tensor:
        """The time embedding (B, E) as this block takes it, (B, C) or (B, 2 C)."""
        return self.emb_layers(time)

    def _gate(self, h: Tensor, emb: Embedding) -> Tensor:  # noqa: ARG002 - the class gate of one family
        return h

    def forward(self, x: Tensor, emb: Embedding) -> Tensor:
        first: GroupNorm = self.in_layers[0]  # type: ignore[assignment]  # of a Sequential
        h = self.resample(first.activated(x))
        h = self._modulated(self.in_layers[2](h), self._projected(emb.time)[:, :, None, None])
        h = self.out_layers[-1](self.out_layers[-2](h))
        return self.skip_connection(self.resample(x)) + self._gate(h, emb)

    def _modulated(self, h: Tensor, time: Tensor) -> Tensor:
        time = time.to(h.dtype)
        norm = self._second_norm
        return norm.activated(h, time) if self.use_scale_shift_norm else norm.activated(h + time)


class ADMResBlock(ResBlock):
    """The residual block of guided-diffusion, in its parameter names."""

    def _build_second_half(self, channels: int, settings: BlockSettings) -> None:
        width = 2 * channels if settings.use_scale_shift_norm else channels
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(settings.emb_channels, width))
        self.out_layers = nn.Sequential(
            settings.norm(channels),
            nn.SiLU(),
            nn.Dropout(settings.dropout),
            zero_init(nn.Conv2d(channels, channels, 3, padding=1)),
        )

    @property
    def _second_norm(self) -> GroupNorm:
        norm: GroupNorm = self.out_layers[0]  # type: ignore[assignment]  # of a Sequential
        return norm

    def _projected(self, time: Tensor) -> Tensor:
        # Its SiLU is the same for all blocks, so the network has applied it once (`UNetModel._embed`).
        return self.emb_layers[1](time)  # type: ignore[index]


class PatchResBlock(ResBlock):
    """The residual block of PatchDiffusion: second norm without parameters, zero time projection, class gate."""

    GATE_OFFSET = 2.0

    def _build_second_half(self, channels: int, settings: BlockSettings) -> None:
        width = 2 * channels if settings.use_scale_shift_norm else channels
        self.has_gate = settings.label_channels is not None
        if settings.label_channels is not None:
            self.classemb_proj = nn.Linear(settings.label_channels, channels)
        self.emb_layers = zero_init(nn.Linear(settings.emb_channels, width))
        self.out_norm = GroupNorm(norm_groups(channels, settings.group_rule), channels, eps=1e-3, affine=False)
        self.out_layers = nn.Sequential(
            nn.SiLU(), nn.Dropout(settings.dropout), zero_init(nn.Conv2d(channels, channels, 3, padding=1))
        )

    @property
    def _second_norm(self) -> GroupNorm:
        return self.out_norm

    def _gate(self, h: Tensor, emb: Embedding) -> Tensor:
        if not self.has_gate:
            return h
        # The offset opens the gate at the start of training: sigmoid(2) = 0.88.
        gate = torch.sigmoid(self.classemb_proj(emb.label) + self.GATE_OFFSET)
        return h * gate[:, :, None, None].to(h.dtype)
