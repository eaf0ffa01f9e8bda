"""The options that both network families share, with their checks."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ....config.effect import OnlyWith
from ....config.fingerprint import SPEED_ONLY, TRAINING_ONLY
from .base import NetworkOptions
from .blocks import GroupRule, norm_groups

MOST_SIDE = 2**16  # pixels
MOST_BLOCKS = 128
MOST_WIDTH = 2**15  # channels of a level


class BackboneOptions(NetworkOptions):
    """A U-Net with attention, optionally on patches, optionally conditioned on classes or on a degraded image.

    The names are those of guided-diffusion, DL-Art-School and PatchDiffusion, so that their recipes fit as they are.
    """

    image_size: int = Field(
        gt=0, le=MOST_SIDE, description="Height and width the network is trained at, in pixels; the default tile"
    )
    in_channels: int = Field(default=3, gt=0, le=1024, description="Channels of the image, without its conditioning")
    model_channels: int = Field(gt=0, le=8192, description="Channels that the multipliers multiply")
    out_channels: int = Field(
        gt=0, le=2048, description="Channels of the output: in_channels, or twice as many when the variance is learned"
    )
    num_res_blocks: int = Field(
        gt=0, le=64, description="Residual blocks per level on the way down (one more on the way up)"
    )
    attention_resolutions: tuple[int, ...] = Field(
        description="Levels with attention, as downsampling factors after patching (1, 2, 4, ...), not as pixels"
    )
    dropout: Annotated[float, TRAINING_ONLY] = Field(
        default=0.0, ge=0, lt=1, description="Probability of dropping an activation in a block"
    )
    channel_mult: tuple[Annotated[float, Field(gt=0, le=64)], ...] = Field(
        default=(1, 2, 4, 8),
        min_length=1,
        max_length=12,
        description="Width of each level as a multiple of model_channels; may be fractional",
    )
    conv_resample: bool = Field(default=True, description="Resample by learned convolutions; false: mean and nearest")
    num_classes: int | None = Field(
        default=None, gt=0, le=1_000_000, description="Number of classes; ~: not class-conditional"
    )
    classifier_free: Annotated[bool, OnlyWith("num_classes")] = Field(
        default=False, description="Keep one more label, index num_classes, that means no class (for guidance)"
    )
    num_heads: int = Field(default=1, gt=0, le=1024, description="Attention heads, where num_head_channels is -1")
    num_head_channels: int = Field(default=-1, ge=-1, description="Channels per attention head; -1: num_heads counts")
    num_heads_upsample: int = Field(default=-1, ge=-1, description="Attention heads on the way up; -1: num_heads")
    use_scale_shift_norm: bool = Field(default=False, description="The time scales and shifts the second norm (FiLM)")
    resblock_updown: bool = Field(default=False, description="Resample inside residual blocks")
    use_new_attention_order: bool = Field(
        default=False, description="Rows of qkv are ordered q, k, v before heads; false: heads before q, k, v"
    )
    group_norm: GroupRule | None = Field(
        default=None,
        description="Groups of the normalisation layers: adm always 32, dlas 8 or 16 for up to 16 or 64 channels; "
        "~: dlas exactly when num_corruptions is given",
    )
    patch_size: int = Field(
        default=1, gt=0, le=64, description="Side P of the square patches folded into channels, in pixels"
    )
    num_corruptions: int | None = Field(
        default=None,
        ge=0,
        le=1000,
        description="Corruption strengths the network is told, beside the low resolution; ~: none",
    )
    low_res_conditioning: bool | None = Field(
        default=None, description="Takes a low-resolution image; ~: yes exactly when num_corruptions is given"
    )
    low_res_upsampling: Annotated[Literal["bilinear", "bicubic"], OnlyWith("has_low_res")] = Field(
        default="bilinear", description="How the low resolution is brought to the size of x"
    )
    residual_from_low_res: bool = Field(
        default=False,
        description="Add the upsampled low resolution to the output's image channels (for x_start prediction)",
    )
    residual_scale: float = Field(
        default=1.0,
        gt=0,
        description="Factor of the output's image channels before residual_from_low_res adds to them: the typical size "
        "of the residual, so that the network itself works at unit size (about 0.12 for photographs at 2x)",
    )
    use_checkpoint: Annotated[bool, SPEED_ONLY] = Field(
        default=False, description="Recompute activations in the backward pass: less memory, one more forward pass"
    )
    use_fp16: Literal[False] = Field(
        default=False, description="Only false: half precision belongs to the run (top-level fp16), not to the network"
    )
    dims: Literal[2] = Field(default=2, description="Dimensions of the signal; only images, 2")

    @property
    def has_low_res(self) -> bool:
        """Whether the network takes a low-resolution image."""
        return self.num_corruptions is not None if self.low_res_conditioning is None else self.low_res_conditioning

    @property
    def group_rule(self) -> GroupRule:
        """The rule for the groups of the normalisation layers that applies."""
        return self.group_norm or ("adm" if self.num_corruptions is None else "dlas")

    @property
    def corruption_planes(self) -> int:
        """Planes of corruption strength that are concatenated to x."""
        return self.num_corruptions or 0

    @property
    def conditioned_channels(self) -> int:
        """Channels of x and its conditioning together, at full resolution."""
        return self.in_channels * (2 if self.has_low_res else 1) + self.corruption_planes

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(int(mult * self.model_channels) for mult in self.channel_mult)

    @property
    def factors(self) -> tuple[int, ...]:
        """Downsampling factor of each level, after patching."""
        return tuple(2**level for level in range(len(self.channel_mult)))

    def heads(self, width: int, way_up: bool) -> int:
        """Attention heads at a width; raises ValueError when they do not divide it."""
        count = self.num_heads_upsample if way_up and self.num_heads_upsample > 0 else self.num_heads
        if self.num_head_channels > 0:
            count = width // self.num_head_channels
        if count == 0 or width % count or (self.num_head_channels > 0 and width % self.num_head_channels):
            wanted = f"num_head_channels {self.num_head_channels}" if self.num_head_channels > 0 else f"{count} heads"
            raise ValueError(f"{wanted} does not divide a level of {width} channels; choose a divisor")
        return count

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.out_channels not in (self.in_channels, 2 * self.in_channels):
            raise ValueError(
                f"out_channels is {self.out_channels}, expected {self.in_channels} (in_channels) "
                f"or {2 * self.in_channels} (with a learned variance)"
            )
        if self.num_res_blocks * len(self.widths) > MOST_BLOCKS:
            raise ValueError(f"num_res_blocks x levels is more than {MOST_BLOCKS} blocks on the way down")
        for mult, width in zip(self.channel_mult, self.widths, strict=True):
            if not 1 <= width <= MOST_WIDTH:
                raise ValueError(
                    f"channel_mult {mult:g} x model_channels {self.model_channels} is {width} channels; expected 1 to "
                    f"{MOST_WIDTH}"
                )
            try:
                norm_groups(width, self.group_rule)
            except ValueError as error:
                raise ValueError(f"channel_mult {mult:g} x model_channels {self.model_channels}: {error}") from None
        return self

    @model_validator(mode="after")
    def _attention_fits(self) -> Self:
        unknown = [factor for factor in self.attention_resolutions if factor not in self.factors]
        if unknown:
            raise ValueError(
                f"attention_resolutions {unknown[0]} is no level of this network (its downsampling factors are "
                f"{', '.join(map(str, self.factors))}); sizes in pixels are turned into factors by image_size / size"
            )
        with_attention = {w for w, f in zip(self.widths, self.factors, strict=True) if f in self.attention_resolutions}
        for width in with_attention | {self.widths[-1]}:
            self.heads(width, way_up=False)
        for width in with_attention:
            self.heads(width, way_up=True)
        return self

    @model_validator(mode="after")
    def _conditioning_fits(self) -> Self:
        if self.num_corruptions is not None and not self.has_low_res:
            raise ValueError("num_corruptions is given but low_res_conditioning is false; drop one of them")
        if self.residual_from_low_res and not self.has_low_res:
            raise ValueError(
                "residual_from_low_res needs a low resolution; set num_corruptions or low_res_conditioning"
            )
        if self.residual_scale != 1.0 and not self.residual_from_low_res:
            raise ValueError("residual_scale is the size of a residual; set residual_from_low_res: true, or remove it")
        return self
