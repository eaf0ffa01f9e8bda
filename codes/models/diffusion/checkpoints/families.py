"""Which network a state dict belongs to, and the options that its names and shapes imply."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..networks.blocks import GroupRule, norm_groups

COMMON_CLASS_COUNTS = (10, 100, 1000)
# The layer that tells a block the time, whose place in its module tells the families apart.
ADM_EMBEDDING, PATCH_EMBEDDING = "input_blocks.1.0.emb_layers.1.weight", "input_blocks.1.0.emb_layers.weight"
# Weights of two and more dimensions that both families have.
ALWAYS_THERE = ("time_embed.0.weight", "input_blocks.0.0.weight", "out.2.weight", "middle_block.1.qkv.weight")
# ADM's published 64 px model, the only one of its authors with the other order of attention (guided-diffusion, README).
ADM_64 = {"model_channels": 192, "channel_mult": [1, 2, 3, 4], "num_res_blocks": 3, "resblock_updown": True}


@dataclass(frozen=True)
class Recognised:
    """A network read off its weights. `guesses` explains each option that weights cannot tell."""

    family: str
    which_model: str
    options: dict[str, Any]
    guesses: dict[str, str]


@dataclass(frozen=True)
class _Levels:
    widths: tuple[int, ...]
    num_res_blocks: int
    attention: tuple[int, ...]
    conv_resample: bool
    resblock_updown: bool


def recognise(state_dict: Mapping[str, Tensor]) -> Recognised | None:
    """The family and options of a state dict with bare names; None when it is neither of the families."""
    shapes = {name: tuple(value.shape) for name, value in state_dict.items() if value.ndim and value.numel()}
    if any(len(shapes.get(name, ())) < 2 for name in ALWAYS_THERE):
        return None
    levels = _read_levels(shapes)
    if levels is None:
        return None
    if PATCH_EMBEDDING in shapes:
        return _patch_network(shapes, levels)
    return _adm_network(shapes, levels) if ADM_EMBEDDING in shapes else None


def _read_levels(shapes: Mapping[str, tuple[int, ...]]) -> _Levels | None:
    """How many levels, of what width, with how many blocks; both families build them in the same order."""
    indices = {int(match[1]) for name in shapes if (match := re.match(r"input_blocks\.(\d+)\.", name))}
    count = max(indices) + 1
    strided = sum(f"input_blocks.{i}.0.op.weight" in shapes for i in range(count))
    pooled = count - len(indices)
    # An output block that ends in a second residual block upsamples by it.
    second = re.compile(r"output_blocks\.\d+\.[12]\.in_layers\.0\.weight")
    blocks = sum(bool(second.fullmatch(name)) for name in shapes)
    levels = 1 + (strided or pooled or blocks)
    if count % levels or count // levels < 2:
        return None
    per_level = count // levels
    firsts = [1 + level * per_level for level in range(levels)]
    widths = [shapes.get(f"input_blocks.{i}.0.in_layers.2.weight", (0,))[0] for i in firsts]
    if not all(widths):
        return None
    attention = tuple(2**level for level, i in enumerate(firsts) if f"input_blocks.{i}.1.qkv.weight" in shapes)
    return _Levels(tuple(widths), per_level - 1, attention, not pooled, bool(blocks))


def _common_options(shapes: Mapping[str, tuple[int, ...]], levels: _Levels) -> dict[str, Any]:
    model_channels = shapes["time_embed.0.weight"][1]
    mults = [width / model_channels for width in levels.widths]
    # A fractional multiplier is cut to whole channels, so a few decimals tell it.
    channel_mult = [int(m) if m == int(m) else round(m, 4) for m in mults]
    return {
        "model_channels": model_channels,
        "num_res_blocks": levels.num_res_blocks,
        "attention_resolutions": list(levels.attention),
        "channel_mult": channel_mult,
        "conv_resample": levels.conv_resample,
        "resblock_updown": levels.resblock_updown,
    }


def _image_options(inputs: int, outputs: int, doubled: bool | None) -> dict[str, Any]:
    """Patch size, image channels and conditioning from the channels of the first and the last convolution.

    `doubled`: whether `outputs` holds mean and variance (None: find out). Three image channels are assumed where they
    fit: 3 P^2 and 6 P^2 are never equal, so that P follows.
    """
    factors = (1, 2) if doubled is None else (2,) if doubled else (1,)
    options: dict[str, Any] = {"in_channels": inputs, "out_channels": outputs, "patch_size": 1}
    for channels in (3, 1):
        for factor in factors:
            patch = math.isqrt(outputs // (channels * factor)) if outputs % (channels * factor) == 0 else 0
            if patch and patch * patch * channels * factor == outputs and inputs % (patch * patch) == 0:
                per_pixel = inputs // (patch * patch)
                if per_pixel == channels or per_pixel >= 2 * channels:
                    options = {"in_channels": channels, "out_channels": factor * channels, "patch_size": patch}
                    extra = per_pixel - 2 * channels
                    if extra > 0:
                        options["num_corruptions"] = extra
                    elif extra == 0:
                        options["low_res_conditioning"] = True
                    return options
    return options


def _heads(levels: _Levels, dlas: bool) -> dict[str, Any]:
    widths = [w for w, f in zip(levels.widths, _factors(levels), strict=True) if f in levels.attention]
    fits = all(width % 64 == 0 for width in [*widths, levels.widths[-1]])
    return {"num_head_channels": 64} if fits and not dlas else {"num_heads": 4}


def _factors(levels: _Levels) -> tuple[int, ...]:
    return tuple(2**level for level in range(len(levels.widths)))


def _guesses(options: Mapping[str, Any]) -> dict[str, str]:
    heads = "num_head_channels" if "num_head_channels" in options else "num_heads"
    return {
        "image_size": "the training size is not in the weights",
        heads: "head counts are not in the weights; this is the usual one",
        "use_new_attention_order": "not in the weights; true for PatchDiffusion and ADM's 64 px model",
    }


def _adm_network(shapes: Mapping[str, tuple[int, ...]], levels: _Levels) -> Recognised:
    inputs, outputs = shapes["input_blocks.0.0.weight"][1], shapes["out.2.weight"][0]
    image = _image_options(inputs, outputs, doubled=None)
    film = shapes[ADM_EMBEDDING][0] == 2 * levels.widths[0]
    options = {"image_size": 256, **image, **_common_options(shapes, levels), "use_scale_shift_norm": film}
    if "label_emb.weight" in shapes:
        options["num_classes"] = shapes["label_emb.weight"][0]
    dlas = "num_corruptions" in image
    adm_64 = all(options[key] == value for key, value in ADM_64.items())
    options |= {**_heads(levels, dlas), "use_new_attention_order": adm_64}
    guesses = _guesses(options)
    if adm_64:
        options["image_size"] = 64
        guesses["use_new_attention_order"] = "not in the weights; the sizes are those of ADM's 64 px model"
    options["group_norm"], guess = _group_rule(levels, dlas)
    if guess:
        guesses["group_norm"] = guess
    family = "DL-Art-School" if dlas else "ADM (guided-diffusion), or DL-Art-School without corruptions"
    return Recognised(family, "unet_diffusion", options, guesses)


def _group_rule(levels: _Levels, dlas: bool) -> tuple[GroupRule, str]:
    """How layers are normalised, and what is to be checked of it: "" where the widths allow no other way."""
    if any(width % 32 for width in levels.widths):
        return "dlas", ""
    differ = [width for width in levels.widths if norm_groups(width, "adm") != norm_groups(width, "dlas")]
    if not differ:
        return "adm", ""
    other = "adm" if dlas else "dlas"
    return (
        "dlas" if dlas else "adm",
        f"not in the weights; {other} if it was {'not ' if dlas else ''}trained in DL-Art-School: levels of up to 64 "
        "channels are normalised otherwise there",
    )


def _patch_network(shapes: Mapping[str, tuple[int, ...]], levels: _Levels) -> Recognised:
    inputs, outputs = shapes["input_blocks.0.0.weight"][1], shapes["out.2.weight"][0]
    learn_sigma = "variance_output_model.2.weight" in shapes
    image = _image_options(inputs, outputs * (2 if learn_sigma else 1), doubled=True if learn_sigma else None)
    film = shapes[PATCH_EMBEDDING][0] == 2 * levels.widths[0]
    options = {"image_size": 256, **image, **_common_options(shapes, levels), "use_scale_shift_norm": film}
    options["learn_sigma"] = learn_sigma
    options |= {**_heads(levels, dlas=False), "use_new_attention_order": True}
    guesses = _guesses(options)
    options["classifier_free"] = True
    if "label_embs.weight" in shapes:
        rows = shapes["label_embs.weight"][0]
        options["classifier_free"] = rows not in COMMON_CLASS_COUNTS
        options["num_classes"] = rows - int(options["classifier_free"])
        guesses["classifier_free"] = (
            f"{rows} labels: the last one is taken for no class where that leaves a usual count"
        )
    options["position_embedding"] = True
    guesses["position_embedding"] = "not in the weights; on in the published networks"
    return Recognised("PatchDiffusion", "patch_diffusion_unet", options, guesses)
