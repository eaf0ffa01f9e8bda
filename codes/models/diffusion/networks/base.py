"""What every network of this project has in common: the registry, the base class and its declared needs.

Shapes: B batch, C image channels, H x W pixels of x (height first), K corruptions, h x w pixels of the low resolution.
"""

from typing import ClassVar

from pydantic import Field
from torch import Tensor, nn

from ....config.options import Options as AnyOptions
from ....config.registry import Registry


class NetworkOptions(AnyOptions):
    """Options common to all networks."""

    image_size: int = Field(gt=0, description="Height and width it is trained at, in pixels.")


class DiffusionNetwork(nn.Module):
    """A network that maps a noisy image and its timestep to what the process asks for.

    Built from one frozen options object. The attributes below are what callers rely on; a caller that holds an image of
    another size pads it to `minimum_size` and to a multiple of `multiple_of`, and crops afterwards.
    """

    Options: ClassVar[type[NetworkOptions]]
    """The options class; `SomeNetwork(SomeNetwork.Options(...))` builds a network."""

    options: NetworkOptions
    in_channels: int
    """Channels C of x."""
    out_channels: int
    """Channels of the output: C, or 2 C when the network learns the variance (mean first)."""
    learns_variance: bool
    image_size: int
    """Height and width it is trained at, in pixels of x: the best size of a tile."""
    minimum_size: int
    """Smallest height and width of x, in pixels."""
    multiple_of: int
    """Height and width of x must be multiples of this many pixels."""
    cond_names: frozenset[str]
    """The conditioning keywords that `forward` takes: a subset of low_res, corruption_factor, y."""
    low_res_upsampling: str
    """How the network brings `low_res` to the size of x: bilinear or bicubic."""
    null_label: int | None
    """The class that means "no class", where the network has one."""
    num_classes: int | None = None
    """How many classes it is told one of, where it is told any."""
    num_strengths: int | None = None
    """How many strengths of corruptions it is told, or tells; None for one that has nothing to do with them."""
    adds_low_res: bool = False
    """Whether its output begins at the upsampled low_res, so that it can only be an image."""
    use_checkpoint: bool
    """Recompute activations in the backward pass; may be switched on a built network."""

    @property
    def strengths_told(self) -> int:
        """How many strengths of corruptions it is told."""
        return (self.num_strengths or 0) if "corruption_factor" in self.cond_names else 0

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        low_res: Tensor | None = None,
        corruption_factor: Tensor | None = None,
        y: Tensor | None = None,
    ) -> Tensor:
        """x (B, C, H, W), timesteps (B,) on the original schedule -> (B, out_channels, H, W), float32.

        low_res: (B, C, h, w) in the range of x, any size. corruption_factor: (B, K) strengths in [0, 1], or a map
        (B, K, h, w) of them. y: (B,) class indices. Raises ValueError on anything the network does not take.
        """
        raise NotImplementedError


NETWORKS: Registry[type[DiffusionNetwork]] = Registry("network")
