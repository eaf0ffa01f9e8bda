"""How large the results of an image are, and how often it is restored on the way there."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Self

from ...graph.node_options import TiledOptions
from ...images.output_size import Framing, passes_for
from ...recipe.output_options import OutputOptions
from ...recipe.recipe import Recipe
from ...utils.errors import ConfigError


@dataclass(frozen=True)
class PlannedResult:
    """An image that is made from another: its state key, and its (height, width) after `passes` times of `scale`.

    `framing`: what of it is written, and how large; None where it only leads to another. `unit`: its values are in
    [0, 1], not in [-1, 1]. `wrapped`: the axes, (y, x), along which it is seamless.
    """

    key: str
    size: tuple[int, int]
    scale: int
    passes: int
    framing: Framing | None
    unit: bool
    wrapped: tuple[bool, bool]

    @property
    def interpolated(self) -> bool:
        """Whether what is written has more pixels than the networks give."""
        return self.framing is not None and self.framing.interpolates(*self.size)


@dataclass(frozen=True)
class Chain:
    """The injectors of a recipe that restore images, in order; each starts from the data or from an earlier result.

    `outputs`: the results that are written. `starts`: for each injector the key that its low resolution has the size
    of, an image of the data or another result.
    """

    nodes: tuple[TiledOptions, ...]
    outputs: tuple[str, ...]
    starts: tuple[str, ...]
    output: OutputOptions

    @classmethod
    def of_recipe(cls, recipe: Recipe) -> Self:
        """What a test run of this recipe restores, which may be nothing."""
        every = [node for step in recipe.steps.values() for node in step.injectors.values()]
        nodes = tuple(node.tiled for node in every if not node.train and node.tiled and node.tiled.restores)
        made_of = {out: read for node in every for out, read in node.same_size().items()}
        starts = []
        for node in nodes:
            key = node.model_input_keys["low_res"]
            while key in made_of:
                key = made_of[key]
            starts.append(key)
        named = recipe.eval.output_state
        outputs = tuple(node.out for node in nodes) if named is None else (named,) if isinstance(named, str) else named
        return cls(nodes, outputs, tuple(starts), recipe.output)

    def node(self, key: str) -> TiledOptions:
        """The injector that writes a result."""
        return next(node for node in self.nodes if node.out == key)

    def low_res_key(self, keys: Collection[str]) -> str:
        """The image of the data, which has these keys, that restoration starts from. Raises ConfigError."""
        key = next((key for key in self.starts if key in keys), None)
        if key is None:
            raise ConfigError(
                f"low_res: {self.nodes[0].model_input_keys['low_res']} is neither an image of the data nor made from "
                "one of the same size, so the size of the result is not known beforehand; resize or crop the files "
                "themselves"
            )
        return key

    def results(self, low_res_key: str, low_res: tuple[int, int]) -> tuple[PlannedResult, ...]:
        """What is made of a low resolution of (height, width); what is written comes first."""
        asked = self.output.framing(*low_res, scale=1) if self.output.resized else None
        size_of, made = {low_res_key: low_res}, dict[str, PlannedResult]()
        for node, start in zip(self.nodes, self.starts, strict=True):
            (height, width), scale, written = size_of[start], node.output_scale_factor, node.out in self.outputs
            needed = asked.magnification(height, width) if asked and written else 1.0
            passes = passes_for(needed, scale) if asked else 1
            size = size_of[node.out] = (height * scale**passes, width * scale**passes)
            framing = (asked or Framing(*size)) if written else None
            made[node.out] = PlannedResult(node.out, size, scale, passes, framing, node.undo_n1_to_1, node.wrapped)
        return tuple(made[key] for key in dict.fromkeys([*self.outputs, *made]))
